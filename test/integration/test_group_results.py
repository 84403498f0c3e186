# SPDX-License-Identifier: Apache-2.0
"""What a client does with the results of canvases: saves and restores groups, walks up and down, forgets;
what old producers send; and what celery.backend_cleanup removes."""
from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery, chain, chord, group, signature
from celery.exceptions import ChordError
from celery.result import AsyncResult, GroupResult
from harness import TIMEOUT, Worker, get, wait_state

from services.process import wait_until


def sig(name: str, *args: Any, **options: Any) -> Any:
    return signature(f"demo.{name}", args=args, **options)


@pytest.fixture
def client(make_app: Callable[..., Celery], backend: str) -> Iterator[Celery]:
    app = make_app(backend, result_chord_retry_interval=0.1)
    app.set_current()
    yield app
    gc.collect()


@pytest.fixture
def worker(cworker: Callable[..., Worker], backend: str) -> Worker:
    return cworker("--set", "result_chord_retry_interval=0.1", backend=backend)


def test_a_group_is_saved_and_restored(client: Celery, backend: str, worker: Worker) -> None:
    sent = group(sig("add", i, i) for i in range(5)).apply_async()
    sent.save()
    group_id, ids = sent.id, [leaf.id for leaf in sent]
    del sent  # in one process Celery's Redis backend would tell these results, and not the restored ones
    gc.collect()
    restored = GroupResult.restore(group_id, app=client)
    assert [leaf.id for leaf in restored] == ids
    if backend.startswith("redis"):  # Celery's MongoDB backend gives back the list of members only
        assert get(restored) == [0, 2, 4, 6, 8]
        assert restored.successful() and restored.completed_count() == 5
        assert restored.join(timeout=TIMEOUT, interval=0.02) == [0, 2, 4, 6, 8]
        restored.delete()
        assert GroupResult.restore(group_id, app=client) is None
    else:
        assert [get(leaf) for leaf in restored] == [0, 2, 4, 6, 8]


def test_a_failed_group(client: Celery, worker: Worker) -> None:
    sent = group(sig("add", 1, 1), sig("fail", "no"), sig("add", 2, 2)).apply_async()
    values = get(sent, propagate=False)
    assert values[::2] == [2, 4] and repr(values[1]) == "ValueError('no')"
    assert sent.failed() and not sent.waiting() and sent.completed_count() == 2
    with pytest.raises(ValueError, match="no"):
        sent.join(timeout=TIMEOUT, interval=0.02)


def test_up_and_down_the_graph(client: Celery, worker: Worker) -> None:
    last = chain(sig("add", 1, 1), group(sig("add", 10), sig("add", 20)), sig("xsum")).apply_async()
    assert get(last) == 34
    first = last.parent.parent
    assert isinstance(last.parent, GroupResult) and get(last.parent) == [12, 22]
    assert get(first) == 2 and first.parent is None
    graph = AsyncResult(first.id, app=client).build_graph(intermediate=True)
    assert {node.id for node in graph} >= {first.id, *(leaf.id for leaf in last.parent)}
    nodes = [node for _, node in AsyncResult(first.id, app=client).iterdeps(intermediate=True)]
    assert nodes[0].id == first.id and {last.parent.id, *(leaf.id for leaf in last.parent)} <= {
        node.id for node in nodes}
    assert last.as_tuple()[0][1][0][0] == last.parent.id


def test_forgetting(client: Celery, worker: Worker) -> None:
    last = chain(sig("add", 1, 1), sig("add", 2)).apply_async()
    assert get(last) == 4
    first = last.parent
    last.forget()
    assert AsyncResult(last.id, app=client).state == AsyncResult(first.id, app=client).state == "PENDING"


# --- old producers: task_protocol 1 links the steps of a chain by callbacks ----------------------------

OLD: dict[str, tuple[Callable[[], Any], Any]] = {
    "task": (lambda: sig("add", 1, 1), 2),
    "chain": (lambda: chain(sig("add", 1, 1), sig("add", 2), sig("add", 3), sig("add", 4)), 11),
    "group": (lambda: group(sig("add", 1, 1), sig("add", 2, 2)), [2, 4]),
    "chord": (lambda: chord([sig("add", 1, 1), sig("add", 2, 2)], sig("xsum")), 6),
    "chain to a chord": (lambda: chain(sig("add", 1, 1), group(sig("add", 1), sig("add", 2)), sig("xsum")), 7),
    "chord to a chain": (lambda: chain(group(sig("add", 1, 1), sig("add", 2, 2)), sig("xsum"), sig("add", 1)), 7),
    "immutable": (lambda: chain(sig("add", 1, 1), sig("add", 5, 5, immutable=True), sig("add", 1)), 11),
    "retried": (lambda: chain(sig("fail_n", "KEY", 2), sig("add", 1)), 3),
    "replaced": (lambda: chain(sig("replace", sig("add", 1, 1)), sig("add", 1)), 3),
}


@pytest.mark.parametrize("name", OLD)
def test_protocol_1(name: str, client: Celery, worker: Worker) -> None:
    client.conf.task_protocol = 1
    make, expected = OLD[name]
    assert get(make().apply_async()) == expected


def test_protocol_1_links(client: Celery, worker: Worker) -> None:
    client.conf.task_protocol = 1
    sig("add", 1, 1).apply_async(link=sig("add", 10).set(task_id="old-linked"))
    assert get(AsyncResult("old-linked", app=client)) == 12
    failed = sig("fail", "no").apply_async(link_error=sig("identity").set(task_id="old-errback"))
    assert get(AsyncResult("old-errback", app=client)) == failed.id


def test_protocol_1_chain_that_fails(client: Celery, worker: Worker) -> None:
    client.conf.task_protocol = 1
    last = chain(sig("add", 1, 1), sig("fail", "no", immutable=True), sig("add", 1)).apply_async()
    with pytest.raises(ValueError, match="no"):
        get(last.parent)


# --- clean-up -----------------------------------------------------------------------------------------


def test_cleanup_on_mongodb(mongo: Any, mongo_backend: str, mongo_database: str,
                            make_app: Callable[..., Celery], cworker: Callable[..., Worker]) -> None:
    """What is older than result_expires goes, of tasks and saved groups, whoever has written it."""
    app = make_app(mongo_backend)
    cworker(backend=mongo_backend)
    kept = app.send_task("demo.add", (1, 2))
    get(kept)
    old = datetime.now(timezone.utc) - timedelta(days=2)
    with mongo.client() as connection:
        tasks = connection[mongo_database].celery_taskmeta
        groups = connection[mongo_database].celery_groupmeta
        tasks.insert_one({"_id": "old", "status": "SUCCESS", "result": "1", "date_done": old})
        groups.insert_one({"_id": "old-group", "result": "[]", "date_done": old})
        groups.insert_one({"_id": "new-group", "result": "[]", "date_done": datetime.now(timezone.utc)})
        cleanup = app.send_task("celery.backend_cleanup")
        assert get(cleanup) is None
        wait_until(lambda: not groups.find_one({"_id": "old-group"}), what="the group's removal")
        stored = {row["_id"] for row in tasks.find()}
        assert {kept.id, cleanup.id} <= stored and "old" not in stored
        assert groups.find_one({"_id": "new-group"})


def test_cleanup_on_redis(app: Celery, keys: Any, cworker: Callable[..., Worker]) -> None:
    """There keys expire by themselves: it does nothing, as with Celery."""
    cworker()
    first = app.send_task("demo.add", (1, 2))
    assert get(first) == 3 and get(app.send_task("celery.backend_cleanup")) is None
    assert 0 < keys.ttl(f"celery-task-meta-{first.id}") <= 86400 and app.AsyncResult(first.id).result == 3


# --- large parts ---------------------------------------------------------------------------------------


def test_a_part_too_large_for_mongodb(mongo_backend: str, make_app: Callable[..., Celery],
                                      cworker: Callable[..., Worker]) -> None:
    """Its failure is the chord's; nothing polls for ever."""
    app = make_app(mongo_backend, result_chord_retry_interval=0.1)
    app.set_current()
    cworker("--set", "result_chord_retry_interval=0.1", backend=mongo_backend)
    body = chord([sig("add", 1, 1), sig("text", 17 << 20)], sig("identity")).apply_async()
    wait_state(AsyncResult(body.id, app=app), "FAILURE")
    with pytest.raises(ChordError, match="EncodeError"):
        get(AsyncResult(body.id, app=app))

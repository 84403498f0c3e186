# SPDX-License-Identifier: Apache-2.0
"""Canvases: what a producer's chain, group, chord and callbacks give, on both result stores."""
from __future__ import annotations

import base64
import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group, signature
from celery.canvas import Signature, chunks, xmap, xstarmap
from celery.exceptions import ChordError
from celery.result import AsyncResult

from harness import Worker, get, inflight, start_celery, wait_state
from services.process import wait_until


def add(*args: Any, **options: Any) -> Signature:
    return signature("demo.add", args=args, **options)


def xsum(*args: Any, **options: Any) -> Signature:
    return signature("demo.xsum", args=args, **options)


def identity(*args: Any, **options: Any) -> Signature:
    return signature("demo.identity", args=args, **options)


def fail(*args: Any) -> Signature:
    return signature("demo.fail", args=args or ("broken",))


CANVASES: dict[str, tuple[Callable[[], Signature], Any]] = {
    "chain": (lambda: chain(add(1, 2), add(3), add(4)), 10),
    "group": (lambda: group(add(i, i) for i in range(4)), [0, 2, 4, 6]),
    "chord": (lambda: chord([add(1, 1), add(2, 2), add(3, 3)], xsum()), 12),
    "chord of one": (lambda: chord([add(1, 1)], xsum()), 2),
    "empty chord": (lambda: chord([], xsum()), 0),
    "chord, then chain": (lambda: chain(chord([add(1, 1), add(2, 2)], xsum()), add(10)), 16),
    "chain, then group": (lambda: chain(add(1, 1), group(add(10), add(20))), [12, 22]),
    "chain, then chord": (lambda: chain(add(1, 1), group(add(10), add(20)), xsum()), 34),
    "chain, chord, chord": (lambda: chain(add(1, 1), group(add(10), add(20)), xsum(),
                                          group(add(1), add(2)), xsum()), 71),
    "chord of chains": (lambda: chord([chain(add(1, 1), add(1)), chain(add(2, 2), add(2))],
                                      xsum()), 9),
    "chord of chords": (lambda: chord([chord([add(1, 1), add(2, 2)], xsum()), add(5, 5)],
                                      xsum()), 16),
    "chord with a chain as body": (lambda: chord([add(1, 1), add(2, 2)],
                                                 chain(xsum(), add(1), add(1))), 8),
    "chord with a chord as body": (lambda: chord([add(1, 1), add(2, 2)],
                                                 chain(xsum(), group(add(1), add(2)), xsum())), 15),
    "chord with a group as body": (lambda: chord([add(1, 1), add(2, 2)],
                                                 group(xsum(), identity())), [6, [2, 4]]),
    "groups in a group": (lambda: group(group(add(1, 1), add(2, 2)), add(3, 3)), [2, 4, 6]),
    "chord of a chain with a group at its end": (
        lambda: chord([chain(add(1, 1), group(add(1), add(2))), add(9, 9)], identity()),
        [[3, 4], 18]),
    "order": (lambda: chord([add(i, 0) for i in range(50)], identity()), list(range(50))),
    "immutable": (lambda: chain(add(1, 1), add(5, 5, immutable=True)), 10),
    "big integers": (lambda: chain(identity(2**70), add(1), add(1)), 2**70 + 2),
    "link": (lambda: add(1, 1, link=add(1)), 2),
    "chunks": (lambda: chunks(add(), [(i, i) for i in range(6)], 4).group(),
               [[0, 2, 4, 6], [8, 10]]),
    "map": (lambda: xmap(xsum(), [[1, 2], [3, 4]]), [3, 7]),
    "starmap": (lambda: xstarmap(add(), [(1, 2), (3, 4)]), [3, 7]),
}


def stub(*args: Any) -> None:
    """Stands for a task that only the worker knows."""


def apply(app: Celery, canvas: Signature) -> AsyncResult:
    with app.connection_for_write():
        canvas._app = app
        return canvas.apply_async()


def register(app: Celery) -> Celery:
    """Canvases take the current app wherever they are not told, and ask it for their tasks."""
    app.set_current()
    for name in ("add", "xsum", "identity", "fail", "echo"):
        app.task(name=f"demo.{name}", shared=False)(stub)
    return app


@pytest.fixture
def current(make_app: Callable[..., Celery], backend: str) -> Iterator[Celery]:
    yield register(make_app(backend, result_chord_retry_interval=0.1))
    gc.collect()  # results unsubscribe when they go: before their server does


@pytest.fixture
def redis_app(make_app: Callable[..., Celery], redis_backend: str) -> Iterator[Celery]:
    yield register(make_app(redis_backend))
    gc.collect()


def start(cworker: Callable[..., Worker], backend: str, *options: str) -> Worker:
    return cworker("--set", "result_chord_retry_interval=0.1", *options, backend=backend)


def test_canvases_give_what_celery_gives(current: Celery, backend: str,
                                         cworker: Callable[..., Worker]) -> None:
    start(cworker, backend)
    sent = {name: apply(current, make()) for name, (make, _) in CANVASES.items()}
    got = {name: get(result) for name, result in sent.items()}
    assert got == {name: CANVASES[name][1] for name in sent}


def test_a_failed_part_fails_the_body(current: Celery, backend: str,
                                      cworker: Callable[..., Worker]) -> None:
    start(cworker, backend)
    result = apply(current, chord([add(1, 1), fail("broken")], xsum()))
    with pytest.raises(ChordError, match="broken"):
        get(AsyncResult(result.id, app=current))


def test_a_failed_chain_in_a_header_fails_the_body(current: Celery, backend: str,
                                                   cworker: Callable[..., Worker]) -> None:
    start(cworker, backend)
    result = apply(current, chord([add(1, 1), chain(fail("broken"), identity(), identity())],
                                  xsum()))
    with pytest.raises(ChordError, match="broken"):
        get(AsyncResult(result.id, app=current))


def test_errbacks_of_both_styles(current: Celery, backend: str,
                                 cworker: Callable[..., Worker], keys: Any) -> None:
    start(cworker, backend)
    errbacks = [identity().set(task_id="old-style"), signature("demo.errback", task_id="new-style")]
    result = fail("broken").apply_async(link_error=errbacks)
    assert get(AsyncResult("old-style", app=current)) == result.id
    assert get(AsyncResult("new-style", app=current)) == result.id


def test_an_errback_that_is_not_here(current: Celery, backend: str, cworker: Callable[..., Worker],
                                     keys: Any) -> None:
    """It goes on with the id alone, as Celery sends what it does not know, for a worker that has it."""
    start(cworker, backend)
    errback = signature("python.only", args=(7,), queue="elsewhere", kwargs={"k": 1})
    result = fail("broken").apply_async(link_error=errback)
    wait_until(lambda: keys.llen("elsewhere"), what="the errback")
    message = json.loads(keys.lindex("elsewhere", 0))
    assert json.loads(base64.b64decode(message["body"]))[:2] == [[result.id, 7], {"k": 1}]
    assert (message["headers"]["task"], message["headers"]["parent_id"]) == ("python.only", result.id)


def test_errbacks_of_a_chord(current: Celery, backend: str, cworker: Callable[..., Worker]) -> None:
    start(cworker, backend)
    body = xsum()
    body.link_error(identity().set(task_id="errback"))
    result = apply(current, chord([add(1, 1), fail("broken")], body))
    assert get(AsyncResult("errback", app=current)) == result.id


def test_a_failed_inner_chord_fails_the_outer_body(current: Celery, backend: str,
                                                   cworker: Callable[..., Worker]) -> None:
    start(cworker, backend)
    result = apply(current, chord([chord([fail("broken")], xsum()), add(1, 1)], xsum()))
    with pytest.raises(ChordError, match="broken"):
        get(AsyncResult(result.id, app=current))


def test_errbacks_of_two_chords_that_fail_with_one_task(redis_app: Celery, keys: Any,
                                                        cworker: Callable[..., Worker]) -> None:
    """Each step of theirs has an id, and so a result, of its own."""
    start(cworker, redis_app.conf.result_backend)

    def body(name: str) -> Signature:
        sig = xsum()
        sig.link_error(chain(*[identity(f"{name} {n}", immutable=True) for n in range(3)]))
        return sig

    def stored() -> set[str]:
        records = keys.mget(keys.keys("celery-task-meta-*"))
        return {str(json.loads(record)["result"]) for record in records if record}

    apply(redis_app, chord([chord([fail()], body("inner"))], body("outer")))
    names = {f"{name} {n}" for name in ("inner", "outer") for n in range(3)}
    wait_until(lambda: names <= stored(), what="the results of all errbacks")


def test_children_are_nested_as_celery_nests_them(current: Celery, backend: str,
                                                  cworker: Callable[..., Worker]) -> None:
    start(cworker, backend)
    result = apply(current, chain(add(1, 1), group(add(1), add(2))))
    assert get(result) == [3, 4]
    first = result.parent
    assert first.children == [result] or [c.id for c in first.children] == [result.id]
    assert [leaf.id for leaf in first.children[0].results] == [leaf.id for leaf in result.results]


def test_a_chord_sent_by_a_c_task(current: Celery, backend: str,
                                  cworker: Callable[..., Worker]) -> None:
    start(cworker, backend)
    body = get(current.send_task("demo.fan_out", args=(20,)))
    assert get(AsyncResult(body, app=current)) == 190


def test_extended_results_of_stamped_steps(current: Celery, backend: str,
                                           cworker: Callable[..., Worker]) -> None:
    start(cworker, backend, "--set", "result_extended=true")
    current.conf.result_extended = True
    canvas = chain(add(1, 1), add(2).set(headers={"tenant": "blue"}))
    canvas.stamp(run="r1")
    result = apply(current, canvas)
    assert get(result) == 4
    meta = current.backend.get_task_meta(result.id)
    assert (meta["name"], meta["args"]) == ("demo.add", [2, 2])
    if backend.startswith("redis"):  # Celery's MongoDB backend does not read stamps back
        assert (meta["run"], meta["stamped_headers"]) == ("r1", ["run"])


REPLACEMENTS: dict[str, tuple[Callable[[], Signature], Any]] = {
    "task": (lambda: add(1, 1), 2),
    "chain": (lambda: chain(add(1, 1), add(2)), 4),
    "group": (lambda: group(add(1, 1), add(2, 2)), [2, 4]),
    "chord": (lambda: chord([add(1, 1), add(2, 2)], xsum()), 6),
}


@pytest.mark.parametrize("name", REPLACEMENTS)
def test_a_c_task_replaces_itself(name: str, current: Celery, backend: str,
                                  cworker: Callable[..., Worker]) -> None:
    start(cworker, backend)
    make, expected = REPLACEMENTS[name]
    alone = current.send_task("demo.replace", args=(make(),))
    assert get(alone) == expected
    replaced = signature("demo.replace", args=(make(),))
    assert get(apply(current, chain(replaced, identity()))) == expected
    replaced = signature("demo.replace", args=(make(),))
    assert get(apply(current, chord([replaced, add(5, 5)], identity()))) == [expected, 10]


def test_a_c_task_reads_results_and_revokes(current: Celery, backend: str,
                                            cworker: Callable[..., Worker]) -> None:
    start(cworker, backend)
    first = add(1, 1).apply_async()
    assert get(first) == 2
    assert get(current.send_task("demo.result", args=(first.id,))) == 2
    later = add(1, 1).apply_async(countdown=600)
    get(current.send_task("demo.revoke", args=(later.id,)))
    wait_state(later, "REVOKED")


def test_a_queue_of_others_hears_the_eta(redis_app: Celery, keys: Any,
                                         cworker: Callable[..., Worker]) -> None:
    """Only Python workers may consume it, who promote nothing."""
    cworker()
    their = signature("their.task", queue="theirs", countdown=600)
    apply(redis_app, chain(add(1, 1), their))
    wait_until(lambda: keys.llen("theirs"), what="their message")
    assert json.loads(keys.lindex("theirs", 0))["headers"]["eta"]
    assert not keys.exists("{theirs}.cworker.delayed")


def test_an_unlock_in_a_queue_of_others(make_app: Callable[..., Celery], mongo_backend: str,
                                        keys: Any, cworker: Callable[..., Worker]) -> None:
    app = register(make_app(mongo_backend))
    cworker(backend=mongo_backend, queues="ours")
    parts = chord([add(1, queue="ours"), add(2, queue="ours")], xsum())
    result = apply(app, chain(add(1, 1, queue="ours"), parts))
    wait_until(lambda: keys.llen("celery"), what="celery.chord_unlock")
    cworker(backend=mongo_backend)
    assert get(result) == 7


def test_a_list_instead_of_a_sorted_set(redis_app: Celery,
                                        cworker: Callable[..., Worker]) -> None:
    options = {"result_chord_ordered": False}
    redis_app.conf.result_backend_transport_options = options
    cworker("--set", f"result_backend_transport_options={json.dumps(options)}")
    assert get(apply(redis_app, chord([add(i, 0) for i in range(20)], xsum()))) == 190


def test_a_chord_leaves_no_keys(redis_app: Celery, keys: Any,
                                cworker: Callable[..., Worker]) -> None:
    cworker()
    assert get(apply(redis_app, chord([add(1, 1), add(2, 2)], xsum()))) == 6
    wait_until(lambda: not list(keys.scan_iter("celery-taskset-meta-*")), what="the keys' end")


def test_parts_shared_with_python_workers(current: Celery, redis: Any, backend: str, tmp_path: Path,
                                          cworker: Callable[..., Worker]) -> None:
    start(cworker, backend)
    python = start_celery("python_worker", "python@test", tmp_path / "python.log", "-P", "solo", "-Q",
                          "celery", "--without-mingle", "--without-gossip", broker=redis.url(),
                          backend=backend)
    try:
        canvases = [chord([add(i, n) for i in range(20)], xsum()) for n in range(5)]
        sent = [apply(current, canvas) for canvas in canvases]
        assert [get(result) for result in sent] == [190 + 20 * n for n in range(5)]
    finally:
        python.kill()
        python.wait()


def test_kills_lose_no_body(current: Celery, backend: str, cworker: Callable[..., Worker],
                            keys: Any) -> None:
    """Worker after worker dies while parts end, are counted, and bodies leave."""
    sent = [apply(current, chain(add(0, n), group(add(i) for i in range(10)), xsum(), add(1)))
            for n in range(20)]
    for _ in range(5):
        before = keys.info("commandstats").get("cmdstat_lrem", {}).get("calls", 0)
        worker = start(cworker, backend, "-n", "mortal@test")
        wait_until(lambda before=before: keys.info("commandstats").get("cmdstat_lrem", {})
                   .get("calls", 0) > before + 25 or not inflight(keys), what="some acks")
        worker.kill()
    start(cworker, backend, "-n", "mortal@test")
    assert [get(result) for result in sent] == [46 + 10 * n for n in range(20)]


def test_ten_thousand_parts(redis_app: Celery, cworker: Callable[..., Worker]) -> None:
    cworker()
    body = get(redis_app.send_task("demo.fan_out", args=(10000,)))
    assert get(AsyncResult(body, app=redis_app)) == 49995000


def test_more_parts_than_one_step_takes(redis_app: Celery, cworker: Callable[..., Worker]) -> None:
    """Redis hangs up on commands of a million words, for ever: the task fails instead."""
    cworker()
    sent = redis_app.send_task("demo.fan_out", args=(100001,))
    with pytest.raises(NotImplementedError, match="at most 100000"):
        get(sent)
    assert not sent.children
    assert get(redis_app.send_task("demo.add", args=(1, 2))) == 3

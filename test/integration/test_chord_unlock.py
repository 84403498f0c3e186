# SPDX-License-Identifier: Apache-2.0
"""Chords of a result store that does not count their parts: celery.chord_unlock looks whether all are there,
is brought forward when the last one ends, and its body leaves once."""
from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group, signature
from celery.exceptions import ChordError
from celery.result import AsyncResult
from harness import Worker, get, read_ledger

from services.process import wait_until

LATER = 3600.0  # beyond every deadline: what waits for it was not brought forward


def sig(name: str, *args: Any, **options: Any) -> Any:
    return signature(f"demo.{name}", args=args, **options)


@pytest.fixture(params=["mongo", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        (tmp_path / "results").mkdir()
        return f"file://{tmp_path}/results"
    return request.getfixturevalue("mongo_backend")


@pytest.fixture
def producer(make_app: Callable[..., Celery], store: str) -> Iterator[Celery]:
    """Its chord_unlocks come after an hour."""
    app = make_app(store)
    app.set_current()
    unlock = app.backend.fallback_chord_unlock
    app.backend.fallback_chord_unlock = lambda result, body, **options: unlock(
        result, body, **{**options, "countdown": LATER})
    yield app
    gc.collect()


def start(cworker: Callable[..., Worker], store: str, **options: Any) -> Worker:
    return cworker("--set", f"result_chord_retry_interval={LATER}", backend=store, **options)


CHORDS: dict[str, tuple[Callable[[], Any], Any]] = {
    "parts": (lambda: chord([sig("add", i, i) for i in range(5)], sig("xsum")), 20),
    "one part": (lambda: chord([sig("add", 1, 1)], sig("xsum")), 2),
    "groups": (lambda: chord([group(sig("add", 1, 1)), sig("add", 3, 3)], sig("identity")), [2, 6]),
    "chains": (lambda: chord([chain(sig("add", 1, 1), sig("add", 1)), sig("add", 3, 3)], sig("xsum")), 9),
    "replaced": (lambda: chord([sig("replace", chain(sig("add", 1, 1), sig("add", 1))), sig("add", 1, 1)],
                               sig("xsum")), 5),
    "retried": (lambda: chord([sig("fail_n", "KEY", 2), sig("add", 1, 1)], sig("xsum")), 4),
    "chord of a chord": (lambda: chord([chord([sig("add", 1, 1)], sig("xsum")), sig("add", 1, 1)],
                                       sig("xsum")), 4),
}


@pytest.mark.parametrize("name", CHORDS)
def test_the_last_part_brings_the_body(name: str, producer: Celery, store: str,
                                       cworker: Callable[..., Worker]) -> None:
    make, expected = CHORDS[name]
    start(cworker, store)
    assert get(make().apply_async()) == expected


@pytest.mark.parametrize("part", [sig("fail", "no"), chain(sig("fail", "no"), sig("add", 1))])
def test_a_part_that_fails_is_the_last_too(part: Any, producer: Celery, store: str,
                                           cworker: Callable[..., Worker]) -> None:
    start(cworker, store)
    with pytest.raises(ChordError, match="no"):
        get(AsyncResult(chord([sig("add", 1, 1), part], sig("xsum")).apply_async().id))


@pytest.mark.parametrize("by", ["producer", "worker"])
def test_an_unlock_that_has_looked_before(by: str, make_app: Callable[..., Celery], store: str, keys: Any,
                                          cworker: Callable[..., Worker]) -> None:
    """Its retry waits for an hour. Producers and workers send it, and another worker than the parts' has
    it."""
    app = make_app(store)
    app.set_current()
    start(cworker, store, queues="celery")
    parts = [sig("add", 1, 1, queue="parts", immutable=True), sig("add", 2, 2, queue="parts", immutable=True)]
    result = (chord(parts, sig("xsum")) if by == "producer" else
              chain(sig("noop"), group(parts), sig("xsum"))).apply_async()
    wait_until(lambda: keys.zcard("{celery}.cworker.delayed") and not keys.llen("celery") and
               b'"retries": 1' in b"".join(keys.hvals("{celery}.cworker.delayed.msg")), what="the first look")
    start(cworker, store, queues="parts")
    assert get(result) == 6


def test_a_part_that_cannot_be_read(mongo: Any, mongo_backend: str, mongo_database: str,
                                    make_app: Callable[..., Celery],
                                    cworker: Callable[..., Worker]) -> None:
    """A Python worker has pickled its result: the body fails, and gets no null in its place."""
    app = make_app(mongo_backend)
    cworker(backend=mongo_backend)
    with mongo.client() as client:
        client[mongo_database].celery_taskmeta.insert_one(
            {"_id": "pickled", "status": "SUCCESS", "result": b"\x80\x04K\x01.", "traceback": None})
    body = signature("demo.identity", task_id="of-pickled", app=app)
    app.send_task("celery.chord_unlock", ("group", body), {"result": [[["pickled", None], None]]})
    with pytest.raises(ChordError, match="the stored result of task pickled cannot be read"):
        get(AsyncResult("of-pickled", app=app))


def unlock_of(keys: Any, make: Callable[[], Any]) -> bytes:
    """The unlock message of a chord that is sent now; its parts stay in the queue."""
    make().apply_async()
    messages = [keys.rpop("celery") for _ in range(keys.llen("celery"))]
    unlock = [message for message in messages if b"celery.chord_unlock" in message]
    for message in messages:
        if message not in unlock:
            keys.lpush("celery", message)
    return unlock[0]


def test_two_unlocks_send_one_body(producer: Celery, store: str, keys: Any, tmp_path: Path,
                                   cworker: Callable[..., Worker]) -> None:
    """Python workers double a message that they held for too long."""
    body = signature("bench.noop", args=(7,), immutable=True)
    unlock = unlock_of(keys, lambda: chord([sig("add", 1, 1), sig("add", 2, 2)], body))
    for _ in range(3):
        keys.lpush("celery", unlock)
    ledger = tmp_path / "ledger"
    worker = start(cworker, store, env={"BENCH_TRACE": str(ledger)})
    wait_until(lambda: read_ledger(ledger), what="the body")
    for _ in range(3):
        keys.lpush("celery", unlock.replace(b'"eta": "', b'"eta": null, "was": "'))
    wait_until(lambda: worker.log.count("chord_unlock") >= 7 and not keys.llen("celery"), what="the others")
    get(sig("add", 1, 1).apply_async())
    assert [first for first, _ in read_ledger(ledger)] == [7]


def test_kills_lose_no_body(producer: Celery, store: str, keys: Any,
                            cworker: Callable[..., Worker]) -> None:
    """Worker after worker dies while parts are counted and unlocks come forward: none waits for its hour."""
    sent = [chord([sig("add", i, n) for i in range(10)], sig("xsum")).apply_async() for n in range(20)]
    for at in (40, 90, 140, 180):
        worker = start(cworker, store, name="mortal@test")
        wait_until(lambda at=at: sum(int(keys.hget(key, "n") or 10) for key in
                                     keys.scan_iter("cworker.chord.*")) >= at, what="some counts")
        worker.kill()
    start(cworker, store, name="mortal@test")
    assert [get(result) for result in sent] == [45 + 10 * n for n in range(20)]

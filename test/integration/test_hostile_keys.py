# SPDX-License-Identifier: Apache-2.0
"""Keys that hold garbage, or are of another type: said clearly and seldom, and nothing is lost."""
from __future__ import annotations

import json
from typing import Any, Callable

import pytest
from celery import Celery, signature
from celery.exceptions import ChordError
from harness import Worker, get, inflight, make_message, wait_until

# Records of the outbox; the task's link is derived from its message where they cannot be read.
RECORDS = {
    "text": b"hello", "bytes": b"\xff\x00\xfe", "empty": b"", "no JSON": b"2 {", "a number": b"2 7",
    "rows of numbers": b'2 {"sends": [1, null]}', "a due without a queue": b'2 {"sends": [{"due": 1}]}',
    "no text": b'2 {"sends": [{"queue": "celery", "id": "x", "text": {}}]}',
    "sends are none": b'2 {"sends": "x"}', "an earlier list": b"1 [[]]",
    "an end of no kind": b'2 {"end": {"outcome": "POSTPONED"}}', "an end that is none": b'2 {"end": 5}',
}


def redelivered(app: Celery, keys: Any) -> tuple[dict[str, Any], str]:
    """A message that came before, with a link, and its field in the outbox."""
    link = signature("demo.identity", ("linked",), app=app, immutable=True, task_id="the-link")
    message = make_message(app, keys, "demo.add", (1, 2), link=link)
    message["headers"]["redelivered"] = True
    return message, message["headers"]["id"] + "/" + message["properties"]["delivery_tag"]


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "not stored"])
@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_garbage_in_the_outbox(app: Celery, cworker: Callable[..., Worker], redis_backend: str,
                               keys: Any, record: bytes, stored: bool) -> None:
    message, field = redelivered(app, keys)
    task_id = message["headers"]["id"]
    if stored:
        app.backend.store_result(task_id, 3, "SUCCESS")
    keys.hset("{celery}.cworker.outbox", field, record)
    keys.lpush("celery", json.dumps(message))
    worker = cworker(backend=redis_backend)
    assert get(app.AsyncResult("the-link")) == "linked"
    assert get(app.AsyncResult(task_id)) == 3
    wait_until(lambda: not inflight(keys) and not keys.exists("{celery}.cworker.outbox"), what="the ack")
    assert "its record in the outbox of queue celery cannot be read" in worker.log
    assert worker.process.poll() is None


def test_stored_results_of_garbage(app: Celery, cworker: Callable[..., Worker], redis_backend: str,
                                   keys: Any) -> None:
    """A task that came before runs again; a chord fails instead of waiting for ever."""
    message, _ = redelivered(app, keys)
    task_id = message["headers"]["id"]
    keys.set(f"celery-task-meta-{task_id}", b'{"status": "FAIL')
    keys.set("celery-task-meta-part", b'{"status": "SUCCESS", "result": [')
    keys.lpush("celery", json.dumps(message))
    worker = cworker(backend=redis_backend)
    assert get(app.AsyncResult("the-link")) == "linked"
    assert get(app.AsyncResult(task_id)) == 3
    assert "its stored result cannot be read: taken as none" in worker.log
    body = signature("demo.identity", task_id="the-body", app=app)
    app.send_task("celery.chord_unlock", ("group", body), {"result": [[["part", None], None]]})
    with pytest.raises(ChordError, match="the stored result of task part cannot be read"):
        get(app.AsyncResult("the-body"))


def test_keys_of_another_type(app: Celery, cworker: Callable[..., Worker], redis_backend: str,
                              keys: Any) -> None:
    """Each that is read again and again is named once; the tasks beside them run."""
    for name in ("cworker.paused", "cworker.revoked", "cworker.revoked.stamps",
                 "{celery}.cworker.delayed", "unacked_index", "_kombu.binding.celery.pidbox"):
        keys.set(name, "garbage")
    for name in ("{celery}.cworker.outbox", "{celery}.cworker.delayed.msg"):
        keys.lpush(name, "garbage")
    waits, _ = redelivered(app, keys)
    keys.lpush("celery", json.dumps(waits))
    worker = cworker(backend=redis_backend)
    for number in range(50):
        assert get(app.send_task("demo.add", (number, 1))) == number + 1
    named = ["cworker.paused", "cworker.revoked", "cworker.revoked.stamps", "queue celery",
             "unacked", "cworker.outbox"]
    wait_until(lambda: all(name in worker.log for name in named), what="a word on each")
    assert worker.log.count("WRONGTYPE") < 30
    keys.delete("{celery}.cworker.outbox")
    assert get(app.AsyncResult(waits["headers"]["id"])) == 3
    assert worker.process.poll() is None


def test_a_lease_of_another_type(app: Celery, cworker: Callable[..., Worker], redis_backend: str,
                                 keys: Any) -> None:
    """While it is in the way the tasks wait, and one line tells of all of them; then they run."""
    worker = cworker(backend=redis_backend)
    get(app.send_task("demo.unique", ("first", 0)))
    result = app.send_task("demo.unique", ("k", 1))
    [key] = wait_until(lambda: keys.keys("cworker.unique.*"), what="the lease")
    keys.delete(key)
    keys.hset(key, "a", "b")
    assert get(result) == "k"
    wait_until(lambda: not inflight(keys), what="the ack beside a lease that is none")
    waiting = [app.send_task("demo.unique", ("k", 0)) for _ in range(4)]
    wait_until(lambda: len(inflight(keys)) == 4, what="the tasks that wait")
    worker.wait_log("cannot be taken, will be tried again")
    assert worker.log.count("cannot be taken") == 1
    keys.delete(key)
    wait_until(lambda: not inflight(keys), what="all ended")
    assert sum(result.state == "SUCCESS" for result in waiting) >= 1

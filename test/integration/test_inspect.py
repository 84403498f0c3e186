# SPDX-License-Identifier: Apache-2.0
"""active, reserved and query_task while a task is in one of the states beside running and waiting."""
from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness import TIMEOUT, get, make_message, wait_state
from services.process import wait_until
from services.redis import RedisServer

NODE = "w1@test"


@pytest.fixture
def store() -> Iterator[RedisServer]:
    """The results' server, which can be made to wait."""
    with RedisServer() as server:
        yield server
        server.process.send_signal(signal.SIGCONT)


@pytest.fixture
def look(app) -> Callable[[str], dict[str, Any]]:
    """What an inspect command lists, by id."""
    inspect = app.control.inspect([NODE], timeout=TIMEOUT)

    def ask(method: str) -> dict[str, Any]:
        return {info["id"]: info for info in getattr(inspect, method)()[NODE]}
    return ask


@pytest.mark.parametrize("late", [True, False], ids=["late acks", "early acks"])
def test_while_its_result_is_stored(app, cworker, store, look, late):
    """Celery's child stores the result, so the task is active until then."""
    worker = cworker("--set", f"task_acks_late={str(late).lower()}", backend=store.url())
    store.process.send_signal(signal.SIGSTOP)
    ids = {app.send_task("demo.add", (i, 1)).id for i in range(3)}
    active = wait_until(lambda: seen if len(seen := look("active")) == 3 else None, TIMEOUT,
                        "all of them active")
    assert active.keys() == ids and not look("reserved")
    for info in active.values():
        assert info["worker_pid"] != worker.pid and info["time_start"] > 1.7e9
        assert info["acknowledged"] is not late
    found = app.control.inspect([NODE], timeout=TIMEOUT).query_task(list(ids))[NODE]
    assert {state for state, _ in found.values()} == {"active"} and found.keys() == ids
    store.process.send_signal(signal.SIGCONT)
    wait_until(lambda: not look("active"), TIMEOUT, "their end")


def test_tasks_that_run_in_main(app, cworker, store, look):
    worker = cworker(backend=store.url())
    store.process.send_signal(signal.SIGSTOP)
    body = app.signature("demo.xsum")
    unlock = app.send_task("celery.chord_unlock", ("group", body),
                           {"result": [["part", None]], "interval": 300})
    active = wait_until(lambda: look("active"), TIMEOUT, "the unlock")
    assert active[unlock.id]["worker_pid"] == worker.pid and active[unlock.id]["time_start"]
    assert active[unlock.id]["name"] == "celery.chord_unlock"
    store.process.send_signal(signal.SIGCONT)
    inspect = app.control.inspect([NODE], timeout=TIMEOUT)
    [entry] = wait_until(lambda: inspect.scheduled()[NODE], TIMEOUT, "the next look")
    assert entry["request"]["id"] == unlock.id and not look("active")
    assert inspect.stats()[NODE]["total"] == {"celery.chord_unlock": 1}


def test_while_it_is_looked_up(app, cworker, keys, store, look):
    """A message that was delivered before: has it succeeded already?"""
    cworker(backend=store.url())
    store.process.send_signal(signal.SIGSTOP)
    message = make_message(app, keys, "demo.add", (1, 2))
    message["properties"]["delivery_info"]["redelivered"] = True
    keys.lpush("celery", json.dumps(message))
    task_id = message["headers"]["id"]
    seen = wait_until(lambda: look("reserved"), TIMEOUT, "the message")
    assert seen[task_id]["delivery_info"]["redelivered"] is True and not look("active")
    store.process.send_signal(signal.SIGCONT)
    wait_until(lambda: not look("reserved"), TIMEOUT, "its end")


def test_order_and_doubles(app, cworker, look):
    """What waits is listed as it will be run."""
    cworker("--prefetch-multiplier", "8", concurrency=1)
    running = app.send_task("demo.sleep", (300,))
    ids = [app.send_task("demo.add", (i, 1)).id for i in range(5)]
    wait_until(lambda: list(look("active")) == [running.id] and list(look("reserved")) == ids, TIMEOUT,
               "what runs, and the others behind it")
    app.control.revoke([running.id, *ids], terminate=True)
    wait_state(running, "REVOKED")
    wait_until(lambda: not look("active") and not look("reserved"), TIMEOUT, "nothing")
    assert get(app.send_task("demo.add", (1, 2))) == 3


def test_prefetch_of_the_built_in_queues(app, cworker):
    """Long scans that wait should wait in Redis, where any pod can take them."""
    def count() -> int:
        return app.control.inspect([NODE], timeout=TIMEOUT).stats()[NODE]["prefetch_count"]

    worker = cworker(queues="celery,scans", concurrency=2)
    assert count() == 2
    worker.stop()
    cworker("--prefetch-multiplier", "4", queues="celery,scans", concurrency=2, name=NODE)
    assert count() == 8

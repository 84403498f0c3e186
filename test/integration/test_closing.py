# SPDX-License-Identifier: Apache-2.0
"""The end of the program while servers are slow or gone: what is under way meets closed parts."""
import json
import signal
import time

import pytest
from harness import get, inflight, wait_until

from services.redis import RedisServer


@pytest.fixture
def slow_store():
    with RedisServer() as server:
        yield server
        server.process.send_signal(signal.SIGCONT)


@pytest.fixture
def broker():
    with RedisServer() as server:
        yield server


def test_result_that_is_stored_while_closing(broker, slow_store, make_app, cworker):
    """The broker goes and the worker gives up; only then does its store say that the result is there."""
    app = make_app(backend=slow_store.url(), broker=broker.url())
    worker = cworker("--set", "broker_connection_retry=false", broker=broker.url(),
                     backend=slow_store.url())
    assert get(app.send_task("demo.add", (1, 2))) == 3
    slow_store.process.send_signal(signal.SIGSTOP)
    app.send_task("demo.add", (3, 4))
    wait_until(lambda: worker.log.count("succeeded in") == 2, what="the task's end")
    broker.stop()
    worker.wait_log("giving up")
    slow_store.process.send_signal(signal.SIGCONT)
    assert worker.wait() == 1
    worker.check_log()


def test_cold_stop_while_a_redelivered_task_is_looked_up(redis, keys, slow_store, make_app, cworker):
    """Its store says nothing until the worker has lost its patience with it."""
    app = make_app(backend=slow_store.url())
    worker = cworker(backend=slow_store.url())
    assert get(app.send_task("demo.add", (1, 2))) == 3
    slow_store.process.send_signal(signal.SIGSTOP)
    app.send_task("demo.add", (3, 4), queue="elsewhere")
    message = json.loads(keys.lpop("elsewhere"))
    message["properties"]["delivery_info"]["redelivered"] = True
    keys.lpush("celery", json.dumps(message))
    wait_until(lambda: len(inflight(keys)) == 1, what="the message")
    worker.signal(signal.SIGQUIT)
    worker.wait_log("tasks without a stored result go back")
    slow_store.process.send_signal(signal.SIGCONT)
    assert worker.wait() == 0
    worker.check_log()
    assert keys.llen("celery") == 1 and not inflight(keys)


def test_granted_while_it_is_given_back(redis, app, cworker):
    """Redis stands still, and says yes to a task that went back meanwhile."""
    worker = cworker("--set", 'task_fleet_limits={"demo.add": {"rate": "12/m"}}')
    assert get(app.send_task("demo.add", (1, 2))) == 3
    allowed = time.monotonic() + 5.2
    app.send_task("demo.add", (3, 4))
    wait_until(lambda: worker.log.count("received") == 2, what="the second task")
    redis.process.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: time.monotonic() > allowed, what="the second start")
        worker.signal(signal.SIGTERM)
        worker.wait_log("Warm shutdown")
    finally:
        redis.process.send_signal(signal.SIGCONT)
    assert worker.wait() == 0
    with redis.client() as keys:
        assert keys.llen("celery") == 1 and not inflight(keys)

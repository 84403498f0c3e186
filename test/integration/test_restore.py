# SPDX-License-Identifier: Apache-2.0
"""Kombu's restore of `unacked`, run by cworkers: what a dead Python worker held comes back."""
import json
import time

from harness import get, make_message, wait_until

FAST = ("--set", "visibility_timeout=2")


def unacked(keys, message, tag="dead-tag", age=1000.0, exchange="", routing_key="celery"):
    """A record as Kombu's QoS.append leaves it."""
    keys.hset("unacked", tag, json.dumps([message, exchange, routing_key]))
    keys.zadd("unacked_index", {tag: time.time() - age})


def test_record_comes_back(app, cworker, keys):
    """Marked, to its own queue, by whichever cworker there is."""
    unacked(keys, make_message(app, keys, task_id="restored"))
    cworker(*FAST, queues="other")
    wait_until(lambda: keys.llen("celery") == 1, what="the message")
    message = json.loads(keys.lindex("celery", 0))
    assert message["headers"]["redelivered"] is True
    assert message["properties"]["delivery_info"]["redelivered"] is True
    cworker(*FAST)
    assert get(app.AsyncResult("restored")) == 3
    wait_until(lambda: not keys.exists("unacked", "unacked_index", "unacked_mutex"), what="nothing left")


def test_two_workers_restore_once(app, cworker, keys):
    messages = [make_message(app, keys, "bench.noop", (i,)) for i in range(300)]
    for i, message in enumerate(messages):
        unacked(keys, message, tag=f"tag{i}", routing_key="parked")
    cworker(*FAST)
    cworker(*FAST)
    wait_until(lambda: not keys.exists("unacked", "unacked_index"), what="an empty unacked")
    parked = [json.loads(text)["properties"]["correlation_id"] for text in keys.lrange("parked", 0, -1)]
    assert sorted(parked) == sorted(m["properties"]["correlation_id"] for m in messages)


def test_mutex_of_another_worker_is_respected(app, cworker, keys):
    keys.set("unacked_mutex", "a Python worker", px=300000)
    unacked(keys, make_message(app, keys, task_id="waits"))
    cworker(*FAST)
    assert get(app.send_task("demo.add", (2, 2))) == 4
    time.sleep(1)  # two looks, which must change nothing
    assert keys.hlen("unacked") == 1
    keys.delete("unacked_mutex")
    assert get(app.AsyncResult("waits")) == 3


def test_dead_python_worker(app, cworker, python_worker, keys):
    """kill -9 of Celery's worker; only a cworker is left."""
    process = python_worker()
    result = app.send_task("demo.sleep", (3.0,))
    wait_until(lambda: keys.hlen("unacked") == 1, what="the delivery to Python")
    process.kill()
    process.wait()
    cworker(*FAST)
    assert get(result) == 3.0


def test_live_python_worker_is_left_alone(app, cworker, python_worker, keys):
    """A long task of a living Python worker, within the visibility timeout."""
    cworker("--set", "visibility_timeout=20", queues="other")
    python_worker()
    result = app.send_task("demo.sleep", (3.0,))
    wait_until(lambda: keys.hlen("unacked") == 1, what="the delivery to Python")
    assert get(app.send_task("demo.add", (1, 2), queue="other")) == 3
    assert keys.hlen("unacked") == 1 or result.ready()
    assert not keys.llen("celery") and get(result) == 3.0
    wait_until(lambda: not keys.hlen("unacked"), what="Python's ack")

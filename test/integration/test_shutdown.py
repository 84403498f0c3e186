# SPDX-License-Identifier: Apache-2.0
"""Warm shutdown lets running tasks finish, cold gives them back; neither loses any."""
import json
import os
import signal

import pytest
from harness import descendants, get, inflight, is_alive, wait_state, wait_until


def waiting_ids(keys, queue="celery"):
    """Task ids in the order in which they would be taken."""
    return [json.loads(m)["headers"]["id"] for m in reversed(keys.lrange(queue, 0, -1))]


def start_long(app, cworker, keys, *words, task=("demo.sleep", (600,)), soft=0, **options):
    """A worker with one running task and a full window; the others are in the queue."""
    worker = cworker(*words, "--set", "task_track_started=true",
                     "--set", f"worker_soft_shutdown_timeout={soft}", concurrency=1, **options)
    running = app.send_task(*task)
    wait_state(running, "STARTED")
    others = [app.send_task("demo.add", (i, 1)) for i in range(5)]
    wait_until(lambda: len(inflight(keys)) == 4, what="a full window")
    return worker, running, others


def start_gated(app, cworker, keys, gate, **options):
    """The same with a task that the test can end."""
    return start_long(app, cworker, keys, *gate.options, task=("gate",), **options)


def test_warm(app, cworker, keys, gate):
    worker, running, others = start_gated(app, cworker, keys, gate)
    worker.signal(signal.SIGTERM)
    worker.wait_log("Warm shutdown")
    gate.open()
    assert worker.wait() == 0
    assert running.state == "SUCCESS"
    assert waiting_ids(keys) == [result.id for result in others]
    assert not inflight(keys)
    assert not list(keys.scan_iter("cworker.lease.*"))
    assert not keys.hgetall("cworker.incarnations")


def test_warm_when_idle_leaves_nothing(app, cworker, keys):
    worker = cworker()
    assert get(app.send_task("demo.add", (1, 2))) == 3
    worker.stop()
    assert not list(keys.scan_iter("*cworker*"))


@pytest.mark.parametrize("signals", [
    [signal.SIGQUIT], [signal.SIGTERM, signal.SIGQUIT], [signal.SIGINT, signal.SIGINT]], ids=str)
def test_cold(app, cworker, keys, signals):
    worker, running, others = start_long(app, cworker, keys)
    for number in signals[:-1]:
        worker.signal(number)
        worker.wait_log("Warm shutdown")
    worker.signal(signals[-1])
    worker.wait()
    assert waiting_ids(keys) == [running.id, *(result.id for result in others)]
    assert not inflight(keys)
    assert running.state != "SUCCESS"


def test_cold_ends_all_processes(app, cworker, keys):
    worker, _, _ = start_long(app, cworker, keys)
    children = descendants(worker.pid)
    assert children
    worker.signal(signal.SIGQUIT)
    worker.wait()
    wait_until(lambda: not any(map(is_alive, children)), what="the end of all children")


def test_what_was_given_back_runs_elsewhere(app, cworker, keys, gate):
    worker, running, others = start_gated(app, cworker, keys, gate)
    worker.signal(signal.SIGTERM)
    worker.wait_log("Warm shutdown")
    gate.open()
    worker.stop()
    cworker()
    assert running.state == "SUCCESS"
    assert [get(result) for result in others] == [i + 1 for i in range(len(others))]


def test_results_are_stored_before_the_end(mongo_backend, make_app, cworker, keys):
    app = make_app(mongo_backend)
    worker = cworker(backend=mongo_backend)
    results = [app.send_task("demo.add", (i, i)) for i in range(200)]
    assert get(results[0]) == 0
    worker.stop()
    done = [result for result in results if result.state == "SUCCESS"]
    waiting = waiting_ids(keys)
    assert {result.id for result in done} | set(waiting) == {result.id for result in results}
    assert len(done) + len(waiting) == len(results)


SOFT = "Initiating Soft Shutdown, terminating in {} seconds"


def test_repeated_term_changes_nothing(app, cworker, keys, gate):
    worker, running, _ = start_gated(app, cworker, keys, gate)
    worker.signal(signal.SIGTERM)
    worker.wait_log("Warm shutdown")
    worker.signal(signal.SIGTERM)
    gate.open()
    assert worker.wait() == 0
    assert running.state == "SUCCESS"
    assert "Cold" not in worker.log


def test_soft_ends_with_the_last_task(app, cworker, keys, gate):
    worker, running, others = start_gated(app, cworker, keys, gate, soft=600)
    worker.signal(signal.SIGQUIT)
    worker.wait_log("Soft Shutdown")
    gate.open()
    assert worker.wait() == 0
    assert SOFT.format(600) in worker.log and "Cold shutdown" not in worker.log
    assert running.state == "SUCCESS"
    assert waiting_ids(keys) == [result.id for result in others]


@pytest.mark.parametrize("again", [False, True], ids=["timeout", "second SIGQUIT"])
def test_soft_then_cold(app, cworker, keys, again):
    worker, running, others = start_long(app, cworker, keys, soft=600 if again else 0.5)
    worker.signal(signal.SIGQUIT)
    worker.wait_log(SOFT.format(600 if again else 0.5))
    if again:
        worker.signal(signal.SIGQUIT)
    assert worker.wait() == 0
    assert "Cold shutdown" in worker.log
    assert waiting_ids(keys) == [running.id, *(result.id for result in others)]
    assert not inflight(keys) and not keys.hgetall("cworker.incarnations")


def test_soft_does_not_wait_when_idle(cworker, keys):
    worker = cworker("--set", "worker_soft_shutdown_timeout=600")
    worker.signal(signal.SIGQUIT)
    assert worker.wait() == 0
    assert "Soft" not in worker.log


def test_soft_on_idle_waits(cworker, keys):
    worker = cworker("--set", "worker_soft_shutdown_timeout=0.5",
                     "--set", "worker_enable_soft_shutdown_on_idle=true")
    worker.signal(signal.SIGQUIT)
    assert worker.wait() == 0
    assert SOFT.format(0.5) in worker.log and "Cold shutdown" in worker.log


def test_pod_is_ended(app, cworker, keys):
    """TERM, then KILL after the grace period: all has been given back before that, marked."""
    worker, running, others = start_long(app, cworker, keys, soft=0.5,
                                         env={"REMAP_SIGTERM": "SIGQUIT"})
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    messages = [json.loads(m) for m in keys.lrange("celery", 0, -1)]
    assert len(messages) == 1 + len(others)
    assert messages[-1]["headers"]["id"] == running.id
    assert messages[-1]["properties"]["delivery_info"]["redelivered"] is True


@pytest.mark.parametrize("soft", [0, 5])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_all_processes_get_the_signal(app, cworker, keys, number, soft):
    """As from systemd, or a terminal: nothing fails, what cannot finish goes back."""
    worker = cworker("--set", "task_track_started=true",
                     "--set", f"worker_soft_shutdown_timeout={soft}", concurrency=2)
    results = [app.send_task("demo.sleep", (0.8,)) for _ in range(5)]
    for result in results[:2]:
        wait_state(result, "STARTED", "SUCCESS")
    for pid in [*descendants(worker.pid), worker.pid]:
        os.kill(pid, number)
    assert worker.wait() == (1 if number == signal.SIGINT else 0)
    assert not list(keys.scan_iter("*cworker*"))
    cworker(concurrency=5)
    assert [get(result) for result in results] == [0.8] * 5


def test_hangup_of_all_processes_harms_no_task(app, cworker):
    worker = cworker("--set", "task_track_started=true")
    result = app.send_task("demo.sleep", (0.8,))
    wait_state(result, "STARTED", "SUCCESS")
    for pid in [*descendants(worker.pid), worker.pid]:
        os.kill(pid, signal.SIGHUP)
    assert get(result) == 0.8

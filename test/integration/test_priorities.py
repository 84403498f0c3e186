# SPDX-License-Identifier: Apache-2.0
"""The order of tasks: by priority step, 0 first, and first come first served within a step."""
import pytest
from harness import read_ledger, wait_until


def run_order(cworker, tmp_path, count, *args, queues="celery"):
    """The first arguments of `count` queued bench.noop tasks, in the order of their runs."""
    ledger = tmp_path / "ledger"
    cworker("--set", "worker_prefetch_multiplier=1", *args, concurrency=1, queues=queues,
            env={"BENCH_TRACE": str(ledger)})
    wait_until(lambda: len(read_ledger(ledger)) == count, what=f"{count} runs")
    return [number for number, _ in read_ledger(ledger)]


def test_lower_number_runs_first(app, cworker, tmp_path):
    for priority in (9, 6, 3, 0, 6, 0):
        app.send_task("bench.noop", (priority,), priority=priority)
    assert run_order(cworker, tmp_path, 6) == [0, 0, 3, 6, 6, 9]


@pytest.mark.parametrize("priority, key", [
    (0, "celery"), (2, "celery"), (4, "celery\x06\x163"), (8, "celery\x06\x166"),
    (255, "celery\x06\x169")])
def test_every_step_is_served(app, cworker, keys, tmp_path, priority, key):
    app.send_task("bench.noop", (priority,), priority=priority)
    assert keys.llen(key) == 1
    assert run_order(cworker, tmp_path, 1) == [priority]
    assert keys.llen(key) == 0


def test_first_come_first_served(app, cworker, tmp_path):
    for i in range(100):
        app.send_task("bench.noop", (i,))
    assert run_order(cworker, tmp_path, 100) == list(range(100))


def test_steps_of_ones_own(make_app, cworker, tmp_path, keys):
    app = make_app(broker_transport_options={"priority_steps": [0, 5]})
    for priority in (7, 5, 4, 0):
        app.send_task("bench.noop", (priority,), priority=priority)
    assert keys.llen("celery\x06\x165") == 2
    assert run_order(cworker, tmp_path, 4, "--set", "priority_steps=0,5") == [4, 0, 7, 5]


def test_strict_queue_order(app, cworker, tmp_path):
    for i in range(10):
        app.send_task("bench.noop", (100 + i,), queue="low")
        app.send_task("bench.noop", (i,), queue="high")
    order = run_order(cworker, tmp_path, 20, "--set", "queue_order_strategy=priority",
                      queues="high,low")
    assert order == [*range(10), *range(100, 110)]


def test_no_queue_starves(app, cworker, tmp_path):
    """Round robin, the default: a long queue does not hold up a short one."""
    for i in range(200):
        app.send_task("bench.noop", (1000 + i,), queue="long")
    app.send_task("bench.noop", (1,), queue="short")
    order = run_order(cworker, tmp_path, 201, queues="long,short")
    assert order.index(1) < 100

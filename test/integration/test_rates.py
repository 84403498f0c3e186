# SPDX-License-Identifier: Apache-2.0
"""Rate limits of one worker and of a fleet, and autoscaling."""
from __future__ import annotations

import contextlib
import json
import re
import time
from pathlib import Path

from harness import descendants, get, read_ledger
from services.process import wait_until


def test_rate_limit_spaces_starts(app, cworker, tmp_path):
    trace = tmp_path / "trace"
    cworker("--set", "task_default_rate_limit=5/s", env={"BENCH_TRACE": str(trace)})
    begin = time.monotonic_ns()
    results = [app.send_task("bench.noop", (i,)) for i in range(5)]
    for result in results:
        get(result)
    starts = sorted(at for _, at in read_ledger(trace))
    # Each may begin later than it was allowed to, and the next one then seems too early.
    assert all(at - begin > i * 0.2e9 - 0.01e9 for i, at in enumerate(starts)), starts


def test_rate_limits_can_be_turned_off(app, cworker, tmp_path):
    cworker("--set", "task_default_rate_limit=1/h", "--set", "worker_disable_rate_limits=true")
    for result in [app.send_task("demo.noop") for _ in range(20)]:
        get(result)


def test_waiting_tasks_go_back_at_shutdown(app, cworker, keys):
    worker = cworker("--set", "task_default_rate_limit=1/h")
    results = [app.send_task("demo.add", (i, 0)) for i in range(5)]
    get(results[0])
    wait_until(lambda: keys.llen("celery") == 0, what="all are fetched")
    worker.stop()
    assert keys.llen("celery") == 4
    cworker()
    assert [get(result) for result in results] == list(range(5))


def pool_size(worker) -> int:
    names = []
    for pid in descendants(worker.pid):
        with contextlib.suppress(OSError):
            names.append(Path(f"/proc/{pid}/comm").read_text().strip())
    return names.count("cworker: pool")


def test_autoscale(app, cworker, gate):
    worker = cworker(*gate.options, "--autoscale", "4,1", env={"AUTOSCALE_KEEPALIVE": "0.3"})
    wait_until(lambda: pool_size(worker) == 1, what="the minimum")
    results = [app.send_task("gate") for _ in range(8)]
    wait_until(lambda: pool_size(worker) == 4, what="the maximum")
    gate.open()
    for result in results:
        get(result)
    wait_until(lambda: pool_size(worker) == 1, what="the minimum again")
    assert re.search(r"Scaling up \d processes\.", worker.log)


def test_autoscale_from_nothing(app, cworker):
    worker = cworker("--autoscale", "2")
    assert pool_size(worker) == 0
    assert get(app.send_task("demo.add", (1, 2))) == 3


def test_autoscale_leaves_tiny_tasks_to_few(app, cworker):
    """Tasks that are done at once need no more children than there are, unless these get no time to run."""
    worker = cworker("--autoscale", "20,2", env={"AUTOSCALE_KEEPALIVE": "0.1"})

    def calm() -> bool:
        before = worker.log.count("Scaling up")
        for result in [app.send_task("demo.noop") for _ in range(100)]:
            get(result)
        return worker.log.count("Scaling up") == before
    wait_until(calm, what="a hundred tasks with as many children as before")


# --- limits that a fleet shares ---------------------------------------------------------------------

def limits(**limit: object) -> str:
    return f"task_fleet_limits={json.dumps({'bench.noop': limit, 'demo.sleep': limit})}"


def test_fleet_rate(app, cworker, tmp_path):
    """Two workers together start no more than one would."""
    trace = tmp_path / "trace"
    for _ in range(2):
        cworker("--set", limits(rate="10/s"), env={"BENCH_TRACE": str(trace)})
    begin = time.monotonic_ns()
    for result in [app.send_task("bench.noop", (i,)) for i in range(8)]:
        get(result)
    starts = sorted(at for _, at in read_ledger(trace))
    # A start is granted in Redis; what it takes from there to the child differs.
    assert len(starts) == 8 and starts[-1] - begin > 0.65e9, starts


def test_fleet_concurrency_for_each_key(app, cworker, keys):
    """One at a time for each value of the argument, whichever worker has it."""
    for _ in range(2):
        cworker("--set", limits(concurrency=1, key="seconds"), concurrency=4)
    results = [app.send_task("demo.sleep", (seconds,)) for seconds in (0.4, 0.4, 0.4, 0.3)]
    most = 0

    def done() -> bool:
        nonlocal most
        most = max(most, keys.zcard("cworker.limit.demo.sleep:0.4.runs"))
        return all(result.ready() for result in results)
    wait_until(done, what="all results")
    assert most == 1
    wait_until(lambda: not list(keys.scan_iter("cworker.limit.*.runs")), what="free slots")


def test_slot_of_a_killed_worker_comes_back(app, cworker, keys):
    options = ("--set", limits(concurrency=1), "--set", "worker_lease=1")
    worker = cworker(*options)
    first = app.send_task("demo.sleep", (5,))
    wait_until(lambda: keys.zcard("cworker.limit.demo.sleep.runs"), what="the first slot")
    second = app.send_task("demo.sleep", (0.1,))
    worker.kill()
    cworker(*options, concurrency=2)
    assert get(first) == 5 and get(second) == 0.1


def test_waiting_for_the_fleet_ends_with_a_warm_stop(app, cworker, keys):
    worker = cworker("--set", limits(rate="1/h"), concurrency=4)
    results = [app.send_task("bench.noop", (i,)) for i in range(4)]
    wait_until(lambda: any(result.ready() for result in results), what="the first")
    worker.stop()
    assert keys.llen("celery") == 3


def test_fleet_limits_are_checked_at_start(cworker):
    worker = cworker("--set", 'task_fleet_limits={"demo.nothing": {"rate": "1/s"}}', ready=False)
    assert worker.wait() == 1
    assert "no task demo.nothing is loaded" in worker.log
    worker = cworker("--set", limits(rates="1/s"), ready=False)
    assert worker.wait() == 1
    assert "rates is none of rate, concurrency, key" in worker.log

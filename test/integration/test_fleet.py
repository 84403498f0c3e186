# SPDX-License-Identifier: Apache-2.0
"""Two cworkers and a Python worker share one queue: each task runs once."""
from collections import Counter

from harness import count_messages, get, read_ledger, wait_until

from services.process import end_process

TASKS = 2000


def test_each_task_runs_once(app, cworker, python_worker, keys, tmp_path):
    ledgers = {name: tmp_path / f"ledger-{name}" for name in ("c1", "c2", "python")}
    cworker(env={"BENCH_TRACE": str(ledgers["c1"])})
    cworker(env={"BENCH_TRACE": str(ledgers["c2"])})
    python_worker(BENCH_TRACE=str(ledgers["python"]))

    def runs():
        return {name: [number for number, _ in read_ledger(path)]
                for name, path in ledgers.items()}

    for i in range(TASKS):
        app.send_task("bench.noop", (i,), ignore_result=True)
    wait_until(lambda: sum(map(len, runs().values())) >= TASKS, what="all runs")
    wait_until(lambda: not count_messages(keys) and not keys.hlen("unacked"),
               what="empty queues")
    seen = runs()
    assert Counter(number for numbers in seen.values() for number in numbers) == \
        Counter(range(TASKS))
    assert seen["python"] and seen["c1"] + seen["c2"], {name: len(n) for name, n in seen.items()}


def test_c_takes_over_what_python_gave_back(app, cworker, python_worker, keys):
    """Python puts its messages back re-encoded and marked; they run here all the same."""
    process = python_worker()
    results = [app.send_task("demo.add", (i, 1)) for i in range(200)]
    end_process(process, 20)
    cworker("--set", "visibility_timeout=2")  # at times it hangs at its end, and has to be killed
    assert [get(result) for result in results] == [i + 1 for i in range(200)]


def test_python_takes_over_what_c_gave_back(app, cworker, python_worker, keys):
    worker = cworker()
    results = [app.send_task("demo.add", (i, 1)) for i in range(500)]
    worker.stop()
    python_worker()
    assert [get(result) for result in results] == [i + 1 for i in range(500)]

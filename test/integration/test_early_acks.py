# SPDX-License-Identifier: Apache-2.0
"""Early acks: a message is acked when a lane takes its task, no sooner; and in the queue's order."""
import json
import signal

from harness import get, inflight, read_ledger, wait_state, wait_until

EARLY = ("--set", "task_acks_late=false", "--set", "task_track_started=true")


def test_only_what_starts_is_acked(app, cworker, keys):
    """What waits for a lane stays in Redis: a crash loses what ran, not what was prefetched."""
    keys.hset("cworker.paused", "celery", "now")
    results = [app.send_task("demo.sleep", (60,)) for _ in range(6)]
    worker = cworker(*EARLY, concurrency=1)
    keys.delete("cworker.paused")
    wait_state(results[0], "STARTED")
    wait_until(lambda: worker.log.count("received") == 4, what="a full window")
    assert len(inflight(keys)) == 3
    worker.signal(signal.SIGQUIT)
    worker.wait()
    assert [json.loads(m)["headers"]["id"] for m in reversed(keys.lrange("celery", 0, -1))] == \
        [result.id for result in results], "all of it goes back, in order"


def test_the_first_comes_first(app, cworker, keys, tmp_path):
    trace = tmp_path / "trace"
    keys.hset("cworker.paused", "celery", "now")
    results = [app.send_task("bench.noop", (i,)) for i in range(40)]
    cworker(*EARLY, concurrency=1, env={"BENCH_TRACE": str(trace)})
    keys.delete("cworker.paused")
    for result in results:
        get(result)
    assert [number for number, _ in read_ledger(trace)] == list(range(40))

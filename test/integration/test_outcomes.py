# SPDX-License-Identifier: Apache-2.0
"""Every way to end, each compared with Celery's own worker run on the same Redis: the state that is
stored, and whether the message is gone."""
import json
import signal

import pytest
from harness import TIMEOUT, start_celery, wait_until

from services.process import end_process

EARLY = {"task_acks_late": False}
LATE = {"task_acks_late": True}
KEEP = {"task_acks_late": True, "task_acks_on_failure_or_timeout": False}
REJECT = {"task_acks_late": True, "task_reject_on_worker_lost": True}
ERRORS = {"task_acks_late": True, "task_store_errors_even_if_ignored": True}
MODES = {"early": EARLY, "late": LATE, "keep": KEEP, "reject": REJECT, "errors": ERRORS}

# task, arguments, options
ENDS = {
    "success": ("demo.add", (1, 2), {}),
    "exception": ("demo.fail", ("x",), {}),
    "ignore": ("demo.ignore", (), {}),
    "reject": ("demo.reject", (False,), {}),
    "retry": ("demo.retry_forever", (600,), {}),
    "reject requeue": ("demo.reject", (True,), {}),
    "last retry": ("demo.retry_forever", (0.1,), {"retries": 3}),
    "soft limit": ("demo.sleep", (60,), {"soft_time_limit": 0.5, "time_limit": 30}),
    "hard limit": ("demo.spin", (60,), {"time_limit": 0.5}),
    "child died": ("demo.crash", (9,), {}),
    "expired": ("demo.add", (1, 2), {"expires": -5}),
    "unknown task": ("demo.nobody", (), {}),
    "revoked": ("demo.add", (1, 2), {}),
    "ignored revoked": ("demo.add", (1, 2), {"ignore_result": True}),
    "ignored retry": ("demo.retry_forever", (600,), {"ignore_result": True}),
    "ignored expired": ("demo.add", (1, 2), {"expires": -5, "ignore_result": True}),
    "ignored exception": ("demo.fail", ("x",), {"ignore_result": True}),
}
# These come round again and again with late acks; test_workers_lost.py has them.
ENDLESS = {("child died", "reject"), ("hard limit", "keep")}
ENDLESS |= {("reject requeue", mode) for mode in MODES if mode != "early"}


@pytest.fixture
def celery_worker(redis, tmp_path):
    """celery_worker(conf): Celery's own, ready."""
    started = []

    def start(conf, queue):
        started.append(start_celery(
            "outcome_tasks", "python@test", tmp_path / "celery.log", "-Q", queue, "--without-mingle",
            "--without-gossip", broker=redis.url(), backend=redis.url(), CONF=json.dumps(conf)))

    yield start
    for process in started:
        end_process(process, 20, signal.SIGQUIT)  # cold: a task may sleep for a minute


def held(keys):
    """Messages that some worker holds or that wait for their time, in either kind's keys."""
    return keys.hlen("unacked") + sum(keys.llen(key) for key in keys.keys("*.cworker.inflight.*"))


def outcome(keys, result):
    meta = json.loads(keys.get(f"celery-task-meta-{result.id}") or "{}")
    error = meta.get("result") if meta.get("status") in ("FAILURE", "RETRY", "REVOKED") else {}
    return meta.get("status"), (error or {}).get("exc_type")


def run_all(app, keys, queue, mode, node):
    """How each end comes out. The last task says that all before it have ended, but for the child's
    death, which may be noticed later than what its successor does."""
    results = {}
    for name, (task, args, options) in ENDS.items():
        if (name, mode) not in ENDLESS:
            task_id = f"{queue}-{name}".replace(" ", "-")
            if "revoked" in name:
                app.control.revoke(task_id, reply=True, destination=[node])
            results[name] = app.send_task(task, args, queue=queue, task_id=task_id, **options)
    last = app.send_task("demo.add", (1, 2), queue=queue)
    last.get(timeout=TIMEOUT)
    wait_until(lambda: not keys.llen(queue), what="an empty queue")
    if died := results.get("child died"):
        wait_until(lambda: outcome(keys, died)[0], what="the end of the crashed task")
    return {name: outcome(keys, result) for name, result in results.items()}


@pytest.mark.parametrize("mode", MODES)
def test_states_are_celerys(app, cworker, celery_worker, keys, mode):
    celery_worker(MODES[mode], "theirs")
    theirs = run_all(app, keys, "theirs", mode, "python@test")
    settings = [word for name, value in MODES[mode].items()
                for word in ("--set", f"{name}={str(value).lower()}")]
    cworker(*settings, queues="ours", concurrency=1)
    ours = run_all(app, keys, "ours", mode, "w1@test")
    assert ours == theirs
    assert theirs["success"] == ("SUCCESS", None)
    assert theirs["child died" if mode != "reject" else "hard limit"][0] == "FAILURE"
    # The waiting retries are Celery's only unacked messages; ours wait in the delayed set.
    wait_until(lambda: held(keys) == 2, what="two held messages, of Celery's retries")
    assert keys.zcard("{ours}.cworker.delayed") == 2


def test_reject_with_requeue(app, cworker, celery_worker, keys):
    """Back in the queue with the mark, and nothing is stored."""
    celery_worker(LATE, "theirs")
    worker = cworker(queues="ours", concurrency=1)
    theirs = app.send_task("demo.reject", (True,), queue="theirs")
    ours = app.send_task("demo.reject", (True,), queue="ours")

    def seen_again():
        values = keys.hvals("unacked")
        return values and json.loads(values[0])[0]["properties"]["delivery_info"].get("redelivered")

    wait_until(seen_again, what="Celery's second run")
    wait_until(lambda: worker.log.count("reject requeue=True") >= 3, what="our further runs")
    assert outcome(keys, ours) == outcome(keys, theirs) == (None, None)

# SPDX-License-Identifier: Apache-2.0
"""Unique work: of equal calls one at a time waits or runs."""
import json
import signal

import pytest
from celery.exceptions import TaskRevokedError
from harness import get, inflight, kill_task, wait_state, wait_until

LEASES = "cworker.unique.*"


def send(app, key, seconds=0.0, **options):
    return app.send_task("demo.unique", (key,), {"seconds": seconds}, **options)


def leases(keys):
    found = [(keys.get(key), keys.pttl(key)) for key in keys.scan_iter(LEASES)]
    return {holder.decode(): life for holder, life in found if holder and life != -2}


def wait_released(keys):
    wait_until(lambda: not leases(keys) and not inflight(keys), what="the end of all leases")


def test_an_equal_call_is_set_aside(backend, make_app, cworker, keys):
    app = make_app(backend)
    worker = cworker(backend=backend)
    first = send(app, "a", 600)
    worker.wait_log(f"demo.unique[{first.id}] received")
    second, third = send(app, "a"), send(app, "b")
    with pytest.raises(TaskRevokedError, match=f"an equal task waits or runs: {first.id}"):
        get(second)
    assert second.state == "REVOKED"
    assert get(third) == "b"
    assert first.state == "PENDING"
    kill_task(app, first)
    worker.wait_log(f"demo.unique[{second.id}] set aside: an equal task, {first.id}")
    wait_released(keys)
    assert get(send(app, "a")) == "a"


def test_arguments_are_compared_by_name(app, cworker, keys, tmp_path):
    wait = {"command": ["sh", "-c", f"until [ -e {tmp_path}/go ]; do sleep 0.05; done"], "unique_for": 9}
    table = [{"name": "p", **wait}, {"name": "q", "unique_key": ["k"], **wait}]
    worker = cworker("--set", f"tasks={json.dumps(table)}", concurrency=4)
    firsts = [app.send_task("p", (1,), {"a": 1, "b": {"x": 1, "y": 2}}),
              app.send_task("q", (1,), {"k": "k", "other": 1}),
              app.send_task("demo.unique", ("same",), {"seconds": 600})]
    for first in firsts:
        worker.wait_log(f"[{first.id}] received")
    equal = [app.send_task("p", (1,), {"b": {"y": 2, "x": 1}, "a": 1}),
             app.send_task("q", (2,), {"k": "k"}),
             app.send_task("demo.unique", (), {"key": "same"})]
    for result in equal:
        wait_state(result, "REVOKED")
    different = app.send_task("p", (2,), {"a": 1})
    (tmp_path / "go").touch()
    assert [get(result) for result in (different, *firsts[:2])] == [None] * 3
    kill_task(app, firsts[2])
    wait_released(keys)


def test_the_lease_lasts_as_long_as_the_run(app, cworker, keys):
    cworker()
    first = send(app, "long", 3.5)  # longer than unique_for
    wait_until(lambda: leases(keys), what="the lease")
    lives = []
    wait_until(lambda: lives.append(leases(keys).get(first.id)) or first.state == "SUCCESS",
               what="SUCCESS")
    held = lives[:lives.index(None)] if None in lives else lives
    assert held and min(held) > 0
    wait_released(keys)


@pytest.mark.parametrize("key,retry,state", [("", 0, "FAILURE"), ("r", 0.2, "SUCCESS")])
def test_released_on_any_end(app, cworker, keys, key, retry, state):
    cworker()
    result = app.send_task("demo.unique", (key,), {"retry": retry})
    wait_state(result, state)
    wait_released(keys)


def test_early_acks(app, cworker, keys):
    worker = cworker("--set", "task_acks_late=false")
    first = send(app, "a", 600)
    worker.wait_log(f"[{first.id}] received")
    wait_state(send(app, "a"), "REVOKED")
    kill_task(app, first)
    wait_released(keys)


def test_held_through_eta_and_retry(app, cworker, keys):
    cworker()
    waiting = send(app, "eta", countdown=3600)
    wait_until(lambda: leases(keys).get(waiting.id, 0) > 3000000, what="a lease until after the ETA")
    retried = app.send_task("demo.unique", ("retry",), {"retry": 3600})
    wait_state(retried, "RETRY")
    wait_until(lambda: leases(keys).get(retried.id, 0) > 3000000, what="a lease until the retry")
    for key in ("eta", "retry"):
        wait_state(send(app, key), "REVOKED")


def test_a_revoked_one_releases(app, cworker, keys):
    first = cworker()
    waiting = send(app, "eta", countdown=3600)
    wait_until(lambda: leases(keys).get(waiting.id, 0) > 3600000, what="the lease")
    first.stop()
    keys.zadd("cworker.revoked", {waiting.id: 4e9})
    keys.zadd("{celery}.cworker.delayed", {keys.zrange("{celery}.cworker.delayed", 0, 0)[0]: 0})
    cworker()
    wait_state(waiting, "REVOKED")
    wait_released(keys)


def test_given_back_keeps_its_lease_and_runs_elsewhere(app, cworker, keys):
    row = {"name": "long", "command": ["sleep", "600"], "unique_for": 600}
    first = cworker("--set", f"tasks={json.dumps([row])}", concurrency=1)
    running = app.send_task("long", ("x",))
    first.wait_log(f"[{running.id}] received")
    wait_until(lambda: leases(keys), what="the lease")
    first.signal(signal.SIGQUIT)
    first.wait()
    assert list(leases(keys)) == [running.id]
    other = cworker("--set", f"tasks={json.dumps([row])}")
    second = app.send_task("long", ("x",))
    wait_state(second, "REVOKED")
    assert json.loads(keys.get(f"celery-task-meta-{second.id}"))["result"]["exc_message"] == \
        [f"an equal task waits or runs: {running.id}"]
    other.signal(signal.SIGQUIT)
    assert other.wait() == 0


def test_a_killed_worker_releases_by_expiry(app, cworker, keys):
    """Its own task, taken by another worker, finds the lease to be its own."""
    worker = cworker("--set", "worker_lease=1")
    running = send(app, "x", 1.5)
    wait_until(lambda: leases(keys) or running.ready(), what="the lease")
    worker.kill()
    cworker("--set", "worker_lease=1")
    assert get(running) == "x"
    wait_released(keys)
    assert get(send(app, "x")) == "x"

# SPDX-License-Identifier: Apache-2.0
"""app.control.revoke and its relatives, beside Celery's own worker where that says what must come."""
import contextlib
import json
import time

import pytest
from celery.exceptions import TaskRevokedError
from harness import TIMEOUT, count_messages, descendants, get, inflight, wait_state, wait_until

from services.process import end_process


class Drive:
    """The same steps against either worker: what was stored in the end, for each of them."""

    def __init__(self, app, node, keys, gate=None):
        self.app, self.node, self.keys, self.gate = app, node, keys, gate

    def active(self):
        replies = self.app.control.inspect(destination=[self.node]).active() or {}
        return {task["id"] for task in replies.get(self.node, ())}

    def run(self, name="demo.sleep", args=(600,), **options):
        result = self.app.send_task(name, args, **options)
        wait_until(lambda: result.id in self.active(), what="the start of the task")
        return result

    def wait(self, **options):
        return self.app.send_task("demo.sleep", (0,), **options)

    def revoke(self, results, **options):
        ids = [result.id for result in results]
        return self.app.control.revoke(ids, reply=True, destination=[self.node], timeout=TIMEOUT,
                                       **options)

    def settled(self):
        """Everything has left the worker: what is stored now stays."""
        wait_until(lambda: not count_messages(self.keys) and not self.keys.hlen("unacked") and
                   not self.active(), what="the acks")

    def stored(self, result):
        if "mongo" in str(self.app.conf.result_backend):
            found = self.app.backend.collection.find_one({"_id": result.id})
        else:
            found = json.loads(self.keys.get(f"celery-task-meta-{result.id}") or "null")
        return found and {name: value for name, value in found.items()
                          if name not in ("_id", "task_id", "date_done", "expires_at")}


def running_terminated(drive, **options):
    result = drive.run()
    drive.revoke([result], terminate=True, **options)
    wait_state(result, "REVOKED")
    return [result]


def running_killed(drive):
    return running_terminated(drive, signal="SIGKILL")


def running_left_alone(drive):
    result = drive.run("gate", ())
    drive.revoke([result])
    drive.gate.open()
    wait_until(lambda: (drive.stored(result) or {}).get("status") == "SUCCESS", what="SUCCESS over REVOKED")
    drive.gate.shut()
    return [result]


def waiting(drive):
    """One prefetched, two not received, two others among them."""
    busy = drive.run()
    results = [drive.wait() for _ in range(5)]
    drive.revoke(results[:4:2])
    drive.revoke([busy], terminate=True)
    for result in results:
        wait_state(result, "SUCCESS", "REVOKED")
    return [busy, *results]


def waiting_terminated(drive):
    busy = drive.run()
    result = drive.wait()
    drive.revoke([result], terminate=True)
    drive.revoke([busy], terminate=True)
    wait_state(result, "REVOKED")
    return [busy, result]


def eta(drive, seconds=2):
    """Celery's worker ends it when its time has come; where that came before the revoke, once more, later."""
    result = drive.wait(countdown=seconds)
    wait_until(lambda: not drive.keys.llen("celery"), what="its arrival")
    drive.revoke([result])
    wait_until(lambda: (drive.stored(result) or {}).get("children") == [], what="its end")
    return [result] if drive.stored(result)["status"] == "REVOKED" else eta(drive, 4 * seconds)


def stamped(drive, **options):
    signature = drive.app.signature("demo.sleep", (600,))
    signature.stamp(tenant="t1", ids=["a", "b"])
    result = signature.apply_async()
    wait_until(lambda: result.id in drive.active(), what="the start of the task")
    later = drive.app.signature("demo.sleep", (0,))
    later.stamp(tenant="t1")
    later = later.apply_async()
    other = drive.app.signature("demo.sleep", (0,))
    other.stamp(tenant="t2")
    other = other.apply_async()
    drive.app.control.revoke_by_stamped_headers(
        {"tenant": ["t0", "t1"]}, reply=True, terminate=True, destination=[drive.node],
        timeout=TIMEOUT)
    for each in (result, later):
        wait_state(each, "REVOKED")
    wait_state(other, "SUCCESS")
    return [result, later, other]


SCENARIOS = [running_terminated, running_killed, running_left_alone, waiting, waiting_terminated, eta,
             stamped]


def documents(drive):
    found = {}
    for scenario in SCENARIOS:
        results = scenario(drive)
        drive.settled()
        found[scenario.__name__] = [drive.stored(result) for result in results]
    return found


def test_stored_as_celery_stores_it(backend, make_app, cworker, python_worker, keys, gate):
    app = make_app(backend)
    process = python_worker(BACKEND=backend, **gate.env)
    expected = documents(Drive(app, "py@test", keys, gate))
    end_process(process, 20)
    cworker(*gate.options, "--prefetch-multiplier", 1, backend=backend, concurrency=1)
    seen = documents(Drive(app, "w1@test", keys, gate))
    for name in expected:
        assert seen[name] == expected[name], name


# --- what is our own promise ----------------------------------------------------------------------


@pytest.fixture
def drive(app, keys):
    return Drive(app, "w1@test", keys)


def test_a_delayed_task_ends_at_once(drive, cworker, keys):
    worker = cworker()
    result, other = drive.wait(countdown=3600), drive.wait(countdown=3600)
    wait_until(lambda: keys.zcard("{celery}.cworker.delayed") == 2, what="both delayed")
    drive.revoke([result])
    with pytest.raises(TaskRevokedError, match="^revoked$"):
        get(result)
    worker.wait_log(f"Discarding revoked task: demo.sleep[{result.id}]")
    wait_until(lambda: not inflight(keys), what="the ack")
    assert keys.zcard("{celery}.cworker.delayed") == 1
    assert other.state == "PENDING"


def test_a_worker_that_starts_later_knows(drive, cworker, keys):
    first = cworker(queues="other")
    result = drive.wait()
    drive.revoke([result])
    first.stop()
    keys.delete(f"celery-task-meta-{result.id}")
    second = cworker()
    wait_state(result, "REVOKED")
    second.wait_log(f"Discarding revoked task: demo.sleep[{result.id}]")


def test_a_worker_that_starts_later_knows_stamps(drive, cworker, keys):
    first = cworker(queues="other")
    drive.app.control.revoke_by_stamped_headers({"tenant": "t1"}, reply=True, timeout=TIMEOUT,
                                                destination=[drive.node])
    first.stop()
    signature = drive.app.signature("demo.sleep", (0,))
    signature.stamp(tenant="t1")
    cworker()
    wait_state(signature.apply_async(), "REVOKED")


def test_kept_by_the_state_file(drive, cworker, keys, tmp_path):
    first = cworker("--statedb", tmp_path / "state", queues="other")
    result = drive.wait()
    drive.revoke([result])
    drive.app.control.revoke_by_stamped_headers({"tenant": "t1"}, reply=True, timeout=TIMEOUT,
                                                destination=[drive.node])
    first.stop()
    saved = json.loads((tmp_path / "state").read_text())
    assert list(saved["revoked"]) == [result.id] and saved["stamps"] == {"tenant": ["t1"]}
    keys.delete(f"celery-task-meta-{result.id}", "cworker.revoked", "cworker.revoked.stamps")
    second = cworker("--statedb", tmp_path / "state")
    wait_state(result, "REVOKED")
    second.wait_log("Discarding revoked task")


def test_a_worker_that_dies_with_revoked_tasks(drive, cworker, keys):
    """kill -9 right after the command: whoever takes the tasks next ends them."""
    worker = cworker("--set", "worker_lease=1", concurrency=1)
    running, waiting, delayed = drive.run(), drive.wait(), drive.wait(countdown=3600)
    wait_until(lambda: keys.zcard("{celery}.cworker.delayed") == 1 and len(inflight(keys)) == 2,
               what="all three in its hands")
    drive.revoke([running, waiting, delayed])
    wait_until(lambda: keys.zcount("{celery}.cworker.delayed", 1, "+inf") == 0,
               what="the end of its search for the delayed one")
    worker.kill()
    other = cworker("--set", "worker_lease=1")
    other.wait_log(f"Discarding revoked task: demo.sleep[{running.id}]")
    for result in (running, waiting, delayed):
        wait_state(result, "REVOKED")
    wait_until(lambda: not inflight(keys) and not keys.zcard("{celery}.cworker.delayed"),
               what="nothing left")


def test_the_fleet_keys_are_bounded(drive, cworker, keys):
    cworker(env={"CELERY_WORKER_REVOKES_MAX": "3", "CELERY_WORKER_REVOKE_EXPIRES": "100"})
    keys.zadd("cworker.revoked", {"old": time.time() - 101})
    for name in "abcde":
        drive.app.control.revoke(name, reply=True, destination=[drive.node], timeout=TIMEOUT)
    wait_until(lambda: keys.zrange("cworker.revoked", 0, -1) == [b"c", b"d", b"e"], what="three ids")
    assert 0 < keys.ttl("cworker.revoked") <= 101
    revoked = drive.app.control.inspect(destination=[drive.node], timeout=TIMEOUT).revoked()
    assert revoked == {drive.node: ["c", "d", "e"]}


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGKILL"])
def test_programs_are_killed_too(drive, cworker, signal):
    worker = cworker("--set", 'tasks=[{"name": "sleeper", "command": ["sleep", "7654"]}]')
    result = drive.app.send_task("sleeper")
    wait_until(lambda: "sleep\x007654" in commands_below(worker.pid), what="the program")
    drive.revoke([result], terminate=True, signal=signal)
    wait_state(result, "REVOKED")
    wait_until(lambda: "sleep\x007654" not in commands_below(worker.pid), what="the program's end")
    assert get(drive.wait()) == 0


def commands_below(pid):
    found = ""
    for child in descendants(pid):
        try:
            with open(f"/proc/{child}/cmdline") as file:
                found += file.read()
        except OSError:
            pass
    return found


def test_sigusr1_is_a_soft_limit(drive, cworker):
    """As in Celery, where it raises in the task: the process lives on."""
    worker = cworker()
    result = drive.run()
    drive.revoke([result], terminate=True, signal="SIGUSR1")
    wait_until(lambda: drive.stored(result)["status"] == "FAILURE", what="FAILURE over REVOKED")
    assert drive.stored(result)["result"]["exc_type"] == "SoftTimeLimitExceeded"
    assert get(drive.wait()) == 0
    assert "is gone" not in worker.log and "was terminated" not in worker.log


def test_threads_of_a_terminated_child_go_back(drive, cworker, gate):
    """They share its process: they run again, from the start."""
    worker = cworker(*gate.options, "-P", "threads", concurrency=3)
    results = [drive.run("gate", ()) for _ in range(3)]
    drive.revoke(results[:1], terminate=True)
    wait_state(results[0], "REVOKED")
    for result in results[1:]:
        wait_until(lambda sent=result: worker.log.count(f"gate[{sent.id}] received") == 2, what="their return")
    gate.open()
    assert [get(result) for result in results[1:]] == [None, None]


def expect_terminated(drive, result):
    """The command itself stores REVOKED first, as Celery's does: what counts is what stays."""
    drive.settled()
    fresh = drive.app.AsyncResult(result.id)
    with pytest.raises(TaskRevokedError, match="^terminated$"):
        get(fresh)


def test_early_acked_and_terminated(drive, cworker, keys):
    cworker("--set", "task_acks_late=false")
    result = drive.run()
    drive.revoke([result], terminate=True)
    expect_terminated(drive, result)
    assert not keys.llen("celery")


def test_reject_on_worker_lost_does_not_bring_it_back(drive, cworker, keys):
    cworker("--set", "task_reject_on_worker_lost=true")
    result = drive.run()
    drive.revoke([result], terminate=True, signal="SIGKILL")
    expect_terminated(drive, result)
    drive.settled()


def test_a_retry_of_a_revoked_task_is_not_run(drive, cworker):
    cworker()
    result = drive.app.send_task("demo.retry_forever", (600,))
    wait_state(result, "RETRY")
    drive.revoke([result])
    wait_state(result, "REVOKED")
    drive.settled()
    assert result.state == "REVOKED"


def test_events(drive, cworker, keys):
    cworker("-E", concurrency=1, queues="celery")
    seen = []
    with drive.app.connection() as connection:
        receiver = drive.app.events.Receiver(connection, handlers={"task-revoked": seen.append})
        with receiver.consumer_context() as (consuming, _, _):
            def drained():
                with contextlib.suppress(TimeoutError):
                    consuming.drain_events(timeout=0.1)
                return len(seen)

            drained()  # subscribes
            running, waiting = drive.run(), drive.wait()
            drive.revoke([waiting])
            drive.revoke([running], terminate=True, signal="SIGKILL")
            wait_until(lambda: drained() == 2, what="two events")
    found = {event["uuid"]: (event["terminated"], event["signum"], event["expired"])
             for event in seen}
    assert found == {waiting.id: (False, None, False), running.id: (True, 9, False)}


def test_stamped_tasks_do_not_wait_for_their_eta(drive, cworker, keys):
    cworker()
    tasks = {}
    for tenant in ("t1", "ä1", "t2", 5):
        signature = drive.app.signature("demo.add", (1, 1))
        signature.stamp(tenant=tenant)
        tasks[tenant] = signature.apply_async(countdown=3600)
    plain = drive.app.send_task("demo.add", ("t1", '"tenant"'), countdown=3600)
    delayed = "{celery}.cworker.delayed"
    wait_until(lambda: keys.zcard(delayed) == 5, what="five delayed tasks")
    drive.app.control.revoke_by_stamped_headers({"tenant": ["t1", "ä1"]})
    for tenant in ("t1", "ä1"):
        wait_state(tasks[tenant], "REVOKED")
    drive.app.control.revoke_by_stamped_headers({"tenant": 5})
    wait_state(tasks[5], "REVOKED")
    wait_until(lambda: {member.decode().split("/")[0] for member in keys.zrange(delayed, 0, -1)} ==
               {tasks["t2"].id, plain.id}, what="the others, delayed")
    wait_until(lambda: keys.zrange(delayed, 0, 0, withscores=True)[0][1] > 1e15, what="their ETA")

# SPDX-License-Identifier: Apache-2.0
"""Revoked tasks: by id, by stamp, wherever they wait or run; kept over restarts and in the fleet."""
import json
import time

import pytest
from celery.exceptions import TaskRevokedError
from harness import TIMEOUT, cut_off, get, inflight, make_due, run_cworker, wait_state, wait_until

REVOKED = "cworker.revoked"
STAMPS = "cworker.revoked.stamps"


def document(keys, result):
    value = keys.get(f"celery-task-meta-{result.id}")
    stored = json.loads(value) if value else None
    assert stored is None or stored.pop("date_done")
    return stored


def revoked_document(result, reason="revoked", children=()):
    return {"status": "REVOKED", "traceback": None, "task_id": result.id,
            "children": None if children is None else list(children),
            "result": {"exc_type": "TaskRevokedError", "exc_message": [reason],
                       "exc_module": "celery.exceptions"}}


def share(keys, *ids):
    keys.zadd(REVOKED, {name: time.time() for name in ids})


def test_a_worker_that_starts_later_knows(app, cworker, keys):
    results = [app.send_task("demo.add", (n, 1)) for n in range(3)]
    share(keys, results[0].id, results[2].id)
    worker = cworker()
    assert get(results[1]) == 2
    for result in results[::2]:
        with pytest.raises(TaskRevokedError, match="^revoked$"):
            get(result)
        assert document(keys, result) == revoked_document(result)
        worker.wait_log(f"Discarding revoked task: demo.add[{result.id}]")
        assert f"demo.add[{result.id}] received" not in worker.log
    wait_until(lambda: not inflight(keys), what="the acks")


def test_a_worker_that_starts_later_knows_stamps(app, cworker, keys):
    stamped = [app.signature("demo.add", (n, 1)) for n in range(3)]
    for n, signature in enumerate(stamped):
        signature.stamp(tenant=f"t{n}", other=["a", n])
    keys.zadd(STAMPS, {json.dumps({"tenant": "t0"}): time.time(),
                       json.dumps({"other": 2}): time.time()})
    results = [signature.apply_async() for signature in stamped]
    worker = cworker()
    assert get(results[1]) == 2
    for result, stamp in zip(results[::2], ("{'tenant': 't0'}", "{'other': 2}")):
        wait_state(result, "REVOKED")
        worker.wait_log(f"Discarding revoked task: demo.add[{result.id}] "
                        f"(revoked by header: {stamp})")


def test_old_entries_of_the_fleet_do_not_count(app, cworker, keys):
    result = app.send_task("demo.add", (1, 1))
    keys.zadd(REVOKED, {result.id: time.time() - 100})
    cworker(env={"CELERY_WORKER_REVOKE_EXPIRES": "50"})
    assert get(result) == 2


def test_known_before_an_eta(app, cworker, keys):
    result = app.send_task("demo.add", (1, 1), countdown=3600)
    share(keys, result.id)
    cworker()
    wait_state(result, "REVOKED")
    assert keys.zcard("{celery}.cworker.delayed") == 0
    wait_until(lambda: not inflight(keys), what="the ack")


def test_what_was_revoked_while_cut_off(app, cworker, keys):
    worker = cworker()
    result = app.send_task("demo.add", (1, 1), countdown=3600)
    wait_until(lambda: keys.zcard("{celery}.cworker.delayed") == 1, what="the delayed task")
    share(keys, result.id)
    cut_off(keys)
    wait_until(lambda: worker.log.count("Connected to") >= 2, what="the new connection")
    make_due(keys)
    wait_state(result, "REVOKED")


def test_ignored_results_of_revoked_tasks_are_not_stored(app, cworker, keys):
    result = app.send_task("demo.add", (1, 1), ignore_result=True)
    share(keys, result.id)
    worker = cworker()
    worker.wait_log("Discarding revoked task")
    wait_until(lambda: not inflight(keys), what="the ack")
    assert document(keys, result) is None


# --- the state file ---------------------------------------------------------------------------------


def test_state_file(app, cworker, keys, tmp_path):
    path = tmp_path / "worker.state"
    result = app.send_task("demo.add", (1, 1))
    share(keys, result.id)
    worker = cworker("--statedb", path, queues="other")
    inspect = app.control.inspect(["w1@test"])
    wait_until(lambda: inspect.revoked()["w1@test"] == [result.id], what="what Redis knows")
    worker.stop()
    saved = json.loads(path.read_text())
    assert list(saved["revoked"]) == [result.id]
    keys.delete(REVOKED)
    cworker("--statedb", path)
    wait_state(result, "REVOKED")


@pytest.mark.parametrize("content", [b"\x13W\x9a\xce", b"[]", b'{"revoked": {}}', b"{"])
def test_a_state_file_that_is_none(tmp_path, redis, content):
    path = tmp_path / "celery.state"
    path.write_bytes(content)
    done = run_cworker("worker", "-b", redis.url(), "--statedb", path)
    assert done.returncode == 1
    assert f"statedb {path}: this is no state file of cworker" in done.stderr
    assert path.read_bytes() == content


def test_a_state_file_that_cannot_be_written(tmp_path, redis):
    done = run_cworker("worker", "-b", redis.url(), "-S", tmp_path / "missing" / "state")
    assert done.returncode == 1
    assert "No such file or directory" in done.stderr


def test_state_file_after_a_kill(app, cworker, keys, tmp_path):
    """Written while the worker runs, so a kill -9 forgets little."""
    path = tmp_path / "worker.state"
    worker = cworker("--statedb", path, queues="other")
    app.control.revoke("some-id", destination=["w1@test"], reply=True, timeout=TIMEOUT)
    wait_until(lambda: "some-id" in path.read_text(), what="the id in the file")
    worker.kill()
    keys.delete(REVOKED)
    result = app.send_task("demo.add", (1, 1), task_id="some-id")
    cworker("--statedb", path)
    wait_state(result, "REVOKED")

# SPDX-License-Identifier: Apache-2.0
"""States on the way, and settings that say what is stored."""
import json

import pytest
from harness import get, inflight, kill_task, wait_state, wait_until


@pytest.mark.parametrize("name", ["w1@test", 'w"1"@test'])
def test_started(backend, make_app, cworker, name):
    app = make_app(backend)
    worker = cworker("--set", "task_track_started=true", backend=backend, name=name)
    result = app.send_task("demo.sleep", (600,))
    wait_state(result, "STARTED")
    assert set(result.info) == {"pid", "hostname"}
    assert result.info["hostname"] == name
    assert result.info["pid"] != worker.pid
    kill_task(app, result)


def test_not_tracked_by_default(app, cworker):
    worker = cworker(concurrency=1)
    result = app.send_task("demo.sleep", (0.5,))
    worker.wait_log("received")
    states = set()
    wait_until(lambda: states.add(result.state) or result.state == "SUCCESS", what="SUCCESS")
    assert states <= {"PENDING", "SUCCESS"}


def test_progress(backend, make_app, cworker):
    app = make_app(backend)
    cworker(backend=backend)
    result = app.send_task("demo.progress", (20,))
    seen = []

    def done():
        meta = result.backend.get_task_meta(result.id)
        if meta["status"] == "PROGRESS" and meta["result"] not in seen:
            seen.append(meta["result"])
        return meta["status"] == "SUCCESS"

    wait_until(done, what="SUCCESS")
    assert result.get() == 20
    assert len(seen) >= 2
    assert all(meta["total"] == 20 for meta in seen)
    assert [meta["current"] for meta in seen] == sorted(meta["current"] for meta in seen)


def test_progress_never_after_the_end(app, cworker):
    cworker()
    results = [app.send_task("demo.progress", (1,)) for _ in range(20)]
    assert [get(result) for result in results] == [1] * 20
    assert {result.state for result in results} == {"SUCCESS"}


def stored(keys, result):
    value = keys.get(f"celery-task-meta-{result.id}")
    return json.loads(value) if value else None


def test_ignore_result(app, cworker, keys):
    cworker(concurrency=1)
    ignored = [app.send_task("demo.add", (1, 1), ignore_result=True),
               app.send_task("demo.fail", ("x",), ignore_result=True)]
    assert get(app.send_task("demo.add", (1, 2))) == 3
    assert [stored(keys, result) for result in ignored] == [None, None]


def test_store_errors_even_if_ignored(app, cworker, keys):
    cworker("--set", "task_store_errors_even_if_ignored=true", concurrency=1)
    fine = app.send_task("demo.add", (1, 1), ignore_result=True)
    wrong = app.send_task("demo.fail", ("x",), ignore_result=True)
    assert get(app.send_task("demo.add", (1, 2))) == 3
    assert stored(keys, fine) is None
    assert stored(keys, wrong)["status"] == "FAILURE"


def test_result_extended(backend, make_app, cworker):
    app = make_app(backend, result_extended=True)
    cworker("--set", "result_extended=true", backend=backend, queues="special")
    result = app.send_task("demo.echo", (1, "ü"), {"k": [2, None]}, queue="special")
    get(result)
    assert result.name == "demo.echo"
    assert list(result.args) == [1, "ü"]
    assert result.kwargs == {"k": [2, None]}
    assert (result.worker, result.queue, result.retries) == ("w1@test", "special", 0)


@pytest.mark.parametrize("expires, bounds", [(None, (86000, 86400)), ("100", (1, 100)),
                                             ("0", (-1, -1))])
def test_result_expires(app, cworker, keys, expires, bounds):
    cworker(*(["--set", f"result_expires={expires}"] if expires else []))
    result = app.send_task("demo.add", (1, 2))
    get(result)
    lifetime = keys.ttl(f"celery-task-meta-{result.id}")
    assert bounds[0] <= lifetime <= bounds[1]


def test_acks_early_and_late(app, cworker, keys):
    """Late is the default: the message stays with the worker until its result is there."""
    worker = cworker("--set", "task_track_started=true")
    result = app.send_task("demo.sleep", (600,))
    wait_state(result, "STARTED")
    assert len(inflight(keys)) == 1
    kill_task(app, result)
    worker.stop()
    cworker("--set", "task_track_started=true", "--set", "task_acks_late=false")
    result = app.send_task("demo.sleep", (600,))
    wait_state(result, "STARTED")
    assert not inflight(keys)
    kill_task(app, result)

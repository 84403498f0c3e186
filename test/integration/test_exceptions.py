# SPDX-License-Identifier: Apache-2.0
"""Failures arrive in Python as the exceptions that they were."""
import json

import pytest
from celery.exceptions import NotRegistered
from harness import count_messages, dead_letters, get, inflight, wait_until


def test_exception_is_raised_again(backend, make_app, cworker):
    app = make_app(backend)
    cworker(backend=backend)
    result = app.send_task("demo.fail", ("no: grüße 🎉 \"quoted\"",))
    with pytest.raises(ValueError) as raised:
        get(result)
    assert raised.value.args == ("no: grüße 🎉 \"quoted\"",)
    assert result.state == "FAILURE"
    assert "ValueError" in result.traceback
    assert get(result, propagate=False).args == raised.value.args


def test_stored_form_is_celerys(app, cworker, keys):
    cworker()
    result = app.send_task("demo.fail", ("text",))
    get(result, propagate=False)
    stored = json.loads(keys.get(f"celery-task-meta-{result.id}"))
    assert list(stored["result"].items()) == [
        ("exc_type", "ValueError"), ("exc_message", ["text"]), ("exc_module", "builtins")]
    assert stored["status"] == "FAILURE" and stored["date_done"]


def test_not_registered(backend, make_app, cworker, keys):
    app = make_app(backend)
    worker = cworker(backend=backend)
    result = app.send_task("demo.no_such_task", (1,))
    with pytest.raises(NotRegistered, match="demo.no_such_task"):
        get(result)
    wait_until(lambda: dead_letters(keys), what="a dead letter")
    [letter] = dead_letters(keys)
    assert "demo.no_such_task" in letter["reason"]
    assert result.id in json.dumps(letter["message"])
    assert not inflight(keys)
    assert "Received unregistered task of type 'demo.no_such_task'" in worker.log


def test_ignored_and_rejected_store_nothing(app, cworker, keys):
    cworker(concurrency=1)
    ignored = app.send_task("demo.ignore")
    rejected = app.send_task("demo.reject", (False,))
    assert get(app.send_task("demo.add", (1, 1))) == 2
    assert not keys.exists(f"celery-task-meta-{ignored.id}", f"celery-task-meta-{rejected.id}")
    wait_until(lambda: not count_messages(keys), what="empty queues")


def test_requeued_goes_behind_what_waits(app, cworker, keys):
    """It comes round again and again, and the tasks behind it run all the same."""
    worker = cworker(concurrency=1)
    rejected = app.send_task("demo.reject", (True,))
    results = [app.send_task("demo.add", (i, 1)) for i in range(5)]
    assert [get(result) for result in results] == [1, 2, 3, 4, 5]
    assert rejected.state == "PENDING"
    worker.stop()
    assert [json.loads(m)["headers"]["id"] for m in keys.lrange("celery", 0, -1)] == [rejected.id]
    assert json.loads(keys.lindex("celery", 0))["properties"]["delivery_info"]["redelivered"]


def test_failures_do_not_harm_others(app, cworker):
    cworker()
    results = [app.send_task("demo.fail" if i % 2 else "demo.identity", (str(i),))
               for i in range(100)]
    for i, result in enumerate(results):
        value = get(result, propagate=False)
        assert (value.args == (str(i),)) if i % 2 else (value == str(i))

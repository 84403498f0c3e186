# SPDX-License-Identifier: Apache-2.0
"""What is stored, byte for byte where it matters, in each result store."""
import json
from datetime import datetime

import pytest
from celery.exceptions import TimeoutError as CeleryTimeout
from harness import TIMEOUT, get, run_cworker, wait_until

FIELDS = ["status", "result", "traceback", "children", "date_done"]


def test_redis_document(app, cworker, keys):
    cworker()
    result = app.send_task("demo.add", (1, 2))
    get(result)
    stored = json.loads(keys.get(f"celery-task-meta-{result.id}"))
    assert {name: stored[name] for name in ("status", "result", "traceback", "children")} == {
        "status": "SUCCESS", "result": 3, "traceback": None, "children": []}
    assert set(stored) == {*FIELDS, "task_id"} and stored["task_id"] == result.id
    assert datetime.fromisoformat(stored["date_done"]).utcoffset() is not None


def test_redis_announces(app, cworker, keys):
    """A client that waits by PUB/SUB needs the notice, in the same words as the key's value."""
    result_id = "announced"
    with keys.pubsub() as subscription:
        subscription.subscribe(f"celery-task-meta-{result_id}")
        assert subscription.get_message(timeout=TIMEOUT)["type"] == "subscribe"
        cworker()
        app.send_task("demo.add", (1, 2), task_id=result_id)
        notice = wait_until(lambda: subscription.get_message(timeout=0.1), what="the notice")
    assert notice["data"] == keys.get(f"celery-task-meta-{result_id}")


def test_mongo_document(mongo, mongo_backend, mongo_database, make_app, cworker):
    app = make_app(mongo_backend)
    cworker(backend=mongo_backend)
    result, failure = app.send_task("demo.add", (1, 2)), app.send_task("demo.fail", ("ü",))
    get(result), get(failure, propagate=False)
    with mongo.client() as client:
        collection = client[mongo_database]["celery_taskmeta"]
        stored = collection.find_one({"_id": result.id})
        wrong = collection.find_one({"_id": failure.id})
        indexes = collection.index_information()
    assert list(stored)[0] == "_id" and set(stored) == {*FIELDS, "_id", "expires_at"}
    assert (stored["status"], stored["result"], stored["children"]) == ("SUCCESS", "3", [])
    assert isinstance(stored["date_done"], datetime)
    assert json.loads(wrong["result"]) == {
        "exc_type": "ValueError", "exc_message": ["ü"], "exc_module": "builtins"}
    assert isinstance(wrong["traceback"], str)
    assert all("expireAfterSeconds" not in index for name, index in indexes.items()
               if name == "date_done_1")


def test_mongo_with_other_names(mongo, make_app, cworker, tmp_path):
    names = {"database": "cworker_elsewhere", "taskmeta_collection": "my_results"}
    app = make_app(mongo.url(""), mongodb_backend_settings=names)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"mongodb_backend_settings": names}))
    cworker("--config", config, backend=mongo.url(""))
    result = app.send_task("demo.add", (1, 2))
    assert get(result) == 3
    with mongo.client() as client:
        assert client["cworker_elsewhere"]["my_results"].find_one({"_id": result.id})
        client.drop_database("cworker_elsewhere")


def test_file(make_app, cworker, tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    backend = f"file://{folder}"
    app = make_app(backend)
    cworker(backend=backend)
    result, failure = app.send_task("demo.add", (1, 2)), app.send_task("demo.fail", ("x",))
    assert get(result) == 3
    with pytest.raises(ValueError):
        get(failure)
    assert {path.name for path in folder.iterdir()} == {
        f"celery-task-meta-{r.id}" for r in (result, failure)}


def test_without_a_backend(app, cworker, keys):
    cworker(backend="disabled://", concurrency=1)
    results = [app.send_task("demo.add", (i, 1)) for i in range(10)]
    wait_until(lambda: not keys.llen("celery") and not list(keys.scan_iter("*inflight*")),
               what="empty queues")
    assert not list(keys.scan_iter("celery-task-meta-*"))
    with pytest.raises(CeleryTimeout):
        results[0].get(timeout=0.1)


def test_success_is_not_overwritten(backend, make_app, cworker, redis):
    """A redelivered message whose result is there already does not turn SUCCESS into FAILURE."""
    app = make_app(backend)
    cworker(backend=backend, concurrency=1)
    result = app.send_task("demo.add", (1, 2))
    assert get(result) == 3
    app.send_task("demo.fail", ("again",), task_id=result.id)
    assert get(app.send_task("demo.add", (2, 2))) == 4
    assert app.AsyncResult(result.id).state == "SUCCESS"
    assert app.AsyncResult(result.id).result == 3


def test_forget(backend, make_app, cworker):
    app = make_app(backend)
    cworker(backend=backend)
    result = app.send_task("demo.add", (1, 2))
    assert get(result) == 3
    result.forget()
    assert app.AsyncResult(result.id).state == "PENDING"


def test_result_command(backend, make_app, cworker):
    app = make_app(backend)
    cworker(backend=backend)
    result = app.send_task("demo.identity", ({"a": [1, "ü"]},))
    get(result)
    done = run_cworker("--result-backend", backend, "result", result.id)
    assert done.returncode == 0 and json.loads(done.stdout) == {"a": [1, "ü"]}, done


def test_result_too_large_for_mongodb(make_app, cworker, mongo_backend):
    """More than a document can hold: FAILURE for the task and for what waits behind it, no loop."""
    app = make_app(mongo_backend)
    cworker(backend=mongo_backend)
    first = app.signature("demo.identity", ("\u00fc" * 3_000_000,))
    last = (first | app.signature("demo.identity")).apply_async()
    with pytest.raises(Exception) as caught:
        get(last.parent)
    assert type(caught.value).__name__ == "EncodeError"
    wait_until(lambda: last.state == "FAILURE", what="the chain's end")

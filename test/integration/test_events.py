# SPDX-License-Identifier: Apache-2.0
"""Events: Celery's own receiver hears of cworker what it hears of Celery's worker."""
from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery.events.state import State

from harness import CWORKER, TIMEOUT, count_messages, get, make_message, run_cworker
from services.process import wait_until

RECEIVED, STARTED = "task-received", "task-started"
SUCCEEDED, FAILED, RETRIED = "task-succeeded", "task-failed", "task-retried"


class Ear:
    """An app.events.Receiver in a thread; `heard` has all events, oldest first."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.heard: list[dict[str, Any]] = []
        self.ready = threading.Event()
        self.stop = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        assert self.ready.wait(TIMEOUT)

    def _run(self) -> None:
        with self.app.connection() as connection:
            receiver = self.app.events.Receiver(connection, handlers={"*": self.heard.append})
            with receiver.consumer_context(wakeup=False) as (own, _, _):
                while not self.stop:
                    try:
                        own.drain_events(timeout=0.1)
                    except socket.timeout:
                        self.ready.set()

    def of(self, task_id: str) -> list[dict[str, Any]]:
        return [e for e in list(self.heard) if e.get("uuid") == task_id]

    def types(self, task_id: str) -> list[str]:
        return [e["type"] for e in self.of(task_id)]

    def workers(self, kind: str, node: str = "w1@test") -> list[dict[str, Any]]:
        return [e for e in list(self.heard) if e["type"] == kind and e["hostname"] == node]

    def wait_types(self, task_id: str, *types: str) -> list[dict[str, Any]]:
        try:
            wait_until(lambda: len(self.types(task_id)) >= len(types), TIMEOUT)
        except TimeoutError:
            pass
        assert self.types(task_id) == list(types)
        return self.of(task_id)


@pytest.fixture
def ear(app: Celery) -> Iterator[Ear]:
    ear = Ear(app)
    yield ear
    ear.stop = True
    ear.thread.join(5)


def shape(event: dict[str, Any]) -> dict[str, str]:
    return {name: type(value).__name__ for name, value in event.items() if name != "local_received"}


TASKS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "success": ({"name": "demo.add", "args": (2, 3)}, [RECEIVED, STARTED, SUCCEEDED]),
    "failure": ({"name": "demo.fail", "args": ("no",)}, [RECEIVED, STARTED, FAILED]),
    "retry": ({"name": "demo.fail_n", "args": ("k", 2)},
              [RECEIVED, STARTED, RETRIED, RECEIVED, STARTED, SUCCEEDED]),
    "bare retry": ({"name": "demo.retry_forever", "args": (0,)},
                   [RECEIVED, STARTED, RETRIED] * 3 + [RECEIVED, STARTED, FAILED]),
    "reject": ({"name": "demo.reject"}, [RECEIVED, STARTED, "task-rejected"]),
    "ignore": ({"name": "demo.ignore"}, [RECEIVED, STARTED]),
    "expired": ({"name": "demo.add", "args": (1, 2), "expires": -5}, ["task-revoked"]),
    "countdown": ({"name": "demo.add", "args": (1, 2), "countdown": 0.4},
                  [RECEIVED, STARTED, SUCCEEDED]),
    "unknown": ({"name": "demo.no_such_task"}, [FAILED]),
}


def run_tasks(app: Celery, ear: Ear) -> dict[str, list[dict[str, Any]]]:
    """Sends every task, waits for its events; the last one shows that no more were to come."""
    ids = {key: app.send_task(**options).id for key, (options, _) in TASKS.items()}
    for key, (_, types) in TASKS.items():
        wait_until(lambda key=key, types=types: len(ear.of(ids[key])) >= len(types), TIMEOUT,
                   f"events of {key}")
    last = app.send_task("demo.add", (1, 1)).id
    wait_until(lambda: SUCCEEDED in ear.types(last), TIMEOUT)
    return {key: ear.of(task_id) for key, task_id in ids.items()}


def test_events_are_those_of_celerys_worker(app, cworker, python_worker, ear):
    process = python_worker("-E")
    theirs = run_tasks(app, ear)
    wait_until(lambda: ear.workers("worker-heartbeat", "py@test"), TIMEOUT)
    process.terminate()
    process.wait(TIMEOUT)
    worker = cworker("-E")
    ours = run_tasks(app, ear)
    for key, (_, types) in TASKS.items():
        assert [e["type"] for e in ours[key]] == types, key
        # A Python worker may get a retry's message before it hears of the retry.
        assert sorted(e["type"] for e in theirs[key]) == sorted(types), key
        shapes = {(e["type"], e.get("retries")): shape(e) for e in theirs[key]}
        for event in ours[key]:
            assert shape(event) == shapes[event["type"], event.get("retries")], (key, event)
    wait_until(lambda: ear.workers("worker-heartbeat"), TIMEOUT)
    worker.stop()
    for kind in ("worker-online", "worker-heartbeat", "worker-offline"):
        wait_until(lambda kind=kind: ear.workers(kind), TIMEOUT, kind)
        wait_until(lambda kind=kind: ear.workers(kind, "py@test"), TIMEOUT, kind)
        assert shape(ear.workers(kind)[0]) == shape(ear.workers(kind, "py@test")[0])


def test_what_the_fields_say(app, cworker, ear):
    worker = cworker("-E")
    heard = run_tasks(app, ear)
    received, started, succeeded = heard["success"]
    assert received["hostname"] == "w1@test" and received["pid"] == worker.pid
    assert (received["name"], received["args"], received["kwargs"]) == ("demo.add", "(2, 3)", "{}")
    assert received["root_id"] == received["uuid"] and received["parent_id"] is None
    assert received["retries"] == 0 and received["eta"] is None and received["expires"] is None
    assert received["clock"] < started["clock"] < succeeded["clock"]
    assert received["timestamp"] <= started["timestamp"] <= succeeded["timestamp"]
    assert succeeded["result"] == "5" and 0 <= succeeded["runtime"] < TIMEOUT
    failed = heard["failure"][-1]
    assert failed["exception"] == "ValueError('no')" and failed["traceback"].startswith("Traceback")
    assert heard["retry"][2]["exception"] == "ValueError('k: attempt 1 of 2')"
    assert heard["retry"][3]["retries"] == 1
    assert heard["bare retry"][2]["exception"] == "None"
    assert heard["reject"][-1]["requeue"] is False
    revoked = heard["expired"][-1]
    assert (revoked["terminated"], revoked["signum"], revoked["expired"]) == (False, None, True)
    assert heard["unknown"][-1]["exception"] == "NotRegistered('demo.no_such_task')"
    assert heard["countdown"][0]["eta"]


def test_revoked_and_terminated(app, cworker, ear):
    cworker("-E")
    waiting = str(uuid.uuid4())
    assert app.control.revoke(waiting, reply=True, destination=["w1@test"])
    app.send_task("demo.add", (1, 2), task_id=waiting)
    event, = ear.wait_types(waiting, "task-revoked")
    assert (event["terminated"], event["signum"], event["expired"]) == (False, None, False)
    running = app.send_task("demo.spin", (60,)).id
    wait_until(lambda: STARTED in ear.types(running), TIMEOUT)
    app.control.revoke(running, terminate=True, signal="SIGKILL")
    event = ear.wait_types(running, RECEIVED, STARTED, "task-revoked")[-1]
    assert (event["terminated"], event["signum"], event["expired"]) == (True, 9, False)


def test_lost_child_and_time_limit(app, cworker, ear):
    cworker("-E")
    crash = app.send_task("demo.crash").id
    event = ear.wait_types(crash, RECEIVED, STARTED, FAILED)[-1]
    assert event["exception"].startswith("WorkerLostError('Worker exited prematurely: signal 9")
    slow = app.send_task("demo.spin", (60,), time_limit=0.3).id
    event = ear.wait_types(slow, RECEIVED, STARTED, FAILED)[-1]
    assert event["exception"].startswith("TimeLimitExceeded(0.3")


def test_celerys_state_is_right(app, cworker, ear):
    worker = cworker("-E")
    heard = run_tasks(app, ear)
    state, seen = State(), 0

    def alive() -> list[str]:
        """As of this moment: a heart that is two beats late counts for none."""
        nonlocal seen
        for event in ear.heard[seen:]:
            state.event(dict(event))
            seen += 1
        return [w.hostname for w in state.alive_workers()]
    wait_until(lambda: alive() == ["w1@test"], TIMEOUT, "the living worker")
    assert state.workers["w1@test"].pid == worker.pid
    # Celery's state lets no REJECTED overrule a STARTED.
    expected = {"success": "SUCCESS", "failure": "FAILURE", "retry": "SUCCESS", "bare retry": "FAILURE",
                "reject": "STARTED", "ignore": "STARTED", "expired": "REVOKED",
                "countdown": "SUCCESS", "unknown": "FAILURE"}
    assert {key: state.tasks[events[0]["uuid"]].state for key, events in heard.items()} == expected
    worker.stop()
    wait_until(lambda: ear.workers("worker-offline"), TIMEOUT)
    assert not alive()


def test_sent_events(app, cworker, ear):
    cworker("-E", "--set", "task_send_sent_event=true")
    result = app.send_task("demo.add", (1, 2), link=app.signature("demo.add", (4,)))
    wait_until(lambda: [e for e in ear.heard if e["type"] == "task-sent"], TIMEOUT)
    event = next(e for e in ear.heard if e["type"] == "task-sent")
    assert event["root_id"] == event["parent_id"] == result.id
    assert (event["name"], event["args"], event["kwargs"]) == ("demo.add", "(3, 4)", "{}")
    assert (event["queue"], event["exchange"], event["routing_key"]) == ("celery", "", "celery")
    assert event["hostname"].startswith("gen")
    ear.wait_types(event["uuid"], "task-sent", RECEIVED, STARTED, SUCCEEDED)


def test_sent_event_of_call(app, redis, make_app, ear):
    """As Celery's producer says it."""
    told = make_app(task_send_sent_event=True)
    theirs = told.send_task("demo.add", (1, 2), expires=60, countdown=1).id
    [expected] = ear.wait_types(theirs, "task-sent")
    words = ["-b", redis.url(), "--set", "task_send_sent_event=true", "call", "demo.add", "--args",
             "[1, 2]", "--expires", "60", "--countdown", "1"]
    [event] = ear.wait_types(run_cworker(*words).stdout.strip(), "task-sent")
    assert shape(event) == shape(expected)
    for name in ("name", "args", "kwargs", "queue", "exchange", "routing_key", "retries"):
        assert event[name] == expected[name]
    assert event["root_id"] == event["uuid"] and event["hostname"] == f"gen{event['pid']}@{socket.gethostname()}"
    quiet = run_cworker("-b", redis.url(), "call", "demo.add").stdout.strip()
    run_cworker(*words)
    assert not ear.of(quiet)


def test_tasks_that_run_in_main(app, cworker, ear):
    cworker("-E")
    part = app.send_task("demo.add", (1, 2), countdown=0.5)
    unlock = app.send_task("celery.chord_unlock", ("group", app.signature("demo.xsum")),
                           {"result": [[[part.id, None], None]], "interval": 0.1, "max_retries": None})
    wait_until(lambda: SUCCEEDED in ear.types(unlock.id), TIMEOUT, "the unlock")
    types = ear.types(unlock.id)
    assert types[:3] == [RECEIVED, STARTED, RETRIED] and types[-2:] == [STARTED, SUCCEEDED]
    assert ear.of(unlock.id)[2]["exception"] == "None" and ear.of(unlock.id)[-1]["runtime"] > 0


def test_an_event_of_the_tasks_own(app, cworker, ear):
    """Heard without -E too, as Task.send_event's are."""
    cworker()
    begin = time.time()
    result = app.send_task("demo.event", ("task-copied", {"files": 3, "to": "ü"}))
    assert get(result) is None
    [event] = ear.wait_types(result.id, "task-copied")
    assert (event["files"], event["to"], event["hostname"]) == (3, "ü", "w1@test")
    assert begin <= event["timestamp"] <= time.time()
    with pytest.raises(TypeError, match="must be an object"):
        get(app.send_task("demo.event", ("task-copied", 1)))


def test_enabled_and_disabled_while_running(app, cworker, ear):
    cworker()
    quiet = app.send_task("demo.add", (1, 1))
    assert get(quiet) == 2
    reply, = app.control.enable_events(reply=True, destination=["w1@test"])
    assert reply == {"w1@test": {"ok": "task events enabled"}}
    ear.wait_types(app.send_task("demo.add", (1, 2)).id, RECEIVED, STARTED, SUCCEEDED)
    app.control.disable_events(reply=True, destination=["w1@test"])
    assert get(app.send_task("demo.add", (1, 3))) == 4
    app.control.enable_events(reply=True, destination=["w1@test"])
    ear.wait_types(app.send_task("demo.add", (1, 4)).id, RECEIVED, STARTED, SUCCEEDED)
    assert [e["args"] for e in ear.heard if e["type"] == RECEIVED] == ["(1, 2)", "(1, 4)"]


def test_heartbeats(app, cworker, ear):
    cworker("--heartbeat-interval", "0.2")
    wait_until(lambda: len(ear.workers("worker-heartbeat")) >= 3, TIMEOUT)
    beat = ear.workers("worker-heartbeat")[0]
    assert beat["freq"] == 0.2 and beat["active"] == 0 and len(beat["loadavg"]) == 3
    cworker("--without-heartbeat")
    app.control.broadcast("heartbeat", destination=["w2@test"])
    wait_until(lambda: ear.workers("worker-heartbeat", "w2@test"), TIMEOUT)
    assert [e["type"] for e in ear.heard if e["hostname"] == "w2@test"] == ["worker-heartbeat"]


def test_prefix_and_exchange(redis, make_app, cworker):
    prefix = {"global_keyprefix": "p:"}
    app = make_app(broker_transport_options=prefix, event_exchange="ev", result_backend=None)
    ear = Ear(app)
    cworker("-E", "--set", "global_keyprefix=p:", "--set", "event_exchange=ev")
    ear.wait_types(app.send_task("demo.add", (1, 2)).id, RECEIVED, STARTED, SUCCEEDED)
    ear.stop = True


class Valve:
    """A TCP proxy that can stop reading what the worker's event connection sends."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.open = threading.Event()
        self.open.set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.target))
            for source, sink in [(client, server), (server, client)]:
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        of_events = False
        try:
            while data := source.recv(65536):
                of_events = of_events or b"cworker-events" in data
                sink.sendall(data)
                if of_events:
                    self.open.wait()
            sink.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def fill(app: Celery, keys: Any, n: int, text: str) -> None:
    message = json.dumps(make_message(app, keys, "demo.echo", (text,)))
    old = json.loads(message)["headers"]["id"]
    for _ in range(n // 500):
        keys.lpush("celery", *[message.replace(old, str(uuid.uuid4())) for _ in range(500)])


def drained(keys: Any) -> bool:
    return not count_messages(keys)


def test_slow_event_connection_costs_events_not_tasks(app, cworker, redis, keys, ear):
    valve = Valve(redis.port)
    worker = cworker("-E", broker=redis.url().replace(str(redis.port), str(valve.port)))
    wait_until(lambda: ear.workers("worker-online"), TIMEOUT)
    valve.open.clear()
    fill(app, keys, 14000, "x" * 1000)
    wait_until(lambda: drained(keys), what="the end of all tasks")
    worker.wait_log("Events: the connection to Redis is slow or gone")
    assert worker.log.count("Events: the connection") == 1
    stats = app.control.inspect(["w1@test"]).stats()["w1@test"]
    assert stats["events"]["dropped"] > 0
    valve.open.set()
    worker.wait_log("dropped while the connection")
    ear.wait_types(app.send_task("demo.add", (1, 2)).id, RECEIVED, STARTED, SUCCEEDED)


def test_a_listener_that_does_not_read_costs_no_task(app, cworker, redis, keys):
    deaf = socket.create_connection(("127.0.0.1", redis.port))
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.sendall(b"PSUBSCRIBE *celeryev*\r\n")
    cworker("-E")
    fill(app, keys, 5000, "y" * 1000)
    wait_until(lambda: drained(keys), what="the end of all tasks")
    deaf.close()


def test_dump(app, cworker, redis, tmp_path):
    path = tmp_path / "dump"
    cworker("-E")
    with open(path, "wb") as out:
        process = subprocess.Popen([CWORKER, "-b", redis.url(), "events"], stdout=out)
    wait_until(lambda: "heartbeat:" in path.read_text(), TIMEOUT, "a heartbeat in the dump")
    task_id = app.send_task("demo.add", (1, 2)).id
    wait_until(lambda: "task succeeded" in path.read_text(), TIMEOUT)
    process.terminate()
    assert process.wait(TIMEOUT) == 0
    lines = path.read_text().splitlines()
    assert lines[0] == "-> evdump: starting capture..."
    named = f"demo.add({task_id}) args=(1, 2) kwargs={{}}"
    assert any(f"task received: {named} clock=" in line for line in lines)
    assert any(f"task succeeded: {named} clock=" in line and "result=3" in line for line in lines)
    assert run_cworker("-b", "redis://127.0.0.1:1", "events").returncode == 69

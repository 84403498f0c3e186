# SPDX-License-Identifier: Apache-2.0
"""Remote control by a real Celery client, beside Celery's own worker: the same commands to both, and the
same shapes of answers from both."""
from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from harness import DEMO_SO, TIMEOUT, Worker, run_cworker, start_celery
from services.process import end_process, wait_until
from services.redis import RedisServer

HERE = Path(__file__).parent

# What differs for a reason, as paths of keys; "*" stands for any key.
EXCUSED = {
    "report": "text of another program",
    "conf": "has the settings of another program",
    "dump_conf": "the same",
    "memdump": "text",
    "stats.total.*": "counted by task",
}


class Side:
    """One worker and a client of its broker."""

    def __init__(self, url: str, name: str) -> None:
        self.app = Celery(name, broker=url, backend=url, set_as_current=False)
        self.node = f"{name}@test"
        self.ids: list[str] = []

    def call(self, method: str, timeout: float = TIMEOUT, **arguments: Any) -> Any:
        replies = self.app.control.broadcast(method, arguments=arguments, reply=True, timeout=timeout,
                                             destination=[self.node])
        assert len(replies) == 1, f"{method}: {replies}"
        return replies[0][self.node]

    def fill(self) -> None:
        """One task runs, one is reserved, one waits for its ETA."""
        self.ids = [self.app.send_task("demo.sleep", (300,)).id,
                    self.app.send_task("demo.add", (1,), {"y": 2}).id,
                    self.app.send_task("demo.add", (3, 4), countdown=600).id]
        for method in ("active", "reserved", "scheduled"):
            wait_until(lambda m=method: self.call(m), TIMEOUT, f"{method} of {self.node}")


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Side, Side]]:
    """cworker and Celery's worker, each with a database of one Redis, each with the same tasks."""
    folder = tmp_path_factory.mktemp("control")
    with RedisServer() as server:
        ours, theirs = Side(server.url(0), "ours"), Side(server.url(1), "theirs")
        python = start_celery("python_worker", theirs.node, folder / "theirs.log",
                              "--prefetch-multiplier", "4", broker=server.url(1), backend=server.url(1))
        worker = Worker(["-b", server.url(0), "--result-backend", server.url(0), "-A", DEMO_SO,
                         "-c", "1", "-l", "INFO", "-n", ours.node], folder / "ours.log")
        try:
            worker.wait_ready()
            for side in (ours, theirs):
                side.fill()
            yield ours, theirs
        finally:
            print((folder / "ours.log").read_text()[-8000:])
            end_process(python, 20, signal.SIGQUIT)  # its task sleeps for minutes
            worker.kill()
            worker.check_log()
            for side in (ours, theirs):
                side.app.close()


def shape(value: Any, path: str = "") -> Any:
    """Keys and types, recursively; of a list its first item."""
    if path in EXCUSED:
        return "excused"
    if isinstance(value, dict):
        if f"{path}.*" in EXCUSED:
            return "excused"
        return {key: shape(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item, path) for item in value[:1]]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return type(value).__name__
    return "number"


@pytest.mark.parametrize("method,arguments", [
    ("ping", {}), ("clock", {}), ("stats", {}), ("active", {}), ("active", {"safe": True}),
    ("dump_active", {}), ("reserved", {}), ("dump_reserved", {}), ("scheduled", {}),
    ("dump_schedule", {}), ("revoked", {}), ("registered", {}),
    ("registered", {"taskinfoitems": ["max_retries"]}), ("registered", {"builtins": True}),
    ("dump_tasks", {}), ("active_queues", {}), ("report", {}), ("conf", {}),
    ("conf", {"with_defaults": True}), ("dump_conf", {"with_defaults": False}), ("memsample", {}),
    ("memdump", {}), ("memdump", {"samples": 3}), ("hello", {"from_node": "else@where"}),
    ("hello", {"from_node": "else@where", "revoked": {}}), ("heartbeat", {}), ("ping", {"bogus": 1}),
], ids=str)
def test_shapes(sides, method, arguments):
    ours, theirs = (shape(side.call(method, **arguments), method) for side in sides)
    assert ours == theirs


def test_query_task(sides):
    ours, theirs = ([side.call("query_task", ids=[*side.ids, "unknown"]), side.ids]
                    for side in sides)
    for replies, ids in (ours, theirs):
        assert {ids.index(id): state for id, (state, _) in replies.items()} == \
            {0: "active", 1: "reserved"}
    assert shape(ours[0][ours[1][0]]) == shape(theirs[0][theirs[1][0]])
    assert shape(ours[0][ours[1][1]]) == shape(theirs[0][theirs[1][1]])


def test_what_is_in_hand(sides):
    """The same values too, where they do not name a process or an instant."""
    def plain(side: Side, info: dict[str, Any]) -> dict[str, Any]:
        assert info["hostname"] == side.node and info["id"] in side.ids
        return {key: value for key, value in info.items()
                if key not in ("id", "hostname", "time_start", "worker_pid")}

    for method in ("active", "reserved"):
        ours, theirs = ([plain(side, info) for info in side.call(method)] for side in sides)
        assert ours[:1] == theirs[:1]
    ours, theirs = ([plain(side, entry["request"]) for entry in side.call("scheduled")]
                    for side in sides)
    assert ours == theirs
    info = sides[0].call("active")[0]
    assert info["worker_pid"] in sides[0].call("stats")["pool"]["processes"]
    assert sides[0].call("stats")["total"] == {"demo.sleep": 1}


@pytest.mark.parametrize("method,arguments", [
    ("active_queues", {"bogus": 1}), ("report", {"x": 1}), ("no_such_command", {}),
    ("rate_limit", {}), ("rate_limit", {"task_name": "demo.add"}), ("query_task", {}), ("hello", {}),
    ("enable_events", {"bogus": 1}), ("autoscale", {"bogus": 1}), ("terminate", {}),
    ("revoke", {}), ("add_consumer", {}), ("cancel_consumer", {}),
    ("rate_limit", {"task_name": "demo.add", "rate_limit": "bad"}),
    ("rate_limit", {"task_name": "demo.add", "rate_limit": "10/y"}),
    ("rate_limit", {"task_name": "no.such", "rate_limit": "10/m"}),
    ("rate_limit", {"task_name": "demo.add", "rate_limit": "10/m"}),
    ("rate_limit", {"task_name": "demo.add", "rate_limit": 5}),
    ("rate_limit", {"task_name": "demo.add", "rate_limit": "0"}),
    ("rate_limit", {"task_name": "demo.add", "rate_limit": 0}),
    ("rate_limit", {"task_name": "demo.add", "rate_limit": None}),
    ("time_limit", {"task_name": "demo.add", "soft": 5, "hard": 9.5}),
    ("time_limit", {"task_name": "demo.add", "soft": None, "hard": None}),
    ("time_limit", {"task_name": "no.such", "soft": 1}), ("time_limit", {}),
    ("revoke", {"task_id": "one"}), ("revoke", {"task_id": ["two"]}), ("revoke", {"task_id": []}),
    ("revoke", {"task_id": "it's"}),
    ("revoke", {"task_id": "three", "terminate": True}),
    ("revoke", {"task_id": "three", "terminate": True, "signal": "KILL"}),
    ("revoke", {"task_id": "three", "terminate": True, "signal": "SIGNONE"}),
    ("revoke", {"task_id": "three", "terminate": True, "signal": "term"}),
    ("terminate", {"task_id": "three", "signal": "SIGKILL"}),
    ("revoke_by_stamped_headers", {"headers": {"a": ["1", "2"]}}),
    ("revoke_by_stamped_headers", {"headers": {"a": "1"}}),
    ("revoke_by_stamped_headers", {"headers": ["a=1", "b=2"]}),
    ("revoke_by_stamped_headers", {"headers": ["a"]}),
    ("revoke_by_stamped_headers", {"headers": {"c": "1"}, "terminate": True}),
    ("query_task", {"ids": None}), ("query_task", {"ids": 5}), ("revoke", {"task_id": 5}),
    ("revoke", {"task_id": "three", "terminate": True, "signal": "9"}),
    ("revoke", {"task_id": "three", "terminate": True, "signal": ""}),
    ("rate_limit", {"task_name": "demo.add", "rate_limit": "10/"}),
    ("rate_limit", {"task_name": "demo.add", "rate_limit": [1]}),
    ("rate_limit", {"task_name": "demo.add", "rate_limit": None}),
    ("revoke_by_stamped_headers", {"headers": None}),
    ("revoke_by_stamped_headers", {"headers": "a=1"}),
    *[("revoke", {"task_id": "three", "terminate": True, "signal": signal})
      for signal in (0, False, [], {}, True, "CLD", "IOT", "POLL", "RTMIN", "SIGSIGKILL")],
    ("revoke", {"task_id": {}}), ("revoke", {"task_id": [["one"]]}), ("query_task", {"ids": {}}),
    ("query_task", {"ids": [[]]}), ("rate_limit", {"task_name": ["demo.add"], "rate_limit": "1/s"}),
    ("time_limit", {"task_name": {}, "hard": 1}),
    *[("rate_limit", {"task_name": "demo.add", "rate_limit": limit})
      for limit in (" 5 ", " 1/m", "+5/m", "1_000", "0x10", "1 / m", "1/d", "1e3/s", ".5/s", "/m", "10/m/s",
                    "1__0", "ü/s")],
    ("rate_limit", {"task_name": "no.such", "rate_limit": "bad"}),
    ("rate_limit", {"task_name": "demo.add", "rate_limit": None}),
    ("pool_grow", {"n": -1}), ("pool_grow", {"n": "x"}), ("pool_grow", {"n": 1.5}), ("pool_grow", {"n": None}),
    ("pool_grow", {"n": 1}), ("pool_grow", {}),
    ("pool_restart", {}), ("autoscale", {"max": 3, "min": 1}),
    ("add_consumer", {"queue": "extra"}), ("add_consumer", {"queue": "extra", "exchange": "x"}),
    ("cancel_consumer", {"queue": "extra"}), ("cancel_consumer", {"queue": "never"}),
    ("enable_events", {}), ("enable_events", {}), ("disable_events", {}), ("disable_events", {}),
], ids=str)
def test_answers(sides, method, arguments):
    """To the letter: tools match on these texts."""
    ours, theirs = (side.call(method, **arguments) for side in sides)
    assert ours == theirs


def test_objgraph_says_why_not(sides):
    assert "written in C" in sides[0].call("objgraph")["error"]


def test_hello_from_itself(sides):
    for side in sides:
        assert side.call("hello", from_node=side.node) is None


def test_queues_come_and_go(sides):
    side = sides[0]

    def consumes() -> bool:
        return "more" in [queue["name"] for queue in side.call("active_queues")]

    side.app.control.add_consumer("more", reply=True, destination=[side.node])
    wait_until(consumes, TIMEOUT, "the queue")
    side.app.control.cancel_consumer("more", reply=True, destination=[side.node])
    wait_until(lambda: not consumes(), TIMEOUT, "its end")


def test_attributes_of_tasks(sides):
    """As they are now: with the limits that remote control has set."""
    names = ["rate_limit", "max_retries", "name", "ignore_result", "acks_late", "serializer",
             "default_retry_delay", "track_started", "send_events", "time_limit", "soft_time_limit",
             "acks_on_failure_or_timeout", "reject_on_worker_lost", "no_such_attribute"]
    for limit in ({"rate_limit": "7/m"}, {"rate_limit": 9}, {"rate_limit": 0}, {"rate_limit": ""},
                  {"rate_limit": None}):
        ours, theirs = ([side.call("rate_limit", task_name="demo.add", **limit),
                         side.call("time_limit", task_name="demo.add", soft=5, hard=9),
                         *(line for line in side.call("registered", taskinfoitems=names)
                           if line.startswith("demo.add "))] for side in sides)
        assert ours == theirs and len(ours) == 3
    for side in sides:
        side.call("time_limit", task_name="demo.add")


BOUND = {
    "bound-1": {"exchange": "ex"},
    "bound-2": {"exchange": "ex", "exchange_type": "direct", "routing_key": "key"},
    "bound-3": {"exchange": "tx", "exchange_type": "topic", "routing_key": "a-1.*.#"},
    "bound-4": {"routing_key": "own"},
}


@pytest.mark.parametrize("queue", BOUND)
def test_bindings_of_added_queues(sides, queue):
    def seen(side: Side) -> Any:
        assert side.call("add_consumer", queue=queue, **BOUND[queue]) == {"ok": f"add consumer {queue}"}
        info, = wait_until(lambda: [q for q in side.call("active_queues") if q["name"] == queue], TIMEOUT)
        with side.app.connection() as connection:
            client = connection.default_channel.client
            keys = sorted(client.keys(f"_kombu.binding*.{info['exchange']['name']}"))
            return info, {key: {m for m in client.smembers(key) if m.endswith(queue.encode())}
                          for key in keys}
    ours, theirs = map(seen, sides)
    assert ours == theirs and len(ours[1]) == 2


def test_queues_of_exchanges(app, cworker):
    """A producer that knows but the exchange reaches them."""
    cworker()
    for queue, options in BOUND.items():
        app.control.add_consumer(queue, reply=True, destination=["w1@test"], timeout=TIMEOUT, **options)
    for exchange, key in (("ex", "bound-1"), ("ex", "key"), ("bound-4", "own")):
        result = app.send_task("demo.add", (1, 2), exchange=exchange, routing_key=key)
        assert result.get(timeout=TIMEOUT) == 3
    reply = app.control.broadcast("add_consumer", reply=True, timeout=TIMEOUT, limit=1,
                                  arguments={"queue": "f", "exchange_type": "fanout"})
    assert "direct or topic" in reply[0]["w1@test"]["error"]


@pytest.mark.parametrize("command", [
    ["inspect", "ping"], ["inspect", "active"], ["inspect", "query_task", "x"],
    ["control", "rate_limit", "demo.add", "5/m"], ["status"],
], ids=" ".join)
def test_celery_command_line(sides, command):
    def run(side: Side) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-m", "celery", "-b", side.app.conf.broker_url,
                               *command, "-d", side.node, "-t", "120"], capture_output=True, text=True, timeout=240, cwd=HERE)
    done = run(sides[0])
    assert done.returncode == 0, done.stdout + done.stderr
    assert sides[0].node in done.stdout


# --- destinations, patterns, bad input ----------------------------------------------------------------

@pytest.mark.parametrize("options,expected", [
    ({}, ["w1@test", "w2@test"]),
    ({"destination": ["w1@test"]}, ["w1@test"]),
    ({"destination": ["w9@test"]}, []),
    ({"destination": ["w1@test", "w2@test"]}, ["w1@test", "w2@test"]),
    ({"pattern": "w1*", "matcher": "glob"}, ["w1@test"]),
    ({"pattern": "w[!1]@*", "matcher": "glob"}, ["w2@test"]),
    ({"pattern": "W1*", "matcher": "glob"}, []),
    ({"pattern": r"w\d@", "matcher": "pcre"}, ["w1@test", "w2@test"]),
    ({"pattern": r"(?:x|w2)@\w+$", "matcher": "pcre"}, ["w2@test"]),
    ({"pattern": r"test", "matcher": "pcre"}, []),
    ({"pattern": r"w[\d]+?@te", "matcher": "pcre"}, ["w1@test", "w2@test"]),
    ({"pattern": "nobody*"}, ["w1@test", "w2@test"]),
], ids=str)
def test_who_answers(app, cworker, options, expected):
    for _ in range(2):
        cworker(concurrency=1)

    def answers() -> bool:
        """Who has too much to do may miss the time, but nobody else may answer."""
        replies = app.control.broadcast("ping", reply=True, timeout=1.5, **options)
        nodes = sorted(node for reply in replies for node in reply)
        assert set(nodes) <= set(expected)
        assert all(reply[node] == {"ok": "pong"} for reply in replies for node in reply)
        return nodes == expected
    wait_until(answers, TIMEOUT, "all answers")


def test_bad_messages_do_no_harm(app, cworker, redis):
    worker = cworker(concurrency=1)
    with redis.client() as client:
        def publish(body: Any, **envelope: Any) -> None:
            text = json.dumps(body)
            client.publish("/0.celery.pidbox", json.dumps({
                "body": text, "content-type": "application/json", "content-encoding": "utf-8",
                "headers": {}, "properties": {}, **envelope}))

        for raw in (b"", b"x", b"[]", b"{}", b'{"body": 5}', b"\xff\xfe", b'{"body": "{"}',
                    b'{"body": "!!", "properties": {"body_encoding": "base64"}}',
                    b"[" * 5000, b'{"body": "{}", "headers": []}'):
            client.publish("/0.celery.pidbox", raw)
        for body in (None, [], 5, "ping", {}, {"method": 5}, {"method": "ping", "arguments": [1]},
                     {"method": "revoke", "arguments": {"task_id": {"a": 1}}},
                     {"method": "revoke", "arguments": {"task_id": [None, 5, []]}},
                     {"method": "ping", "reply_to": 5}, {"method": "ping", "reply_to": {}},
                     {"method": "ping", "reply_to": {"exchange": 5, "routing_key": []}},
                     {"method": "ping", "destination": {"w1@test": 1}},
                     {"method": "ping", "pattern": "([", "matcher": "pcre"},
                     {"method": "ping", "pattern": "(?=x)", "matcher": "pcre"},
                     {"method": "ping", "pattern": "x", "matcher": "soundex"},
                     {"method": "pool_grow", "arguments": {"n": "many"}},
                     {"method": "pool_grow", "arguments": {"n": 10 ** 9}},
                     {"method": "pool_shrink", "arguments": {"n": -1}},
                     {"method": "add_consumer", "arguments": {"queue": ""}},
                     {"method": "registered", "arguments": {"taskinfoitems": {"x": 1}}},
                     {"method": "revoke_by_stamped_headers", "arguments": {"headers": 5}},
                     {"method": "rate_limit", "arguments": {"task_name": [], "rate_limit": {}}}):
            publish(body)
        publish({"method": "ping"}, **{"content-type": "application/x-python-serialize"})
        publish({"method": "ping"}, headers={"clock": 2 ** 63})
        publish({"method": "ping"}, headers={"clock": "late"})
        assert app.control.ping(timeout=TIMEOUT, destination=["w1@test"]) == \
            [{"w1@test": {"ok": "pong"}}]
    assert "Control command error" in worker.log


def test_nobody_waits_for_the_reply(app, cworker, redis):
    cworker(concurrency=1)
    app.control.broadcast("ping", reply=False)
    message = {"method": "ping", "arguments": {}, "ticket": "t", "destination": None,
               "reply_to": {"exchange": "reply.celery.pidbox", "routing_key": "gone"}}
    with redis.client() as client:
        client.publish("/0.celery.pidbox", json.dumps({
            "body": json.dumps(message), "content-type": "application/json",
            "content-encoding": "utf-8", "headers": {}, "properties": {}}))
        assert app.control.ping(timeout=TIMEOUT, destination=["w1@test"])
        assert not [key for key in client.keys() if b"gone" in key]


def test_reply_queue_expires(app, cworker, redis):
    """A client that died leaves its binding; what is sent to it goes away by itself."""
    cworker(concurrency=1)
    message = {"method": "ping", "arguments": {}, "ticket": "t",
               "reply_to": {"exchange": "reply.celery.pidbox", "routing_key": "dead"}}
    with redis.client() as client:
        client.sadd("_kombu.binding.reply.celery.pidbox", "dead\x06\x16\x06\x16dead.reply")
        client.publish("/0.celery.pidbox", json.dumps({
            "body": json.dumps(message), "content-type": "application/json",
            "content-encoding": "utf-8", "headers": {}, "properties": {}}))
        wait_until(lambda: client.llen("dead.reply") == 1, TIMEOUT, "the reply")
        assert 0 < client.pttl("dead.reply") <= 60000


def test_binding_is_registered(app, cworker, redis):
    worker = cworker(concurrency=1)
    member = b"\x06\x16\x06\x16w1@test.celery.pidbox"
    with redis.client() as client:
        wait_until(lambda: client.sismember("_kombu.binding.celery.pidbox", member), TIMEOUT,
                   "the binding")
        assert client.zscore("_kombu.binding_deadlines", "celery.pidbox")
        worker.stop()
        assert not client.sismember("_kombu.binding.celery.pidbox", member)


@pytest.mark.parametrize("options", [
    {"fanout_prefix": "/other.{db}."}, {"fanout_prefix": False}, {"fanout_patterns": False},
    {"global_keyprefix": "pre-"},
], ids=str)
def test_transport_options(make_app, cworker, options):
    app = make_app(broker_transport_options=options)
    cworker(*[f"--set={name}={str(value).lower()}" for name, value in options.items()], concurrency=1)
    assert app.control.ping(timeout=TIMEOUT, destination=["w1@test"])
    assert app.control.inspect(timeout=TIMEOUT, destination=["w1@test"]).active() == {"w1@test": []}


def test_control_exchange(make_app, cworker):
    app = make_app(control_exchange="ops")
    cworker("--set", "control_exchange=ops", concurrency=1)
    assert app.control.ping(timeout=TIMEOUT, destination=["w1@test"])


def test_control_off(app, cworker):
    cworker("--set", "worker_enable_remote_control=false", concurrency=1)
    assert app.control.ping(timeout=0.5) == []


# --- what commands do ---------------------------------------------------------------------------------

def test_shutdown(app, cworker):
    worker = cworker(concurrency=1)
    app.control.shutdown(destination=["w1@test"])
    assert worker.wait() == 0
    assert "Got shutdown from remote" in worker.log


def test_pool_grows_and_shrinks(app, cworker):
    cworker(concurrency=1)
    inspect = app.control.inspect(["w1@test"], timeout=TIMEOUT)

    def lanes() -> int:
        return len(inspect.stats()["w1@test"]["pool"]["processes"])

    app.control.pool_grow(2, reply=True, destination=["w1@test"])
    wait_until(lambda: lanes() == 3, TIMEOUT, "three children")
    app.control.pool_shrink(2, reply=True, destination=["w1@test"])
    wait_until(lambda: lanes() == 1, TIMEOUT, "one child")
    reply = app.control.pool_shrink(1, reply=True, destination=["w1@test"])
    assert "Can't shrink pool" in reply[0]["w1@test"]["error"]


@pytest.mark.parametrize("pool,keys", [
    ("threads", {"implementation", "max-concurrency", "threads"}),
    ("solo", {"implementation", "max-concurrency", "processes", "max-tasks-per-child",
              "put-guarded-by-semaphore", "timeouts"}),
])
def test_stats_of_other_pools(app, cworker, pool, keys):
    """The keys of Celery's own pools of that kind."""
    cworker("-P", pool, concurrency=1)
    stats = app.control.inspect(["w1@test"], timeout=TIMEOUT).stats()["w1@test"]["pool"]
    assert set(stats) == keys
    assert app.control.inspect(["w1@test"], timeout=TIMEOUT).active() == {"w1@test": []}


def test_pool_restart(app, cworker):
    cworker("--set", "worker_pool_restarts=true", concurrency=1)
    inspect = app.control.inspect(["w1@test"], timeout=TIMEOUT)
    before = inspect.stats()["w1@test"]["pool"]["processes"]
    assert app.control.pool_restart(reply=True, destination=["w1@test"]) == \
        [{"w1@test": {"ok": "reload started"}}]
    wait_until(lambda: set(inspect.stats()["w1@test"]["pool"]["processes"]).isdisjoint(before),
               TIMEOUT, "other children")


def test_autoscale(app, cworker):
    cworker("--autoscale", "3,1", concurrency=1)
    def call(method: str, **arguments: Any) -> Any:
        return app.control.broadcast(method, arguments=arguments, reply=True, timeout=TIMEOUT,
                                     destination=["w1@test"])[0]["w1@test"]
    assert call("autoscale", max=4, min=2) == {"ok": "autoscale now max=4 min=2"}
    assert call("autoscale", max=None, min=1) == {"ok": "autoscale now max=4 min=1"}
    assert "0 <= min <= max" in call("autoscale", max=1, min=2)["error"]
    assert "autoscale" in call("pool_grow", n=1)["error"]
    assert set(call("stats")["autoscaler"]) == {"max", "min", "current", "qty"}


def test_pause_and_resume(app, cworker, keys):
    cworker(concurrency=1)
    def call(method: str) -> Any:
        return app.control.broadcast(method, arguments={"queue": "celery"}, reply=True,
                                     timeout=TIMEOUT, destination=["w1@test"])[0]["w1@test"]
    assert call("pause") == {"ok": "queue celery paused"}
    result = app.send_task("demo.add", (1, 2))
    assert app.control.ping(timeout=TIMEOUT, destination=["w1@test"])
    assert keys.llen("celery") == 1
    assert call("resume") == {"ok": "queue celery resumed"}
    assert result.get(timeout=TIMEOUT) == 3


def test_time_limit_by_control(app, cworker):
    cworker(concurrency=1)
    app.control.time_limit("demo.sleep", hard=0.3, reply=True, destination=["w1@test"])
    result = app.send_task("demo.sleep", (60,))
    with pytest.raises(Exception, match="TimeLimitExceeded"):
        result.get(timeout=TIMEOUT)


def test_secrets_stay_secret(app, cworker, redis):
    cworker("--set", "app_database_url=mongodb://me:hush-hush@nowhere/x", concurrency=1)
    inspect = app.control.inspect(["w1@test"], timeout=TIMEOUT)
    texts = [str(inspect.conf()), str(inspect.conf(with_defaults=True)), str(inspect.report()),
             str(inspect.stats())]
    assert "nowhere" in texts[0]
    assert not [text for text in texts if "hush" in text]


# --- other workers ------------------------------------------------------------------------------------

def test_mingle_with_celery(app, cworker, python_worker, redis):
    python_worker()
    wait_until(lambda: app.control.ping(timeout=0.3), what="Celery's worker")
    app.control.revoke("of-python")
    wait_until(lambda: any("of-python" in ids for ids in (app.control.inspect().revoked() or {}).values()),
               TIMEOUT, "the revoked id")
    worker = cworker(concurrency=1)
    worker.wait_log("mingle: sync with 1 nodes")
    assert "of-python" in app.control.inspect(["w1@test"], timeout=TIMEOUT).revoked()["w1@test"]


def test_mingle_is_answered(app, cworker, python_worker, redis):
    cworker(concurrency=1)
    app.control.revoke("of-c", reply=True, destination=["w1@test"], timeout=TIMEOUT)
    python_worker()
    wait_until(lambda: any("of-c" in ids for node, ids in
                           (app.control.inspect(timeout=0.3).revoked() or {}).items()
                           if node != "w1@test"), what="the id at Celery's worker")


def test_mingle_among_ourselves(app, cworker, redis):
    cworker(concurrency=1).wait_log("mingle: all alone")
    app.control.revoke("shared", reply=True, destination=["w1@test"], timeout=TIMEOUT)
    second = cworker(concurrency=1)
    second.wait_log("mingle: sync complete")
    assert app.control.inspect(["w2@test"], timeout=TIMEOUT).revoked() == {"w2@test": ["shared"]}
    third = cworker("--without-mingle", concurrency=1)
    assert app.control.ping(timeout=TIMEOUT, destination=["w3@test"])
    assert "mingle" not in third.log
    with redis.client() as client:
        wait_until(lambda: not [key for key in client.keys() if b"reply.celery.pidbox" in key],
                   TIMEOUT, "no reply queue left")


def test_election(app, cworker):
    """One of all does it."""
    workers = [cworker(concurrency=1) for _ in range(3)]
    task = app.signature("demo.add", (20, 3), task_id="elected")
    app.control.election("election-1", "task", task)
    assert app.AsyncResult("elected").get(timeout=TIMEOUT) == 23
    for worker in workers:
        wait_until(lambda w=worker: "I won the election" in w.log or "elected for" in w.log, TIMEOUT,
                   "the end of the election")
    assert sum("I won the election 'election-1'" in worker.log for worker in workers) == 1
    wait_until(lambda: sum("succeeded" in worker.log for worker in workers) == 1, TIMEOUT, "one run")


def test_election_in_a_mixed_fleet(app, cworker, python_worker, tmp_path):
    """Celery's worker and cworkers agree on who it is; nobody else acts, and Celery's worker, which an
    election by one vote would end, lives on."""
    process = python_worker()
    workers = [cworker(concurrency=1) for _ in range(2)]
    log = tmp_path / "python.log"
    state = app.events.State()
    with app.connection() as connection:  # a worker is only counted by others when its heart was heard
        receiver = app.events.Receiver(connection, handlers={"*": state.event})
        with receiver.consumer_context(wakeup=False) as (own, _, _):
            while len(state.workers) < 3:
                own.drain_events(timeout=TIMEOUT)
    numbers = range(8)
    for i in numbers:
        app.control.election(f"mixed-{i}", "task", app.signature("demo.add", (i, 1), task_id=f"m{i}"))
        assert app.AsyncResult(f"m{i}").get(timeout=TIMEOUT) == i + 1
    for i in numbers:
        for read in (*(lambda w=w: w.log for w in workers), log.read_text):
            wait_until(lambda i=i, read=read: f"for 'mixed-{i}'" in read() or
                       f"I won the election 'mixed-{i}'" in read(), TIMEOUT, "its end")
    logs = [*(worker.log for worker in workers), log.read_text()]
    for i in numbers:
        assert sum(f"I won the election 'mixed-{i}'" in text for text in logs) == 1
        assert sum(text.count(f"[m{i}] received") for text in logs) == 1
    assert process.poll() is None


def test_election_without_gossip(app, cworker):
    cworker("--without-gossip", concurrency=1)
    reply = app.control.broadcast("election", arguments={"id": "1", "topic": "task"}, reply=True,
                                  timeout=TIMEOUT, destination=["w1@test"])
    assert "gossip is off" in reply[0]["w1@test"]["error"]


def test_quick_under_load(app, cworker):
    """Control is served between tasks: a flood does not keep it waiting until its end."""
    cworker(concurrency=2)
    with app.producer_pool.acquire(block=True) as producer:
        results = [app.send_task("bench.noop", (i,), ignore_result=True, producer=producer)
                   for i in range(5000)]
    assert len(results) == 5000
    assert app.control.ping(timeout=TIMEOUT, destination=["w1@test"])


def test_report_command_is_the_same_text(app, cworker, redis):
    cworker(concurrency=1)
    remote = app.control.inspect(["w1@test"], timeout=TIMEOUT).report()["w1@test"]["ok"]
    local = run_cworker("report", "-b", redis.url()).stdout
    assert remote.splitlines()[0] == local.splitlines()[0]

# SPDX-License-Identifier: Apache-2.0
"""cworker recover, and what a clean stop leaves behind."""
import json
import re
import signal
import subprocess
from datetime import datetime, timedelta, timezone

import pytest
from harness import (CWORKER, descendants, get, inflight, is_alive, make_message, run_cworker,
                     wait_state, wait_until)


@pytest.fixture
def recover(redis):
    def run(*options, status=0):
        done = run_cworker("-b", redis.url(), "recover", *options)
        assert done.returncode == status, done
        return done.stdout if status == 0 else done.stderr
    return run


def ours(keys):
    """What a fleet of Celery workers would find foreign; PUB/SUB leaves no keys."""
    return [key for key in keys.scan_iter("*cworker*")]


def dead_worker(app, cworker, keys):
    """A worker with running, waiting and delayed tasks, killed; its lease is made to lapse."""
    worker = cworker("--prefetch-multiplier", "8", queues="celery,scans", concurrency=1)
    delayed = app.send_task("demo.add", (10, 1), countdown=3600)
    wait_until(lambda: keys.zcard("{celery}.cworker.delayed") == 1, what="the delayed task")
    running = app.send_task("demo.sleep", (600,))
    wait_until(lambda: len(inflight(keys)) == 1, what="the running task")
    results = [app.send_task("demo.add", (i, 1), queue="scans", priority=3) for i in range(3)]
    wait_until(lambda: len(inflight(keys)) == 4, what="tasks in flight")
    children = descendants(worker.pid)
    worker.kill()
    wait_until(lambda: not any(map(is_alive, children)), what="the end of all children")
    return running, results, delayed


def test_recover_for_python(app, cworker, python_worker, keys, recover):
    running, results, delayed = dead_worker(app, cworker, keys)
    assert "w1@test" in recover(status=1)
    assert len(inflight(keys)) == 4
    for lease in keys.scan_iter("cworker.lease.*"):
        keys.delete(lease)
    assert recover() == "Gave back 4 messages in flight and 1 delayed.\n"
    assert ours(keys) == []
    assert keys.llen("celery") == 2 and keys.llen("scans\x06\x163") == 3
    back = json.loads(keys.lindex("scans\x06\x163", 0))
    assert back["headers"]["redelivered"] is True
    assert back["properties"]["delivery_info"]["redelivered"] is True
    for text in keys.lrange("scans\x06\x163", 0, -1):
        keys.lpush("celery", text)
    for i, text in enumerate(keys.lrange("celery", 0, -1)):  # the delayed one's hour has come
        keys.lset("celery", i, re.sub(rb'"eta": ?"[^"]*"', b'"eta": null', text))
    python_worker(NAP="0.1")
    assert get(running) == 600
    assert [get(result) for result in results] == [1, 2, 3]
    assert get(delayed) == 11
    assert json.loads(recover("--json")) == {"inflight": 0, "delayed": 0, "settled": 0, "outbox": 0}


def test_force(app, cworker, keys, recover, gate):
    """The worker lives: it hears of its loss and does not run what was taken from it."""
    worker = cworker(*gate.options, "--set", "worker_lease=20", concurrency=1)
    app.send_task("gate")
    add = app.send_task("demo.add", (1, 2))
    wait_until(lambda: len(inflight(keys)) == 2, what="tasks in flight")
    worker.signal(signal.SIGSTOP)
    try:
        assert "w1@test" in recover(status=1)
        assert "2 messages" in recover("--force")
        assert keys.llen("celery") == 2
        gate.open()
    finally:
        worker.signal(signal.SIGCONT)
    assert get(add) == 3


def test_lists_that_no_registration_names(keys, recover):
    keys.lpush("{a.b}.cworker.inflight.w1@h.x.host.0123abcd.77.0123456789abcdef", "one")
    keys.lpush("{a.b}.cworker.inflight.w1@h.x.host.0123abcd.77.0123456789abcdef.6", "two")
    keys.hset("{a.b}.cworker.outbox", "id/tag", "2 {}")
    keys.hset("cworker.paused", "a.b", "now")
    keys.zadd("{a.b}.cworker.delayed", {"t/1": 5e15, "t/2": 4e15, "later": 1})
    keys.hset("{a.b}.cworker.delayed.msg", mapping={"t/1": "1 0 late", "t/2": "1 0 early",
                                                    "later": "2 unknown"})
    assert json.loads(recover("--json")) == {"inflight": 2, "delayed": 2, "settled": 0, "outbox": 1}
    assert keys.lrange("a.b", 0, -1) == [b"late", b"early", b"one"]
    assert keys.lrange("a.b\x06\x166", 0, -1) == [b"two"]
    assert sorted(ours(keys)) == [b"{a.b}.cworker.delayed", b"{a.b}.cworker.delayed.msg"]
    assert keys.zrange("{a.b}.cworker.delayed", 0, -1) == [b"later"]


def test_many(keys, recover):
    with keys.pipeline() as pipe:
        for i in range(2500):
            pipe.zadd("{q}.cworker.delayed", {f"t/{i}": 5e15 + i})
            pipe.hset("{q}.cworker.delayed.msg", f"t/{i}", f"1 0 m{i}")
            pipe.lpush("{q}.cworker.inflight.w.h.b.1.0123456789abcdef", f"i{i}")
        pipe.execute()
    assert json.loads(recover("--json")) == {"inflight": 2500, "delayed": 2500, "settled": 0,
                                             "outbox": 0}
    expected = [f"i{i}" for i in range(2500)] + [f"m{i}" for i in range(2500)]
    assert [text.decode() for text in reversed(keys.lrange("q", 0, -1))] == expected


def test_killed_in_the_midst(app, keys, redis):
    """What it had taken over comes back by the next one, each message once."""
    message = make_message(app, keys)
    for i in range(3000):
        message["headers"]["id"] = str(i)
        message["properties"]["delivery_tag"] = f"t{i}"
        keys.lpush("{q}.cworker.inflight.w.h.b.1.0123456789abcdef", json.dumps(message))
    words = ["-b", redis.url(), "--result-backend", redis.url(), "recover"]
    first = subprocess.Popen([CWORKER, *words])
    wait_until(lambda: keys.llen("q") > 100, what="the first ones back")
    first.kill()
    first.wait()
    done = run_cworker(*words)  # while the first one's lease lasts, unless this machine is very slow
    assert done.returncode == 0 or "  cworker-recover" in done.stderr
    wait_until(lambda: not list(keys.scan_iter("cworker.lease.*")), what="its lease's end")
    assert run_cworker(*words).returncode == 0
    back = [json.loads(text)["headers"]["id"] for text in keys.lrange("q", 0, -1)]
    assert sorted(back, key=int) == [str(i) for i in range(3000)]
    assert ours(keys) == []


def test_a_list_that_is_none(keys, redis):
    keys.set("{q}.cworker.inflight.w.h.b.1.0123456789abcdef", "?")
    done = run_cworker("-b", redis.url(), "--result-backend", redis.url(), "recover")
    assert done.returncode == 69 and done.stderr.count("WRONGTYPE") == 1, done


def test_nothing_else_is_left(app, cworker, keys, redis, recover):
    """Revoked ids, unique work, limits: keys that a fleet of Celery's would carry on for hours."""
    worker = cworker("--set", 'task_fleet_limits={"demo.mul": {"rate": "1/m"}}')
    waits = app.send_task("demo.add", (1, 2), countdown=3600)
    unique = app.send_task("demo.unique", ("k", 600))
    get(app.send_task("demo.mul", (2, 3)))
    wait_until(lambda: keys.zcard("{celery}.cworker.delayed") == 1, what="the delayed task")
    keys.zadd("cworker.revoked", {waits.id: 1})
    wait_until(lambda: list(keys.scan_iter("cworker.unique.*")), what="the lease of unique work")
    worker.signal(signal.SIGQUIT)
    worker.wait()
    assert recover("--result-backend", redis.url()) == "Gave back 0 messages in flight and 0 delayed.\n"
    assert ours(keys) == []
    assert [json.loads(text)["headers"]["id"] for text in keys.lrange("celery", 0, -1)] == [unique.id]


def test_a_clean_stop_leaves_nothing(app, cworker, keys):
    """Tasks that succeed, fail, are retried, delayed, unknown and cut short by the stop."""
    worker = cworker("--set", "task_track_started=true", concurrency=2)
    results = [app.send_task("demo.add", (i, 1)) for i in range(50)]
    results += [app.send_task("demo.add", ("x",)), app.send_task("demo.add", (1, 2), countdown=0.3)]
    soon = datetime.now(timezone.utc) + timedelta(seconds=0.2)
    results.append(app.send_task("demo.add", (3, 4), eta=soon))
    app.send_task("no.such")
    for result in results:
        get(result, propagate=False)
    last = app.send_task("demo.sleep", (2,))
    wait_state(last, "STARTED", "SUCCESS")
    for _ in range(20):
        app.send_task("demo.sleep", (1,))
    worker.stop()
    left = set(ours(keys))
    assert left == {b"{celery}.cworker.dead"}, left
    assert keys.llen("celery") > 0

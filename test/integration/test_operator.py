# SPDX-License-Identifier: Apache-2.0
"""status, inspect, control and queues: the same replies as by Celery's commands, from both workers."""
from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest
from celery import Celery
from celery.bin.celery import celery as celery_command
from click.testing import CliRunner

from harness import TIMEOUT, run_cworker, wait_state
from services.process import wait_until

NODE, THEIRS = "w1@test", "py@test"


@pytest.fixture
def ours(redis: Any) -> Any:
    def run(*words: Any) -> subprocess.CompletedProcess:
        return run_cworker("-b", redis.url(), *words)
    return run


@pytest.fixture
def theirs(redis: Any) -> Any:
    """Celery's own command line, in this process."""
    def run(*words: str) -> Any:
        return CliRunner().invoke(celery_command, ["-b", redis.url(), *words])
    return run


def blocks(text: str) -> list[str]:
    """The replies in a printed answer, in the order of their nodes. Sets have no order."""
    text = re.sub(r"\{('[^{}]*')\}", lambda m: "".join(sorted(m[1].split(", "))), text)
    text = re.sub(r"^(\d+ nodes? online)", r"-> \1", text, flags=re.M)
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return sorted(block.strip() for block in "\n".join(lines).split("->"))


SAME = """status; inspect ping; inspect active; inspect reserved; inspect scheduled; inspect revoked;
inspect query_task a b; inspect active_queues -d py@test; inspect registered -d py@test;
inspect ping --json; inspect active_queues --json; control revoke a b; control terminate KILL a;
control rate_limit demo.add 5/m; control rate_limit no.such 5/m; control time_limit demo.add 1 2;
control add_consumer more; control cancel_consumer more; control heartbeat; control rate_limit;
control enable_events -d w1@test; control pool_grow --json"""


def test_same_answers_as_celerys_command(cworker, python_worker, ours, theirs):
    cworker()
    python_worker()
    ours("control", "enable_events")
    for words in SAME.split(";"):
        asked = words.split()
        if "-d" not in asked:  # with it Celery does not wait for more replies than can come
            asked += ["-d", f"{NODE},{THEIRS}"]
        asked += ["-t", "120"]
        mine, celerys = ours(*asked), theirs(*asked)
        assert mine.returncode == celerys.exit_code == 0, words
        if "--json" not in words:
            assert blocks(mine.stdout) == blocks(celerys.stdout), words
            continue
        left, right = json.loads(mine.stdout), json.loads(celerys.stdout)
        if isinstance(right, list):
            left, right = sorted(left, key=repr), sorted(right, key=repr)
        assert left == right, words


@pytest.mark.parametrize("words", [
    "inspect", "inspect hello", "inspect nope", "status now", "control ping", "control pool_grow 1 2"])
def test_usage_errors(ours, theirs, words):
    assert ours(*words.split()).returncode == theirs(*words.split()).exit_code == 2


def test_nobody_there(redis, ours):
    for words in ("status", "inspect ping", "inspect ping --json", "control pool_grow"):
        done = ours(*words.split(), "-t", "0.2")
        assert done.returncode == 69 and "No nodes replied within time constraint" in done.stderr
        assert done.stdout == ""
    assert run_cworker("-b", "redis://127.0.0.1:1", "status").returncode == 69


def test_bad_values(redis, ours):
    for words in ("control pool_grow x", "control time_limit demo.add x", "status -t soon",
                  "inspect conf perhaps", "queues x", "events --frequency 0"):
        done = ours(*words.split())
        assert done.returncode == 2 and done.stderr.startswith("cworker"), words


def test_names_do_not_steer_the_terminal(cworker, ours):
    cworker()
    for words in (["queues", "-Q", "a\x1b[2Jb"], ["control", "add_consumer", "c\x1bd"],
                  ["inspect", "active_queues"]):
        done = ours(*words)
        assert done.returncode == 0 and "\x1b" not in done.stdout, words


def test_destination_and_left_keys(cworker, ours, keys):
    cworker()
    cworker()
    done = ours("inspect", "ping", "-d", NODE, "-j", "-t", "120")
    assert json.loads(done.stdout) == {NODE: {"ok": "pong"}}
    wait_until(lambda: set(json.loads(ours("status", "--json").stdout or "{}")) == {NODE, "w2@test"},
               what="both nodes within a second")
    assert ours("inspect", "ping", "-d", "no@where", "-t", "0.2").returncode == 69
    # Mingling takes its own away when it is over.
    wait_until(lambda: not list(keys.scan_iter("*reply.celery.pidbox")), TIMEOUT)


def test_key_prefix(cworker, redis, make_app):
    prefix = ("--set", "global_keyprefix=p:", "--set", "control_exchange=other")
    cworker(*prefix)
    done = run_cworker("-b", redis.url(), *prefix, "inspect", "ping", "-j", "-d", NODE, "-t", "120")
    assert json.loads(done.stdout) == {NODE: {"ok": "pong"}}


def test_shutdown(cworker, ours):
    worker = cworker()
    assert ours("control", "shutdown", "-t", "0.2").returncode == 69
    assert worker.wait() == 0


def test_queues(app: Celery, cworker, python_worker, ours, keys):
    cworker("--set", "worker_prefetch_multiplier=1", queues="mine", concurrency=1)
    python_worker("-Q", "theirs")
    running = app.send_task("demo.sleep", (600,), queue="mine")
    wait_until(lambda: ours("inspect", "active").stdout.count(running.id) == 1, TIMEOUT)
    wait_until(lambda: app.send_task("demo.add", (1, 2), queue="theirs").get(timeout=TIMEOUT) == 3)
    for priority in (0, 0, 5):
        app.send_task("demo.add", (1, 2), queue="mine", priority=priority)
    held = app.send_task("demo.sleep", (600,), queue="theirs")

    def look() -> dict[str, Any]:
        return json.loads(ours("queues", "--json").stdout)

    def known() -> dict[str, Any] | None:
        """With the names of those that answer within a second."""
        seen = look()
        return seen if seen["theirs"]["unacked"] == 1 and seen["mine"]["workers"] and \
            seen["theirs"]["workers"] else None
    seen = wait_until(known, TIMEOUT, "the unacked message")
    mine = seen["mine"]
    assert mine["waiting"] == 3 and mine["in_flight"] == 1 and mine["workers"] == [NODE]
    assert mine["priorities"] == {"0": 2, "3": 1, "6": 0, "9": 0}
    assert seen["theirs"]["workers"] == [THEIRS] and seen["celery"]["workers"] == []
    keys.lpush("{mine}.cworker.dead", "{}")
    keys.zadd("{mine}.cworker.delayed", {"x": 1e20})
    seen = json.loads(ours("queues", "-Q", "mine", "-j").stdout)
    assert set(seen) == {"mine"} and seen["mine"]["dead"] == seen["mine"]["delayed"] == 1

    def rows() -> list[list[str]]:
        return [line.split() for line in ours("queues").stdout.splitlines()]
    assert rows()[0][:2] == ["QUEUE", "WAITING"]
    wait_until(lambda: ["mine", "3", "-", "1", "0", "1", "1", NODE] in rows(), TIMEOUT, "the row of mine")
    app.control.revoke([running.id, held.id], terminate=True, signal="SIGKILL")
    wait_state(running, "REVOKED")
    keys.delete("{mine}.cworker.delayed", "{mine}.cworker.dead")

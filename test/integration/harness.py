# SPDX-License-Identifier: Apache-2.0
"""Helpers of the integration tests: the worker under test, Celery's messages, waiting."""
from __future__ import annotations

import base64
import json
import os
import re
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

from celery import Celery
from celery.app.control import Control
from celery.result import AsyncResult
from redis import Redis

from services.process import descendants, die_with_us, is_alive, wait_until

ROOT = Path(__file__).resolve().parents[2]
CWORKER = str(ROOT / os.environ.get("CWORKER_BIN", "build/cworker"))
DEMO_SO = str(ROOT / os.environ.get("DEMO_SO", "build/demo.so"))
TIMEOUT = 120.0
SANITIZER = re.compile(r"AddressSanitizer|LeakSanitizer|ThreadSanitizer|runtime error:")


def run_cworker(*args: str, **options: Any) -> subprocess.CompletedProcess:
    """A command that ends by itself, with what it printed as text."""
    done = subprocess.run([CWORKER, *map(str, args)], capture_output=True, text=True, timeout=120,
                          stdin=subprocess.DEVNULL, **options)
    assert not SANITIZER.search(done.stderr), done.stderr
    return done


class Gate:
    """A task "gate" that runs until the test opens it: any number of seconds is too few on some machine, and
    too many on the others. cworker(*gate.options) and python_worker(**gate.env) know it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "gate"
        self.env = {"GATE": str(self.path)}

    @property
    def options(self) -> tuple[str, str]:
        wait = f"until [ -e {self.path} ]; do sleep 0.02; done"
        return "--set", f"tasks={json.dumps([{'name': 'gate', 'command': ['sh', '-c', wait]}])}"

    def open(self) -> None:
        self.path.touch()

    def shut(self) -> None:
        self.path.unlink()


class Worker:
    """A running cworker, its log in a file. stop() asserts a clean end."""

    def __init__(self, args: list[str], log: Path, env: dict[str, str] | None = None) -> None:
        self.log_path = log
        self.stopped = False
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                [CWORKER, *args], stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                preexec_fn=die_with_us,
                env={**os.environ, **(env or {})})

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_log(self, text: str, timeout: float = TIMEOUT) -> None:
        def seen() -> bool:
            assert text in self.log or self.process.poll() is None, \
                f"ended with {self.process.returncode} before {text!r}:\n{self.log}"
            return text in self.log
        wait_until(seen, timeout, f"{text!r} in the worker's log")

    def wait_ready(self) -> Worker:
        self.wait_log("ready.")
        return self

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = TIMEOUT) -> int:
        self.stopped = True
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the worker did not end in {timeout} s:\n{self.log}") from None

    def kill(self) -> None:
        """kill -9 of main alone; its children are the worker's own business."""
        self.stopped = True
        self.process.kill()
        self.process.wait()

    def check_log(self) -> None:
        assert not SANITIZER.search(self.log), self.log

    def stop(self) -> None:
        """Warm shutdown; does nothing when the test ended the worker itself."""
        if not self.stopped:
            children = descendants(self.pid)
            self.signal(signal.SIGTERM)
            code = self.wait()
            assert code == 0, f"exit {code}:\n{self.log}"
            wait_until(lambda: not any(map(is_alive, children)), what="the end of all children")
        self.check_log()


def start_celery(module: str, node: str, log: Path, *options: str, broker: str, backend: str,
                 **env: str) -> subprocess.Popen:
    """Celery's own worker with one child, once it answers: its ready line comes before its subscription, and a
    broadcast between the two is lost. The client that asks is one for this: an answer that comes late to
    another is taken there for the one that it waits for."""
    with open(log, "ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", module, "worker", "-c", "1", "-l", "INFO", "-n", node,
             *options], cwd=Path(__file__).parent, stdin=subprocess.DEVNULL, stdout=file,
            stderr=subprocess.STDOUT, preexec_fn=die_with_us,
            env={**os.environ, "BROKER": broker, "BACKEND": backend, **env})
    try:
        with Celery("waiting", broker=broker, set_as_current=False) as app:
            control = Control(app)
            wait_until(lambda: control.ping(destination=[node], timeout=0.5), what=f"an answer of {node}")
    except BaseException:
        process.kill()
        process.wait()
        raise
    return process


def get(result: AsyncResult, timeout: float = TIMEOUT, **options: Any) -> Any:
    """result.get() that polls a MongoDB quickly."""
    return result.get(timeout=timeout, interval=0.02, **options)


def wait_state(result: AsyncResult, *states: str, timeout: float = TIMEOUT) -> str:
    def state() -> str | None:
        seen = result.state
        return seen if seen in states else None
    return wait_until(state, timeout, f"state {' or '.join(states)} of {result.id}")


def kill_task(app: Celery, result: AsyncResult) -> None:
    """Ends a running task that nobody needs any more."""
    app.control.revoke(result.id, terminate=True, signal="SIGKILL")
    wait_state(result, "REVOKED")


def cut_off(redis: Redis, node: str = "w1@test") -> None:
    """Ends the connections of one worker; those of clients, which pools keep for later tests, stay."""
    mine = [client["id"] for client in redis.client_list() if client["name"].startswith(node)]
    assert mine, "no connection has the worker's name"
    for client_id in mine:
        redis.client_kill_filter(_id=client_id)


def make_due(redis: Redis, queue: str = "celery") -> None:
    """The hour of all delayed messages of the queue has come, in the order in which it would have."""
    key = f"{{{queue}}}.cworker.delayed"
    for i, member in enumerate(redis.zrange(key, 0, -1)):
        text = redis.hget(f"{key}.msg", member)
        redis.hset(f"{key}.msg", member, re.sub(rb'"eta": ?"[^"]*"', b'"eta": null', text))
        redis.zadd(key, {member: i})


def make_message(app: Celery, redis: Redis, name: str = "demo.add", args: tuple = (1, 2),
                 queue: str = "h-template", **options: Any) -> dict[str, Any]:
    """One list element as Celery's producer makes it, taken off the list again."""
    app.send_task(name, args=args, queue=queue, **options)
    message = json.loads(redis.rpop(queue))
    message["properties"]["delivery_info"]["routing_key"] = "celery"
    return message


def body_of(value: Any) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def dead_letters(redis: Redis, queue: str = "celery") -> list[dict[str, Any]]:
    return [json.loads(entry) for entry in redis.lrange(f"{{{queue}}}.cworker.dead", 0, -1)]


def inflight(redis: Redis) -> list[bytes]:
    """All elements that some cworker holds, whatever the queue."""
    return [element for key in redis.scan_iter("*.cworker.inflight.*")
            for element in redis.lrange(key, 0, -1)]


def count_messages(redis: Redis) -> int:
    """In the queue and in flight, seen at once: between two looks one may go from here to there."""
    return redis.eval("""local n = redis.call('LLEN', 'celery')
        for _, key in ipairs(redis.call('KEYS', '*.cworker.inflight.*')) do
            n = n + redis.call('LLEN', key)
        end
        return n""", 0)


def read_ledger(path: Path) -> list[tuple[int, int]]:
    """bench.noop's BENCH_TRACE file: (first argument, CLOCK_MONOTONIC in ns) of each run."""
    data = path.read_bytes() if path.exists() else b""
    return list(struct.iter_unpack("<QQ", data[:len(data) - len(data) % 16]))

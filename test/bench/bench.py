# SPDX-License-Identifier: Apache-2.0
"""Side by side with Celery: tasks per second, answers under load, lateness of ETAs, start-up time,
memory, idle CPU.

    .venv/bin/python test/bench/bench.py [-n TASKS] [--celery-tasks N] [-c CONCURRENCY]

The queue is filled before the worker starts; the clock runs from the first run (BENCH_TRACE tells)
to the last ack. Both workers run the same no-op `bench.noop`, acked late, on the same Redis.
"""
from __future__ import annotations

import argparse
import base64
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from celery import Celery
from redis import Redis

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "test"))

from services.mongo import MongoServer  # noqa: E402
from services.process import descendants, end_process, wait_until  # noqa: E402
from services.redis import RedisServer  # noqa: E402

CWORKER = str(ROOT / os.environ.get("CWORKER_BIN", "build/cworker"))
DEMO_SO = str(ROOT / os.environ.get("DEMO_SO", "build/demo.so"))
RECORD = 16
IDLE_SECONDS = 5.0


@dataclass
class Place:
    """Where one measurement happens."""
    redis: RedisServer
    folder: Path
    concurrency: int


def memory_mib(pid: int) -> float:
    """Proportional set size of the process and all below it."""
    total = 0
    for each in (pid, *descendants(pid)):
        rollup = Path(f"/proc/{each}/smaps_rollup").read_text()
        total += next(int(line.split()[1]) for line in rollup.splitlines()
                      if line.startswith("Pss:"))
    return total / 1024


def cpu_seconds(pid: int) -> float:
    ticks = 0
    for each in (pid, *descendants(pid)):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def preload(place: Place, count: int, ignore_result: bool) -> None:
    """Pushes copies of a message that Celery made, each with an id and number of its own."""
    app = Celery("bench", broker=place.redis.url(), backend="disabled://")
    with place.redis.client(1) as results:
        results.flushall()
    client = place.redis.client()
    result = app.send_task("bench.noop", (0,), ignore_result=ignore_result)
    element = client.rpop("celery").decode()
    app.close()
    message = json.loads(element)
    tag, body = message["properties"]["delivery_tag"], message["body"]
    embed = json.loads(base64.b64decode(body))[2]

    def copy(number: int) -> str:
        own = base64.b64encode(json.dumps([[number], {}, embed]).encode()).decode()
        return (element.replace(body, own).replace(result.id, str(uuid.uuid4()))
                .replace(tag, str(uuid.uuid4())))

    for start in range(0, count, 1000):
        client.lpush("celery", *map(copy, range(start, min(start + 1000, count))))
    client.close()


def command(kind: str, place: Place, backend: str) -> list[str]:
    common = ["-c", str(place.concurrency), "-l", "WARNING"]
    if kind == "cworker":
        return [CWORKER, "-b", place.redis.url(), "--result-backend", backend, "-A", DEMO_SO,
                "-Q", "celery", *common]
    return [sys.executable, "-m", "celery", "-A", "python_worker", "worker", *common,
            "--without-gossip", "--without-mingle"]


@contextmanager
def worker(kind: str, place: Place, backend: str,
           *, info: bool = False) -> Iterator[subprocess.Popen]:
    words = command(kind, place, backend)
    if info:
        words[words.index("WARNING")] = "INFO"
    environment = {**os.environ, "BROKER": place.redis.url(), "BACKEND": backend,
                   "BENCH_TRACE": str(place.folder / "trace")}
    with open(place.folder / "log", "wb") as log:
        process = subprocess.Popen(words, cwd=ROOT / "test/integration", env=environment,
                                   stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        end_process(process, 30)


def throughput(kind: str, place: Place, backend: str, count: int) -> float:
    """Tasks per second from the first run until the last ack."""
    preload(place, count, ignore_result=backend == "disabled://")
    trace = place.folder / "trace"
    trace.unlink(missing_ok=True)

    with worker(kind, place, backend) as process, place.redis.client() as client:
        def is_done() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"{kind} ended:\n{(place.folder / 'log').read_text()[-3000:]}")
            return trace.exists() and trace.stat().st_size >= count * RECORD

        wait_until(is_done, 600, f"{count} runs by {kind}")
        wait_until(lambda: is_settled(client), 120, "the last ack")
        end = time.monotonic_ns()
    begin = min(at for _, at in struct.iter_unpack("<QQ", trace.read_bytes()))
    return count / (end - begin) * 1e9


def is_settled(client: Redis) -> bool:
    return not (client.llen("celery") or client.hlen("unacked") or
                any(client.llen(key) for key in client.scan_iter("*.cworker.inflight.*")))


def start_and_idle(kind: str, place: Place) -> tuple[float, float, float]:
    """Milliseconds to the ready line; MiB and per cent of a core of the idle worker."""
    log = place.folder / "log"
    with place.redis.client() as client:
        client.flushall()
    begin = time.monotonic()
    with worker(kind, place, "disabled://", info=True) as process:
        wait_until(lambda: "ready." in log.read_text(), 30, f"{kind}'s ready line")
        start_ms = (time.monotonic() - begin) * 1000
        before = cpu_seconds(process.pid)
        time.sleep(IDLE_SECONDS)  # what is measured is doing nothing
        used = cpu_seconds(process.pid) - before
        return start_ms, memory_mib(process.pid), used / IDLE_SECONDS * 100


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0


def ping_under_load(kind: str, place: Place, count: int) -> float:
    """Milliseconds until `inspect ping` is answered while preloaded tasks run, the median."""
    preload(place, count, ignore_result=True)
    trace, took = place.folder / "trace", []
    trace.unlink(missing_ok=True)
    app = Celery("bench", broker=place.redis.url(), backend="disabled://")
    with worker(kind, place, "disabled://") as process:
        wait_until(lambda: trace.exists() and trace.stat().st_size, 30, "the first run")
        while trace.stat().st_size < count * RECORD and process.poll() is None:
            begin = time.monotonic()
            if app.control.ping(timeout=5, limit=1):
                took.append((time.monotonic() - begin) * 1000)
    app.close()
    return median(took)


def lateness(kind: str, place: Place, count: int = 500) -> float:
    """Milliseconds from a task's ETA to its start, the median over ETAs two to four seconds away."""
    trace = place.folder / "trace"
    trace.unlink(missing_ok=True)
    app = Celery("bench", broker=place.redis.url(), backend="disabled://")
    with worker(kind, place, "disabled://", info=True):
        wait_until(lambda: "ready." in (place.folder / "log").read_text(), 30, "the ready line")
        begin, offset = time.time() + 2, time.time_ns() - time.monotonic_ns()
        for number in range(count):
            eta = datetime.fromtimestamp(begin + 2 * number / count, timezone.utc)
            app.send_task("bench.noop", (number,), eta=eta, ignore_result=True)
        wait_until(lambda: trace.exists() and trace.stat().st_size >= count * RECORD, 60, "all runs")
    app.close()
    return median([(at + offset) / 1e6 - (begin + 2 * number / count) * 1e3
                   for number, at in struct.iter_unpack("<QQ", trace.read_bytes())])


def row(what: str, ours: float, theirs: float, unit: str, more_is_better: bool) -> None:
    ratio = (ours / theirs if more_is_better else theirs / ours) if theirs and ours else 0
    factor = f"{ratio:.1f} ×" if ratio else "-"
    print(f"{what:<34}{ours:>12,.1f}{theirs:>12,.1f}  {unit:<9}{factor:>9}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=200_000, help="tasks for cworker")
    parser.add_argument("--celery-tasks", type=int, default=10_000, help="tasks for Celery")
    parser.add_argument("-c", type=int, default=2, help="concurrency of both")
    options = parser.parse_args()

    with RedisServer() as redis, MongoServer() as mongo, \
            tempfile.TemporaryDirectory(prefix="cworker-bench-") as folder:
        place = Place(redis, Path(folder), options.c)
        print(f"{os.cpu_count()} CPUs, concurrency {options.c}, cworker {options.n:,} tasks, "
              f"Celery {options.celery_tasks:,} tasks\n")
        print(f"{'':<34}{'cworker':>12}{'Celery':>12}")
        for what, backend in (("no results", "disabled://"), ("results in Redis", redis.url(1)),
                              ("results in MongoDB", mongo.url("bench"))):
            count = options.n if backend == "disabled://" else max(options.n // 4, 1)
            row(f"tasks run, {what}", throughput("cworker", place, backend, count),
                throughput("celery", place, backend, options.celery_tasks), "tasks/s", True)
        row("inspect ping, tasks running", ping_under_load("cworker", place, options.n),
            ping_under_load("celery", place, options.celery_tasks), "ms", False)
        row("lateness of an ETA", lateness("cworker", place), lateness("celery", place), "ms",
            False)
        ours, theirs = start_and_idle("cworker", place), start_and_idle("celery", place)
        row("start to ready", ours[0], theirs[0], "ms", False)
        row("memory when idle (PSS, all)", ours[1], theirs[1], "MiB", False)
        row(f"CPU when idle ({IDLE_SECONDS:.0f} s)", ours[2], theirs[2], "% core", False)
    print(f"\nagain: .venv/bin/python test/bench/bench.py -n {options.n} "
          f"--celery-tasks {options.celery_tasks} -c {options.c}")


if __name__ == "__main__":
    main()

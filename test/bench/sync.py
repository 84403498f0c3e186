# SPDX-License-Identifier: Apache-2.0
"""How fast findings become occurrences: cworker beside the same job written with pymongo.

    .venv/bin/python test/bench/sync.py -n 100000

Each side has a database server of its own, warmed by a team that is not counted (the stand-in runs on
Java: whoever came first paid for its compiler), and starts with an empty vulnerability_occurrences: a
pass over all findings, one after 0.1 % of them changed, one over all again. Nine of ten findings pass,
with --fail 100 none does. Both sides write the same fields. CPU seconds are those of the process that
did the work, and of the server; peak memory is that of the former.

The stand-in has no indexes but unique ones: there the 0.1 % pass looks at every document in the server."""
from __future__ import annotations

import argparse
import datetime as dt
import gc
import hashlib
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1]),
                str(Path(__file__).resolve().parents[1] / "integration")]

from celery import Celery  # noqa: E402
from pymongo import MongoClient, UpdateOne  # noqa: E402

from harness import Worker, descendants  # noqa: E402
from services.mongo import MongoServer  # noqa: E402
from services.redis import RedisServer  # noqa: E402

CHUNK, WARM = 10000, 8000
CHANGES = ("last_seen", "resolved_at", "updated_at")


def finding(team: str, number: int, seen: dt.datetime, fail: int) -> dict[str, Any]:
    return {"_id": f"{team}-{number}", "team_id": team, "uid": f"uid-{number}",
            "status": "FAIL" if number % 100 < fail else "PASS",
            "check_id": f"check_{number % 300}", "resource_id": f"arn:aws:s3:::bucket-{number}",
            "region": "eu-west-1", "account_id": "123456789012", "severity": "HIGH",
            "title": "Bucket allows public access", "first_seen": seen, "last_seen": seen}


def prepare(db: Any, team: str, count: int, fail: int) -> None:
    db.vulnerability_occurrences.create_index("dedup_key", unique=True)
    db.vulnerability_occurrences.create_index([("team_id", 1), ("source", 1), ("status", 1),
                                               ("last_seen", 1)])
    for field in CHANGES:
        db.cspm_findings.create_index([("team_id", 1), (field, 1)])
    old = dt.datetime.utcnow() - dt.timedelta(days=1)
    for start in range(0, count, CHUNK):
        db.cspm_findings.insert_many([finding(team, i, old, fail)
                                      for i in range(start, min(count, start + CHUNK))])


def change(db: Any, count: int) -> None:
    db.cspm_findings.update_many({"_id": {"$in": [f"t1-{i}" for i in range(0, count, 1000)]}},
                                 {"$set": {"severity": "LOW", "last_seen": dt.datetime.utcnow()}})


def usual_sync(url: str, name: str, team: str, since: dt.datetime | None) -> int:
    """The job as one would write it: a cursor, a digest, bulk writes of 1000 statements."""
    with MongoClient(url) as client:
        db, batch, now = client[name], [], dt.datetime.utcnow()
        query = {"team_id": team} if not since else {
            "$or": [{"team_id": team, field: {"$gte": since}} for field in CHANGES]}
        for row in db.cspm_findings.find(query, batch_size=1000):
            text = "\n".join((team, "cspm", row["resource_id"], row["check_id"],
                              f"{row['account_id']}/{row['region']}", ""))
            key = hashlib.sha256(text.encode()).hexdigest()
            if row["status"] != "FAIL":
                batch.append(UpdateOne({"dedup_key": key}, {
                    "$set": {"status": "RESOLVED", "resolved_at": now}}))
            else:
                batch.append(UpdateOne({"dedup_key": key}, {
                    "$set": {"team_id": team, "source": "cspm", "source_id": row["_id"],
                             "asset_id": row["resource_id"], "vulnerability_id": row["check_id"],
                             "location": f"{row['account_id']}/{row['region']}",
                             "title": row["title"], "severity": row["severity"],
                             "status": "OPEN", "last_seen": now},
                    "$setOnInsert": {"first_seen": row["first_seen"], "opened_at": now}},
                    upsert=True))
            if len(batch) == 1000:
                db.vulnerability_occurrences.bulk_write(batch, ordered=False)
                batch = []
        if batch:
            db.vulnerability_occurrences.bulk_write(batch, ordered=False)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measured_sync(*args: Any) -> tuple[float, float, int]:
    begun, cpu = time.monotonic(), time.process_time()
    peak = usual_sync(*args)
    return time.monotonic() - begun, time.process_time() - cpu, peak


def python_pass(*args: Any) -> tuple[float, float, int]:
    """In a process of its own, whose start is not counted."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measured_sync, args)


def peak_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def cpu_seconds(*pids: int) -> float:
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


class Side:
    """A server of its own and what is told of the passes against it."""

    def __init__(self, name: str, mongo: MongoServer, options: argparse.Namespace) -> None:
        self.name, self.mongo, self.count = name, mongo, options.n
        self.client = MongoClient(mongo.url(""))
        self.db = self.client[f"bench_sync_{os.getpid()}"]
        self.client.drop_database(self.db.name)
        prepare(self.db, "warm", WARM, options.fail)
        prepare(self.db, "t1", self.count, options.fail)
        self.open = sum(i % 100 < options.fail for i in range(self.count))

    def tell(self, what: str, count: int, one_pass: Any) -> None:
        server = self.mongo.process.pid if self.mongo.process else None
        before = cpu_seconds(server) if server else 0.0
        seconds, cpu, peak = one_pass()
        used = cpu_seconds(server) - before if server else 0.0
        print(f"{self.name:8} {what:14} {seconds:8.2f} s {count / seconds:9.0f}/s   cpu {cpu:6.2f} s, "
              f"server {used:6.2f} s {peak / 1024:7.1f} MiB peak", flush=True)

    def passes(self, one_pass: Any) -> None:
        one_pass("warm", False)()
        self.tell("all, new", self.count, one_pass("t1", False))
        change(self.db, self.count)
        self.tell("0.1 % changed", self.count // 1000, one_pass("t1", True))
        self.tell("all again", self.count, one_pass("t1", False))
        assert self.db.vulnerability_occurrences.count_documents({"team_id": "t1"}) == self.open
        self.client.close()


def run_cworker(side: Side, redis: RedisServer, folder: str) -> None:
    app = Celery("bench", broker=redis.url(), backend=redis.url())
    worker = Worker(["-b", redis.url(), "--result-backend", redis.url(), "-Q", "sync", "-c", "1",
                     "-l", "INFO", "--set", f"app_database_url={side.mongo.url(side.db.name)}"],
                    Path(folder) / "log").wait_ready()

    def one_pass(team: str, incremental: bool) -> Any:
        def run() -> tuple[float, float, int]:
            pids = descendants(worker.pid)
            begun, cpu = time.monotonic(), cpu_seconds(*pids)
            app.send_task("sync.sync_vulnerabilities_for_team", args=[team, not incremental],
                          queue="sync").get(timeout=7200, interval=0.02)
            return (time.monotonic() - begun, cpu_seconds(*pids) - cpu, max(map(peak_kb, pids)))
        return run
    side.passes(one_pass)
    worker.stop()
    gc.collect()  # Celery's results say goodbye to the server while it is there


def run_python(side: Side) -> None:
    mark = dt.datetime.utcnow()

    def one_pass(team: str, incremental: bool) -> Any:
        return lambda: python_pass(side.mongo.url(""), side.db.name, team,
                                   mark if incremental else None)
    side.passes(one_pass)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-n", type=int, default=100000, help="findings")
    parser.add_argument("--fail", type=int, default=10, help="per cent of them that fail")
    parser.add_argument("--only", choices=("cworker", "pymongo"))
    options = parser.parse_args()
    os.environ.setdefault("MONGO_SERVICE_MEMORY", f"{512 + options.n // 100}m")
    if options.only != "pymongo":
        with RedisServer() as redis, MongoServer() as mongo, tempfile.TemporaryDirectory() as folder:
            run_cworker(Side("cworker", mongo, options), redis, folder)
    if options.only != "cworker":
        with MongoServer() as mongo:
            run_python(Side("pymongo", mongo, options))


if __name__ == "__main__":
    main()

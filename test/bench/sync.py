# SPDX-License-Identifier: Apache-2.0
"""How fast findings become occurrences: cworker beside the same job written with pymongo.

    .venv/bin/python test/bench/sync.py -n 100000

Each side starts with an empty vulnerability_occurrences: a first pass over all findings, then one
after 0.1 % of them changed. Peak memory is that of the process that did the work."""
from __future__ import annotations

import argparse
import datetime as dt
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

CHUNK = 10000


def finding(number: int, seen: dt.datetime) -> dict[str, Any]:
    return {"_id": f"f{number}", "team_id": "t1", "uid": f"uid-{number}", "status": "FAIL",
            "check_id": f"check_{number % 300}", "resource_id": f"arn:aws:s3:::bucket-{number}",
            "region": "eu-west-1", "account_id": "123456789012", "severity": "HIGH",
            "title": "Bucket allows public access", "first_seen": seen, "last_seen": seen}


def prepare(db: Any, count: int) -> None:
    db.client.drop_database(db.name)
    db.vulnerability_occurrences.create_index("dedup_key", unique=True)
    db.vulnerability_occurrences.create_index([("team_id", 1), ("source", 1), ("status", 1)])
    db.cspm_findings.create_index([("team_id", 1), ("last_seen", 1)])
    old = dt.datetime.utcnow() - dt.timedelta(days=1)
    for start in range(0, count, CHUNK):
        db.cspm_findings.insert_many([finding(i, old)
                                      for i in range(start, min(count, start + CHUNK))])


def change(db: Any, count: int) -> None:
    db.cspm_findings.update_many({"_id": {"$in": [f"f{i}" for i in range(0, count, 1000)]}},
                                 {"$set": {"severity": "LOW", "last_seen": dt.datetime.utcnow()}})


def usual_sync(url: str, name: str, since: dt.datetime | None) -> int:
    """The job as one would write it: a cursor, a digest, bulk writes of 1000 upserts."""
    with MongoClient(url) as client:
        db, batch, now = client[name], [], dt.datetime.utcnow()
        query = {"team_id": "t1", **({"last_seen": {"$gte": since}} if since else {})}
        for row in db.cspm_findings.find(query):
            text = "\n".join(("t1", "cspm", row["resource_id"], row["check_id"],
                              f"{row['account_id']}/{row['region']}", ""))
            key = hashlib.sha256(text.encode()).hexdigest()
            fields = {k: row[k] for k in ("team_id", "severity", "title")}
            batch.append(UpdateOne({"dedup_key": key}, {
                "$set": {**fields, "status": "OPEN", "last_seen": now, "source": "cspm"},
                "$setOnInsert": {"first_seen": row["first_seen"], "opened_at": now}}, upsert=True))
            if len(batch) == 1000:
                db.vulnerability_occurrences.bulk_write(batch, ordered=False)
                batch = []
        if batch:
            db.vulnerability_occurrences.bulk_write(batch, ordered=False)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def python_pass(*args: Any) -> tuple[float, int]:
    begun = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        peak = pool.apply(usual_sync, args)
    return time.monotonic() - begun, peak


def peak_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def tell(name: str, what: str, count: int, seconds: float, peak: int) -> None:
    print(f"{name:10} {what:22} {seconds:8.2f} s {count / seconds:10.0f} findings/s "
          f"{peak / 1024:8.1f} MiB peak", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-n", type=int, default=100000, help="findings")
    parser.add_argument("--skip-python", action="store_true")
    options = parser.parse_args()
    count, name = options.n, f"bench_sync_{os.getpid()}"
    with RedisServer() as redis, MongoServer() as mongo, mongo.client() as client:
        db = client[name]
        prepare(db, count)
        app = Celery("bench", broker=redis.url(), backend=redis.url())
        with tempfile.TemporaryDirectory() as folder:
            worker = Worker(["-b", redis.url(), "--result-backend", redis.url(), "-Q", "sync",
                             "-c", "1", "-l", "INFO", "--set",
                             f"app_database_url={mongo.url(name)}"], Path(folder) / "log")
            worker.wait_ready()

            def one_pass(what: str, rows: int) -> None:
                begun = time.monotonic()
                app.send_task("sync.sync_vulnerabilities_for_team", args=["t1"],
                              queue="sync").get(timeout=3600, interval=0.02)
                tell("cworker", what, rows, time.monotonic() - begun,
                     max(map(peak_kb, descendants(worker.pid))))
            one_pass("all, new", count)
            change(db, count)
            one_pass("0.1 % changed", count // 1000)
            db.sync_watermarks.delete_many({})
            one_pass("all again", count)
            worker.stop()
        assert db.vulnerability_occurrences.count_documents({}) == count
        if options.skip_python:
            return
        prepare(db, count)
        mark = dt.datetime.utcnow()
        tell("pymongo", "all, new", count, *python_pass(mongo.url(""), name, None))
        change(db, count)
        tell("pymongo", "0.1 % changed", count // 1000, *python_pass(mongo.url(""), name, mark))
        tell("pymongo", "all again", count, *python_pass(mongo.url(""), name, None))
        assert db.vulnerability_occurrences.count_documents({}) == count


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""sync, SLA and retention while children are killed, and while MongoDB is away: the end state is that of an
undisturbed run."""
from __future__ import annotations

import datetime as dt
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from celery.result import AsyncResult
from pymongo.database import Database

from harness import descendants, get
from services.mongo import MongoServer
from services.process import wait_until

pytestmark = pytest.mark.timeout(900)  # the second one waits for its backoff
COUNT, DAY = 2500, dt.timedelta(days=1)
TASKS = ("sync.sync_vulnerabilities_for_team", "maintenance.check_sla_breaches_all_teams",
         "maintenance.run_retention_cycle")


@pytest.fixture
def store() -> Iterator[MongoServer]:
    with MongoServer(private=True, durable=True) as server:
        yield server


@pytest.fixture
def db(store: MongoServer) -> Iterator[Database]:
    now = dt.datetime.utcnow()
    with store.client() as client:
        database = client["interrupted"]
        database.vulnerability_occurrences.create_index("dedup_key", unique=True)
        database.cspm_findings.insert_many([
            {"_id": i, "team_id": "t1", "check_id": "c", "resource_id": f"r{i}", "severity": "HIGH",
             "status": "FAIL" if i % 2 else "PASS", "last_seen": now} for i in range(COUNT)])
        database.vulnerability_occurrences.insert_many([
            {"dedup_key": f"late-{i}", "team_id": "t2", "severity": "CRITICAL", "status": "OPEN",
             "opened_at": now - 8 * DAY} for i in range(COUNT)])
        database.scan_findings.insert_many([{"_id": i, "seen_at": now - 40 * DAY}
                                            for i in range(COUNT)])
        database.retention_policies.insert_one({"_id": "p", "collection": "scan_findings",
                                                "field": "seen_at", "days": 30, "action": "archive"})
        yield database


def send(app: Celery) -> list[AsyncResult]:
    return [app.send_task(name, args=["t1"] if name.startswith("sync") else [],
                          queue=name.partition(".")[0]) for name in TASKS]


def start(cworker: Callable[..., Any], store: MongoServer) -> Any:
    return cworker("--set", f"app_database_url={store.url('interrupted')}",
                   queues="sync,maintenance", concurrency=3)


def begun(db: Database) -> bool:
    return (db.vulnerability_occurrences.count_documents({"team_id": "t1"}) > 0 and
            db.sla_breaches.count_documents({}) > 0 and
            db.scan_findings_archive.count_documents({}) > 0)


def check(db: Database) -> None:
    assert db.vulnerability_occurrences.count_documents({"team_id": "t1", "status": "OPEN"}) == COUNT / 2
    assert db.sla_breaches.count_documents({}) == db.notifications.count_documents({}) == COUNT
    assert db.vulnerability_occurrences.count_documents(
        {"team_id": "t2", "sla_breached_at": None}) == 0
    assert db.scan_findings.count_documents({}) == 0
    assert db.scan_findings_archive.count_documents({}) == COUNT


def test_children_are_killed(app: Celery, cworker: Callable[..., Any], store: MongoServer,
                             db: Database) -> None:
    worker = start(cworker, store)
    tasks = send(app)
    wait_until(lambda: begun(db))
    zygote, = [int(line) for line in open(f"/proc/{worker.pid}/task/{worker.pid}/children")
               .read().split()]
    for child in descendants(zygote):
        os.kill(child, signal.SIGKILL)
    for task in tasks:
        get(task)
    check(db)


def test_mongodb_goes_away(app: Celery, cworker: Callable[..., Any], store: MongoServer,
                           db: Database) -> None:
    """They come back by their backoff: at random within a minute."""
    start(cworker, store)
    tasks = send(app)
    wait_until(lambda: begun(db))
    store.kill()
    wait_until(lambda: any(task.state == "RETRY" for task in tasks))
    store.start()
    for task in tasks:
        get(task, 240)
    check(db)

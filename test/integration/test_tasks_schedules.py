# SPDX-License-Identifier: Apache-2.0
"""Schedules of scans: intervals, cron expressions in time zones, overlaps, missed and lost turns."""
from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from bson import ObjectId, Timestamp
from celery import Celery
from pymongo.database import Database

from harness import Worker, descendants, get
from services.process import wait_until

REGIONS = {"regions": ["eu-west-1"], "frameworks": [], "provider": "aws", "team_id": "team-1"}


@pytest.fixture
def database(app_database: Database) -> Database:
    return app_database


@pytest.fixture
def start(cworker: Callable[..., Worker], database: Database) -> Callable[..., Worker]:
    return lambda **options: cworker(database=database, queues="scans", **options)


def now() -> datetime:
    return datetime.now(timezone.utc).replace(tzinfo=None, microsecond=0)


def put_schedule(database: Database, name: Any = "s1", **fields: Any) -> datetime:
    due = now() - timedelta(minutes=5)
    database.scan_schedules.insert_one({"_id": name, "enabled": True, "next_run_at": due,
                                        "interval_seconds": 3600, **REGIONS, **fields})
    return due


def put_run(database: Database, name: str, **fields: Any) -> None:
    database.scan_runs.insert_one({"_id": name, "schedule_id": "s1", "status": "RUNNING",
                                   "cloud_account_id": "1", **REGIONS, **fields})


def run(app: Celery, **options: Any) -> dict[str, int]:
    return get(app.send_task("scans.run_scheduled_scans", queue="scans", **options))


def test_interval(app: Celery, start: Callable[..., Worker], database: Database) -> None:
    start()
    due = put_schedule(database)
    assert run(app)["started"] == 1
    assert run(app)["started"] == 0
    [made] = database.scan_runs.find()
    assert (made["team_id"], made["schedule_id"], made["regions"]) == ("team-1", "s1", ["eu-west-1"])
    assert made["due_at"] == due
    schedule = database.scan_schedules.find_one()
    assert schedule["next_run_at"] == due + timedelta(hours=1)
    assert schedule["last_run_id"] == made["_id"]
    wait_until(lambda: database.scan_runs.find_one()["status"] == "RUNNING", what="the scan's start")


def test_cron(app: Celery, start: Callable[..., Worker], database: Database) -> None:
    """Without next_run_at the first turn is worked out; turns missed while nobody ran are one."""
    start()
    here = ZoneInfo("America/New_York")
    hour = 4 if 10 <= datetime.now(here).hour < 22 else 16  # the one that does not come meanwhile
    put_schedule(database, ObjectId(), interval_seconds=None, cron=f"30 {hour} * * *", next_run_at=None,
                 timezone=here.key, enabled=None)
    assert run(app)["started"] == 0
    schedule = database.scan_schedules.find_one()
    local = schedule["next_run_at"].replace(tzinfo=timezone.utc).astimezone(here)
    assert (local.hour, local.minute) == (hour, 30)
    assert timedelta(0) < schedule["next_run_at"] - now() <= timedelta(hours=25)
    database.scan_schedules.update_one({}, {"$set": {
        "next_run_at": schedule["next_run_at"] - timedelta(days=30)}})
    assert run(app)["started"] == 1
    assert run(app)["started"] == 0
    assert database.scan_schedules.find_one()["next_run_at"] == schedule["next_run_at"]
    assert database.scan_runs.count_documents({}) == 1


@pytest.mark.parametrize("fields, error", [
    ({"cron": "61 * * * *"}, 'cron: "61" is no minute'),
    ({"cron": "* * * *"}, "is not minute, hour"),
    ({"cron": 7}, "cron must be text"),
    ({"cron": "0 0 30 2 *"}, "never comes"),
    ({"cron": "0 0 * * *", "timezone": "Mars/Base"}, 'no time zone "Mars/Base"'),
    ({"cron": "0 0 * * *", "timezone": 1}, "timezone must be text"),
    ({"cron": "0 0 * * *", "interval_seconds": 60}, "both cron and interval_seconds"),
    ({"interval_seconds": "hourly"}, "interval_seconds must be"),
    ({"interval_seconds": -1}, "interval_seconds must be"),
    ({"interval_seconds": 9e14}, "interval_seconds must be"),
    ({"interval_seconds": 0}, "interval_seconds must be"),
    ({"interval_seconds": 0.5}, "interval_seconds must be"),
    ({"enabled": 1}, "enabled must be true or false"),
    ({"enabled": "no"}, "enabled must be true or false"),
    ({"next_run_at": True}, "next_run_at is not a date"),
    ({"next_run_at": {"date": 1}}, "next_run_at is not a date"),
    ({"next_run_at": Timestamp(1577836800, 1)}, "next_run_at is not a date"),
    ({"overlap": "MAYBE"}, "overlap must be"),
    ({"overlap": {"$ne": 1}}, "overlap must be"),
    ({"next_run_at": "2020-01-01T00:00:00Z"}, "next_run_at is not a date"),
    ({"next_run_at": 1577836800}, "next_run_at is not a date"),
    ({"_id": 7.5}, "neither text, ObjectId, number nor UUID"),
])
def test_wrong_schedules(app: Celery, start: Callable[..., Worker], database: Database,
                         fields: dict[str, Any], error: str) -> None:
    """Each says what is wrong, and the others go on."""
    start()
    name = fields.pop("_id", "bad")
    put_schedule(database, name, **{"interval_seconds": None, **fields})
    put_schedule(database)
    for started in (1, 0):
        done = run(app)
        assert (done["started"], done["invalid"]) == (started, 1)
    assert error in database.scan_schedules.find_one({"_id": name})["error"]
    database.scan_schedules.delete_one({"_id": name})
    put_schedule(database, "good", cron="0 0 * * *", interval_seconds=None, error="old")
    assert run(app)["started"] == 1
    assert database.scan_schedules.find_one({"_id": "good"})["error"] is None


@pytest.mark.parametrize("overlap, answer, old", [
    ("SKIP", {"skipped": 1, "started": 0}, "RUNNING"),
    ("QUEUE", {"waiting": 1, "started": 0}, "RUNNING"),
    ("ALLOW", {"started": 1}, "RUNNING"),
    ("cancel_previous", {"started": 1}, "CANCELLED"),
])
def test_overlap(app: Celery, start: Callable[..., Worker], database: Database, overlap: str,
                 answer: dict[str, int], old: str) -> None:
    start()
    due = put_schedule(database, overlap=overlap)
    put_run(database, "run-1")
    assert run(app).items() >= answer.items()
    assert database.scan_runs.find_one({"_id": "run-1"})["status"] == old
    assert (database.scan_schedules.find_one()["next_run_at"] == due) == (overlap == "QUEUE")


@pytest.mark.parametrize("overlap", ["SKIP", "CANCEL_PREVIOUS"])
def test_killed_after_the_run_was_made(app: Celery, start: Callable[..., Worker], database: Database,
                                       overlap: str) -> None:
    """The next runner takes the run that is there: not skipped, not cancelled as a former one."""
    start()
    due = put_schedule(database, overlap=overlap)
    name = f"s1@{int(due.replace(tzinfo=timezone.utc).timestamp())}"
    put_run(database, name, status="PENDING", due_at=due, sent_at=now())
    assert run(app)["started"] == 1
    wait_until(lambda: database.scan_runs.find_one()["status"] == "RUNNING", what="the scan's start")
    assert database.scan_runs.count_documents({}) == 1


def test_killed_before_its_messages_left(app: Celery, start: Callable[..., Worker],
                                         database: Database) -> None:
    """The same delivery, come back, sends what it was to send; others leave it ten minutes."""
    start()
    due = put_schedule(database)
    put_run(database, "s1@1", status="PENDING", due_at=due, sent_at=now(), sent_by="killed")
    database.scan_schedules.update_one({}, {"$set": {"next_run_at": now() + timedelta(hours=1)}})
    assert run(app)["sent_again"] == 0
    assert run(app, task_id="killed")["sent_again"] == 1
    wait_until(lambda: database.scan_runs.find_one()["status"] == "RUNNING", what="the scan's start")


def test_killed_after_it_took_a_run_over(app: Celery, start: Callable[..., Worker],
                                         database: Database) -> None:
    """Who moved the schedule sends the run, also one that another runner had made."""
    start()
    due = put_schedule(database, last_run_id="s1@1", last_run_by="killed")
    put_run(database, "s1@1", status="PENDING", due_at=due, sent_at=now(), sent_by="another")
    database.scan_schedules.update_one({}, {"$set": {"next_run_at": now() + timedelta(hours=1)}})
    assert run(app)["sent_again"] == 0
    assert run(app, task_id="killed")["sent_again"] == 1
    wait_until(lambda: database.scan_runs.find_one()["status"] == "RUNNING", what="the scan's start")


def test_lost_message_is_sent_again(app: Celery, start: Callable[..., Worker],
                                    database: Database) -> None:
    start()
    put_run(database, "run-1", status="PENDING", sent_at=datetime(2020, 1, 1))
    assert run(app)["sent_again"] == 1
    assert run(app)["sent_again"] == 0
    wait_until(lambda: database.scan_runs.find_one()["status"] == "RUNNING", what="the scan's start")


def test_disabled_schedule(app: Celery, start: Callable[..., Worker], database: Database) -> None:
    start()
    put_schedule(database, enabled=False)
    put_schedule(database, "s2", enabled=False, next_run_at=None, cron="* * * * *")
    assert run(app)["started"] == 0
    assert database.scan_schedules.find_one({"_id": "s2"})["next_run_at"] is None


def test_many_runners_and_kills(app: Celery, start: Callable[..., Worker], database: Database) -> None:
    """Two workers at once, one of them killed: each schedule ran once, each run was sent."""
    for number in range(40):
        put_schedule(database, f"s{number}", overlap=["SKIP", "ALLOW", "CANCEL_PREVIOUS"][number % 3])
    first, second = start(concurrency=3), start(concurrency=3)
    results = [app.send_task("scans.run_scheduled_scans", queue="scans") for _ in range(6)]
    wait_until(lambda: database.scan_runs.count_documents({}) > 3, what="the first runs")
    for child in descendants(first.pid)[-2:]:
        os.kill(child, signal.SIGKILL)
    for result in results:
        get(result)
    done = [get(result) for result in results]
    assert database.scan_runs.count_documents({}) == 40
    assert database.scan_schedules.count_documents({"next_run_at": {"$gt": now()}}) == 40
    assert sum(one["started"] for one in done) <= 40
    wait_until(lambda: database.scan_runs.count_documents({"status": "RUNNING"}) == 40, 60,
               "the start of every scan")
    assert database.scan_runs.count_documents({"status": "CANCELLED"}) == 0
    assert second.process.poll() is None

# SPDX-License-Identifier: Apache-2.0
"""maintenance: retention, SLA breaches and the watchdog; each of them twice."""
from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from bson import ObjectId
from celery import Celery
from pymongo.database import Database

from harness import get, wait_state
from services.process import wait_until

DAY = dt.timedelta(days=1)
HOUR = dt.timedelta(hours=1)


def now() -> dt.datetime:
    return dt.datetime.utcnow().replace(microsecond=0)


@pytest.fixture
def db(app_database: Database) -> Database:
    app_database.vulnerability_occurrences.create_index("dedup_key", unique=True)
    return app_database


@pytest.fixture
def start(cworker: Callable[..., Any], db: Database) -> Callable[..., Any]:
    def worker(queues: str = "maintenance", **options: Any) -> Any:
        return cworker(database=db, queues=queues, **options)
    return worker


def run(app: Celery, name: str, **options: Any) -> Any:
    return get(app.send_task(f"maintenance.{name}", queue="maintenance", **options))


# --- retention ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("action", ["delete", "archive"])
def test_retention(app: Celery, start: Callable[..., Any], db: Database, action: str) -> None:
    start()
    old, new = now() - 40 * DAY, now() - 5 * DAY
    db.scan_findings.insert_many([{"_id": i, "seen_at": old, "n": i} for i in range(1200)] +
                                 [{"_id": "new", "seen_at": new}, {"_id": "none"},
                                  {"_id": "text", "seen_at": "2020-01-01"}])
    if action == "archive":  # as a kill between copying and removing leaves it
        db.scan_findings_archive.insert_one({"_id": 7, "seen_at": old, "n": 7})
    db.retention_policies.insert_one({"_id": "p", "collection": "scan_findings",
                                      "field": "seen_at", "days": 30, "action": action})
    assert run(app, "run_retention_cycle") == {"policies": 1, "failed": 0, "removed": 1200}
    assert sorted(str(row["_id"]) for row in db.scan_findings.find()) == ["new", "none", "text"]
    archived = list(db.scan_findings_archive.find())
    assert len(archived) == (1200 if action == "archive" else 0)
    assert all(row["n"] == row["_id"] for row in archived)
    audit, = db.audit_logs.find()
    assert audit["archived" if action == "archive" else "deleted"] == 1200
    assert (audit["collection"], audit["policy_id"]) == ("scan_findings", "p")
    assert run(app, "run_retention_cycle") == {"policies": 1, "failed": 0, "removed": 0}


def test_retention_of_one_team(app: Celery, start: Callable[..., Any], db: Database) -> None:
    start()
    db.notifications.insert_many([{"team_id": team, "created_at": now() - 9 * DAY}
                                  for team in ("t1", "t2")])
    db.retention_policies.insert_one({"collection": "notifications", "field": "created_at",
                                      "days": 7, "team_id": "t1"})
    assert run(app, "run_retention_cycle")["removed"] == 1
    assert [row["team_id"] for row in db.notifications.find()] == ["t2"]


@pytest.mark.parametrize("team", [None, "5f0000000000000000000001"])
def test_retention_teams(app: Celery, start: Callable[..., Any], db: Database,
                         team: str | None) -> None:
    """null is every team; an id is found as text and as ObjectId."""
    start(env={"TZ": "Pacific/Auckland"})
    ours = [ObjectId("5f0000000000000000000001"), "5f0000000000000000000001"]
    db.notifications.insert_many([{"team_id": t, "created_at": now() - dt.timedelta(hours=h)}
                                  for t in [*ours, "t2", None] for h in (23, 25)])
    db.retention_policies.insert_one({"collection": "notifications", "field": "created_at",
                                      "days": 1, "team_id": team})
    assert run(app, "run_retention_cycle")["removed"] == (2 if team else 4)
    assert db.notifications.count_documents({"team_id": {"$in": ours}}) == 2
    assert db.notifications.count_documents({"team_id": "t2"}) == (2 if team else 1)


def test_archived_copies_are_the_last_state(app: Celery, start: Callable[..., Any],
                                            db: Database) -> None:
    """A copy made before a kill, of a document that was touched afterwards and is old again."""
    start()
    db.scan_findings_archive.insert_one({"_id": 1, "seen_at": now() - 90 * DAY, "severity": "LOW"})
    db.scan_findings.insert_many([{"_id": 1, "seen_at": now() - 40 * DAY, "severity": "HIGH"}] +
                                 [{"_id": f"big{i}", "seen_at": now() - 40 * DAY, "x": "x" * 3000000}
                                  for i in range(12)])
    db.retention_policies.insert_one({"collection": "scan_findings", "field": "seen_at", "days": 30,
                                      "action": "archive"})
    assert run(app, "run_retention_cycle")["removed"] == 13
    assert db.scan_findings_archive.find_one({"_id": 1})["severity"] == "HIGH"
    assert db.scan_findings_archive.count_documents({}) == 13


def test_retention_survives_a_kill(app: Celery, start: Callable[..., Any], db: Database) -> None:
    count = 4000
    db.scan_findings.insert_many([{"_id": i, "seen_at": now() - 40 * DAY} for i in range(count)] +
                                 [{"_id": "new", "seen_at": now()}])
    db.retention_policies.insert_one({"_id": "p", "collection": "scan_findings",
                                      "field": "seen_at", "days": 30, "action": "archive"})
    first = start(name="same@test")
    task = app.send_task("maintenance.run_retention_cycle", queue="maintenance")
    wait_until(lambda: db.scan_findings_archive.count_documents({}) > 0)
    first.kill()
    start(name="same@test")
    assert get(task)["failed"] == 0
    assert [row["_id"] for row in db.scan_findings.find()] == ["new"]
    assert {row["_id"] for row in db.scan_findings_archive.find()} == set(range(count))
    audit, = db.audit_logs.find()
    assert count - 1000 <= audit["archived"] <= count


@pytest.mark.parametrize(("policy", "error"), [
    ({"team_id": 7.5}, "team_id"),
    ({"team_id": {"$ne": "x"}}, "team_id"),
    ({"days": True}, "days"),
    ({"days": 1e30}, "days"),
    ({"days": -5}, "days"),
    ({"collection": ["scan_findings"]}, "PermissionError"),
    ({"collection": "scan_findings_archive"}, "PermissionError"),
    ({"field": "a" * 100000}, "field"),
    ({"collection": "integration_credentials"}, "PermissionError"),
    ({"collection": "retention_policies"}, "PermissionError"),
    ({"collection": "system.users"}, "PermissionError"),
    ({"collection": None}, "PermissionError"),
    ({"days": 0}, "days"),
    ({"days": "x"}, "days"),
    ({"field": "$where"}, "field"),
    ({"field": "_id"}, "field"),
    ({"action": "drop"}, "action"),
    ({"enabled": "false"}, "enabled"),
    ({"enabled": 0}, "enabled"),
])
def test_bad_policies_do_not_stop_the_others(app: Celery, start: Callable[..., Any], db: Database,
                                             policy: dict[str, Any], error: str) -> None:
    start()
    for name in ("scan_findings", "integration_credentials", "retention_policies"):
        db[name].insert_one({"_id": "keep", "seen_at": now() - 99 * DAY, "enabled": False})
    db.notifications.insert_one({"seen_at": now() - 99 * DAY})
    db.retention_policies.insert_many([
        {"_id": "bad", "collection": "scan_findings", "field": "seen_at", "days": 1, **policy},
        {"_id": "good", "collection": "notifications", "field": "seen_at", "days": 1}])
    assert run(app, "run_retention_cycle") == {"policies": 2, "failed": 1, "removed": 1}
    assert error in db.audit_logs.find_one({"policy_id": "bad"})["error"]
    assert db.scan_findings.count_documents({}) == 1
    assert db.integration_credentials.count_documents({}) == 1


def test_documents_that_the_store_refuses_do_not_stop_the_others(
        app: Celery, start: Callable[..., Any], db: Database) -> None:
    start()
    db.scan_findings_archive.create_index("n", unique=True)
    db.scan_findings.insert_many([{"seen_at": now() - 9 * DAY, "n": 1} for _ in range(2)])
    db.notifications.insert_one({"seen_at": now() - 9 * DAY, "": {"$x": 1, "a.b": 2}})
    db.retention_policies.insert_many([
        {"_id": name, "collection": name, "field": "seen_at", "days": 1, "action": "archive"}
        for name in ("scan_findings", "notifications")])
    assert run(app, "run_retention_cycle") == {"policies": 2, "failed": 1, "removed": 1}
    assert "scan_findings_archive" in db.audit_logs.find_one({"policy_id": "scan_findings"})["error"]
    assert db.scan_findings.count_documents({}) == 2
    assert db.notifications_archive.find_one()[""] == {"$x": 1, "a.b": 2}


def test_the_operator_lists_collections(app: Celery, start: Callable[..., Any],
                                        db: Database) -> None:
    start(env={"CWORKER_RETENTION_COLLECTIONS": "mine, other"})
    db.other.insert_one({"at": now() - 2 * DAY})
    db.retention_policies.insert_one({"collection": "other", "field": "at", "days": 1})
    assert run(app, "run_retention_cycle")["removed"] == 1


# --- SLA ---------------------------------------------------------------------------------------------

def occurrence(key: str, severity: str, age: float, **fields: Any) -> dict[str, Any]:
    return {"dedup_key": key, "team_id": "t1", "severity": severity, "status": "OPEN",
            "opened_at": now() - age * DAY, "asset_id": "a", "vulnerability_id": "v", **fields}


def test_sla(app: Celery, start: Callable[..., Any], db: Database) -> None:
    start()
    db.vulnerability_occurrences.insert_many([
        occurrence("late", "CRITICAL", 8), occurrence("soon", "CRITICAL", 6),
        occurrence("early", "CRITICAL", 1), occurrence("done", "CRITICAL", 99, status="RESOLVED"),
        occurrence("high", "HIGH", 29), occurrence("info", "INFO", 999),
        occurrence("other", "HIGH", 4, team_id="t2")])
    db.sla_policies.insert_one({"team_id": "t2", "days": {"HIGH": 3, "LOW": 0}, "warn_days": 0})
    assert run(app, "check_sla_breaches_all_teams") == {"teams": 2, "breaches": 2, "warnings": 2}
    assert {row["dedup_key"] for row in db.sla_breaches.find()} == {"late", "other"}
    told = {(row["type"], row["dedup_key"]) for row in db.notifications.find()}
    assert told == {("sla_breach", "late"), ("sla_breach", "other"), ("sla_warning", "soon"),
                    ("sla_warning", "high")}
    late = db.vulnerability_occurrences.find_one({"dedup_key": "late"})
    assert late["sla_breached_at"]
    assert db.sla_breaches.find_one({"dedup_key": "late"})["due_at"] == late["opened_at"] + 7 * DAY
    again = {"teams": 2, "breaches": 0, "warnings": 0}
    assert run(app, "check_sla_breaches_all_teams") == again
    # A kill before the mark: the record is there, and nobody is told twice.
    db.vulnerability_occurrences.update_one({"dedup_key": "late"},
                                            {"$unset": {"sla_breached_at": ""}})
    db.notifications.update_many({}, {"$set": {"read": True}})
    assert run(app, "check_sla_breaches_all_teams")["breaches"] == 1
    assert db.notifications.count_documents({}) == db.notifications.count_documents({"read": True})
    assert db.sla_breaches.count_documents({}) == 2
    # Opened again, and late again: that is another breach.
    db.vulnerability_occurrences.update_one({"dedup_key": "late"}, {
        "$unset": {"sla_breached_at": ""}, "$set": {"opened_at": now() - 7.5 * DAY}})
    assert run(app, "check_sla_breaches_all_teams")["breaches"] == 1
    assert db.sla_breaches.count_documents({}) == 3


def late(db: Database, count: int) -> None:
    db.vulnerability_occurrences.insert_many([occurrence(f"k{i}", "CRITICAL", 8)
                                              for i in range(count)])


def told_once(db: Database, count: int) -> None:
    assert db.sla_breaches.count_documents({}) == count
    assert db.notifications.count_documents({}) == count
    assert len(db.notifications.distinct("dedup_key")) == count
    assert db.vulnerability_occurrences.count_documents({"sla_breached_at": None}) == 0


def test_sla_by_two_workers_at_once(app: Celery, start: Callable[..., Any], db: Database) -> None:
    late(db, 1500)
    tasks = [app.send_task("maintenance.check_sla_breaches_all_teams", queue="maintenance")
             for _ in range(4)]
    for name in ("one@test", "two@test"):
        start(name=name)
    assert sum(get(task)["breaches"] for task in tasks) == 1500
    told_once(db, 1500)


def test_sla_survives_a_kill(app: Celery, start: Callable[..., Any], db: Database) -> None:
    late(db, 3000)
    first = start(name="same@test")
    task = app.send_task("maintenance.check_sla_breaches_all_teams", queue="maintenance")
    wait_until(lambda: db.sla_breaches.count_documents({}) > 0)
    first.kill()
    start(name="same@test")
    get(task)
    told_once(db, 3000)


def test_sla_of_odd_documents(app: Celery, start: Callable[..., Any], db: Database) -> None:
    start()
    team = ObjectId()
    db.vulnerability_occurrences.insert_many([
        occurrence("good", "CRITICAL", 8, team_id=team, title="x" * 1000000),
        {**occurrence("text", "CRITICAL", 8), "opened_at": "2020-01-01T00:00:00Z"},
        {**occurrence("null", "CRITICAL", 8), "opened_at": None},
        {**occurrence("number", "CRITICAL", 8), "opened_at": 1577836800},
        occurrence("list", "CRITICAL", 8, team_id=None),
        {**occurrence("severity", "CRITICAL", 8), "severity": ["CRITICAL", 7], "team_id": 5},
        {"dedup_key": "bare"}])
    db.sla_policies.insert_many([{"team_id": "t1", "days": "soon", "warn_days": None},
                                 {"team_id": 5, "days": {"CRITICAL": "x", "HIGH": -3}}])
    assert run(app, "check_sla_breaches_all_teams")["breaches"] >= 1
    breach = db.sla_breaches.find_one({"dedup_key": "good"})
    assert breach["team_id"] == team
    assert run(app, "check_sla_breaches_all_teams")["breaches"] == 0


def test_sla_of_severities_in_any_case(app: Celery, start: Callable[..., Any], db: Database) -> None:
    start()
    db.vulnerability_occurrences.insert_many(
        [occurrence(name, name, 8) for name in ("CRITICAL", "Critical", "critical")] +
        [occurrence("own", "High", 4, team_id="t2")])
    db.sla_policies.insert_one({"team_id": "t2", "days": {"high": 3}})
    for breaches in (4, 0):
        assert run(app, "check_sla_breaches_all_teams")["breaches"] == breaches
    assert set(db.notifications.distinct("severity")) == {"CRITICAL", "HIGH"}


def test_sla_policy_by_either_form_of_an_id(app: Celery, start: Callable[..., Any],
                                            db: Database) -> None:
    start()
    team, other = ObjectId(), ObjectId()
    db.vulnerability_occurrences.insert_many([occurrence("a", "HIGH", 4, team_id=team),
                                              occurrence("b", "HIGH", 4, team_id=str(other))])
    db.sla_policies.insert_many([{"team_id": str(team), "days": {"HIGH": 3}},
                                 {"team_id": other, "days": {"HIGH": 3}}])
    assert run(app, "check_sla_breaches_all_teams")["breaches"] == 2


# --- the watchdog ------------------------------------------------------------------------------------

def test_stuck_runs_fail_and_their_tasks_are_revoked(app: Celery, start: Callable[..., Any],
                                                     db: Database) -> None:
    start()
    start("celery", name="other@test")
    busy = app.send_task("demo.sleep", args=[60])
    db.scan_runs.insert_many([
        {"_id": "stuck", "team_id": "t1", "status": "RUNNING", "started_at": now() - 5 * HOUR},
        {"_id": "fresh", "team_id": "t1", "status": "RUNNING", "started_at": now() - 3 * HOUR},
        {"_id": "ended", "team_id": "t1", "status": "COMPLETED", "started_at": now() - 9 * HOUR}])
    db.native_scans.insert_one({"_id": "n", "team_id": "t1", "status": "RUNNING",
                                "target": "x.example", "task_id": str(uuid.uuid4()),
                                "started_at": now() - 5 * HOUR})
    db.scan_jobs.insert_many([
        {"scan_run_id": "stuck", "kind": "prowler", "key": "a", "status": "RUNNING",
         "task_id": busy.id},
        {"scan_run_id": "stuck", "kind": "prowler", "key": "b", "status": "COMPLETED",
         "task_id": "b"}])
    assert run(app, "run_data_sync_watchdog") == {"failed": 2, "revoked": 2, "sent": 0}
    assert wait_state(busy, "REVOKED")
    states = {row["_id"]: row["status"] for row in db.scan_runs.find()}
    assert states == {"stuck": "FAILED", "fresh": "RUNNING", "ended": "COMPLETED"}
    assert "4 hours" in db.scan_runs.find_one({"_id": "stuck"})["error"]
    mirrors = {row["scan_id"]: (row["status"], row["scan_type"])
               for row in db.unified_scan_results.find()}
    assert mirrors == {"stuck": ("FAILED", "cloud"), "n": ("FAILED", "native")}
    job = db.scan_jobs.find_one({"key": "a"})
    assert (job["status"], job["errors"]) == ("FAILED", ["the run was stuck"]) and job["finished_at"]
    assert db.scan_jobs.find_one({"key": "b"})["status"] == "COMPLETED"
    assert run(app, "run_data_sync_watchdog") == {"failed": 0, "revoked": 0, "sent": 0}


@pytest.mark.parametrize(("times", "stuck"), [
    ({"started_at": (now() - 5 * HOUR).isoformat() + "Z"}, True),
    ({"started_at": (now() - 3 * HOUR).isoformat()}, False),
    ({"started_at": int((dt.datetime.now(dt.timezone.utc) - 5 * HOUR).timestamp())}, True),
    ({"started_at": (dt.datetime.now(dt.timezone.utc) - 5 * HOUR).timestamp() * 1000}, True),
    ({"created_at": now() - 5 * HOUR}, True),
    ({"started_at": None, "created_at": now() - 5 * HOUR}, True),
    ({"started_at": now() - HOUR, "created_at": now() - 5 * HOUR}, False),
    ({"started_at": "yesterday"}, False),
    ({"started_at": {"x": 1}}, False),
    ({}, False),
])
def test_when_a_run_began(app: Celery, start: Callable[..., Any], db: Database,
                          times: dict[str, Any], stuck: bool) -> None:
    start(env={"TZ": "America/New_York"})
    db.scan_runs.insert_one({"_id": "r", "team_id": "t1", "status": "RUNNING", **times})
    assert run(app, "run_data_sync_watchdog")["failed"] == stuck
    assert db.scan_runs.find_one()["status"] == ("FAILED" if stuck else "RUNNING")


def test_many_tasks_of_one_run_are_revoked(app: Celery, start: Callable[..., Any],
                                           db: Database) -> None:
    start()
    db.scan_runs.insert_one({"_id": "r", "team_id": "t1", "status": "RUNNING",
                             "started_at": now() - 5 * HOUR, "task_ids": ["a", 7, None, "b"]})
    db.scan_jobs.insert_many([{"scan_run_id": "r", "kind": "prowler", "key": str(i),
                               "status": "RUNNING", "task_id": f"task-{i}"} for i in range(1200)])
    assert run(app, "run_data_sync_watchdog")["revoked"] == 1202
    assert db.scan_jobs.count_documents({"status": "FAILED"}) == 1200


def test_a_redelivered_watchdog_revokes_again(app: Celery, start: Callable[..., Any],
                                              db: Database) -> None:
    """As a kill after the compare-and-set leaves it: FAILED by this task, nothing revoked yet."""
    start()
    task_id = str(uuid.uuid4())
    db.scan_runs.insert_one({"_id": "stuck", "team_id": "t1", "status": "FAILED",
                             "failed_by": task_id, "task_id": "its-task"})
    assert run(app, "run_data_sync_watchdog", task_id=task_id)["revoked"] == 1
    assert db.unified_scan_results.find_one({"scan_id": "stuck"})["status"] == "FAILED"


def test_lagging_stores_are_made_to_agree_once(app: Celery, start: Callable[..., Any],
                                               db: Database, keys: Any) -> None:
    start()
    seen = now() - HOUR
    db.cspm_findings.insert_one({"team_id": "t1", "uid": "1", "check_id": "c", "status": "FAIL",
                                 "resource_id": "r", "severity": "HIGH", "last_seen": seen})
    assert run(app, "run_data_sync_watchdog")["sent"] == 2
    wait_until(lambda: keys.llen("sync") == 1 and keys.llen("compliance") == 1)
    assert run(app, "run_data_sync_watchdog")["sent"] == 0
    start("sync,compliance", name="other@test")
    wait_until(lambda: db.vulnerability_occurrences.count_documents({}) == 1)
    wait_until(lambda: db.sync_watermarks.count_documents({}) == 3)
    assert run(app, "run_data_sync_watchdog")["sent"] == 0
    # The times agree, and still the occurrences are gone: a full pass is sent.
    db.vulnerability_occurrences.delete_many({})
    assert run(app, "run_data_sync_watchdog")["sent"] == 1
    wait_until(lambda: db.vulnerability_occurrences.count_documents({}) == 1)


def test_counts_that_disagree_are_made_to_agree(app: Celery, start: Callable[..., Any],
                                                db: Database) -> None:
    start("maintenance,sync,compliance")
    seen = now() - 2 * HOUR
    db.cspm_findings.insert_many([
        {"_id": i, "team_id": "t1", "uid": str(i), "check_id": "c", "status": "FAIL",
         "resource_id": f"r{i}", "severity": "HIGH", "last_seen": seen} for i in range(3)])
    run(app, "run_data_sync_watchdog")
    wait_until(lambda: db.sync_watermarks.count_documents({}) == 3)
    assert run(app, "run_data_sync_watchdog")["sent"] == 0
    db.cspm_findings.delete_one({"_id": 0})  # no time tells of it
    assert run(app, "run_data_sync_watchdog")["sent"] == 1
    wait_until(lambda: db.vulnerability_occurrences.count_documents({"status": "OPEN"}) == 2)
    assert run(app, "run_data_sync_watchdog")["sent"] == 0


def test_findings_that_were_resolved_after_the_sync_are_noticed(
        app: Celery, start: Callable[..., Any], db: Database, keys: Any) -> None:
    start()
    db.cspm_findings.insert_one({"team_id": "t1", "uid": "1", "check_id": "c", "status": "RESOLVED",
                                 "resource_id": "r", "last_seen": now() - 3 * HOUR,
                                 "updated_at": now() - HOUR})
    db.sync_watermarks.insert_one({"team_id": "t1", "source": "cspm", "synced_at": now() - 2 * HOUR})
    db.compliance_posture.insert_one({"team_id": "t1", "refreshed_at": now() - 2 * HOUR})
    assert run(app, "run_data_sync_watchdog")["sent"] == 2
    wait_until(lambda: keys.llen("sync") == 1 and keys.llen("compliance") == 1)


def test_bad_setting(app: Celery, start: Callable[..., Any]) -> None:
    start(env={"CWORKER_STUCK_SCAN_HOURS": "soon"})
    with pytest.raises(ValueError, match="STUCK_SCAN_HOURS"):
        run(app, "run_data_sync_watchdog")

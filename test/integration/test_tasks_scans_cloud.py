# SPDX-License-Identifier: Apache-2.0
"""scans: runs of cloud scans: sent once, mirrored, finalized."""
from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from celery import Celery
from pymongo.database import Database

from harness import Worker, get, wait_state
from scan_rig import database, mirror, put_run, send, testssl, trivy, worker, zap  # noqa: F401


def jobs(database: Database) -> dict[tuple[str, str], str]:
    return {(j["kind"], j["key"]): j["task_id"] for j in database.scan_jobs.find()}


def test_cloud_scan_is_sent_once(app: Celery, worker: Worker, database: Database) -> None:
    run = put_run(database)
    result = send(app, "execute_cloud_scan", run)
    assert get(result) == {"scan_run_id": run, "status": "RUNNING", "jobs": 5}
    sent = jobs(database)
    assert set(sent) == {("discovery", "eu-west-1"), ("discovery", "eu-west-2"),
                         ("discovery", "us-east-1"), ("prowler", "eu-west-1,eu-west-2"),
                         ("prowler", "us-east-1")}
    assert mirror(database, run)["status"] == "RUNNING"
    assert get(send(app, "execute_cloud_scan", run))["jobs"] == 0
    # The same message again, as after a kill before its ack: the same tasks.
    app.backend.forget(result.id)
    database.scan_runs.update_one({}, {"$set": {"claimed_by": result.id}})
    get(send(app, "execute_cloud_scan", run, task_id=result.id))
    assert jobs(database) == sent


def test_cloud_scan_of_repeated_names(app: Celery, worker: Worker, database: Database) -> None:
    run = put_run(database, regions=["eu-west-1", "us-east-1", "eu-west-1"],
                  frameworks=["cis_1.4_aws", "cis_1.4_aws"])
    database.scan_runs.update_one({}, {"$unset": {"status": 1}})  # as good as PENDING
    assert get(send(app, "execute_cloud_scan", run))["jobs"] == 3
    assert set(jobs(database)) == {("discovery", "eu-west-1"), ("discovery", "us-east-1"),
                                   ("prowler", "eu-west-1,us-east-1")}


def test_cloud_scan_that_cannot_be_mirrored(app: Celery, worker: Worker, database: Database) -> None:
    """It does not stay RUNNING, without a task, until the watchdog comes."""
    run = put_run(database)
    database.unified_scan_results.create_index("team_id", unique=True)
    database.unified_scan_results.insert_one({"team_id": database.scan_runs.find_one()["team_id"]})
    wait_state(send(app, "execute_cloud_scan", run), "FAILURE")
    found = database.scan_runs.find_one()
    assert found["status"] == "FAILED" and "unified_scan_results" in found["error"]


@pytest.mark.parametrize("status", ["pending", "", 7])
def test_cloud_scan_of_unknown_status(app: Celery, worker: Worker, database: Database,
                                      status: Any) -> None:
    run = put_run(database, status=status)
    result = send(app, "execute_cloud_scan", run)
    wait_state(result, "FAILURE")
    assert isinstance(result.result, ValueError) and "status" in str(result.result)
    assert database.scan_runs.find_one()["status"] == status


@pytest.mark.parametrize("fields", [{"regions": []}, {"regions": ["--x"]}, {"regions": "all"},
                                    {"regions": ["e" + "\u00e9" * 40]},
                                    {"frameworks": ["-q"]}, {"regions": ["eu-west-1", 7]},
                                    {"frameworks": "cis"}, {"provider": 7}, {"team_id": None},
                                    {"team_id": {"$ne": 1}}, {"cloud_account_id": {"$ne": 1}}])
def test_cloud_scan_refused(app: Celery, worker: Worker, database: Database,
                            fields: dict[str, Any]) -> None:
    run = put_run(database, **fields)
    result = send(app, "execute_cloud_scan", run)
    wait_state(result, "FAILURE")
    assert isinstance(result.result, ValueError)
    assert database.scan_runs.find_one()["status"] == "FAILED"
    assert mirror(database, run)["status"] == "FAILED"
    assert database.scan_jobs.count_documents({}) == 0


@pytest.mark.parametrize("statuses, expected", [
    (["COMPLETED", "COMPLETED"], "COMPLETED"),
    (["COMPLETED", "FAILED"], "PARTIAL"),
    (["PARTIAL", "COMPLETED"], "PARTIAL"),
    (["FAILED", "FAILED"], "FAILED"),
    (["COMPLETED", "LOST"], "PARTIAL"),
])
def test_finalize(app: Celery, worker: Worker, database: Database, statuses: list[str],
                  expected: str) -> None:
    run = put_run(database, status="RUNNING")
    for number, status in enumerate(statuses):
        job = {"scan_run_id": run, "kind": "prowler", "key": str(number), "status": status,
               "summary": {"pass": 2}, "errors": ["why"] if status == "FAILED" else []}
        if status == "LOST":
            job.update(status="RUNNING", deadline_at=datetime(2020, 1, 1))
        database.scan_jobs.insert_one(job)
    for number, severity in enumerate(["CRITICAL", "HIGH", "HIGH"]):
        database.cspm_findings.insert_one({"team_id": "team-1", "uid": str(number),
                                           "scan_run_id": run, "status": "FAIL",
                                           "severity": severity})
    for _ in range(2):
        assert get(send(app, "finalize_cloud_scan", run)) == \
            {"scan_run_id": run, "status": expected, "findings": 3}
        shown = mirror(database, run)
        assert shown["status"] == expected
        assert shown["summary"]["by_severity"]["HIGH"] == 2
        assert bool(shown.get("errors")) == bool({"FAILED", "LOST"} & set(statuses))


def test_finalize_waits_for_jobs(app: Celery, worker: Worker, database: Database) -> None:
    run = put_run(database, status="RUNNING")
    database.scan_jobs.insert_many([
        {"scan_run_id": run, "kind": "prowler", "key": "a", "status": "RUNNING",
         "deadline_at": datetime(2099, 1, 1)},
        # Its next attempt waits behind other tasks: that takes as long as it takes.
        {"scan_run_id": run, "kind": "prowler", "key": "b", "status": "RETRYING",
         "deadline_at": datetime(2020, 1, 1)}])
    result = send(app, "finalize_cloud_scan", run)
    wait_state(result, "RETRY")
    assert "2 sub-jobs" in str(result.result)
    assert database.scan_runs.find_one()["status"] == "RUNNING"
    result.forget()


def test_finalize_without_jobs(app: Celery, worker: Worker, database: Database) -> None:
    """Nothing was scanned, so nothing is COMPLETED; but the task that sends may be at it."""
    run = put_run(database, status="RUNNING", started_at=datetime.utcnow())
    result = send(app, "finalize_cloud_scan", run)
    wait_state(result, "RETRY")
    assert "not sent yet" in str(result.result)
    result.forget()
    database.scan_runs.update_one({}, {"$set": {"started_at": datetime(2020, 1, 1)}})
    assert get(send(app, "finalize_cloud_scan", run))["status"] == "FAILED"
    shown = mirror(database, run)
    assert shown["status"] == "FAILED" and "sent no sub-jobs" in shown["error"]


def test_finalize_leaves_cancelled_runs(app: Celery, worker: Worker, database: Database) -> None:
    run = put_run(database, status="CANCELLED")
    assert get(send(app, "finalize_cloud_scan", run))["status"] == "CANCELLED"
    assert mirror(database, run)["status"] == "CANCELLED"

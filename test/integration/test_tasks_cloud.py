# SPDX-License-Identifier: Apache-2.0
"""A cloud scan end to end: discovery and prowler batches, the chord, its end, and the unhappy twins."""
from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from pymongo.database import Database

from harness import Worker, get, wait_state
from services.process import wait_until
from tools import ASSETS, FakeTool, finding, report


@pytest.fixture
def database(app_database: Database) -> Database:
    app_database.scan_runs.insert_one({
        "_id": "run-1", "team_id": "team-1", "cloud_account_id": "123456789012",
        "provider": "aws", "regions": ["eu-west-1", "us-east-1"], "frameworks": ["cis_1.4_aws"],
        "status": "PENDING"})
    return app_database


@pytest.fixture
def steampipe(tmp_path: Path) -> FakeTool:
    return FakeTool(tmp_path, "steampipe", {"*": {"output": ASSETS}})


@pytest.fixture
def prowler(tmp_path: Path) -> FakeTool:
    return FakeTool(tmp_path, "prowler", {
        "eu-west-1": report(finding("a"), finding("b", "PASS")),
        "us-east-1": report(finding("c", region="us-east-1", severity="High"))})


@pytest.fixture
def start(cworker: Callable[..., Worker], database: Database, steampipe: FakeTool,
          prowler: FakeTool) -> Callable[..., Worker]:
    return lambda **options: cworker(database=database, queues="scans,compliance,discovery", **options,
        env={"CWORKER_PROWLER": str(prowler.path), "CWORKER_STEAMPIPE": str(steampipe.path),
             "CWORKER_REGION_BATCH_SIZE": "1", "CWORKER_REGION_BATCH_DELAY": "0"})


def run_scan(app: Celery, database: Database) -> dict[str, Any]:
    result = app.send_task("scans.execute_cloud_scan", args=("run-1",), queue="scans")
    assert get(result)["jobs"] == 4
    wait_until(lambda: database.scan_runs.find_one()["status"] != "RUNNING", what="the run's end")
    run = database.scan_runs.find_one()
    wait_until(lambda: (database.unified_scan_results.find_one() or {}).get("status") == run["status"],
               what="the mirror")
    return run


def test_happy(app: Celery, start: Callable[[], Worker], database: Database) -> None:
    start()
    run = run_scan(app, database)
    assert run["status"] == "COMPLETED" and run["errors"] == []
    assert run["summary"]["by_severity"]["CRITICAL"] == 1
    assert run["summary"]["by_severity"]["HIGH"] == 1
    assert (run["summary"]["findings"], run["summary"]["pass"]) == (2, 1)
    assert run["summary"]["jobs"] == {"completed": 4, "partial": 0, "failed": 0}
    assert database.assets.count_documents({"team_id": "team-1", "gone": False}) == 2


def test_one_region_fails(app: Celery, start: Callable[[], Worker], database: Database,
                          prowler: FakeTool) -> None:
    prowler.set({"eu-west-1": report(finding("a")), "us-east-1": {"exit": 1, "errors": "AccessDenied"}})
    start()
    run = run_scan(app, database)
    assert run["status"] == "PARTIAL"
    assert any("us-east-1" in error and "AccessDenied" in error for error in run["errors"])
    assert run["summary"]["jobs"] == {"completed": 3, "partial": 0, "failed": 1}


def test_missing_tools(app: Celery, cworker: Callable[..., Worker], database: Database) -> None:
    cworker(database=database, queues="scans,compliance,discovery",
            env={"CWORKER_PROWLER": "/nowhere/prowler", "CWORKER_STEAMPIPE": "/nowhere/steampipe",
                 "CWORKER_REGION_BATCH_SIZE": "1", "CWORKER_REGION_BATCH_DELAY": "0"})
    run = run_scan(app, database)
    assert run["status"] == "FAILED"
    assert any("CWORKER_STEAMPIPE" in error for error in run["errors"])


def test_killed_worker(app: Celery, start: Callable[[], Worker], database: Database,
                       prowler: FakeTool) -> None:
    prowler.set({"*": report(finding("a"), hold=True)})
    worker = start()
    app.send_task("scans.execute_cloud_scan", args=("run-1",), queue="scans")
    pid = wait_until(lambda: prowler.calls, what="the start of prowler")[0]["pid"]
    child = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(child, signal.SIGKILL)
    worker.kill()
    prowler.release()
    start()
    wait_until(lambda: database.scan_runs.find_one()["status"] != "RUNNING", what="the run's end")
    assert database.scan_runs.find_one()["status"] == "COMPLETED"
    assert database.cspm_findings.count_documents({}) == 1


def test_revoked_job(app: Celery, start: Callable[[], Worker], database: Database,
                     prowler: FakeTool) -> None:
    prowler.set({"eu-west-1": report(finding("a")), "us-east-1": report(hold=True)})
    start()
    app.send_task("scans.execute_cloud_scan", args=("run-1",), queue="scans")
    wait_until(lambda: any(c["target"] == "us-east-1" for c in prowler.calls), what="both runs")
    job = database.scan_jobs.find_one({"kind": "prowler", "key": "us-east-1"})
    app.control.revoke(job["task_id"], terminate=True)
    wait_until(lambda: database.scan_runs.find_one()["status"] != "RUNNING", what="the run's end")
    assert database.scan_runs.find_one()["status"] == "PARTIAL"


@pytest.mark.parametrize("killed", [False, True])
def test_two_runs_of_one_account(app: Celery, start: Callable[..., Worker], database: Database,
                                 prowler: FakeTool, killed: bool) -> None:
    """Each tells what it saw, although a finding belongs to the one that saw it last."""
    database.scan_runs.insert_one({**database.scan_runs.find_one(), "_id": "run-2"})
    prowler.set({"eu-west-1": report(finding("a"), finding("b", "PASS"), hold=True),
                 "us-east-1": report(finding("c", region="us-east-1", severity="High"), hold=True)})
    worker = start(concurrency=6)
    for run_id in ("run-1", "run-2"):
        app.send_task("scans.execute_cloud_scan", args=(run_id,), queue="scans")
    wait_until(lambda: len(prowler.calls) == 4, what="four prowlers")
    if killed:
        worker.kill()
        worker = start(concurrency=6)
    prowler.release()
    for run_id in ("run-1", "run-2"):
        wait_until(lambda: (database.unified_scan_results.find_one({"scan_id": run_id}) or {})
                   .get("status") == "COMPLETED", what=f"the end of {run_id}")
        summary = database.scan_runs.find_one({"_id": run_id})["summary"]
        assert (summary["findings"], summary["pass"], summary["resolved"]) == (2, 1, 0), run_id
        assert (summary["by_severity"]["CRITICAL"], summary["by_severity"]["HIGH"]) == (1, 1)
    assert database.cspm_findings.count_documents({"status": "FAIL"}) == 2


@pytest.mark.parametrize("other", [
    {"scan_run_id": "run-2"}, {"status": "RESOLVED", "resolved_by": "run-2"}])
def test_what_another_run_took_over_is_counted(app: Celery, start: Callable[[], Worker],
                                               database: Database, other: dict[str, Any]) -> None:
    """One region's finding was seen again by the other run, or had vanished for it."""
    now = datetime.utcnow()
    database.scan_runs.update_one({}, {"$set": {"status": "RUNNING", "started_at": now}})
    summary = {"fail": 2, "by_severity": {"CRITICAL": 1, "LOW": 1}, "pass": 0}
    database.scan_jobs.insert_one({"scan_run_id": "run-1", "kind": "prowler", "key": "eu-west-1",
                                   "status": "COMPLETED", "summary": summary})
    row = {"team_id": "team-1", "cloud_account_id": "123456789012", "scan_run_id": "run-1",
           "status": "FAIL", "severity": "CRITICAL", "last_seen": now}
    database.cspm_findings.insert_many([row, {**row, "severity": "LOW", **other, "_id": 2}])
    start()
    for _ in range(2):
        get(app.send_task("scans.finalize_cloud_scan", args=("run-1",), queue="scans"))
        told = database.scan_runs.find_one()["summary"]
        assert (told["findings"], told["by_severity"]["LOW"]) == (2, 1)
    assert database.unified_scan_results.find_one()["summary"] == told


@pytest.mark.parametrize("field", ["team_id", "cloud_account_id"])
@pytest.mark.parametrize("odd", [{"$nonsense": 1}, {"": 1}, {"$ne": None}, ["x"]])
def test_a_run_of_nobody_ends(app: Celery, start: Callable[[], Worker], database: Database,
                              field: str, odd: Any) -> None:
    database.scan_runs.update_one({}, {"$set": {"status": "RUNNING", "started_at": datetime.utcnow()}})
    database.scan_runs.insert_one({**database.scan_runs.find_one_and_delete({}), field: odd})
    database.scan_jobs.insert_one({"scan_run_id": "run-1", "kind": "prowler", "key": "eu-west-1",
                                   "status": "FAILED", "errors": ["no id"]})
    start()
    done = get(app.send_task("scans.finalize_cloud_scan", args=("run-1",), queue="scans"))
    assert (done["status"], done["findings"]) == ("FAILED", 0)


def test_a_finding_that_two_regions_report_counts_once(app: Celery, start: Callable[[], Worker],
                                                       database: Database, prowler: FakeTool) -> None:
    """Also after another run of the account, which has ended."""
    database.scan_runs.insert_one({**database.scan_runs.find_one(), "_id": "run-0"})
    prowler.set({"*": report(finding("global"))})
    start()
    for run_id in ("run-0", "run-1"):
        app.send_task("scans.execute_cloud_scan", args=(run_id,), queue="scans")
        wait_until(lambda: (database.unified_scan_results.find_one({"scan_id": run_id}) or {})
                   .get("status") == "COMPLETED", what=f"the end of {run_id}")
        assert database.scan_runs.find_one({"_id": run_id})["summary"]["findings"] == 1


# --- discovery by itself ---

def discover(app: Celery, region: str = "eu-west-1") -> Any:
    return app.send_task("discovery.execute_steampipe_discovery", args=("run-1", region),
                         queue="discovery")


def test_assets_go(app: Celery, start: Callable[[], Worker], database: Database,
                   steampipe: FakeTool) -> None:
    start()
    for _ in range(2):
        assert get(discover(app))["gone"] == 0
        assert database.assets.count_documents({}) == 2
    steampipe.set({"*": {"output": '[{"resource_id": "arn:1"}]'}})
    assert get(discover(app))["gone"] == 1
    assert database.assets.find_one({"resource_id": "arn:2"})["gone"] is True
    steampipe.set({"*": {"output": '{"rows": null}', "exit": 0}})
    database.assets.update_many({}, {"$set": {"last_seen": datetime(2020, 1, 1)}})
    assert get(discover(app))["gone"] == 1


@pytest.mark.parametrize("step, error", [
    ({"exit": 41, "errors": "query failed"}, "RuntimeError"),
    ({"output": '{"rows": [{"resource'}, "ValueError"),
    ({"output": '{"rows": [{"name": "x"}]}'}, "ValueError"),
    ({"output": "Error: no such table"}, "ValueError"),
])
def test_discovery_failures(app: Celery, start: Callable[[], Worker], database: Database,
                            steampipe: FakeTool, step: dict[str, Any], error: str) -> None:
    database.assets.insert_one({"team_id": "team-1", "provider": "aws", "resource_id": "old",
                                "source": "steampipe", "cloud_account_id": "123456789012",
                                "region": "eu-west-1", "last_seen": datetime(2020, 1, 1)})
    steampipe.set({"*": step})
    start()
    result = discover(app)
    wait_state(result, "FAILURE")
    assert type(result.result).__name__ == error
    assert "gone" not in database.assets.find_one({"resource_id": "old"})


def test_hostile_region(app: Celery, start: Callable[[], Worker], steampipe: FakeTool) -> None:
    start()
    for region in ("' or 1=1 --", "--x", "eu-west-1'"):
        result = discover(app, region)
        wait_state(result, "FAILURE")
        assert isinstance(result.result, TypeError)
    assert steampipe.calls == []

# SPDX-License-Identifier: Apache-2.0
"""From a producer's execute_cloud_scan to occurrences, posture, snapshot and SLA; then what may go wrong."""
from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from pymongo.database import Database

from harness import Worker, get, inflight, is_alive, wait_state
from services.process import wait_until
from tools import ASSETS, FakeTool, finding, report, sample

pytestmark = pytest.mark.usefixtures("one_day")
QUIET = {"failed": 0, "revoked": 0, "sent": 0}
RECORDED = {"write": sample("prowler/findings.ocsf.json"), "exit": 3}
DAY = dt.timedelta(days=1)


@pytest.fixture
def database(indexed_database: Database) -> Database:
    return indexed_database


@pytest.fixture
def steampipe(tmp_path: Path) -> FakeTool:
    return FakeTool(tmp_path, "steampipe", {"*": {"output": ASSETS}})


@pytest.fixture
def prowler(tmp_path: Path) -> FakeTool:
    """What prowler really wrote of one region, and a finding of another."""
    return FakeTool(tmp_path, "prowler", {
        "eu-west-1": RECORDED,
        "us-east-1": report(finding("logs", region="us-east-1", severity="High"))})


@pytest.fixture
def start(cworker: Callable[..., Worker], database: Database, steampipe: FakeTool,
          prowler: FakeTool) -> Callable[[], Worker]:
    return lambda: cworker(database=database, name="posture@test",
        queues="scans,discovery,compliance,sync,maintenance",
        env={"CWORKER_PROWLER": str(prowler.path), "CWORKER_STEAMPIPE": str(steampipe.path)})


def run(app: Celery, name: str, *args: Any) -> Any:
    return get(app.send_task(name, args=args, queue=name.partition(".")[0]))


def watchdog(app: Celery) -> Any:
    return run(app, "maintenance.run_data_sync_watchdog")


def send_scan(app: Celery, database: Database, run_id: str) -> None:
    database.scan_runs.insert_one({
        "_id": run_id, "team_id": "team-1", "cloud_account_id": "123456789012",
        "provider": "aws", "regions": ["eu-west-1", "us-east-1"], "frameworks": ["cis_1.4_aws"],
        "status": "PENDING"})
    assert run(app, "scans.execute_cloud_scan", run_id)["jobs"] == 3


def wait_end(database: Database, run_id: str) -> dict[str, Any]:
    """The run, when it has ended and its mirror tells the same."""
    def ended() -> Any:
        found = database.scan_runs.find_one({"_id": run_id})
        mirror = database.unified_scan_results.find_one({"scan_id": run_id})
        return found if found["status"] not in ("PENDING", "RUNNING") and \
            mirror and mirror["status"] == found["status"] else None
    return wait_until(ended, what=f"the end of {run_id}")


def follow_up(app: Celery, database: Database) -> None:
    """What the schedule sends after scans."""
    before = dt.datetime.utcnow()
    before = before.replace(microsecond=before.microsecond // 1000 * 1000)  # as the store keeps it
    assert run(app, "sync.sync_all_teams_vulnerabilities") == {"teams": 1}
    wait_until(lambda: database.sync_watermarks.count_documents({"synced_at": {"$gte": before}}) == 3,
               what="the sync of three sources")
    assert run(app, "compliance.run_compliance_refresh")["teams"] == 1
    assert run(app, "compliance.snapshot_all_teams")["teams"] == 1
    wait_until(lambda: database.compliance_snapshots.count_documents({}) == 1, what="the snapshot")


def picture(database: Database) -> dict[str, Any]:
    """All that the tasks leave behind, less its times and ids."""
    rows = database.vulnerability_occurrences.find({}, {"_id": 0})
    postures = database.compliance_posture.find({}, {"_id": 0, "refreshed_at": 0})
    return {
        "runs": [(r["status"], r["errors"], r["summary"]) for r in database.scan_runs.find()],
        "jobs": sorted((j["kind"], j["key"], j["status"]) for j in database.scan_jobs.find()),
        "assets": sorted((a["resource_id"], a["gone"]) for a in database.assets.find()),
        "findings": sorted((f["uid"], f["status"]) for f in database.cspm_findings.find()),
        "occurrences": sorted((o["dedup_key"], o["status"], o["severity"]) for o in rows),
        "postures": sorted(json.dumps(p, sort_keys=True) for p in postures),
        "snapshots": [(s["day"], s["score"], s["open_findings"])
                      for s in database.compliance_snapshots.find()],
    }


def occurrences(database: Database) -> dict[str, str]:
    return {o["asset_id"]: o["status"] for o in database.vulnerability_occurrences.find()}


def test_the_whole_way(app: Celery, start: Callable[[], Worker], database: Database,
                       prowler: FakeTool) -> None:
    start()
    send_scan(app, database, "run-1")
    ended = wait_end(database, "run-1")
    assert (ended["status"], ended["errors"]) == ("COMPLETED", [])
    assert (ended["summary"]["findings"], ended["summary"]["pass"]) == (2, 1)
    follow_up(app, database)
    assert occurrences(database) == {"arn:aws:s3:::public-data": "OPEN", "arn:aws:s3:::logs": "OPEN"}
    posture = database.compliance_posture.find_one({"framework": "NIST-CSF-1.1"})
    controls = {c["control"]: c["status"] for c in posture["controls"]}
    assert (controls["ae_1"], controls["ip_8"]) == ("PASS", "FAIL")
    snapshot = database.compliance_snapshots.find_one()
    assert snapshot["open_findings"]["CRITICAL"] == snapshot["open_findings"]["HIGH"] == 1
    sla = "maintenance.check_sla_breaches_all_teams"
    assert run(app, sla) == {"teams": 1, "breaches": 0, "warnings": 0}
    assert watchdog(app) == QUIET

    # All of it once more changes nothing, and neither does the first message.
    seen = picture(database)
    assert run(app, "scans.execute_cloud_scan", "run-1")["jobs"] == 0
    follow_up(app, database)
    assert picture(database) == seen and len(prowler.calls) == 2
    assert watchdog(app) == QUIET

    # Eight days on, the critical one is late, and everybody is told once.
    database.vulnerability_occurrences.update_many({}, {"$set": {
        "opened_at": dt.datetime.utcnow() - 8 * DAY}})
    assert run(app, sla)["breaches"] == 1
    assert run(app, sla)["breaches"] == 0
    assert [n["asset_id"] for n in database.notifications.find()] == ["arn:aws:s3:::public-data"]

    # The bucket is closed: the next scan, sync and refresh tell so.
    prowler.set({"*": report(finding("logs", region="us-east-1", severity="High"))})
    send_scan(app, database, "run-2")
    assert wait_end(database, "run-2")["summary"]["resolved"] == 2
    follow_up(app, database)
    assert occurrences(database) == {"arn:aws:s3:::public-data": "RESOLVED",
                                     "arn:aws:s3:::logs": "OPEN"}
    assert watchdog(app) == QUIET


def test_one_region_fails(app: Celery, start: Callable[[], Worker], database: Database,
                          prowler: FakeTool) -> None:
    """PARTIAL, and what the region had shown before is not taken for mended."""
    start()
    send_scan(app, database, "run-1")
    assert wait_end(database, "run-1")["status"] == "COMPLETED"
    follow_up(app, database)
    prowler.set({"eu-west-1": report(finding("new")),
                 "us-east-1": {"exit": 1, "errors": "AccessDenied"}})
    send_scan(app, database, "run-2")
    ended = wait_end(database, "run-2")
    assert ended["status"] == "PARTIAL"
    assert [e for e in ended["errors"] if "us-east-1" in e and "AccessDenied" in e] == ended["errors"]
    assert ended["summary"]["jobs"] == {"completed": 2, "partial": 1, "failed": 0}
    follow_up(app, database)
    assert occurrences(database) == {"arn:aws:s3:::public-data": "RESOLVED",
                                     "arn:aws:s3:::logs": "OPEN", "arn:aws:s3:::new": "OPEN"}
    assert watchdog(app) == QUIET


def test_a_stuck_scan(app: Celery, start: Callable[[], Worker], database: Database,
                      prowler: FakeTool, keys: Any) -> None:
    prowler.set({"*": report(finding("a"), hold=True)})
    start()
    send_scan(app, database, "run-1")
    tool = wait_until(lambda: prowler.calls, what="the start of prowler")[0]["pid"]
    done = {"kind": "discovery", "status": "COMPLETED"}
    wait_until(lambda: database.scan_jobs.count_documents(done) == 2, what="both discoveries")
    assert watchdog(app) == QUIET
    database.scan_runs.update_one({}, {"$set": {"started_at": dt.datetime.utcnow() - DAY / 4}})
    assert watchdog(app) == {"failed": 1, "revoked": 1, "sent": 0}
    assert wait_end(database, "run-1")["status"] == "FAILED"
    job = database.scan_jobs.find_one({"kind": "prowler"})
    assert wait_state(app.AsyncResult(job["task_id"]), "REVOKED")
    wait_until(lambda: not is_alive(tool), what="the end of prowler")
    wait_until(lambda: not inflight(keys), what="the end of all tasks")
    stuck = database.scan_runs.find_one()
    assert (stuck["status"], job["status"]) == ("FAILED", "FAILED") and "4 hours" in stuck["error"]
    assert watchdog(app) == QUIET
    # The account can be scanned again.
    prowler.release()
    send_scan(app, database, "run-2")
    assert wait_end(database, "run-2")["status"] == "COMPLETED"


@pytest.mark.parametrize("stage", ["steampipe", "prowler"])
def test_a_killed_worker(app: Celery, start: Callable[[], Worker], database: Database,
                         prowler: FakeTool, steampipe: FakeTool, stage: str) -> None:
    """kill -9 while a tool works: everything ends as it does without."""
    tool = {"prowler": prowler, "steampipe": steampipe}[stage]
    plan = json.loads(tool.plan_path.read_text())
    tool.set({target: {**step, "hold": True} for target, step in plan.items()})
    worker = start()
    send_scan(app, database, "run-1")
    pid = wait_until(lambda: tool.calls, what=f"the start of {stage}")[0]["pid"]
    worker.kill()
    wait_until(lambda: not is_alive(pid), what=f"the end of {stage}")
    tool.release()
    start()
    assert wait_end(database, "run-1")["status"] == "COMPLETED"
    follow_up(app, database)
    killed = picture(database)
    assert watchdog(app) == QUIET

    for name in database.list_collection_names():
        database[name].delete_many({})
    send_scan(app, database, "run-1")
    wait_end(database, "run-1")
    follow_up(app, database)
    assert picture(database) == killed

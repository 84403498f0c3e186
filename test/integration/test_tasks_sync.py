# SPDX-License-Identifier: Apache-2.0
"""sync: findings of three sources become occurrences: new, reopened, resolved, twice the same."""
from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from bson import Binary, ObjectId
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from pymongo.database import Database

from harness import get
from services.process import wait_until

NOW = dt.datetime(2026, 11, 21, 10)
HOUR = dt.timedelta(hours=1)


@pytest.fixture
def db(app_database: Database) -> Database:
    app_database.vulnerability_occurrences.create_index("dedup_key", unique=True)
    app_database.sync_watermarks.create_index([("team_id", 1), ("source", 1)], unique=True)
    return app_database


def start_worker(cworker: Callable[..., Any], db: Database, **options: Any) -> Any:
    return cworker(database=db, queues="sync", **options)


@pytest.fixture
def worker(cworker: Callable[..., Any], db: Database) -> Any:
    return start_worker(cworker, db)


def sync(app: Celery, team: str = "t1", full: bool = False) -> Any:
    task = app.send_task("sync.sync_vulnerabilities_for_team", args=[team],
                         kwargs={"full": full} if full else {}, queue="sync")
    return get(task)


def cspm(number: int, status: str = "FAIL", **fields: Any) -> dict[str, Any]:
    return {"_id": f"f{number}", "team_id": "t1", "uid": f"uid-{number}", "check_id": "s3_public",
            "resource_id": f"arn:aws:s3:::bucket-{number}", "region": "eu-west-1",
            "account_id": "123456789012", "severity": "HIGH", "status": status, "title": "public",
            "first_seen": NOW - 24 * HOUR, "last_seen": dt.datetime.utcnow(), **fields}


def occurrences(db: Database) -> dict[str, dict[str, Any]]:
    return {row["asset_id"]: row for row in db.vulnerability_occurrences.find({}, {"_id": 0})}


def test_new_resolved_reopened(app: Celery, worker: Any, db: Database) -> None:
    db.cspm_findings.insert_many([cspm(1), cspm(2), cspm(3, "PASS"), cspm(4, muted=True)])
    first = sync(app)
    assert first["cspm"] == {"seen": 4, "new": 2, "reopened": 0, "resolved": 0}
    rows = occurrences(db)
    assert sorted(rows) == ["arn:aws:s3:::bucket-1", "arn:aws:s3:::bucket-2"]
    one = rows["arn:aws:s3:::bucket-1"]
    assert (one["team_id"], one["source"], one["source_id"], one["vulnerability_id"],
            one["location"], one["severity"], one["status"]) == \
        ("t1", "cspm", "f1", "s3_public", "123456789012/eu-west-1", "HIGH", "OPEN")
    assert len(one["dedup_key"]) == 64 and one["first_seen"] == NOW - 24 * HOUR

    again = sync(app, full=True)
    assert again["cspm"] == {"seen": 4, "new": 0, "reopened": 0, "resolved": 0}
    assert occurrences(db)["arn:aws:s3:::bucket-1"]["opened_at"] == one["opened_at"]

    db.cspm_findings.update_one({"_id": "f1"}, {"$set": {
        "status": "RESOLVED", "resolved_at": dt.datetime.utcnow()}})
    db.cspm_findings.update_one({"_id": "f2"}, {"$set": {"severity": "CRITICAL"}})
    done = sync(app)["cspm"]
    assert (done["new"], done["reopened"], done["resolved"]) == (0, 0, 1)
    rows = occurrences(db)
    assert rows["arn:aws:s3:::bucket-1"]["status"] == "RESOLVED"
    assert rows["arn:aws:s3:::bucket-2"]["severity"] == "CRITICAL"
    resolved_at = rows["arn:aws:s3:::bucket-1"]["resolved_at"]
    assert sync(app)["cspm"]["resolved"] == 0
    assert occurrences(db)["arn:aws:s3:::bucket-1"]["resolved_at"] == resolved_at

    db.vulnerability_occurrences.update_one(
        {"source_id": "f1"}, {"$set": {"sla_breached_at": NOW, "sla_warned_at": NOW}})
    db.cspm_findings.update_one({"_id": "f1"}, {"$set": {
        "status": "FAIL", "resolved_at": None, "last_seen": dt.datetime.utcnow()}})
    for expected in (1, 0):
        assert sync(app)["cspm"]["reopened"] == expected
    one = occurrences(db)["arn:aws:s3:::bucket-1"]
    assert one["status"] == "OPEN" and one["reopen_count"] == 1 and "resolved_at" not in one
    assert "sla_breached_at" not in one and "sla_warned_at" not in one
    assert one["opened_at"] == one["reopened_at"] > resolved_at


def test_incremental_reads_what_changed_only(app: Celery, worker: Any, db: Database) -> None:
    old = dt.datetime.utcnow() - 48 * HOUR
    db.cspm_findings.insert_many([cspm(i, last_seen=old) for i in range(50)])
    assert sync(app)["cspm"]["seen"] == 50
    db.cspm_findings.insert_one(cspm(100))
    assert sync(app)["cspm"] == {"seen": 1, "new": 1, "reopened": 0, "resolved": 0}
    # What was deleted at its source is noticed by a full pass.
    db.cspm_findings.delete_many({"_id": {"$in": ["f1", "f2"]}})
    assert sync(app)["cspm"]["resolved"] == 0
    assert sync(app, full=True)["cspm"]["resolved"] == 2
    assert db.vulnerability_occurrences.count_documents({"status": "OPEN"}) == 49


@pytest.mark.parametrize("order", [("f1", "g1"), ("g1", "f1")])
def test_two_findings_of_one_occurrence(app: Celery, worker: Any, db: Database,
                                        order: tuple[str, str]) -> None:
    """A renamed resource: what its old name left is resolved, what its new one has fails. Far apart, so
    that they are not in one batch, whichever comes first."""
    def twin(name: str) -> dict[str, Any]:
        status = {"status": "FAIL"} if name == "f1" else {"status": "RESOLVED"}
        return cspm(1, **status, _id=name, uid=name)
    db.cspm_findings.insert_many([twin(order[0]), *[cspm(i, "PASS") for i in range(2, 702)],
                                  twin(order[1])])
    sync(app)
    opened = occurrences(db)["arn:aws:s3:::bucket-1"]
    for full in (True, False, True):
        counts = sync(app, full=full)["cspm"]
        assert (counts["new"], counts["reopened"], counts["resolved"]) == (0, 0, 0)
    one = occurrences(db)["arn:aws:s3:::bucket-1"]
    assert (one["status"], one["opened_at"], one["source_id"]) == ("OPEN", opened["opened_at"], "f1")
    # Whoever opened it is gone, or passes: the other one's word counts.
    db.cspm_findings.delete_one({"_id": "f1"})
    db.cspm_findings.update_one({"_id": "g1"}, {"$set": {"last_seen": dt.datetime.utcnow()}})
    assert sync(app)["cspm"]["resolved"] == 1


@pytest.mark.parametrize("full", [False, True])
def test_a_renamed_resource_stays_open(app: Celery, worker: Any, db: Database, full: bool) -> None:
    """The finding of its old name, which had opened it, is read long before that of its new one."""
    db.cspm_findings.insert_many([cspm(1), cspm(2)])
    sync(app)
    before = occurrences(db)["arn:aws:s3:::bucket-1"]
    db.cspm_findings.update_many({}, {"$set": {
        "status": "RESOLVED", "resolved_at": dt.datetime.utcnow(), "updated_at": dt.datetime.utcnow()}})
    db.cspm_findings.insert_many([*[cspm(i, "PASS") for i in range(3, 1203)],
                                  cspm(1, _id="new", uid="new")])
    for resolved in (1, 0):
        counts = sync(app, full=full)["cspm"]
        assert (counts["new"], counts["reopened"], counts["resolved"]) == (0, 0, resolved)
    one = occurrences(db)["arn:aws:s3:::bucket-1"]
    assert (one["status"], one["source_id"], one["opened_at"]) == ("OPEN", "new", before["opened_at"])
    assert occurrences(db)["arn:aws:s3:::bucket-2"]["status"] == "RESOLVED"


def moves(**changes: Any) -> dict[str, Any]:
    return {"$set": {"updated_at": dt.datetime.utcnow(), **changes}}


def open_assets(db: Database) -> dict[str, str]:
    rows = db.vulnerability_occurrences.find({"status": "OPEN"})
    return {row["asset_id"].rpartition(":")[2]: row["source_id"] for row in rows}


@pytest.mark.parametrize(("changes", "new", "opened"), [
    ({"resource_id": "new"}, 1, {"new": "f1"}),
    ({"check_id": "other"}, 1, {"bucket-1": "f1"}),
    ({"resource_id": "new", "status": "PASS"}, 0, {}),
    ({"resource_id": "new", "muted": True}, 0, {}),
    ({"resource_id": "arn:aws:s3:::bucket-2"}, 0, {"bucket-2": "f1"}),
    ({"resource_id": None, "uid": None}, 0, {}),
])
def test_a_finding_that_is_about_something_else(app: Celery, worker: Any, db: Database,
                                                changes: dict[str, Any], new: int,
                                                opened: dict[str, str]) -> None:
    """An incremental pass resolves what it was about before, and touches nothing else."""
    old = dt.datetime.utcnow() - 48 * HOUR
    db.cspm_findings.insert_many([cspm(i, last_seen=old) for i in range(1, 4)])
    sync(app)
    before = occurrences(db)
    db.cspm_findings.update_one({"_id": "f1"}, moves(**changes))
    done = sync(app)["cspm"]
    assert (done["new"], done["resolved"]) == (new, 1)
    assert open_assets(db) == {"bucket-2": "f2", "bucket-3": "f3", **opened}
    rows = occurrences(db)
    for number in (2, 3):
        assert rows[cspm(number)["resource_id"]]["opened_at"] == \
            before[cspm(number)["resource_id"]]["opened_at"]
    # Said once, it is read as few again.
    assert sync(app)["cspm"] == {"seen": int("uid" not in changes), "new": 0, "reopened": 0,
                                 "resolved": 0}


@pytest.mark.parametrize("closed", [False, True])
def test_what_another_finding_is_about_too_stays_open(app: Celery, worker: Any, db: Database,
                                                      closed: bool) -> None:
    """f1 and g1 are of one occurrence, which names g1. That one moves on; f1 was not touched, or closes."""
    old = dt.datetime.utcnow() - 48 * HOUR
    db.cspm_findings.insert_one(cspm(1, last_seen=old))
    sync(app)
    db.cspm_findings.insert_one(cspm(1, _id="g1", uid="g1"))
    sync(app)
    before = occurrences(db)["arn:aws:s3:::bucket-1"]
    assert open_assets(db) == {"bucket-1": "g1"}
    db.cspm_findings.update_one({"_id": "g1"}, moves(resource_id="new"))
    if closed:
        db.cspm_findings.update_one({"_id": "f1"}, moves(status="PASS"))
    assert sync(app)["cspm"] == {"seen": 2, "new": 1, "reopened": 0, "resolved": int(closed)}
    assert open_assets(db) == ({"new": "g1"} if closed else {"new": "g1", "bucket-1": "f1"})
    assert occurrences(db)["arn:aws:s3:::bucket-1"]["opened_at"] == before["opened_at"]


def test_a_move_that_a_kill_cut_in_two(app: Celery, worker: Any, db: Database) -> None:
    """As it is left between the write of the new occurrence and the end of the old one."""
    db.cspm_findings.insert_one(cspm(1))
    sync(app)
    mark = db.sync_watermarks.find_one({"source": "cspm"})["watermark"]
    db.cspm_findings.update_one({"_id": "f1"}, moves(resource_id="new"))
    sync(app)
    db.vulnerability_occurrences.update_one({"asset_id": cspm(1)["resource_id"]},
                                            {"$set": {"status": "OPEN"}})
    db.sync_watermarks.update_one({"source": "cspm"}, {"$set": {"watermark": mark}})
    assert sync(app)["cspm"] == {"seen": 1, "new": 0, "reopened": 0, "resolved": 1}
    assert open_assets(db) == {"new": "f1"}


def test_a_sync_that_must_stop(app: Celery, worker: Any, db: Database) -> None:
    """Its time limit is told as such, and is no passing trouble that is tried again."""
    db.cspm_findings.insert_many([cspm(i) for i in range(10000)])
    task = app.send_task("sync.sync_vulnerabilities_for_team", args=["t1"], queue="sync",
                         soft_time_limit=0.2, time_limit=60)
    with pytest.raises(SoftTimeLimitExceeded):
        get(task, 60)
    assert db.sync_watermarks.count_documents({}) == 0


def test_late_findings_and_other_clocks(app: Celery, worker: Any, db: Database) -> None:
    """A watermark is the store's time less five minutes: what is younger by any of its times is read,
    however wrong the clock was that stamped the others; the rest waits for a full pass."""
    now = dt.datetime.utcnow()
    db.cspm_findings.insert_one(cspm(1, last_seen=now - 48 * HOUR))
    sync(app)
    mark = db.sync_watermarks.find_one({"source": "cspm"})["watermark"]
    assert now - dt.timedelta(minutes=6) < mark < now - dt.timedelta(minutes=4)
    slow = {"last_seen": now - 2 * HOUR}
    db.cspm_findings.insert_many([
        cspm(2, **slow, updated_at=dt.datetime.utcnow()),  # a slow clock, stamped by the store too
        cspm(3, last_seen=now - dt.timedelta(minutes=4)),  # four minutes late
        cspm(4, last_seen=now + 2 * HOUR),                 # a fast clock
        cspm(5, **slow)])                                  # two hours late, and nothing else told
    for new in (3, 0):
        assert sync(app)["cspm"] == {"seen": 3, "new": new, "reopened": 0, "resolved": 0}
    assert sync(app, full=True)["cspm"]["new"] == 1
    # A watermark of a clock that ran ahead hides nothing.
    db.sync_watermarks.update_one({"source": "cspm"}, {"$set": {"watermark": now + 24 * HOUR}})
    db.cspm_findings.insert_one(cspm(6))
    assert sync(app)["cspm"]["new"] == 1


def test_a_finding_reopened_and_resolved_by_incremental_passes(app: Celery, worker: Any,
                                                               db: Database) -> None:
    db.cspm_findings.insert_many([cspm(i) for i in range(3)])
    sync(app)
    for status, counts in (("PASS", (0, 3)), ("FAIL", (3, 0)), ("RESOLVED", (0, 3))):
        db.cspm_findings.update_many({}, {"$set": {"status": status,
                                                   "last_seen": dt.datetime.utcnow()}})
        done = sync(app)["cspm"]
        assert (done["reopened"], done["resolved"]) == counts


def test_container_and_kubernetes(app: Celery, worker: Any, db: Database) -> None:
    vulnerabilities = [
        {"vulnerability_id": "CVE-2026-0001", "purl": "pkg:apk/alpine/libcrypto3@3.3.1-r0",
         "severity": "HIGH"},
        {"VulnerabilityID": "GHSA-xxxx", "PkgName": "left-pad", "InstalledVersion": "1.0.0"},
        "nonsense"]
    scan = {"_id": ObjectId(), "team_id": "t1", "image": "registry.example/app:1.0",
            "image_digest": "sha256:11", "status": "COMPLETED",
            "finished_at": dt.datetime.utcnow(), "vulnerabilities": vulnerabilities}
    db.container_scans.insert_one(scan)
    db.k8s_findings.insert_one({
        "team_id": "t1", "cluster_id": "c1", "namespace": "web", "kind": "Pod", "name": "nginx",
        "container": "main", "check_id": "privileged", "severity": "critical", "status": "OPEN",
        "last_seen": dt.datetime.utcnow()})
    done = sync(app)
    assert done["container"]["new"] == 2 and done["k8s"]["new"] == 1
    pod = db.vulnerability_occurrences.find_one({"source": "k8s"})
    assert (pod["asset_id"], pod["location"], pod["severity"]) == \
        ("c1/web/Pod/nginx", "main", "CRITICAL")
    # The image was scanned again, and one vulnerability is gone; then a scan that failed.
    db.container_scans.update_one({"_id": scan["_id"]}, {"$set": {
        "vulnerabilities": vulnerabilities[:1], "finished_at": dt.datetime.utcnow()}})
    assert sync(app)["container"]["resolved"] == 1
    db.container_scans.update_one({"_id": scan["_id"]}, {"$set": {
        "status": "FAILED", "vulnerabilities": [], "finished_at": dt.datetime.utcnow()}})
    assert sync(app)["container"]["resolved"] == 0
    still = db.vulnerability_occurrences.find_one({"source": "container", "status": "OPEN"})
    assert still["vulnerability_id"] == "CVE-2026-0001" and still["source_id"] == str(scan["_id"])


@pytest.mark.parametrize("date", [None, "2026-01-01T00:00:00Z", 1767225600, 1.5])
def test_findings_without_dates(app: Celery, worker: Any, db: Database, date: Any) -> None:
    """They are seen by incremental passes, too; accounts are told apart whatever their ids are of."""
    bare = {"first_seen": date, "last_seen": date, "resource_id": "default"}
    db.cspm_findings.insert_one(cspm(1, **bare, account_id=1))
    db.container_scans.insert_one({"team_id": "t1", "image": "i", "finished_at": date,
                                   "vulnerabilities": [{"vulnerability_id": "CVE-1"}]})
    done = sync(app)
    assert (done["cspm"]["new"], done["container"]["new"]) == (1, 1)
    db.cspm_findings.insert_one(cspm(2, **bare, account_id=2))
    db.container_scans.update_one({}, {"$set": {"vulnerabilities": []}})
    done = sync(app)
    assert (done["cspm"]["new"], done["container"]["resolved"]) == (1, 1)
    done = sync(app)
    assert (done["cspm"]["new"], done["container"]["resolved"]) == (0, 0)


def test_odd_documents(app: Celery, worker: Any, db: Database) -> None:
    db.cspm_findings.insert_many([
        {"team_id": "t1", "status": "FAIL"}, {"team_id": "t1", "status": 7, "check_id": ["x"]},
        {**cspm(1), "_id": "a"}, {**cspm(1), "_id": "b"},
        {**cspm(2), "_id": "c"}, {**cspm(2, "PASS"), "_id": "d"},
        {**cspm(3), "resource_id": "x\ny", "title": "\u00fc" * 3000}])
    db.container_scans.insert_one({"team_id": "t1", "vulnerabilities": "none"})
    done = sync(app, full=True)
    assert done["cspm"]["new"] == 3
    assert sync(app, full=True)["cspm"]["new"] == 0
    assert db.vulnerability_occurrences.count_documents({"status": "OPEN"}) == 3


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("status", ["PENDING", "RUNNING", "FAILED", "CANCELLED"])
def test_an_image_that_is_scanned_again_loses_nothing(app: Celery, worker: Any, db: Database,
                                                      full: bool, status: str) -> None:
    scan = {"_id": "s", "team_id": "t1", "digest": "sha256:1", "status": "COMPLETED",
            "finished_at": dt.datetime.utcnow(), "vulnerabilities": [
                {"vulnerability_id": "CVE-1", "purl": "p"}, {"vulnerability_id": "CVE-2", "purl": "p"}]}
    db.container_scans.insert_one(scan)
    assert sync(app)["container"]["new"] == 2
    stamp = {"updated_at": dt.datetime.utcnow()}
    db.container_scans.update_one({}, {"$set": {"status": status, "vulnerabilities": [], **stamp}})
    assert sync(app, full=full)["container"]["resolved"] == 0
    db.container_scans.update_one({}, {"$set": {**scan, **stamp,
                                                "vulnerabilities": scan["vulnerabilities"][:1]}})
    assert sync(app, full=full)["container"]["resolved"] == 1
    db.container_scans.delete_one({})
    assert sync(app, full=True)["container"]["resolved"] == 1


def test_all_teams(app: Celery, worker: Any, db: Database) -> None:
    team = ObjectId()
    db.cspm_findings.insert_many([cspm(1), {**cspm(2), "team_id": team}])
    db.k8s_findings.insert_one({"team_id": "t1", "check_id": "x", "status": "PASS"})
    done = get(app.send_task("app.tasks.sync_all_teams_vulnerabilities", queue="sync"))
    assert done == {"teams": 2}
    wait_until(lambda: db.vulnerability_occurrences.count_documents({}) == 2)
    assert db.vulnerability_occurrences.find_one({"source_id": "f2"})["team_id"] == team


@pytest.mark.parametrize("subtype", [3, 4])
def test_uuids(app: Celery, worker: Any, db: Database, subtype: int) -> None:
    """Of teams and findings, also as pymongo wrote them before 4.0; a task is asked for them by their text."""
    team, number = uuid.uuid4(), uuid.uuid4()
    stored = Binary(team.bytes, subtype)
    db.cspm_findings.insert_one(cspm(1, _id=Binary(number.bytes, subtype), team_id=stored))
    assert get(app.send_task("sync.sync_all_teams_vulnerabilities", queue="sync")) == {"teams": 1}
    made = wait_until(lambda: db.vulnerability_occurrences.find_one())
    assert (made["team_id"], made["source_id"]) == (stored, str(number))
    db.cspm_findings.update_one({}, moves(status="PASS"))
    wait_until(lambda: db.sync_watermarks.count_documents({"team_id": str(team)}) == 3)
    assert sync(app, str(team))["cspm"] == {"seen": 1, "new": 0, "reopened": 0, "resolved": 1}


def test_a_team_without_findings_is_resolved_by_a_full_pass(app: Celery, worker: Any,
                                                            db: Database) -> None:
    db.cspm_findings.insert_many([cspm(1), {**cspm(2), "team_id": "t2"}])
    for team in ("t1", "t2"):
        sync(app, team)
    db.cspm_findings.delete_many({"team_id": "t2"})
    name = "sync.sync_all_teams_vulnerabilities"
    assert get(app.send_task(name, queue="sync")) == {"teams": 1}
    assert get(app.send_task(name, kwargs={"full": True}, queue="sync")) == {"teams": 2}
    wait_until(lambda: db.vulnerability_occurrences.find_one({"team_id": "t2"})["status"] == "RESOLVED")


def test_a_killed_worker_changes_nothing(app: Celery, cworker: Callable[..., Any],
                                         db: Database) -> None:
    count = 2500
    db.cspm_findings.insert_many([cspm(i) for i in range(count)])
    first = start_worker(cworker, db, name="same@test")
    task = app.send_task("sync.sync_vulnerabilities_for_team", args=["t1"], queue="sync")
    wait_until(lambda: db.vulnerability_occurrences.count_documents({}) > 0)
    first.kill()
    start_worker(cworker, db, name="same@test")
    get(task)
    assert db.vulnerability_occurrences.count_documents({"status": "OPEN"}) == count
    assert sync(app, full=True)["cspm"]["new"] == 0
    assert db.vulnerability_occurrences.count_documents({"status": "OPEN"}) == count


def test_bad_calls(app: Celery, worker: Any) -> None:
    with pytest.raises(TypeError, match="team_id"):
        get(app.send_task("sync.sync_vulnerabilities_for_team", queue="sync"))
    with pytest.raises(TypeError, match="full"):
        get(app.send_task("sync.sync_vulnerabilities_for_team", args=["t1", "yes"], queue="sync"))

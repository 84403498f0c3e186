# SPDX-License-Identifier: Apache-2.0
"""Documents that nobody should write, in every field of what sync, feeds and maintenance read: each task
ends, twice the same, the worker lives, and the good documents beside them are done."""
from __future__ import annotations

import datetime as dt
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bson import Binary, Decimal128, Int64, ObjectId, Regex, Timestamp
from bson.codec_options import CodecOptions
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from celery import Celery
from pymongo.database import Database

from harness import get, wait_state
from services.process import wait_until

HOUR = dt.timedelta(hours=1)
RAW = CodecOptions(document_class=RawBSONDocument)  # as stored: Python has no such years
ODD: list[Any] = [
    None, True, 0, -7, 1e308, -1e308, float("nan"), float("inf"), Int64(2**63 - 1), Int64(-2**63),
    Decimal128("1.5"), "", "x" * 100000, "nul\0inside", "\u202eb\u00fccher\n", "OPEN", "2020-01-01T00:00:00Z",
    "1577836800", 1577836800, dt.datetime(1970, 1, 1), DatetimeMS(2**62), DatetimeMS(-2**62), [], [None],
    [["nested"]], [{"vulnerability_id": 7}, "x", None], {}, {"a": {"b": {"c": []}}}, ObjectId(),
    Binary(b"\xff\x00"), Binary(b"0123456789abcdef", 4), Regex("(a+)+$"), Timestamp(1, 1), {"": 1},
    {"$ne": None}, {"$nonsense": 1}, {"a.b": {"$gt": ""}}, [{"": {"$x": 1}}]]


@pytest.fixture
def db(mongo: Any) -> Iterator[Database]:
    name = f"odd_{os.getpid()}_{uuid.uuid4().hex[:8]}"
    with mongo.client() as client:
        database = client.get_database(name)
        database.vulnerability_occurrences.create_index("dedup_key", unique=True)
        database.threat_indicators.create_index([("type", 1), ("value", 1)], unique=True)
        database.sync_watermarks.create_index([("team_id", 1), ("source", 1)], unique=True)
        yield database
        client.drop_database(name)


@pytest.fixture
def run(app: Celery, cworker: Callable[..., Any], mongo: Any, db: Database) -> Callable[..., Any]:
    worker = cworker("--set", f"app_database_url={mongo.url(db.name)}",
                     queues="sync,maintenance,threat_feeds,compliance", env={"THREAT_FEED_NONE": "key"})

    def call(name: str, *args: Any, **options: Any) -> Any:
        value = get(app.send_task(name, args=args, queue=name.split(".")[0], **options))
        assert "was terminated" not in worker.log and "died" not in worker.log
        return value
    return call


def spread(good: dict[str, Any], *, keep: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The document with each of its fields odd in each way, and without each of them."""
    made = []
    for field in [name for name in good if name not in keep]:
        made += [{**good, field: odd} for odd in ODD]
        made.append({k: v for k, v in good.items() if k != field})
    return [{**row, "_id": row.get("_id", f"odd-{i}") if i else "odd-0"} for i, row in enumerate(made)]


def now() -> dt.datetime:
    return dt.datetime.utcnow().replace(microsecond=0)


def statuses(db: Database, *fields: str) -> list[Any]:
    """What must be the same after a second run; dates of these ODD documents cannot all be read."""
    projection = dict.fromkeys(("dedup_key", "status", "reopen_count", *fields), 1)
    return sorted((str(sorted(row.items())) for row in
                   db.vulnerability_occurrences.find({}, {**projection, "_id": 0})))


def test_findings(run: Callable[..., Any], db: Database) -> None:
    cspm = {"team_id": "t1", "status": "FAIL", "muted": False, "check_id": "c", "resource_id": "r",
            "region": "eu-west-1", "account_id": "1", "severity": "HIGH", "title": "t",
            "first_seen": now() - HOUR, "last_seen": now(), "resolved_at": None}
    k8s = {"team_id": "t1", "cluster_id": "c1", "namespace": "n", "kind": "Pod", "name": "p",
           "container": "c", "check_id": "k", "severity": "LOW", "status": "OPEN", "title": "t",
           "first_seen": now() - HOUR, "last_seen": now()}
    scan = {"team_id": "t1", "status": "COMPLETED", "digest": "sha256:1", "image": "i",
            "finished_at": now(), "vulnerabilities": [{
                "vulnerability_id": "CVE-1", "purl": "pkg:deb/x@1", "severity": "HIGH"}]}
    db.cspm_findings.insert_many(spread(cspm, keep=("team_id",)) + [{**cspm, "_id": "good",
                                                                     "resource_id": "good"}])
    db.k8s_findings.insert_many(spread(k8s, keep=("team_id",)) + [{**k8s, "_id": "good",
                                                                   "name": "good"}])
    db.container_scans.insert_many(
        spread(scan, keep=("team_id",)) + [{**scan, "_id": "good", "digest": "sha256:good"}] +
        [{**scan, "_id": f"inner-{i}", "vulnerabilities": [row]} for i, row in
         enumerate(spread(scan["vulnerabilities"][0]))])
    first = run("sync.sync_vulnerabilities_for_team", "t1")
    assert all(first[source]["new"] > 0 for source in ("cspm", "k8s", "container"))
    for asset in ("good", "c1/n/Pod/good", "sha256:good"):
        assert db.vulnerability_occurrences.find_one({"asset_id": asset})["status"] == "OPEN", asset
    before = statuses(db, "severity", "title")
    for full in (True, False, True):
        again = run("sync.sync_vulnerabilities_for_team", "t1", full)
        assert [again[s]["new"] for s in ("cspm", "k8s", "container")] == [0, 0, 0]
        assert [again[s]["resolved"] for s in ("cspm", "k8s", "container")] == [0, 0, 0]
        assert statuses(db, "severity", "title") == before
    for odd in ODD:
        db.sync_watermarks.update_one({"source": "cspm"}, {"$set": {"watermark": odd}})
        assert run("sync.sync_vulnerabilities_for_team", "t1")["cspm"]["new"] == 0


def test_teams(run: Callable[..., Any], db: Database) -> None:
    """Teams whose ids are of no type that ids have are passed over, those before and after them are not."""
    for collection in ("cspm_findings", "k8s_findings", "vulnerability_occurrences", "container_scans"):
        rows = [{"_id": i, "team_id": odd, "dedup_key": str(i), "status": "OPEN", "check_id": "c",
                 "resource_id": "r", "last_seen": now()} for i, odd in enumerate(ODD)]
        db[collection].insert_many(rows + [{"_id": "bare", "dedup_key": "bare"}])
    assert run("sync.sync_all_teams_vulnerabilities")["teams"] > 3
    assert run("maintenance.check_sla_breaches_all_teams")["breaches"] == 0
    assert run("maintenance.run_data_sync_watchdog")["failed"] == 0
    assert run("maintenance.run_data_sync_watchdog") == {"failed": 0, "revoked": 0, "sent": 0}
    empty = {"seen": 0, "new": 0, "reopened": 0, "resolved": 0}
    for team in ("nobody", "y" * 100000, "$where", "a\0b", str(ObjectId())):
        assert run("sync.sync_vulnerabilities_for_team", team)["cspm"] == empty


def test_posture(run: Callable[..., Any], db: Database) -> None:
    """A team_id that would mean other teams as a filter counts nothing of theirs, and tells nothing of them."""
    entry = {"framework": "CIS", "requirements": ["1.1"]}
    good = {"team_id": "t1", "status": "PASS", "muted": False, "compliance": [entry]}
    db.cspm_findings.insert_many(
        [{**good, "_id": i, "status": "FAIL", "team_id": odd} for i, odd in enumerate(ODD)] +
        [{**good, "_id": f"good-{i}"} for i in range(3)] +
        [{**row, "_id": f"t2-{i}", "team_id": "t2"} for i, row in enumerate(spread(good))] +
        [{**good, "_id": f"in-{i}", "team_id": "t2", "compliance": [row]}
         for i, row in enumerate(spread(entry))])
    seen: list[Any] = []
    for _ in range(2):
        teams = run("compliance.run_compliance_refresh")["teams"]
        posture = db.compliance_posture.find_one({"team_id": "t1"})
        assert (posture["score"], posture["controls"][0]["pass"]) == (100.0, 3)
        rows = db.compliance_posture.find({}, {"_id": 0, "refreshed_at": 0})
        seen.append((teams, sorted(map(str, rows))))
    assert seen[0] == seen[1]
    fields = {"framework": "CIS", "score": 50.0, "pass": 1, "fail": 1, "manual": 0, "total": 2}
    db.compliance_posture.insert_many([{**row, "team_id": "odd", "n": i}
                                       for i, row in enumerate(spread(fields))])
    sent = run("compliance.snapshot_all_teams")
    assert sent["teams"] == teams + 1
    # 1577836800 is one team, whether as text or number.
    wait_until(lambda: db.compliance_snapshots.count_documents({}) == sent["teams"] - 1)
    stored = db.get_collection("compliance_snapshots", RAW)
    before = sorted(row.raw for row in stored.find())
    assert run("compliance.snapshot_team", "odd", sent["day"]) == sent["day"]
    assert sorted(row.raw for row in stored.find()) == before
    assert db.compliance_snapshots.find_one({"team_id": "t1"})["score"] == 100.0


def test_occurrences_and_policies(run: Callable[..., Any], db: Database) -> None:
    late = {"team_id": "t1", "source": "cspm", "status": "OPEN", "severity": "CRITICAL",
            "opened_at": now() - 8 * 24 * HOUR, "asset_id": "a", "vulnerability_id": "v", "title": "t",
            "sla_warned_at": None, "sla_breached_at": None}
    db.vulnerability_occurrences.insert_many(
        [{**row, "dedup_key": f"k{i}"} for i, row in enumerate(spread(late, keep=("team_id",)))])
    policy = {"days": {"CRITICAL": 7}, "warn_days": 2}
    db.sla_policies.insert_many(
        [{**row, "team_id": f"p{i}"} for i, row in enumerate(
            spread(policy) + [{"days": {"CRITICAL": odd}} for odd in ODD])])
    for i in range(db.sla_policies.count_documents({})):
        db.vulnerability_occurrences.insert_one({**late, "team_id": f"p{i}", "dedup_key": f"p{i}"})
    assert run("maintenance.check_sla_breaches_all_teams")["breaches"] > 50
    told = db.notifications.count_documents({}), db.sla_breaches.count_documents({})
    assert run("maintenance.check_sla_breaches_all_teams")["breaches"] == 0
    assert (db.notifications.count_documents({}), db.sla_breaches.count_documents({})) == told


def test_retention_policies(run: Callable[..., Any], db: Database) -> None:
    policy = {"collection": "scan_findings", "field": "seen_at", "days": 30, "action": "delete",
              "team_id": "t1", "enabled": True}
    old = [{"_id": i, "team_id": "t2", "seen_at": odd} for i, odd in enumerate(ODD)]
    db.scan_findings.insert_many(old + [{"_id": "old", "team_id": "t1",
                                         "seen_at": now() - 40 * 24 * HOUR}])
    db.retention_policies.insert_many(spread(policy, keep=("team_id",)) + [
        {**policy, "_id": f"team-{i}", "team_id": odd} for i, odd in enumerate(ODD) if odd is not None])
    done = run("maintenance.run_retention_cycle")
    assert done["removed"] == 1 and done["failed"] > 50
    assert run("maintenance.run_retention_cycle")["removed"] == 0
    assert db.scan_findings.count_documents({}) == len(old)


def test_runs(run: Callable[..., Any], db: Database) -> None:
    stuck = {"team_id": "t1", "status": "RUNNING", "started_at": now() - 5 * HOUR,
             "task_id": "a", "task_ids": ["b"], "target": "x", "created_at": now() - 5 * HOUR}
    rows = spread(stuck)
    for collection in ("scan_runs", "native_scans", "container_scans"):
        db[collection].insert_many([{**row, "_id": f"{collection}-{row['_id']}"} for row in rows])
    db.scan_jobs.insert_many(
        [{**row, "scan_run_id": "scan_runs-odd-1"} for row in
         spread({"kind": "prowler", "key": "k", "status": "RUNNING", "task_id": "t"})])
    assert run("maintenance.run_data_sync_watchdog")["failed"] > 3 * len(rows) / 2
    assert run("maintenance.run_data_sync_watchdog")["failed"] == 0


def test_feeds(app: Celery, run: Callable[..., Any], db: Database) -> None:
    """No document makes a feed worse than an error of its own."""
    feed = {"name": "n", "enabled": True, "team_id": "t1", "kind": "csv", "url": "http://127.0.0.1:1/x",
            "secret": "NONE", "username": "u", "auth_header": "X-Key", "csv": {"column": 0},
            "indicator_type": "ip", "confidence": 5, "tags": ["a"], "expire_days": 9,
            "min_interval": 0, "max_bytes": 1000, "limit": 5, "confidence_minimum": 50,
            "state": {"etag": "x", "cursors": {}}, "next_fetch_at": None, "claimed_until": None}
    rows = spread(feed, keep=("enabled",))
    for kind in ("otx", "taxii", "misp", "abuseipdb", "plain"):
        rows.append({**feed, "kind": kind, "_id": f"kind-{kind}"})
    db.threat_feeds.insert_many(rows)
    done = run("threat_feeds.fetch_all_enabled_feeds")
    assert done["sent"] + done["not_due"] == len(rows)
    wait_until(lambda: db.threat_feeds.count_documents({"status": "ERROR"}) == done["sent"])
    db.threat_indicators.insert_many([{"type": "ip", "value": str(i), "expires_at": odd,
                                       "last_seen": odd} for i, odd in enumerate(ODD)])
    run("threat_feeds.cleanup_old_indicators")
    assert run("threat_feeds.cleanup_old_indicators") == {"expired": 0, "old": 0}


@pytest.mark.parametrize("odd", [None, 7, True, 1.5, [], {}, ["t1"], {"$ne": ""}])
@pytest.mark.parametrize("name", ["sync.sync_vulnerabilities_for_team", "threat_feeds.fetch_feed"])
def test_arguments(app: Celery, run: Callable[..., Any], name: str, odd: Any) -> None:
    queue = name.split(".")[0]
    for args, kwargs in (([odd], {}), ([], {name[-7:]: odd}), ([], {}), (["a", "b", "c"], {})):
        task = app.send_task(name, args=args, kwargs=kwargs, queue=queue)
        wait_state(task, "FAILURE")
        assert type(task.result) is TypeError, task.result

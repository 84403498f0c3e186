# SPDX-License-Identifier: Apache-2.0
"""scans: the native scans of networks and TLS: real nmap, recorded outputs of testssl."""
from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from bson import Int64, ObjectId
from celery import Celery
from pymongo.database import Database

from harness import Worker, get, is_alive, wait_state
from scan_rig import Zap, database, mirror, put_run, put_scan, send, testssl, trivy, worker, zap  # noqa: F401
from services.process import wait_until
from tools import FakeTool, sample


def test_network(app: Celery, worker: Worker, database: Database, zap: Zap) -> None:
    port = zap.server.server_port
    scan = put_scan(database, "127.0.0.1", ports=str(port))
    for _ in range(2):
        result = get(send(app, "execute_network_scan", scan))
        assert database.scan_findings.count_documents({}) == 1
        database.native_scans.update_one({"_id": scan}, {"$set": {"status": "PENDING"}})
    assert (result["hosts_up"], result["open_ports"]) == (1, 1)
    found = database.scan_findings.find_one()
    assert (found["scan_id"], found["host"], found["port"]) == (scan, "127.0.0.1", port)
    assert (found["team_id"], found["key"]) == ("team-1", f"nmap 127.0.0.1 tcp/{port}")
    shown = mirror(database, scan)
    assert (shown["status"], shown["scan_type"], shown["team_id"]) == \
        ("COMPLETED", "network", "team-1")


def test_network_of_nothing(app: Celery, cworker: Callable[..., Worker], database: Database,
                            tmp_path: Path) -> None:
    """A name that does not resolve ends nmap well; nobody may take that for a clean host."""
    nmap = FakeTool(tmp_path, "nmap", {"*": {"output": sample("nmap/unresolved-host-exit0.xml"),
                                             "errors": 'Failed to resolve "scan.example".'}})
    cworker(database=database, queues="scans", env={"CWORKER_NMAP": str(nmap.path)})
    scan = put_scan(database, "scan.example", scripts=True)
    result = send(app, "execute_network_scan", scan)
    wait_state(result, "FAILURE")
    assert isinstance(result.result, ValueError) and "Failed to resolve" in str(result.result)
    assert database.native_scans.find_one({"_id": scan})["status"] == "FAILED"
    assert nmap.calls[0]["argv"][-3:] == ["-sC", "--", "scan.example"]


@pytest.mark.parametrize("kind", ["network", "ssl", "web"])
@pytest.mark.parametrize("target", [
    "-oN/tmp/x", "--script=x", "8.8.8.8", "http://169.254.169.254/latest/meta-data", "10.0.0.0/8",
    "127.0.0.1 8.8.8.8", "other.example", "", None, "http://scan.example@8.8.8.8/",
    "$(id)", "scan.example/8", "file:///etc/passwd", {"$ne": 1}, "https://127.0.0.1:99999999/x y",
    "127.0.0.1:\n443", "127.0.0.1:+443",
])
def test_hostile_targets(app: Celery, worker: Worker, database: Database, zap: Zap,
                         testssl: FakeTool, kind: str, target: Any) -> None:
    scan = put_scan(database, target)
    result = send(app, f"execute_{kind}_scan", scan)
    wait_state(result, "FAILURE")
    assert type(result.result).__name__ in ("ValueError", "PermissionError"), result.result
    document = database.native_scans.find_one({"_id": scan})
    assert document["status"] == "FAILED" and document["error"]
    assert mirror(database, scan)["status"] == "FAILED"
    assert zap.asked == [] and testssl.calls == []


@pytest.mark.parametrize("kind", ["network", "ssl", "web"])
def test_name_that_leads_to_metadata(app: Celery, worker: Worker, database: Database, zap: Zap,
                                     testssl: FakeTool, kind: str) -> None:
    """An approved name may not be turned towards what was not approved as an address."""
    name = "0xa9fea9fe"  # resolves to 169.254.169.254, without a DNS server
    database.approved_targets.insert_one({"team_id": "team-1", "target": name})
    scan = put_scan(database, f"http://{name}/" if kind == "web" else name, ports="1")
    result = send(app, f"execute_{kind}_scan", scan)
    wait_state(result, "FAILURE")
    assert isinstance(result.result, PermissionError) and "169.254.169.254" in str(result.result)
    assert zap.asked == [] and testssl.calls == []
    if kind == "ssl":
        database.approved_targets.insert_one({"team_id": "team-1", "target": "169.254.169.254"})
        assert get(send(app, "execute_ssl_scan", scan))["findings"] > 0


@pytest.mark.parametrize("options", [{"ports": "1; id"}, {"ports": "--x"}, {"ports": 22},
                                     {"timing": 9}])
def test_hostile_network_options(app: Celery, worker: Worker, database: Database,
                                 options: dict[str, Any]) -> None:
    result = send(app, "execute_network_scan", put_scan(database, "127.0.0.1", **options))
    wait_state(result, "FAILURE")
    assert isinstance(result.result, ValueError)


@pytest.mark.parametrize("kind, fields, error", [
    ("network", {"options": "fast"}, "options must be an object"),
    ("network", {"options": {"timing": "fast"}}, "options.timing must be a whole number from 0 to 5"),
    ("network", {"options": {"service_detection": 1}}, "options.service_detection must be true"),
    ("ssl", {"options": {"checks": "protocols"}}, "options.checks must be a list of texts"),
    ("ssl", {"options": {"checks": ["protocols", 7]}}, "options.checks must be a list of texts"),
    ("ssl", {"options": {"port": 443.5}}, "options.port must be a whole number"),
    ("web", {"options": {"active": "no"}}, "options.active must be true or false"),
    ("web", {"options": {"max_minutes": 0}}, "options.max_minutes must be a whole number from 1"),
    *((kind, {"team_id": team}, "team_id") for kind in ("network", "ssl", "web")
      for team in ({"$ne": 1}, ["team-1"], {"$in": ["team-1"]}, "", None, 1.5))])
def test_wrong_types(app: Celery, worker: Worker, database: Database, zap: Zap, testssl: FakeTool,
                     kind: str, fields: dict[str, Any], error: str) -> None:
    """Said, not passed over; a team that is an operator would be approved by other teams' targets."""
    scan = put_scan(database, "http://127.0.0.1/" if kind == "web" else "127.0.0.1")
    database.native_scans.update_one({"_id": scan}, {"$set": fields})
    result = send(app, f"execute_{kind}_scan", scan)
    wait_state(result, "FAILURE")
    assert isinstance(result.result, ValueError) and error in str(result.result)
    assert error in database.native_scans.find_one({"_id": scan})["error"]
    assert zap.asked == [] and testssl.calls == []


def test_unknown_scan(app: Celery, worker: Worker) -> None:
    for name in ("network_scan", "ssl_scan", "web_scan", "container_scan", "cloud_scan"):
        result = send(app, f"execute_{name}", "5f50c31e8a7d4b1f9c1e4b2a")
        wait_state(result, "FAILURE")
        assert isinstance(result.result, LookupError)


@pytest.mark.parametrize("output, exit, error", [
    (sample("nmap/truncated-by-sigterm.xml"), 0, "ValueError"),
    (sample("nmap/error-bad-port.xml"), 1, "RuntimeError"),
    ("<!DOCTYPE x [<!ENTITY a 'b'>]><nmaprun>&a;</nmaprun>", 0, "ValueError"),
])
def test_bad_nmap_output(app: Celery, cworker: Callable[..., Worker], database: Database,
                         tmp_path: Path, output: str, exit: int, error: str) -> None:
    nmap = FakeTool(tmp_path, "nmap", {"*": {"output": output, "exit": exit}})
    cworker(database=database, queues="scans",
            env={"CWORKER_NMAP": str(nmap.path)})
    scan = put_scan(database, "127.0.0.1")
    result = send(app, "execute_network_scan", scan)
    wait_state(result, "FAILURE")
    assert type(result.result).__name__ == error
    assert database.native_scans.find_one({"_id": scan})["status"] == "FAILED"


def test_ssl(app: Celery, worker: Worker, database: Database, testssl: FakeTool) -> None:
    scan = put_scan(database, "https://127.0.0.1:18443/x", checks=["protocols", "headers"])
    result = get(send(app, "execute_ssl_scan", scan))
    assert result["protocols"] == ["TLS1_2", "TLS1_3"]
    assert result["by_severity"]["CRITICAL"] == 1 and result["by_severity"]["HIGH"] == 4
    assert testssl.calls[0]["argv"][-3:] == ["-p", "-h", "127.0.0.1:18443"]
    lucky = database.scan_findings.find_one({"check_id": "LUCKY13"})
    assert (lucky["severity"], lucky["cve"], lucky["port"]) == ("LOW", "CVE-2013-0169", 18443)
    assert not database.scan_findings.find_one({"check_id": "engine_problem"})
    summary = database.native_scans.find_one({"_id": scan})["summary"]
    assert summary["certificate_not_after"] == datetime(2026, 12, 11, 9, 30)
    before = database.scan_findings.count_documents({})
    database.native_scans.update_one({"_id": scan}, {"$set": {"status": "RUNNING"}})
    get(send(app, "execute_ssl_scan", scan))
    assert database.scan_findings.count_documents({}) == before
    # Done is done: nothing runs a third time.
    assert get(send(app, "execute_ssl_scan", scan)) == "COMPLETED"
    assert len(testssl.calls) == 2


@pytest.mark.parametrize("name, exit, state, error", [
    ("closed-port-exit246", 246, "RETRY", "Can't connect"),
    ("unresolved-exit247", 247, "FAILURE", "No IPv4/IPv6"),
    ("not-tls-exit1", 1, "FAILURE", "does not speak TLS"),
    ("", 1, "FAILURE", "failed (status 1)"),
    ("truncated-by-sigterm", 0, "FAILURE", "it stops"),
])
def test_ssl_failures(app: Celery, worker: Worker, database: Database, testssl: FakeTool, name: str,
                      exit: int, state: str, error: str) -> None:
    report = {"write": sample(f"testssl/{name}.json")} if name else {}
    testssl.set({"*": {**report, "exit": exit}})
    scan = put_scan(database, "127.0.0.1")
    result = send(app, "execute_ssl_scan", scan)
    assert wait_state(result, "RETRY", "FAILURE") == state
    assert error in str(result.result)
    document = database.native_scans.find_one({"_id": scan})
    assert error in document["error"]
    assert document["status"] == ("RUNNING" if state == "RETRY" else "FAILED")
    result.forget()


def test_cancelled_scan_ends_its_tool(app: Celery, worker: Worker, database: Database,
                                      testssl: FakeTool) -> None:
    testssl.set({"*": {"hold": True}})
    scan = put_scan(database, "127.0.0.1")
    result = send(app, "execute_ssl_scan", scan)
    wait_until(lambda: testssl.calls, what="the start of testssl")
    database.native_scans.update_one({"_id": scan}, {"$set": {"status": "CANCELLED"}})
    assert get(result) == "CANCELLED"
    assert not is_alive(testssl.calls[0]["pid"])
    assert database.native_scans.find_one({"_id": scan})["status"] == "CANCELLED"


def test_cancelled_scan_ends_what_its_tool_started(
        app: Celery, cworker: Callable[..., Worker], database: Database, tmp_path: Path) -> None:
    """The tool itself ends when it is asked to, its own program will not."""
    testssl, told = tmp_path / "testssl", tmp_path / "pid"
    testssl.write_text(f"#!/bin/bash\nbash -c \"trap '' TERM; echo \\$\\$ > {told}.new; mv {told}.new {told};"
                       " sleep 600; true\" &\nwait\n")
    testssl.chmod(0o755)
    cworker(database=database, queues="scans", env={"CWORKER_TESTSSL": str(testssl)})
    scan = put_scan(database, "127.0.0.1")
    result = send(app, "execute_ssl_scan", scan)
    wait_until(told.exists, what="the start of the program's own")
    database.native_scans.update_one({"_id": scan}, {"$set": {"status": "CANCELLED"}})
    assert get(result) == "CANCELLED"
    wait_until(lambda: not is_alive(int(told.read_text())), what="the end of the program's own")


def test_terminated_scan_ends_its_tool(app: Celery, worker: Worker, database: Database,
                                       testssl: FakeTool) -> None:
    testssl.set({"*": {"hold": True}})
    result = send(app, "execute_ssl_scan", put_scan(database, "127.0.0.1"))
    wait_until(lambda: testssl.calls, what="the start of testssl")
    app.control.revoke(result.id, terminate=True)
    wait_state(result, "REVOKED", "FAILURE")
    wait_until(lambda: not is_alive(testssl.calls[0]["pid"]), what="the end of testssl")


def test_two_messages_for_one_scan(app: Celery, worker: Worker, database: Database,
                                   testssl: FakeTool) -> None:
    """The second leaves the scan to the first while that one works; a dead one's scan is taken over."""
    testssl.set({"*": {"write": sample("testssl/full.json"), "hold": True}})
    scan = put_scan(database, "127.0.0.1")
    first = send(app, "execute_ssl_scan", scan)
    wait_state(first, "PROGRESS")
    assert get(send(app, "execute_ssl_scan", scan)) == "RUNNING"
    assert len(testssl.calls) == 1
    # Should it work without having told, it may not undo what the other one wrote.
    database.native_scans.update_one({"_id": scan}, {"$set": {"task_id": "another",
                                                              "status": "COMPLETED"}})
    testssl.set({"*": {"exit": 246}})
    testssl.release()
    assert get(first) == "COMPLETED"
    database.native_scans.update_one({"_id": scan}, {"$set": {"task_id": "dead", "status": "RUNNING"}})
    testssl.set({"*": {"write": sample("testssl/full.json")}})
    assert get(send(app, "execute_ssl_scan", scan))["by_severity"]["CRITICAL"] == 1
    assert database.native_scans.find_one({"_id": scan})["status"] == "COMPLETED"


def test_findings_of_a_former_attempt(app: Celery, worker: Worker, database: Database) -> None:
    """What an attempt that died had found, and the last one did not, is no finding of the scan."""
    scan = put_scan(database, "127.0.0.1")
    old = {"key": "old", "severity": "CRITICAL", "seen_at": datetime(2020, 1, 1)}
    database.scan_findings.insert_many([{**old, "scan_id": scan}, {**old, "scan_id": "another"}])
    summary = get(send(app, "execute_ssl_scan", scan))
    assert summary["findings"] == database.scan_findings.count_documents({"scan_id": scan})
    assert summary["by_severity"]["CRITICAL"] == 1
    assert database.scan_findings.count_documents({"key": "old"}) == 1


def test_time_is_over(app: Celery, worker: Worker, database: Database, testssl: FakeTool,
                      trivy: FakeTool) -> None:
    """No attempt follows the soft limit, so the documents do not wait for one."""
    testssl.set({"*": {"hold": True}})
    trivy.set({"*": {"hold": True}})
    scan = put_scan(database, "127.0.0.1")
    database.container_scans.insert_one({"_id": "c1", "team_id": "team-1", "image": "app:1"})
    for result in (send(app, "execute_ssl_scan", scan, soft_time_limit=1, time_limit=60),
                   send(app, "execute_container_scan", "c1", soft_time_limit=1, time_limit=60)):
        wait_state(result, "FAILURE")
        assert type(result.result).__name__ == "SoftTimeLimitExceeded"
    for document in (database.native_scans.find_one(), database.container_scans.find_one()):
        assert (document["status"], document["error"]) == \
            ("FAILED", "SoftTimeLimitExceeded: not done after 1 s")
        assert mirror(database, document["_id"])["status"] == "FAILED"


def test_killed_worker(app: Celery, cworker: Callable[..., Worker], worker: Worker,
                       database: Database, testssl: FakeTool) -> None:
    testssl.set({"*": {"write": sample("testssl/full.json"), "hold": True}})
    scan = put_scan(database, "127.0.0.1")
    result = send(app, "execute_ssl_scan", scan)
    pid = wait_until(lambda: testssl.calls, what="the start of testssl")[0]["pid"]
    child = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(child, signal.SIGKILL)
    testssl.release()
    assert get(result)["by_severity"]["CRITICAL"] == 1
    assert database.native_scans.find_one({"_id": scan})["status"] == "COMPLETED"


@pytest.mark.parametrize("kind", ["network", "ssl"])
def test_ipv6(app: Celery, cworker: Callable[..., Worker], database: Database, testssl: FakeTool,
              tmp_path: Path, kind: str) -> None:
    """Both tools want to be told; each spelling is the same address to approve."""
    nmap = FakeTool(tmp_path, "nmap", {"*": {"output": sample("nmap/unresolved-host-exit0.xml")}})
    cworker(database=database, queues="scans",
            env={"CWORKER_TESTSSL": str(testssl.path), "CWORKER_NMAP": str(nmap.path)})
    tool = nmap if kind == "network" else testssl
    for target in ("::1", "0:0:0:0:0:0:0:1", "0000::0001", "127.0.0.1"):
        result = send(app, f"execute_{kind}_scan", put_scan(database, target))
        wait_state(result, "SUCCESS", "FAILURE")
        assert ("-6" in tool.calls[-1]["argv"]) == (":" in target)
        assert tool.calls[-1]["argv"][-1] == (
            target if kind == "network" else f"[{target}]:443" if ":" in target else f"{target}:443")
    calls = len(tool.calls)
    for target in ("::2", "::ffff:127.0.0.1", "::1%lo", "[::1]x", "fe80::1"):
        result = send(app, f"execute_{kind}_scan", put_scan(database, target))
        wait_state(result, "FAILURE")
        assert isinstance(result.result, (PermissionError, ValueError))
    assert len(tool.calls) == calls


def test_ssl_of_two_addresses(app: Celery, worker: Worker, database: Database,
                              testssl: FakeTool) -> None:
    rows = json.loads(sample("testssl/full.json"))
    testssl.set({"*": {"write": json.dumps([*({**r, "ip": "scan.example/192.0.2.1"} for r in rows),
                                            *({**r, "ip": "scan.example/192.0.2.2"} for r in rows)])}})
    result = get(send(app, "execute_ssl_scan", put_scan(database, "127.0.0.1")))
    assert result["protocols"] == ["TLS1_2", "TLS1_3"] and result["by_severity"]["CRITICAL"] == 2


@pytest.mark.parametrize("team, approved", [(7, "7"), ("7", Int64(7)), (7.0, 7),
                                            (ObjectId("5f50c31e8a7d4b1f9c1e4b2a"),
                                             "5f50c31e8a7d4b1f9c1e4b2a")])
def test_ids_of_other_types(app: Celery, worker: Worker, database: Database, testssl: FakeTool,
                            team: Any, approved: Any) -> None:
    """A whole number is one, however a driver writes it; who runs again has not finished."""
    database.approved_targets.insert_one({"team_id": approved, "target": "127.0.0.9"})
    database.native_scans.insert_one({"_id": 5.0, "team_id": team, "target": "127.0.0.9",
                                      "status": "FAILED", "finished_at": datetime(2020, 1, 1)})
    testssl.set({"*": {"write": sample("testssl/full.json"), "hold": True}})
    result = send(app, "execute_ssl_scan", "5")
    wait_until(lambda: testssl.calls, what="the start of testssl")
    assert database.native_scans.find_one()["finished_at"] is None
    testssl.release()
    get(result)
    assert mirror(database, "5")["finished_at"] > datetime(2025, 1, 1)


def test_same_id_in_every_collection(app: Celery, worker: Worker, database: Database) -> None:
    """The first of each may be 1: each has its own line among all scans."""
    put_run(database, _id=1)
    database.native_scans.insert_one({"_id": 1, "team_id": "team-1", "target": "127.0.0.1"})
    database.container_scans.insert_one({"_id": 1, "team_id": "team-1", "image": "app:1"})
    for name in ("cloud", "ssl", "container"):
        get(send(app, f"execute_{name}_scan", "1"))
    assert {(m["scan_id"], m["collection"], m["scan_type"], m["status"])
            for m in database.unified_scan_results.find()} == {
        ("1", "scan_runs", "cloud", "RUNNING"), ("1", "native_scans", "ssl", "COMPLETED"),
        ("1", "container_scans", "container", "COMPLETED")}

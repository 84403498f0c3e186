# SPDX-License-Identifier: Apache-2.0
"""Native, container and scheduled scans: real nmap, replayed testssl and trivy, a stand-in for ZAP."""
from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from bson import Int64, ObjectId
from celery import Celery
from pymongo.database import Database

from harness import Worker, get, is_alive, wait_state
from services.process import wait_until
from tools import FakeTool, sample


SITE = "http://127.0.0.1:18085/"  # which the recorded alerts are of


@pytest.fixture
def database(app_database: Database) -> Database:
    for target in ("127.0.0.0/8", "scan.example", "::1"):
        app_database.approved_targets.insert_one({"team_id": "team-1", "target": target})
    return app_database


@pytest.fixture
def testssl(tmp_path: Path) -> FakeTool:
    return FakeTool(tmp_path, "testssl", {"*": {"write": sample("testssl/full.json")}})


@pytest.fixture
def trivy(tmp_path: Path) -> FakeTool:
    return FakeTool(tmp_path, "trivy", {"*": {"write": sample("trivy/image-report.json")}})


class Zap:
    """ZAP's API as 2.11.1 answers it: what is asked is kept, alerts are recorded ones."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.statuses = ["10", "60", "100"]
        self.alerts = json.loads(sample("zap/core-view-alerts-passive-and-active.json"))["alerts"]
        self.key: str | None = "zap-key"
        zap = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                zap.asked.append(self.path)
                if zap.key and self.headers.get("X-ZAP-API-Key") != zap.key:
                    self.close_connection = True
                    return
                status, value = zap.answer(self.path)
                body = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/"

    def answer(self, path: str) -> tuple[int, Any]:
        parts = urlsplit(path)
        query = parse_qs(parts.query)
        if parts.path.endswith("/action/scan/"):
            return 200, {"scan": "0"}
        if parts.path.endswith("/view/status/"):
            return 200, {"status": self.statuses.pop(0) if len(self.statuses) > 1
                         else self.statuses[0]}
        if "alerts" in parts.path:
            start, count = int(query["start"][0]), int(query["count"][0])
            return 200, {"alerts": self.alerts[start:start + count]}
        if "recordsToScan" in parts.path:
            return 200, {"recordsToScan": "0"}
        if "version" in parts.path:
            return 200, {"version": "2.11.1"}
        return 200, {"Result": "OK"}


@pytest.fixture
def zap() -> Iterator[Zap]:
    zap = Zap()
    yield zap
    zap.server.shutdown()
    zap.server.server_close()


@pytest.fixture
def worker(cworker: Callable[..., Worker], database: Database, testssl: FakeTool, trivy: FakeTool,
           zap: Zap) -> Worker:
    return cworker(database=database, queues="scans",
                   env={"CWORKER_TESTSSL": str(testssl.path), "CWORKER_TRIVY": str(trivy.path),
                        "CWORKER_ZAP_URL": zap.url, "ZAP_API_KEY": "zap-key",
                        "CWORKER_REGION_BATCH_SIZE": "2", "CWORKER_REGION_BATCH_DELAY": "30"})


def send(app: Celery, name: str, *args: Any, **options: Any) -> Any:
    return app.send_task(f"scans.{name}", args=args, queue="scans", **options)


def put_scan(database: Database, target: Any, **options: Any) -> str:
    name = f"scan-{database.native_scans.count_documents({})}"
    database.native_scans.insert_one({"_id": name, "team_id": "team-1", "target": target,
                                      "options": options, "status": "PENDING"})
    return name


def mirror(database: Database, scan_id: str) -> dict[str, Any]:
    found = database.unified_scan_results.find_one({"scan_id": scan_id})
    assert found, list(database.unified_scan_results.find())
    return found


# --- network: the real nmap ---

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


# --- ssl ---

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


# --- web ---

@pytest.mark.parametrize("active", [False, True])
def test_web(app: Celery, worker: Worker, database: Database, zap: Zap, active: bool) -> None:
    scan = put_scan(database, "http://127.0.0.1:18085/?a=b&c", active=active)
    for _ in range(2):
        result = get(send(app, "execute_web_scan", scan))
        database.native_scans.update_one({"_id": scan}, {"$set": {"status": "PENDING"}})
    assert (result["findings"], result["zap_version"]) == (8, "2.11.1")
    assert result["truncated"] is False
    assert result["by_severity"]["HIGH"] == 1
    assert database.scan_findings.count_documents({}) == 8
    found = database.scan_findings.find_one({"severity": "HIGH"})
    assert (found["check_id"], found["param"], found["method"]) == ("40012", "q", "GET")
    assert any("ascan/action/scan" in path for path in zap.asked) == active
    assert all("zap-key" not in path for path in zap.asked)
    assert any("url=http%3A%2F%2F127.0.0.1%3A18085%2F%3Fa%3Db%26c" in path for path in zap.asked)


def test_web_only_its_own_alerts(app: Celery, worker: Worker, database: Database, zap: Zap) -> None:
    """The daemon keeps what other scans found; and a place may be written in more than one way."""
    alert = zap.alerts[0]
    own = ["http://127.0.0.1", "http://127.0.0.1/", "http://127.0.0.1:80/a?x=1"]
    others = ["http://127.0.0.1:8080/", "http://127.0.0.10/", "http://127.0.0.1.example/",
              "https://127.0.0.1/", "127.0.0.1", ""]
    zap.alerts = [{**alert, "url": url} for url in own + others]
    scan = put_scan(database, "HTTP://127.0.0.1:80/?q=a#b")
    assert get(send(app, "execute_web_scan", scan))["findings"] == 3
    assert {f["url"] for f in database.scan_findings.find()} == set(own)
    paths = [urlsplit(path).path for path in zap.asked]
    assert any("url=http%3A%2F%2F127.0.0.1%2F%3Fq%3Da&" in path for path in zap.asked)
    assert paths.index("/JSON/core/action/newSession/") < paths.index("/JSON/spider/action/scan/")
    zap.alerts = [{**alert, "url": f"{SITE}{path}"} for path in ("", "shop", "shop/a", "x?u=/shop")]
    assert get(send(app, "execute_web_scan", put_scan(database, f"{SITE}shop?q=1")))["findings"] == 2


@pytest.mark.parametrize("part, reply, words", [
    ("spider/view/status", {"status": "soon"}, "how far it is"),
    ("spider/view/status", {}, "how far it is"),
    ("spider/action/scan", {"scan": {}}, "no scan id"),
    ("recordsToScan", {"recordsToScan": None}, "passive rules"),
    ("core/view/alerts", {"code": "internal_error"}, "alerts"),
    ("core/view/alerts", {"alerts": {"id": 1}}, "alerts"),
])
def test_web_wrong_answers(app: Celery, worker: Worker, database: Database, zap: Zap, part: str,
                           reply: Any, words: str) -> None:
    """What is not understood is no clean site."""
    usual = zap.answer
    zap.answer = lambda path: (200, reply) if part in path else usual(path)
    scan = put_scan(database, SITE)
    result = send(app, "execute_web_scan", scan)
    wait_state(result, "FAILURE")
    assert isinstance(result.result, ValueError) and words in str(result.result)
    assert database.native_scans.find_one({"_id": scan})["status"] == "FAILED"
    if "status" in part:
        assert any("spider/action/stop" in path for path in zap.asked)


def test_web_of_a_dead_site(app: Celery, worker: Worker, database: Database, zap: Zap) -> None:
    """The spider ends well there, having met nobody; the findings of an earlier scan stay."""
    scan = put_scan(database, SITE)
    get(send(app, "execute_web_scan", scan))
    database.native_scans.update_one({"_id": scan}, {"$set": {"status": "PENDING"}})
    usual = zap.answer
    zap.answer = lambda path: (200, {"sites": []}) if "view/sites" in path else usual(path)
    result = send(app, "execute_web_scan", scan)
    assert wait_state(result, "RETRY", "SUCCESS", "FAILURE") == "RETRY"
    assert f"reached nothing at {SITE[:-1]}" in str(result.result)
    assert database.scan_findings.count_documents({}) == 8
    result.forget()


def test_web_wrong_key(app: Celery, worker: Worker, database: Database, zap: Zap) -> None:
    zap.key = "another"
    result = send(app, "execute_web_scan", put_scan(database, "http://127.0.0.1/"))
    wait_state(result, "FAILURE")
    assert "ZAP_API_KEY" in str(result.result)


def test_web_without_zap(app: Celery, cworker: Callable[..., Worker], database: Database) -> None:
    """The error names the service and where its address is said, never a password in it."""
    worker = cworker(database=database, queues="scans",
                     env={"CWORKER_ZAP_URL": "http://user:hidden@127.0.0.1:1/", "ZAP_API_KEY": "key"})
    result = send(app, "execute_web_scan", put_scan(database, "http://127.0.0.1/"))
    assert wait_state(result, "RETRY", "FAILURE") == "RETRY"
    error = database.native_scans.find_one()["error"]
    assert error.startswith("ConnectionError: ZAP at http://127.0.0.1:1 (CWORKER_ZAP_URL): ")
    assert str(result.result) in error and "hidden" not in error + worker.log
    assert leases(database)[0]["holder"] is None
    result.forget()


def test_web_cancelled(app: Celery, worker: Worker, database: Database, zap: Zap) -> None:
    zap.statuses = ["5"]
    scan = put_scan(database, "http://127.0.0.1/")
    result = send(app, "execute_web_scan", scan)
    wait_until(lambda: any("status" in path for path in zap.asked), what="a question for the status")
    database.native_scans.update_one({"_id": scan}, {"$set": {"status": "CANCELLED"}})
    assert get(result) == "CANCELLED"
    assert any("spider/action/stop" in path for path in zap.asked)


def test_web_is_late(app: Celery, worker: Worker, database: Database, zap: Zap) -> None:
    """ZAP is told to stop while the task can still tell it."""
    zap.statuses = ["5"]
    scan = put_scan(database, "http://127.0.0.1/", active=True)
    result = send(app, "execute_web_scan", scan, soft_time_limit=23, time_limit=60)
    wait_state(result, "FAILURE")
    assert isinstance(result.result, TimeoutError)
    assert any("spider/action/stop" in path for path in zap.asked)
    assert "the task may last" in database.native_scans.find_one({"_id": scan})["error"]


def daemon(zap: Zap) -> str:
    """One on loopback is this host's."""
    return f"{zap.url.rstrip('/')} on {socket.gethostname()}"


def leases(database: Database) -> list[dict[str, Any]]:
    return list(database.zap_daemons.find())


def test_one_web_scan_at_a_time(app: Celery, worker: Worker, database: Database, zap: Zap) -> None:
    """The daemon is shared: the second scan, and a second message for the first, come back later."""
    zap.statuses = ["5"]
    first, second = put_scan(database, SITE), put_scan(database, SITE)
    one = send(app, "execute_web_scan", first)
    wait_until(lambda: any("status" in path for path in zap.asked), what="a question for the status")
    two, again = send(app, "execute_web_scan", second), send(app, "execute_web_scan", first)
    for waiting in (two, again):
        wait_state(waiting, "RETRY")
        assert "busy" in str(waiting.result)
    assert database.native_scans.find_one({"_id": second})["status"] == "PENDING"
    [lease] = leases(database)
    assert (lease["_id"], lease["holder"]) == (daemon(zap), one.id)
    zap.statuses = ["100"]
    assert get(one)["findings"] == 8
    assert (leases(database)[0]["holder"], leases(database)[0]["unclean"]) == (None, False)
    assert get(two)["findings"] == 8
    assert get(again) == "COMPLETED"
    assert sum("spider/action/scan" in path for path in zap.asked) == 2
    assert not any("stopAllScans" in path for path in zap.asked)


@pytest.mark.parametrize("lease", [
    {"holder": "somebody", "leased_until": datetime(2020, 1, 1)},
    {"holder": "mine", "leased_until": datetime(2099, 1, 1)},
    {"holder": None, "leased_until": datetime(2099, 1, 1), "unclean": True}])
def test_web_after_one_that_died(app: Celery, worker: Worker, database: Database, zap: Zap,
                                 lease: dict[str, Any]) -> None:
    """What was left running in the daemon is stopped first."""
    database.zap_daemons.insert_one({"_id": daemon(zap), **lease})
    result = send(app, "execute_web_scan", put_scan(database, SITE), task_id="mine")
    assert get(result)["findings"] == 8
    assert ["stopAllScans" in path for path in zap.asked][:3] == [True, True, False]


def test_web_lease_is_lost(app: Celery, worker: Worker, database: Database, zap: Zap) -> None:
    """A child that stood still for too long does not go on in a daemon that is another's."""
    zap.statuses = ["5"]
    scan = put_scan(database, "http://127.0.0.1/")
    result = send(app, "execute_web_scan", scan)
    wait_until(lambda: leases(database), what="the lease")
    database.zap_daemons.update_one({}, {"$set": {"holder": "another"}})
    wait_state(result, "RETRY")
    assert "taken over" in database.native_scans.find_one({"_id": scan})["error"]
    assert leases(database)[0]["holder"] == "another"
    result.forget()


def test_web_gives_up(app: Celery, worker: Worker, database: Database, zap: Zap) -> None:
    """Coming back is also how a scan waits: so failures are counted in its document."""
    scan = put_scan(database, "http://127.0.0.1/")
    database.native_scans.update_one({"_id": scan}, {"$set": {"failures": 3}})
    zap.answer = lambda path: (503, {"code": "down"})
    result = send(app, "execute_web_scan", scan, retries=40)
    wait_state(result, "FAILURE")
    assert isinstance(result.result, RuntimeError) and "503" in str(result.result)
    document = database.native_scans.find_one({"_id": scan})
    assert (document["status"], document["failures"]) == ("FAILED", 0)
    assert leases(database)[0]["holder"] is None


# --- container ---

def test_cancelled_container_scan_ends_trivy(app: Celery, worker: Worker, database: Database,
                                             trivy: FakeTool) -> None:
    trivy.set({"*": {"hold": True}})
    database.container_scans.insert_one({"_id": "c1", "team_id": "team-1", "status": "PENDING",
                                         "image": "registry.example/app:1.0"})
    result = send(app, "execute_container_scan", "c1")
    call = wait_until(lambda: trivy.calls, what="the start of trivy")[0]
    assert database.container_scans.find_one()["task_id"] == result.id
    wait_state(result, "PROGRESS")
    database.container_scans.update_one({"_id": "c1"}, {"$set": {"status": "CANCELLED"}})
    assert get(result) == "CANCELLED"
    assert not is_alive(call["pid"])
    assert database.container_scans.find_one()["status"] == "CANCELLED"


def test_container(app: Celery, worker: Worker, database: Database, trivy: FakeTool) -> None:
    database.container_scans.insert_one({"_id": "c1", "team_id": "team-1", "status": "PENDING",
                                         "image": "registry.example/app:1.0"})
    assert get(send(app, "execute_container_scan", "c1")) == \
        {"image": "registry.example/app:1.0", "vulnerabilities": 2, "secrets": 1}
    scan = database.container_scans.find_one()
    assert scan["status"] == "COMPLETED" and scan["os"] == "alpine 3.20.2"
    first = scan["vulnerabilities"][0]
    assert (first["vulnerability_id"], first["severity"], first["cvss_score"]) == \
        ("CVE-2026-0001", "HIGH", 7.5)
    assert first["purl"].startswith("pkg:apk/alpine/libcrypto3")
    assert "Match" not in str(scan["secrets"]) and scan["secrets"][0]["line"] == 3
    assert mirror(database, "c1")["scan_type"] == "container"
    # Killed between the document and its mirror.
    database.unified_scan_results.delete_many({})
    assert get(send(app, "execute_container_scan", "c1")) == "COMPLETED"
    assert mirror(database, "c1")["status"] == "COMPLETED"
    assert len(trivy.calls) == 1


@pytest.mark.parametrize("image, step, error", [
    ("--config=/etc/passwd", {}, "ValueError"),
    ("a b", {}, "ValueError"),
    ("http://registry.example/a", {}, "ValueError"),
    ("169.254.169.254:80/a:1", {}, "PermissionError"),
    ("app:1", {"exit": 1, "errors": "unable to find the image"}, "RuntimeError"),
    ("app:1", {"exit": 1, "errors": "docker error: connection refused; remote error: GET "
               "https://registry.example/v2/app: MANIFEST_UNKNOWN: unknown"}, "RuntimeError"),
    ("app:1", {"exit": 0}, "FileNotFoundError"),
    ("app:1", {"write": '{"SchemaVersion": 2, "Results": [{'}, "ValueError"),
    ("app:1", {"write": '{"SchemaVersion": 9, "Results": []}'}, "ValueError"),
    ("app:1", {"write": '{"SchemaVersion": 2, "Results": [7]}'}, "ValueError"),
    ("app:1", {"write": '[{"Vulnerabilities": []}]'}, "ValueError"),
    ("app:1", {"write": '{"SchemaVersion": 2, "Results": {"Vulnerabilities": []}}'}, "ValueError"),
    ("app:1", {"write": '{"SchemaVersion": 2, "Results": [{"Vulnerabilities": "many"}]}'}, "ValueError"),
    ("app:1", {"write": '{"SchemaVersion": 2, "Results": [{"Vulnerabilities": [{}]}]}'}, "ValueError"),
    ("app:1", {"write": "{}"}, "ValueError"),
])
def test_container_failures(app: Celery, worker: Worker, database: Database, trivy: FakeTool,
                            image: str, step: dict[str, Any], error: str) -> None:
    trivy.set({"*": step})
    database.container_scans.insert_one({"_id": "c1", "team_id": "team-1", "image": image})
    result = send(app, "execute_container_scan", "c1")
    wait_state(result, "FAILURE")
    assert type(result.result).__name__ == error
    assert database.container_scans.find_one()["status"] == "FAILED"


@pytest.mark.parametrize("words", [
    "failed to download vulnerability DB: TOOMANYREQUESTS: retry-after: 1ms",
    "dial tcp: lookup registry.example: Temporary failure in name resolution",
    "x" * 900 + " context deadline exceeded"])
def test_container_retries(app: Celery, worker: Worker, database: Database, trivy: FakeTool,
                           words: str) -> None:
    trivy.set({"*": {"exit": 1, "errors": words}})
    database.container_scans.insert_one({"_id": "c1", "team_id": "team-1", "image": "app:1"})
    result = send(app, "execute_container_scan", "c1")
    assert wait_state(result, "RETRY", "FAILURE") == "RETRY"
    assert words[-20:] in str(result.result)
    result.forget()


def test_more_secrets_than_are_kept(app: Celery, worker: Worker, database: Database,
                                    trivy: FakeTool) -> None:
    secrets = [{"RuleID": "r", "Severity": "HIGH", "StartLine": n} for n in range(1500)]
    trivy.set({"*": {"write": json.dumps({"SchemaVersion": 2, "Results": [{"Secrets": secrets}]})}})
    database.container_scans.insert_one({"_id": "c1", "team_id": "team-1", "image": "app:1"})
    assert get(send(app, "execute_container_scan", "c1"))["secrets"] == 1500
    scan = database.container_scans.find_one()
    assert len(scan["secrets"]) == 1000 and scan["summary"]["truncated"] is True
    assert scan["summary"]["by_severity"]["HIGH"] == 1500
    assert mirror(database, "c1")["target"] == "app:1"


def test_no_results_is_clean(app: Celery, worker: Worker, database: Database, trivy: FakeTool) -> None:
    trivy.set({"*": {"write": '{"SchemaVersion": 2, "Results": null}'}})
    database.container_scans.insert_one({"_id": "c1", "team_id": "team-1", "image": "app:1"})
    assert get(send(app, "execute_container_scan", "c1"))["vulnerabilities"] == 0


@pytest.mark.parametrize("words", ["truncate -s 3M", "yes | head -c 3M >"])
def test_reports_are_bounded(app: Celery, cworker: Callable[..., Worker], database: Database,
                             tmp_path: Path, words: str) -> None:
    """A file beyond the limit: the writer is killed, or says why it ended."""
    trivy = tmp_path / "trivy"
    trivy.write_text(f"""#!/bin/bash\nset -e -o pipefail\nwhile [ $1 != --output ]; do shift; done
{words} $2\n""")
    trivy.chmod(0o755)
    cworker(database=database, queues="scans",
            env={"CWORKER_TRIVY": str(trivy), "CWORKER_MAX_REPORT_MB": "1"})
    database.container_scans.insert_one({"_id": "c1", "team_id": "team-1", "image": "app:1"})
    result = send(app, "execute_container_scan", "c1")
    wait_state(result, "FAILURE")
    assert isinstance(result.result, ValueError) and "CWORKER_MAX_REPORT_MB" in str(result.result)
    assert "CWORKER_MAX_REPORT_MB" in database.container_scans.find_one()["error"]


def test_output_without_lines(app: Celery, cworker: Callable[..., Worker], database: Database,
                              tmp_path: Path) -> None:
    """A gigabyte that never ends its line is not gathered."""
    nmap = tmp_path / "nmap"
    nmap.write_text("#!/bin/sh\nhead -c 1G /dev/zero\n")
    nmap.chmod(0o755)
    cworker(database=database, queues="scans",
            env={"CWORKER_NMAP": str(nmap)})
    result = send(app, "execute_network_scan", put_scan(database, "127.0.0.1"))
    wait_state(result, "FAILURE")
    assert "longer than" in str(result.result)


# --- cloud ---

def put_run(database: Database, **fields: Any) -> str:
    database.scan_runs.insert_one({
        "_id": "run-1", "team_id": "team-1", "cloud_account_id": "1", "provider": "aws",
        "regions": ["eu-west-1", "eu-west-2", "us-east-1"], "frameworks": ["cis_1.4_aws"],
        "status": "PENDING", **fields})
    return "run-1"


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

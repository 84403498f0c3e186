# SPDX-License-Identifier: Apache-2.0
"""The real tools: a short testssl.sh always; the long ones where `make check-tools` has installed them."""
from __future__ import annotations

import os
import secrets
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import parse_qs, urlsplit
from urllib.request import Request, urlopen

import pytest
from celery import Celery
from pymongo.database import Database

from harness import ROOT, Worker, get, wait_state
from services.process import end_process, free_port, wait_until
from tools import ASSETS, FakeTool

TOOLS = ROOT / "build/tools"
ACCOUNT = "123456789012"


def needs(tool: str) -> Any:
    """Skips where the tool is not there, and says why."""
    reason = TOOLS / f"{tool}.skipped"
    installed = {"zap": "zap/rules.zap", "prowler": "prowler/installed"}
    if "CHECK_TOOLS" not in os.environ:
        return pytest.mark.skip(reason="slow: make check-tools runs it")
    there = tool not in installed or (TOOLS / installed[tool]).exists()
    return pytest.mark.skipif(
        not there, reason=reason.read_text().strip() if reason.exists() else f"no {tool}")


@pytest.fixture
def database(app_database: Database) -> Database:
    app_database.approved_targets.insert_one({"team_id": "team-1", "target": "127.0.0.0/8"})
    return app_database


@pytest.fixture
def start(cworker: Callable[..., Worker], database: Database) -> Callable[..., Worker]:
    return lambda **env: cworker(database=database, env=env,
                                 queues="scans,discovery,compliance,sync,maintenance")


def send(app: Celery, name: str, *args: Any) -> Any:
    return app.send_task(name, args=args, queue=name.partition(".")[0])


@contextmanager
def served(handler: type[BaseHTTPRequestHandler],
           context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server on loopback, for as long as the block lasts: its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True,
                                            do_handshake_on_connect=False)
    server.handle_error = lambda *_: None  # testssl breaks connections off on purpose
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


class Page(BaseHTTPRequestHandler):
    """Two pages that lead to a third, which shows what it is asked for."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        word = parse_qs(url.query).get("q", [""])[0]
        body = {"/": '<a href="/a">a</a> <a href="/search?q=hello">search</a>', "/a": "a",
                "/search": f"You searched for {word}"}.get(url.path)
        text = f"<html>{body}</html>".encode()
        self.send_response(200 if body else 404)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


# --- testssl ---

@pytest.fixture
def tls_port(tmp_path: Path) -> Iterator[int]:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30",
                    "-subj", "/CN=localhost", "-keyout", key, "-out", certificate],
                   check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with served(Page, context) as port:
        yield port


def scan_tls(app: Celery, database: Database, port: int, checks: list[str] | None,
             timeout: float) -> Any:
    options = {"checks": checks} if checks else {}
    database.native_scans.insert_one({"_id": "tls", "team_id": "team-1", "status": "PENDING",
                                      "target": f"127.0.0.1:{port}", "options": options})
    summary = get(send(app, "scans.execute_ssl_scan", "tls"), timeout)
    assert database.native_scans.find_one()["status"] == "COMPLETED"
    return summary


@pytest.mark.timeout(900)
def test_testssl_protocols(app: Celery, start: Callable[..., Worker], database: Database,
                           tls_port: int) -> None:
    start()
    summary = scan_tls(app, database, tls_port, ["protocols"], 500)
    assert summary["protocols"] == ["TLS1_2", "TLS1_3"]
    found = database.scan_findings.find_one({"check_id": "SSLv3"})
    assert (found["result"], found["port"], found["host"]) == ("OK", tls_port, "127.0.0.1")


@needs("testssl")
@pytest.mark.timeout(900)
def test_testssl_full(app: Celery, start: Callable[..., Worker], database: Database,
                      tls_port: int) -> None:
    start()
    summary = scan_tls(app, database, tls_port, None, 850)
    assert summary["protocols"] == ["TLS1_2", "TLS1_3"]
    assert 28 <= summary["certificate_days_left"] <= 30
    assert summary["findings"] > 80 and database.scan_findings.find_one({"check_id": "heartbleed"})


# --- ZAP ---

@pytest.fixture
def zap(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """URL and key of a ZAP of our own, with two rules."""
    home, key, port = tmp_path / "zap", secrets.token_hex(8), free_port()
    (home / "plugin").mkdir(parents=True)
    (home / "plugin/rules-alpha-1.zap").write_bytes((TOOLS / "zap/rules.zap").read_bytes())
    words = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
             "--add-opens", "java.base/java.lang=ALL-UNNAMED",
             "--add-exports", "java.base/sun.security.x509=ALL-UNNAMED",
             "-cp", f"{TOOLS}/zap/libs/*", "org.zaproxy.zap.ZAP", "-daemon", "-silent",
             "-host", "127.0.0.1", "-port", str(port), "-dir", str(home)]
    for setting in (f"api.key={key}", "callback.localaddr=127.0.0.1",
                    f"callback.port={free_port()}"):
        words += ["-config", setting]
    with open(tmp_path / "zap.log", "wb") as log:
        process = subprocess.Popen(words, cwd=home, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, (tmp_path / "zap.log").read_text()[-2000:]
        try:
            request = Request(f"{url}/JSON/core/view/version/", headers={"X-ZAP-API-Key": key})
            return urlopen(request, timeout=5).status == 200
        except (URLError, OSError):
            return False
    try:
        wait_until(answers, 120, "ZAP's start")
        yield url, key
    finally:
        end_process(process, 30)


@needs("zap")
@pytest.mark.timeout(900)
def test_zap(app: Celery, start: Callable[..., Worker], database: Database,
             zap: tuple[str, str]) -> None:
    start(CWORKER_ZAP_URL=zap[0], ZAP_API_KEY=zap[1])
    with served(Page) as port:
        database.native_scans.insert_one({
            "_id": "web", "team_id": "team-1", "status": "PENDING",
            "target": f"http://127.0.0.1:{port}/", "options": {"active": True}})
        summary = get(send(app, "scans.execute_web_scan", "web"), 500)
    assert (summary["zap_version"], summary["active"]) == ("2.11.1", True)
    high = database.scan_findings.find_one({"severity": "HIGH"})
    assert (high["check_id"], high["param"], high["cwe"]) == ("40012", "q", "79")
    assert database.scan_findings.count_documents({"check_id": "10021", "severity": "LOW"}) >= 3
    # What one scan found is not the next one's, and a site that is down is no clean one.
    with served(Page) as port:
        database.native_scans.insert_one({"_id": "next", "team_id": "team-1", "status": "PENDING",
                                          "target": f"HTTP://127.0.0.1:{port}"})
        assert get(send(app, "scans.execute_web_scan", "next"), 500)["by_severity"]["HIGH"] == 0
        assert database.scan_findings.count_documents({"scan_id": "next"}) >= 3
    database.native_scans.insert_one({"_id": "down", "team_id": "team-1", "status": "PENDING",
                                      "target": f"http://127.0.0.1:{free_port()}/"})
    result = send(app, "scans.execute_web_scan", "down")
    assert wait_state(result, "RETRY", "SUCCESS", "FAILURE") == "RETRY"
    assert "reached nothing" in str(result.result)
    result.forget()


@needs("zap")
@pytest.mark.timeout(900)
def test_zap_with_a_wrong_key(app: Celery, start: Callable[..., Worker], database: Database,
                              zap: tuple[str, str]) -> None:
    start(CWORKER_ZAP_URL=zap[0], ZAP_API_KEY="wrong")
    database.native_scans.insert_one({"_id": "web", "team_id": "team-1", "status": "PENDING",
                                      "target": "http://127.0.0.1:1/"})
    with pytest.raises(PermissionError, match="ZAP_API_KEY"):
        get(send(app, "scans.execute_web_scan", "web"), 60)


# --- prowler against moto ---

SEED = """
import boto3, sys
s3 = boto3.client("s3", endpoint_url=sys.argv[1], region_name="us-east-1")
s3.create_bucket(Bucket="public-data", ACL="public-read")
"""


@pytest.fixture
def aws(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Environment of an AWS account that moto plays, with one public bucket."""
    folder, port = TOOLS / "prowler/bin", free_port()
    env = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing",
           "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    with open(tmp_path / "moto.log", "wb") as log:
        process = subprocess.Popen([folder / "moto_server", "-H", "127.0.0.1", "-p", str(port)],
                                   stdout=log, stderr=log)

    def seeded() -> bool:
        assert process.poll() is None, (tmp_path / "moto.log").read_text()[-2000:]
        return subprocess.run([folder / "python", "-c", SEED, env["AWS_ENDPOINT_URL"]],
                              capture_output=True, env={**os.environ, **env}).returncode == 0
    try:
        wait_until(seeded, 120, "moto's bucket")
        yield env
    finally:
        end_process(process)


@needs("prowler")
@pytest.mark.timeout(1500)
def test_prowler(app: Celery, start: Callable[..., Worker], database: Database, tmp_path: Path,
                 aws: dict[str, str]) -> None:
    """A cloud scan whose prowler is the real one; Steampipe's answers are made up."""
    steampipe = FakeTool(tmp_path, "steampipe", {"*": {"output": ASSETS}})
    start(CWORKER_PROWLER=str(TOOLS / "prowler/bin/prowler"), CWORKER_STEAMPIPE=str(steampipe.path),
          **aws)
    database.scan_runs.insert_one({
        "_id": "run-1", "team_id": "team-1", "cloud_account_id": ACCOUNT, "provider": "aws",
        "regions": ["us-east-1"], "frameworks": ["cis_1.4_aws"], "status": "PENDING"})
    get(send(app, "scans.execute_cloud_scan", "run-1"), 60)
    wait_until(lambda: database.scan_runs.find_one()["status"] not in ("PENDING", "RUNNING"), 1300,
               "the run's end")
    run = database.scan_runs.find_one()
    assert (run["status"], run["errors"]) == ("COMPLETED", [])
    assert run["summary"]["findings"] > 10 and run["summary"]["pass"] >= 1
    found = database.cspm_findings.find_one({"resource_id": {"$regex": "public-data"},
                                             "status": "FAIL"})
    assert (found["account_id"], found["service"]) == (ACCOUNT, "s3")
    assert any(f["framework"] == "CIS-1.4" for f in found["compliance"])
    synced = get(send(app, "sync.sync_vulnerabilities_for_team", "team-1"), 60)
    assert synced["cspm"]["new"] == run["summary"]["findings"]
    assert get(send(app, "compliance.run_compliance_refresh"), 60)["frameworks"] > 5

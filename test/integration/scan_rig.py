# SPDX-License-Identifier: Apache-2.0
"""A worker for scans: recorded outputs in the place of testssl and Trivy, a stand-in for ZAP."""
from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from celery import Celery
from pymongo.database import Database

from harness import Worker
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


def put_run(database: Database, **fields: Any) -> str:
    database.scan_runs.insert_one({
        "_id": "run-1", "team_id": "team-1", "cloud_account_id": "1", "provider": "aws",
        "regions": ["eu-west-1", "eu-west-2", "us-east-1"], "frameworks": ["cis_1.4_aws"],
        "status": "PENDING", **fields})
    return "run-1"

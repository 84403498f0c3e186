# SPDX-License-Identifier: Apache-2.0
"""scans: container images, recorded and documented shapes of Trivy."""
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from pymongo.database import Database

from harness import Worker, get, is_alive, wait_state
from scan_rig import database, mirror, put_scan, send, testssl, trivy, worker, zap  # noqa: F401
from services.process import wait_until
from tools import FakeTool


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

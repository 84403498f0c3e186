# SPDX-License-Identifier: Apache-2.0
"""scans: the native scan of a site, with a stand-in for ZAP that tells what a real one told."""
from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
from celery import Celery
from pymongo.database import Database

from harness import Worker, get, wait_state
from scan_rig import SITE, Zap, database, put_scan, send, testssl, trivy, worker, zap  # noqa: F401
from services.process import wait_until


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

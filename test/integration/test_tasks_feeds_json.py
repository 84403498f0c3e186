# SPDX-License-Identifier: Apache-2.0
"""threat_feeds: AbuseIPDB and OTX in their documented shapes: pages, cursors, hostile JSON."""
from __future__ import annotations

import datetime as dt
import json
import threading
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from celery import Celery
from pymongo.database import Database

from feed_server import (FeedServer, SAMPLES, add_feed, db, feeds, fetch, peak, snapshot,  # noqa: F401
                         start_worker, values, worker)
from harness import TIMEOUT, get, wait_state
from services.process import wait_until


def test_abuseipdb(app: Celery, worker: Any, db: Database, feeds: FeedServer) -> None:
    sample = (SAMPLES / "feeds/abuseipdb-blacklist.json").read_bytes()
    add_feed(db, "abuse", "abuseipdb", feeds.serve("/api/v2/blacklist", sample), secret="ABUSE")
    assert fetch(app, "abuse")["indicators"] == 3
    path, query, headers = feeds.requests[0]
    assert headers["key"] == "abuse-key" and headers["accept"] == "application/json"
    assert query == {"confidenceMinimum": "100", "limit": "10000"}
    row = db.threat_indicators.find_one({"value": "198.51.100.23"})
    assert row["confidence"] == 97
    # Five calls a day: it is not asked again before five hours are over.
    assert fetch(app, "abuse")["status"] == "NOT_DUE"
    assert len(feeds.requests) == 1
    due = db.threat_feeds.find_one({"_id": "abuse"})["next_fetch_at"]
    assert due > dt.datetime.utcnow() + dt.timedelta(hours=4.9)
    task = app.send_task("threat_feeds.fetch_all_enabled_feeds", queue="threat_feeds")
    assert get(task) == {"sent": 0, "not_due": 1}


def test_abuseipdb_refuses_the_key(app: Celery, worker: Any, db: Database,
                                   feeds: FeedServer) -> None:
    sample = (SAMPLES / "feeds/abuseipdb-error-401.json").read_bytes()
    add_feed(db, "abuse", "abuseipdb", feeds.serve("/x", sample, 401), secret="ABUSE")
    with pytest.raises(RuntimeError, match="HTTP 401"):
        fetch(app, "abuse")
    assert db.threat_feeds.find_one({"_id": "abuse"})["status"] == "ERROR"
    assert "abuse-key" not in str(list(db.threat_feeds.find()))


def otx_pulses(count: int) -> list[dict[str, Any]]:
    sample = json.loads((SAMPLES / "feeds/otx-pulses-subscribed-page1.json").read_text())
    return [{**sample["results"][0], "id": f"{i:024x}",
             "modified": f"2026-11-{10 + i:02d}T10:11:12.131000",
             "indicators": [*sample["results"][0]["indicators"],
                            {"indicator": f"pulse{i}.example", "type": "hostname",
                             "is_active": 1, "created": "2026-11-19T09:08:08"}]}
            for i in range(count)]


def serve_otx(feeds: FeedServer, pulses: list[dict[str, Any]], limit: int) -> str:
    path = "/api/v1/pulses/subscribed"

    def answer(query: dict, headers: dict) -> tuple[int, dict[str, str], bytes]:
        if headers.get("x-otx-api-key") != "otx-key":
            return 403, {}, b'{"detail": "Authentication required"}'
        page, since = int(query["page"]), query.get("modified_since", "")
        fresh = [pulse for pulse in pulses if pulse["modified"] > since]
        more = page * limit < len(fresh)
        following = f"{feeds.url}{path}?limit={limit}&page={page + 1}&modified_since={since}"
        return 200, {}, json.dumps({
            "results": fresh[(page - 1) * limit:page * limit], "count": len(fresh),
            "next": following if more else None, "previous": None}).encode()
    feeds.routes[path] = answer
    return feeds.url + path


def test_otx_pages_and_cursor(app: Celery, worker: Any, db: Database, feeds: FeedServer) -> None:
    pulses = otx_pulses(7)
    add_feed(db, "otx", "otx", serve_otx(feeds, pulses, 3), secret="OTX")
    done = fetch(app, "otx")
    assert (done["indicators"], done["skipped"], done["withdrawn"]) == (7 * 4, 7, 7)
    assert len(feeds.requests) == 3
    found = values(db)
    assert {"203.0.113.7": "ip", "evil.example": "domain", "pulse6.example": "domain",
            "http://evil.example/a.exe": "url"}.items() <= found.items()
    row = db.threat_indicators.find_one({"value": "evil.example"})
    assert {"c2", "botnet"} <= set(row["tags"])
    assert row["first_seen"] == dt.datetime(2026, 11, 19, 9, 8, 8)
    cursor = db.threat_feeds.find_one({"_id": "otx"})["state"]["cursor"]
    assert cursor == pulses[-1]["modified"]
    before = snapshot(db)
    assert fetch(app, "otx")["indicators"] == 0
    assert snapshot(db) == before
    assert feeds.requests[-1][1]["modified_since"] == cursor


def test_otx_next_page_elsewhere(app: Celery, worker: Any, db: Database,
                                 feeds: FeedServer) -> None:
    page = {"results": [], "next": "http://localhost:1/steal"}
    add_feed(db, "otx", "otx", feeds.serve("/p", page), secret="OTX")
    with pytest.raises(ValueError, match="not the feed's own"):
        fetch(app, "otx")


@pytest.mark.parametrize("after", [{1: 1}, {1: 2, 2: 1}, {1: 2, 2: 3, 3: 4, 4: 5, 5: 3}])
def test_otx_pages_in_a_circle(app: Celery, worker: Any, db: Database, feeds: FeedServer,
                               after: dict[int, int]) -> None:
    def page(query: dict[str, str], headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        url = f"{feeds.url}/p?page={after[int(query['page'])]}"
        return 200, {}, json.dumps({"results": [], "next": url}).encode()
    feeds.routes["/p"] = page
    add_feed(db, "otx", "otx", feeds.url + "/p", secret="OTX")
    with pytest.raises(ValueError, match="circle"):
        fetch(app, "otx")
    assert len(feeds.requests) < 20 and not db.threat_feeds.find_one().get("resume")


def test_cut_json(app: Celery, worker: Any, db: Database, feeds: FeedServer) -> None:
    body = json.dumps({"results": otx_pulses(2), "next": None}).encode()
    add_feed(db, "otx", "otx", feeds.serve("/p", body[:-40]), secret="OTX")
    with pytest.raises(ValueError, match="JSON"):
        fetch(app, "otx")
    assert "cursor" not in db.threat_feeds.find_one({"_id": "otx"}).get("state", {})


def test_otx_pages_too_large_for_its_gateway(app: Celery, worker: Any, db: Database,
                                             feeds: FeedServer) -> None:
    """504: half as many from the same place, as the services' own client does not."""
    pulses = otx_pulses(9)
    path = "/api/v1/pulses/subscribed"

    def answer(query: dict, headers: dict) -> tuple[int, dict[str, str], bytes]:
        limit, page = int(query["limit"]), int(query["page"])
        if limit > (2 if page > 1 else 5):
            return 504, {}, b"<html>Gateway Time-out</html>"
        more = f"{feeds.url}{path}?limit={limit}&page={page + 1}" if page * limit < 9 else None
        return 200, {}, json.dumps({"results": pulses[(page - 1) * limit:page * limit],
                                    "next": more}).encode()
    feeds.routes[path] = answer
    add_feed(db, "otx", "otx", feeds.url + path, secret="OTX", limit=20)
    assert fetch(app, "otx")["status"] == "OK"
    asked = [(query["limit"], query["page"]) for _, query, _ in feeds.requests]
    assert asked == [("20", "1"), ("10", "1"), ("5", "1"), ("5", "2"), ("2", "3"), ("2", "4"), ("2", "5")]
    assert {f"pulse{i}.example" for i in range(9)} <= values(db).keys()
    assert db.threat_feeds.find_one()["state"]["cursor"] == pulses[-1]["modified"]
    feeds.serve(path, b"", 504)  # one pulse is too much, too: later
    task = app.send_task("threat_feeds.fetch_feed", args=["otx"], queue="threat_feeds")
    wait_state(task, "RETRY")
    assert [query["limit"] for _, query, _ in feeds.requests[7:]] == ["20", "10", "5", "2", "1"]


def test_otx_goes_on_where_it_was(app: Celery, worker: Any, db: Database, feeds: FeedServer) -> None:
    """A first walk may take longer than a task; what a page refuses for good begins anew."""
    pulses = otx_pulses(7)
    url = serve_otx(feeds, pulses, 3)
    path = urlsplit(url).path
    whole = feeds.routes[path]
    feeds.routes[path] = lambda query, headers: (
        (503, {}, b"") if query["page"] == "2" else whole(query, headers))
    add_feed(db, "otx", "otx", url, secret="OTX", limit=3)

    def broken(state: str) -> dict[str, Any]:
        task = app.send_task("threat_feeds.fetch_feed", args=["otx"], queue="threat_feeds")
        wait_state(task, state)
        if state == "RETRY":
            app.control.revoke(task.id)
        return wait_until(lambda: db.threat_feeds.find_one({"status": "ERROR"}), what="its error")
    at = broken("RETRY")["resume"]
    assert "page=2" in at["url"] and at["newest"] == pulses[2]["modified"]
    del feeds.requests[:]
    feeds.routes[path] = whole
    assert fetch(app, "otx")["status"] == "OK"
    assert [query["page"] for _, query, _ in feeds.requests] == ["2", "3"]
    assert {f"pulse{i}.example" for i in range(7)} <= values(db).keys()
    feed = db.threat_feeds.find_one()
    assert (feed["resume"], feed["state"]["cursor"]) == (None, pulses[-1]["modified"])
    feeds.serve(path, b"", 404)
    assert broken("FAILURE")["resume"] is None


def test_a_killed_otx_walk_goes_on_where_it_was(app: Celery, cworker: Callable[..., Any],
                                                db: Database, feeds: FeedServer) -> None:
    """What was read and stored is not asked for again, and nothing between is passed by."""
    pulses, asked, go_on = otx_pulses(7), threading.Event(), threading.Event()
    url = serve_otx(feeds, pulses, 2)
    whole = feeds.routes[urlsplit(url).path]

    def answer(query: dict, headers: dict) -> tuple[int, dict[str, str], bytes]:
        if query["page"] == "3" and not asked.is_set():
            asked.set()
            go_on.wait(2 * TIMEOUT)
        return whole(query, headers)
    feeds.routes[urlsplit(url).path] = answer
    add_feed(db, "otx", "otx", url, secret="OTX", limit=2)
    first = start_worker(cworker, db, name="same@test")
    task = app.send_task("threat_feeds.fetch_feed", args=["otx"], queue="threat_feeds")
    assert asked.wait(TIMEOUT)
    first.kill()
    go_on.set()
    feed = db.threat_feeds.find_one()
    assert "page=3" in feed["resume"]["url"] and feed["resume"]["newest"] == pulses[3]["modified"]
    assert "state" not in feed
    start_worker(cworker, db, name="same@test")
    assert get(task)["status"] == "OK"
    assert [query["page"] for _, query, _ in feeds.requests] == ["1", "2", "3", "3", "4"]
    assert {f"pulse{i}.example" for i in range(7)} <= values(db).keys()
    feed = db.threat_feeds.find_one()
    assert (feed["resume"], feed["state"]["cursor"]) == (None, pulses[-1]["modified"])


def test_feeds_of_one_name(app: Celery, worker: Any, db: Database, feeds: FeedServer) -> None:
    """Teams name their feeds alike, and none takes back what another one tells."""
    def otx(path: str, active: int) -> str:
        pulse, = otx_pulses(1)
        rows = [{"indicator": "evil.example", "type": "domain", "is_active": active}]
        return feeds.serve(path, {"results": [{**pulse, "indicators": rows}], "next": None})
    for feed_id in ("b", "a"):
        add_feed(db, feed_id, "otx", otx(f"/{feed_id}", 1), secret="OTX")
    db.threat_feeds.update_many({}, {"$set": {"name": "AlienVault"}})
    assert fetch(app, "b")["indicators"] == fetch(app, "a")["indicators"] == 1
    otx("/a", 0)
    assert fetch(app, "a")["withdrawn"] == 1
    left = db.threat_indicators.find_one()
    assert left["sources"] == ["AlienVault (b)"] and left["expires_at"] > dt.datetime.utcnow()


def test_otx_dates_that_lie_ahead(app: Celery, worker: Any, db: Database,
                                  feeds: FeedServer) -> None:
    pulse, = otx_pulses(1)
    page = {"results": [{**pulse, "modified": "9999-12-31T00:00:00"}, 7, pulse], "next": None}
    add_feed(db, "otx", "otx", feeds.serve("/p", page), secret="OTX")
    assert fetch(app, "otx")["bad"] == 1
    assert db.threat_feeds.find_one()["state"]["cursor"] == pulse["modified"]


@pytest.mark.parametrize(("kind", "secret"), [("abuseipdb", "ABUSE"), ("otx", "OTX")])
def test_an_answer_without_its_list(app: Celery, worker: Any, db: Database, feeds: FeedServer,
                                    kind: str, secret: str) -> None:
    add_feed(db, "x", kind, feeds.serve("/p", {"message": "down for maintenance"}), secret=secret)
    with pytest.raises(ValueError, match="has no list"):
        fetch(app, "x")


JUNK = b"[" + b"0," * (12 << 20) + b"0]"


def test_hostile_json_needs_little_memory(app: Celery, worker: Any, db: Database,
                                          feeds: FeedServer) -> None:
    """A tree of each of these would take a gigabyte."""
    event, other = str(uuid.uuid4()), str(uuid.uuid4())
    row = b'{"type":"domain","to_ids":true,"value":"%s"'
    feeds.serve("/m/manifest.json", {event: {"timestamp": 1}, other: {"timestamp": 1}})
    feeds.serve(f"/m/{event}.json", b'{"Event":{"Attribute":[' + row % b"a.example" + b'},' +
                row % b"b.example" + b',"data":' + JUNK + b'}],"Tag":[{"name":"t"}]}}')
    feeds.serve(f"/m/{other}.json", b'{"junk":1,"Event":{"junk":' + JUNK + b',"Object":[{"x":1,"Attribute":['
                + row % b"c.example" + b'}]}]}}')
    add_feed(db, "misp", "misp", feeds.url + "/m/")
    done = fetch(app, "misp")
    assert (done["status"], done["indicators"], done["skipped"]) == ("OK", 2, 1)
    assert db.threat_indicators.find_one({"value": "a.example"})["tags"] == ["t"]
    pulse = b'{"indicators":[{"type":"domain","indicator":"d.example"}],"x":' + JUNK + b'}'
    add_feed(db, "otx", "otx", secret="OTX", url=feeds.serve(
        "/p", b'{"x":' + JUNK + b',"results":[' + pulse + b'],"next":null}'))
    assert fetch(app, "otx")["indicators"] == 1
    assert peak(worker) < 250


def test_pages_leave_no_memory_behind(app: Celery, worker: Any, db: Database,
                                      feeds: FeedServer) -> None:
    def answer(query: dict, headers: dict) -> tuple[int, dict[str, str], bytes]:
        page = int(query["page"])
        pulse = {"description": "x" * (3 << 20), "indicators": [
            {"type": "domain", "indicator": f"p{page}.example"}]}
        return 200, {}, json.dumps({"results": [pulse], "next": f"{feeds.url}/p?page={page + 1}"
                                    if page < 40 else None}).encode()
    feeds.routes["/p"] = answer
    add_feed(db, "otx", "otx", feeds.url + "/p", secret="OTX")
    assert fetch(app, "otx")["indicators"] == 40
    assert peak(worker) < 100

# SPDX-License-Identifier: Apache-2.0
"""threat_feeds: each kind of feed from a local server in its documented shape, faults included."""
from __future__ import annotations

import datetime as dt
import gzip
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from urllib.request import Request, urlopen

import pytest
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from pymongo.database import Database

from harness import CWORKER, ROOT, TIMEOUT, descendants, get, wait_state
from services.process import end_process, free_port, wait_until

SAMPLES = ROOT / "test/samples"
UTC = dt.timezone.utc


class FeedServer:
    """Answers by path from `routes`: a function of (query, headers) that gives status, headers, body."""

    def __init__(self) -> None:
        self.routes: dict[str, Callable[..., tuple[int, dict[str, str], Any]]] = {}
        self.requests: list[tuple[str, dict[str, str], dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                query = {k: v[-1] for k, v in parse_qs(url.query).items()}
                headers = {k.lower(): v for k, v in self.headers.items()}
                outer.requests.append((url.path, query, headers))
                route = outer.routes.get(url.path, lambda *_: (404, {}, b"no such page"))
                status, extra, body = route(query, headers)
                self.send_response(status)
                for name, value in extra.items():
                    self.send_header(name, value)
                if isinstance(body, bytes):
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                else:
                    self.send_header("Connection", "close")
                    self.end_headers()
                    for piece in body:
                        self.wfile.write(piece)
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def serve(self, path: str, body: Any, status: int = 200, **headers: str) -> str:
        extra = {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if not isinstance(body, (dict, list)) else json.dumps(body).encode()
        self.routes[path] = lambda *_: (status, extra, data)
        return self.url + path

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def feeds() -> Iterator[FeedServer]:
    server = FeedServer()
    yield server
    server.close()


@pytest.fixture
def db(app_database: Database) -> Database:
    app_database.threat_indicators.create_index([("type", 1), ("value", 1)], unique=True)
    app_database.threat_feed_events.create_index([("feed_id", 1), ("uuid", 1)], unique=True)
    return app_database


@pytest.fixture
def worker(cworker: Callable[..., Any], db: Database) -> Any:
    return start_worker(cworker, db)


def start_worker(cworker: Callable[..., Any], db: Database, hosts: str = "127.0.0.1",
                 **options: Any) -> Any:
    env = {"CWORKER_THREAT_FEEDS_PRIVATE_HOSTS": hosts, "THREAT_FEED_ABUSE": "abuse-key",
           "THREAT_FEED_OTX": "otx-key", "THREAT_FEED_TAXII": "Password0",
           "THREAT_FEED_URLHAUS": "haus-key"}
    return cworker(database=db, queues="threat_feeds",
                   env=env, **options)


def add_feed(db: Database, feed_id: str, kind: str, url: str, **fields: Any) -> str:
    db.threat_feeds.insert_one({"_id": feed_id, "name": feed_id, "kind": kind, "url": url,
                                "enabled": True, "team_id": None, **fields})
    return feed_id


def fetch(app: Celery, feed_id: str) -> Any:
    return get(app.send_task("threat_feeds.fetch_feed", args=[feed_id], queue="threat_feeds"))


def values(db: Database) -> dict[str, str]:
    return {row["value"]: row["type"] for row in db.threat_indicators.find()}


def strip(row: dict[str, Any]) -> dict[str, Any]:
    """What must not change when the same feed is read again."""
    return {k: v for k, v in row.items() if k not in ("last_seen", "expires_at")}


def snapshot(db: Database) -> list[dict[str, Any]]:
    return sorted((strip(row) for row in db.threat_indicators.find()), key=lambda r: r["value"])


LIST = b"""# a list
203.0.113.7
203.0.113.7 # again
0.0.0.0 ads.example
198.51.100.0/24 ; SBL1

http://evil.example/a.exe
D41D8CD98F00B204E9800998ECF8427E
not an indicator
127.0.0.1
10.0.0.1
"""


def test_plain_list_twice(app: Celery, worker: Any, db: Database, feeds: FeedServer) -> None:
    url = feeds.serve("/list", LIST)
    add_feed(db, "plain", "plain", url, confidence=60, tags=["blocklist"])
    done = fetch(app, "plain")
    assert done == {"feed_id": "plain", "status": "OK", "indicators": 6, "bad": 3, "skipped": 0,
                    "withdrawn": 0}
    assert values(db) == {"203.0.113.7": "ip", "ads.example": "domain", "198.51.100.0/24": "cidr",
                          "http://evil.example/a.exe": "url",
                          "d41d8cd98f00b204e9800998ecf8427e": "hash"}
    row = db.threat_indicators.find_one({"value": "203.0.113.7"})
    assert row["sources"] == ["plain"] and row["tags"] == ["blocklist"]
    assert row["confidence"] == 60 and row["team_id"] is None
    assert row["first_seen"] <= row["last_seen"] < row["expires_at"]
    before = snapshot(db)
    fetch(app, "plain")
    assert snapshot(db) == before
    feed = db.threat_feeds.find_one({"_id": "plain"})
    assert feed["status"] == "OK" and feed["error"] is None
    assert feed["counts"] == {"indicators": 6, "bad": 3, "skipped": 0, "withdrawn": 0}


def test_two_feeds_tell_of_one_indicator(app: Celery, worker: Any, db: Database,
                                         feeds: FeedServer) -> None:
    add_feed(db, "one", "plain", feeds.serve("/1", b"evil.example\n"), confidence=90, tags=["a"])
    add_feed(db, "two", "plain", feeds.serve("/2", b"EVIL[.]example.\n"), confidence=30,
             tags=["b"])
    fetch(app, "one")
    fetch(app, "two")
    row, = db.threat_indicators.find()
    assert sorted(row["sources"]) == ["one", "two"] and sorted(row["tags"]) == ["a", "b"]
    assert row["confidence"] == 90


def test_conditional_requests(app: Celery, worker: Any, db: Database, feeds: FeedServer) -> None:
    def answer(query: dict, headers: dict) -> tuple[int, dict[str, str], bytes]:
        if headers.get("if-none-match") == '"v1"':
            return 304, {}, b""
        return 200, {"ETag": '"v1"', "Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT"}, LIST
    feeds.routes["/list"] = answer
    add_feed(db, "plain", "plain", feeds.url + "/list")
    assert fetch(app, "plain")["status"] == "OK"
    assert fetch(app, "plain")["status"] == "UNCHANGED"
    assert feeds.requests[1][2]["if-modified-since"] == "Sat, 21 Nov 2026 10:00:00 GMT"
    feed = db.threat_feeds.find_one({"_id": "plain"})
    assert feed["status"] == "UNCHANGED" and feed["counts"]["indicators"] == 6
    assert fetch(app, "plain")["status"] == "UNCHANGED"
    db.threat_feeds.update_one({"_id": "plain"}, {"$set": {"url": feeds.serve("/new", LIST)}})
    assert fetch(app, "plain")["status"] == "OK"
    assert "if-none-match" not in feeds.requests[-1][2]


def test_an_unchanged_list_does_not_age(app: Celery, worker: Any, db: Database,
                                        feeds: FeedServer) -> None:
    """What a list tells for a year without a change is told today: once a day the whole is read."""
    def answer(query: dict, headers: dict) -> tuple[int, dict[str, str], bytes]:
        if headers.get("if-none-match") == '"v1"':
            return 304, {}, b""
        return 200, {"ETag": '"v1"'}, b"203.0.113.7\n"
    feeds.routes["/list"] = answer
    add_feed(db, "plain", "plain", feeds.url + "/list")
    fetch(app, "plain")
    long_ago = dt.datetime.utcnow() - dt.timedelta(days=91)
    db.threat_indicators.update_many({}, {"$set": {
        field: long_ago for field in ("first_seen", "last_seen", "expires_at")}})
    db.threat_feeds.update_one({}, {"$set": {
        "state.read_at": dt.datetime.utcnow() - dt.timedelta(hours=25)}})
    assert [fetch(app, "plain")["status"] for _ in range(2)] == ["OK", "UNCHANGED"]
    done = get(app.send_task("threat_feeds.cleanup_old_indicators", queue="threat_feeds"))
    assert done == {"expired": 0, "old": 0}
    assert db.threat_indicators.find_one()["first_seen"] < dt.datetime.utcnow() - dt.timedelta(days=90)


def test_gzip_and_zip(app: Celery, worker: Any, db: Database, feeds: FeedServer) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("full.csv", "203.0.113.3\n")
        file.writestr("second.csv", "203.0.113.99\n")
    add_feed(db, "encoded", "plain", feeds.serve("/1", gzip.compress(b"203.0.113.1\n"),
                                                 Content_Encoding="gzip"))
    add_feed(db, "file", "plain", feeds.serve("/2.gz", gzip.compress(b"203.0.113.2\n")))
    add_feed(db, "zip", "plain", feeds.serve("/3.zip", archive.getvalue()))
    for feed_id in ("encoded", "file", "zip"):
        assert fetch(app, feed_id)["indicators"] == 1
    assert sorted(values(db)) == ["203.0.113.1", "203.0.113.2", "203.0.113.3"]


@pytest.mark.parametrize("files", [{"a/b/list": "203.0.113.4\n"}, {}])
def test_zip_with_folders(app: Celery, worker: Any, db: Database, feeds: FeedServer,
                          files: dict[str, str]) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in {"a/": "", "a/b/": "", **files}.items():
            file.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED if text else None)
    body = archive.getvalue()
    add_feed(db, "zip", "plain", feeds.serve("/zip", tuple(body[i:i + 1] for i in range(len(body)))))
    assert fetch(app, "zip")["indicators"] == len(files)


def test_zip_of_folders(app: Celery, worker: Any, db: Database, feeds: FeedServer) -> None:
    """Each costs a look at what is behind it: not as many as a stranger likes."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for i in range(2000):
            file.writestr(zipfile.ZipInfo(f"{i}/"), "")
    add_feed(db, "zip", "plain", feeds.serve("/zip", archive.getvalue()))
    with pytest.raises(ValueError, match="too many folders"):
        fetch(app, "zip")


def test_gzip_in_several_parts(app: Celery, worker: Any, db: Database, feeds: FeedServer) -> None:
    """As `cat a.gz b.gz` and log shippers make them."""
    body = gzip.compress(b"203.0.113.1\n203.0.113") + gzip.compress(b".2\n") * 3 + b"\0" * 10
    add_feed(db, "parts", "plain", feeds.serve("/1.gz", (body[:40], body[40:])))
    assert fetch(app, "parts")["indicators"] == 2
    assert sorted(values(db)) == ["203.0.113.1", "203.0.113.2"]


def test_tags_are_bounded(app: Celery, worker: Any, db: Database, feeds: FeedServer) -> None:
    """Else feeds could make an indicator that no store takes any more, from any of them."""
    rows = "".join('203.0.113.1,"%s"\n' % ",".join(f"{r}-{i}" for i in range(30)) for r in range(20))
    add_feed(db, "many", "csv", feeds.serve("/csv", rows.encode()),
             csv={"column": 0, "tags_column": 1}, tags=["own"])
    assert fetch(app, "many")["indicators"] == 20
    row, = db.threat_indicators.find()
    assert 256 < len(row["tags"]) <= 256 + 32 and "own" in row["tags"]


@pytest.mark.parametrize("form", ["encoded", "gzip", "zip"])
def test_bombs(app: Celery, worker: Any, db: Database, feeds: FeedServer, form: str) -> None:
    plain = b"203.0.113.1\n" + b" " * (8 << 20)
    body, headers = gzip.compress(plain, 9), {}
    if form == "encoded":
        headers = {"Content_Encoding": "gzip"}
    if form == "zip":
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("x", plain)
        body = archive.getvalue()
    add_feed(db, "bomb", "plain", feeds.serve("/bomb", body, **headers), max_bytes=1 << 20)
    with pytest.raises(ValueError, match="than 1048576 bytes"):
        fetch(app, "bomb")
    feed = db.threat_feeds.find_one({"_id": "bomb"})
    assert feed["status"] == "ERROR" and "1048576 bytes" in feed["error"]


def test_nul_bytes(app: Celery, worker: Any, db: Database, feeds: FeedServer) -> None:
    """A row that holds some is bad: neither what stands before them nor both sides made one."""
    rows = b"203.0.113.7\0evil\nevil.exam\0ple\n203.0.113.8\n\0\0\n"
    add_feed(db, "plain", "plain", feeds.serve("/plain", rows))
    add_feed(db, "csv", "csv", feeds.serve("/csv", rows), csv={"column": 0})
    for feed_id in ("plain", "csv"):
        done = fetch(app, feed_id)
        assert (done["indicators"], done["bad"]) == (1, 3)
    assert values(db) == {"203.0.113.8": "ip"}


def test_cut_archive(app: Celery, worker: Any, db: Database, feeds: FeedServer) -> None:
    body = gzip.compress(os.urandom(2000).hex().encode())
    add_feed(db, "cut", "plain", feeds.serve("/cut", body[:-100]))
    with pytest.raises(ValueError, match="it is cut"):
        fetch(app, "cut")


@pytest.mark.parametrize(("sample", "options", "expected"), [
    ("feodo-ipblocklist.csv",
     {"csv": {"column": "dst_ip", "first_seen_column": "first_seen_utc",
              "tags_column": "malware"}}, None),
    ("urlhaus-csv_recent.csv",
     {"csv": {"column": "url", "first_seen_column": "dateadded", "tags_column": "tags"},
      "secret": "URLHAUS", "auth_header": "Auth-Key"}, None),
    ("threatfox-recent.csv",
     {"csv": {"column": "ioc_value", "type_column": "ioc_type", "tags_column": "tags",
              "confidence_column": "confidence_level"}},
     {"invented.example": "domain", "203.0.113.10": "ip"}),
])
def test_abuse_ch_csv(app: Celery, worker: Any, db: Database, feeds: FeedServer, sample: str,
                      options: dict[str, Any], expected: dict[str, str] | None) -> None:
    url = feeds.serve("/csv", (SAMPLES / "feeds" / sample).read_bytes())
    add_feed(db, "csv", "csv", url, **options)
    done = fetch(app, "csv")
    assert done["status"] == "OK" and done["indicators"] >= 1, done
    if expected:
        assert expected.items() <= values(db).items()
        row = db.threat_indicators.find_one({"value": "203.0.113.10"})
        assert row["confidence"] == 75 and row["tags"] == []
    if "secret" in options:
        assert feeds.requests[0][2]["auth-key"] == "haus-key"


def test_csv_faults(app: Celery, worker: Any, db: Database, feeds: FeedServer) -> None:
    body = b'ip,score\n203.0.113.1,10\n"broken"x,1\n,\n10.0.0.1,5\n203.0.113.2,99\n'
    add_feed(db, "csv", "csv", feeds.serve("/csv", body),
             csv={"column": "ip", "confidence_column": "score"})
    assert fetch(app, "csv")["bad"] == 3
    assert sorted(values(db)) == ["203.0.113.1", "203.0.113.2"]
    add_feed(db, "mixed", "csv", feeds.url + "/csv", csv={"column": 0, "tags_column": "score"})
    assert fetch(app, "mixed")["bad"] == 3
    assert db.threat_indicators.find_one({"value": "203.0.113.2"})["tags"] == ["99"]
    add_feed(db, "headless", "csv", feeds.serve("/rows", b"203.0.113.3,10\n"),
             csv={"column": 0, "tags_column": "score"})
    assert fetch(app, "headless")["indicators"] == 1
    add_feed(db, "missing", "csv", feeds.url + "/csv", csv={"column": "nope"})
    with pytest.raises(ValueError, match="no column nope"):
        fetch(app, "missing")
    add_feed(db, "unnamed", "csv", feeds.url + "/csv")
    with pytest.raises(ValueError, match="csv.column"):
        fetch(app, "unnamed")


# --- AbuseIPDB ---------------------------------------------------------------------------------------

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


def test_long_retry_after_becomes_an_eta(app: Celery, worker: Any, db: Database,
                                         feeds: FeedServer, keys: Any) -> None:
    add_feed(db, "abuse", "abuseipdb", feeds.serve("/x", b"{}", 429, Retry_After="29241"),
             secret="ABUSE")
    assert fetch(app, "abuse")["status"] == "DEFERRED"
    feed = db.threat_feeds.find_one({"_id": "abuse"})
    assert feed["status"] == "DEFERRED" and "429" in feed["error"]
    wait = feed["next_fetch_at"] - dt.datetime.utcnow()
    assert dt.timedelta(seconds=29100) < wait <= dt.timedelta(seconds=29241)
    wait_until(lambda: keys.zcard("{threat_feeds}.cworker.delayed") == 1)
    assert fetch(app, "abuse")["status"] == "NOT_DUE"


def test_a_clock_that_was_ahead(app: Celery, worker: Any, db: Database, feeds: FeedServer) -> None:
    """What a pass of next year left behind keeps no feed from being read; a clock that differs does not
    make one be read too soon."""
    now = dt.datetime.utcnow()
    for name, ahead in (("year", dt.timedelta(days=365)), ("hour", dt.timedelta(minutes=50))):
        add_feed(db, name, "plain", feeds.serve("/list", LIST), min_interval=3600, started_at=now + ahead,
                 next_fetch_at=now + ahead + dt.timedelta(hours=1))
    assert fetch(app, "hour")["status"] == "NOT_DUE"
    sent = get(app.send_task("threat_feeds.fetch_all_enabled_feeds", queue="threat_feeds"))
    assert sent == {"sent": 1, "not_due": 1}
    wait_until(lambda: db.threat_feeds.find_one({"_id": "year"}).get("status") == "OK")
    assert fetch(app, "year")["status"] == "NOT_DUE"


@pytest.mark.parametrize(("spacing", "least"), [(0, 300), (5, 300), (450, 450)])
def test_retry_after_and_spacing(app: Celery, worker: Any, db: Database, feeds: FeedServer,
                                 keys: Any, spacing: int, least: int) -> None:
    add_feed(db, "busy", "plain", feeds.serve("/x", b"", 429, Retry_After="300"),
             min_interval=spacing)
    begin = dt.datetime.now().timestamp()
    task = app.send_task("threat_feeds.fetch_feed", args=["busy"], queue="threat_feeds")
    wait_state(task, "RETRY")
    delayed = "{threat_feeds}.cworker.delayed"
    wait_until(lambda: keys.zcard(delayed) == 1)
    (_, due), = keys.zrange(delayed, 0, -1, withscores=True)
    assert begin + least - 1 < due / 1e6 <= dt.datetime.now().timestamp() + least + 61


def test_short_retry_after_is_waited_for(app: Celery, worker: Any, db: Database,
                                         feeds: FeedServer) -> None:
    answers = iter([(429, {"Retry-After": "1"}, b""), (200, {}, LIST)])
    feeds.routes["/list"] = lambda *_: next(answers)
    add_feed(db, "plain", "plain", feeds.url + "/list")
    assert fetch(app, "plain")["status"] == "OK"


def test_server_error_is_retried(app: Celery, worker: Any, db: Database,
                                 feeds: FeedServer) -> None:
    add_feed(db, "plain", "plain", feeds.serve("/list", b"", 500))
    task = app.send_task("threat_feeds.fetch_feed", args=["plain"], queue="threat_feeds")
    wait_state(task, "RETRY")
    feed = wait_until(lambda: db.threat_feeds.find_one({"_id": "plain", "status": "ERROR"}))
    assert feed["error"] == "RuntimeError: HTTP 500 from 127.0.0.1"


# --- OTX ---------------------------------------------------------------------------------------------

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


def peak(worker: Any) -> int:
    """MB of the largest of its processes, so far; the sanitizer keeps what was freed."""
    if "address" in CWORKER:
        return 0
    pids = [worker.pid, *descendants(worker.pid)]
    texts = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
    return max(int(line.split()[1]) for text in texts for line in text.splitlines()
               if line.startswith("VmHWM:")) // 1024


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


def test_a_huge_error_needs_little_memory(app: Celery, worker: Any, db: Database,
                                          feeds: FeedServer) -> None:
    feeds.routes["/x"] = lambda *_: (404, {}, (b"x" * (1 << 20) for _ in range(200)))
    add_feed(db, "x", "plain", feeds.url + "/x")
    with pytest.raises(RuntimeError, match="HTTP 404"):
        fetch(app, "x")
    assert peak(worker) < 100


# --- TAXII: a real server ----------------------------------------------------------------------------

@pytest.fixture(scope="module")
def medallion(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = Path(sys.executable).with_name("medallion")
    if not program.exists():
        pytest.skip("medallion is not installed")
    folder, port = tmp_path_factory.mktemp("medallion"), free_port()
    data = (SAMPLES / "taxii/medallion-data.json").read_text().replace(":15000", f":{port}")
    conf = json.loads((SAMPLES / "taxii/medallion.conf.json").read_text())
    (folder / "med-data.json").write_text(data)
    conf["backend"]["filename"] = str(folder / "med-data.json")
    (folder / "conf.json").write_text(json.dumps(conf))
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([str(program), "--host", "127.0.0.1", "--port", str(port),
                                    str(folder / "conf.json")], stdout=log, stderr=log,
                                   cwd=folder)
    url = f"http://127.0.0.1:{port}/trustgroup1/"

    def is_up() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            request = Request(url, headers={"Accept": "application/taxii+json;version=2.1",
                                            "Authorization": "Basic YWRtaW46UGFzc3dvcmQw"})
            return urlopen(request, timeout=10).status == 200
        except OSError:
            return False
    try:
        wait_until(is_up, what="medallion's start")
        yield url
    finally:
        end_process(process)


@pytest.mark.parametrize("path", ["", "collections/91a7b528-80eb-42ed-a74d-c6fbd5a26116/"])
def test_taxii(app: Celery, worker: Any, db: Database, medallion: str, path: str) -> None:
    add_feed(db, "taxii", "taxii", medallion + path, username="admin", secret="TAXII", limit=2)
    done = fetch(app, "taxii")
    assert done["status"] == "OK" and done["indicators"] >= 3
    row = db.threat_indicators.find_one({"value": "203.0.113.0"})
    assert row["type"] == "ip" and row["confidence"] == 80 and row["tags"] == ["c2"]
    assert row["expires_at"] == dt.datetime(2027, 1, 1)
    before = snapshot(db)
    assert fetch(app, "taxii")["indicators"] == 0
    assert snapshot(db) == before


@pytest.mark.parametrize("path", ["taxii2/", "taxii2", ""])
def test_taxii_server(app: Celery, worker: Any, db: Database, medallion: str, path: str) -> None:
    """Discovery: the server names its API roots, these their collections."""
    server = medallion.removesuffix("trustgroup1/")
    add_feed(db, "taxii", "taxii", server + path, username="admin", secret="TAXII")
    assert fetch(app, "taxii")["indicators"] >= 9
    assert db.threat_indicators.count_documents({"value": "203.0.113.0"}) == 1
    cursors = db.threat_feeds.find_one()["state"]["cursors"]
    assert list(cursors) == ["trustgroup1/91a7b528-80eb-42ed-a74d-c6fbd5a26116"]
    assert fetch(app, "taxii")["indicators"] == 0


def stix(value: str, **more: Any) -> dict[str, Any]:
    return {"type": "indicator", "pattern": f"[domain-name:value = '{value}']",
            "pattern_type": "stix", **more}


def test_taxii_roots_and_collections_that_refuse(app: Celery, worker: Any, db: Database,
                                                 feeds: FeedServer) -> None:
    feeds.serve("/taxii2/", {"title": "t", "api_roots": [
        "/one/", feeds.url + "/two", "/gone/", "https://elsewhere.example/root/", 7]})
    objects = {"objects": [stix("a.example")]}
    for root, ids in (("one", ["c1", "c2"]), ("two", ["c1", "hidden"])):
        feeds.serve(f"/{root}/collections/", {"collections": [
            {"id": i, "can_read": i != "hidden"} for i in ids]})
        for i in ids:
            feeds.serve(f"/{root}/collections/{i}/objects/", objects,
                        X_TAXII_Date_Added_Last=f"2026-11-21T10:00:00Z-{root}-{i}")
    feeds.serve("/one/collections/c2/objects/", {}, 403)
    add_feed(db, "taxii", "taxii", feeds.url)
    assert fetch(app, "taxii")["indicators"] == 2
    cursors = db.threat_feeds.find_one()["state"]["cursors"]
    assert cursors == {"one/c1": "2026-11-21T10:00:00Z-one-c1",
                       "two/c1": "2026-11-21T10:00:00Z-two-c1"}
    assert not [path for path, *_ in feeds.requests if "hidden" in path]
    # What refuses us now keeps its cursor; where all do, the feed fails.
    feeds.serve("/two/collections/", {}, 401)
    fetch(app, "taxii")
    assert db.threat_feeds.find_one()["state"]["cursors"] == cursors
    feeds.serve("/one/collections/c1/objects/", {}, 403)
    with pytest.raises(PermissionError, match="no collection"):
        fetch(app, "taxii")
    feeds.serve("/one/collections/", {}, 500)  # not a refusal: it is asked again later
    task = app.send_task("threat_feeds.fetch_feed", args=["taxii"], queue="threat_feeds")
    wait_state(task, "RETRY")


def test_taxii_forgotten_page(app: Celery, worker: Any, db: Database, feeds: FeedServer) -> None:
    def page(query: dict[str, str], headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        calls.append(query)
        if "next" in query and len(calls) == 2:
            return 400, {}, b"{}"
        more = {} if "next" in query else {"more": True, "next": "n" * 1000}
        value = f"{'b' if 'next' in query else 'a'}.example"
        return 200, {}, json.dumps({"objects": [stix(value)], **more}).encode()
    calls: list[dict[str, str]] = []
    feeds.routes["/r/collections/c/objects/"] = page
    add_feed(db, "taxii", "taxii", feeds.url + "/r/collections/c/objects/")
    assert fetch(app, "taxii")["status"] == "OK"
    assert len(calls) == 4 and sorted(values(db)) == ["a.example", "b.example"]


def test_taxii_pages_by_date(app: Celery, worker: Any, db: Database, feeds: FeedServer) -> None:
    """A server may say that there is more and leave out `next`: its date goes on, as TAXII has it."""
    def page(query: dict[str, str], headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        after = query.get("added_after", "2026-11-20T00:00:00Z")
        day = int(after[8:10]) + (1 if after[8:10] < last else 0)
        calls.append(after)
        body = {"objects": [stix(f"d{day}.example")], "more": f"{day}" != last or last == "21"}
        return 200, {"X-TAXII-Date-Added-Last": f"2026-11-{day}T00:00:00Z"}, json.dumps(body).encode()
    calls: list[str] = []
    last = "23"
    feeds.routes["/r/collections/c/objects/"] = page
    add_feed(db, "taxii", "taxii", feeds.url + "/r/collections/c/objects/")
    assert fetch(app, "taxii")["indicators"] == 3
    assert sorted(values(db)) == ["d21.example", "d22.example", "d23.example"]
    assert db.threat_feeds.find_one()["state"]["cursors"] == {"c": "2026-11-23T00:00:00Z"}
    last, before = "21", len(calls)  # now the date stands still
    with pytest.raises(ValueError, match="without an end"):
        fetch(app, "taxii")
    assert len(calls) - before <= 2


@pytest.mark.parametrize("date", ["x" * 5000, "soon", "2026-11-21T10:00:00Z" + "0" * 90])
def test_taxii_cursor_that_is_no_date(app: Celery, worker: Any, db: Database, feeds: FeedServer,
                                      date: str) -> None:
    """No server would take it back: the feed would fail from then on."""
    path = "/r/collections/c/objects/"
    add_feed(db, "taxii", "taxii", feeds.serve(path, {}, X_TAXII_Date_Added_Last="2026-11-20T10:00:00Z"))
    fetch(app, "taxii")
    feeds.serve(path, {"objects": [stix("a.example")]}, X_TAXII_Date_Added_Last=date)
    assert fetch(app, "taxii")["indicators"] == 1
    assert db.threat_feeds.find_one()["state"]["cursors"] == {"c": "2026-11-20T10:00:00Z"}


def test_many_are_taken_back(app: Celery, worker: Any, db: Database, feeds: FeedServer) -> None:
    path = "/r/collections/c/objects/"
    names = [f"h{i}.example" for i in range(1500)]
    add_feed(db, "taxii", "taxii", feeds.serve(path, {"objects": [stix(n) for n in names]}))
    add_feed(db, "other", "plain", feeds.serve("/list", "\n".join(names[:500]).encode()))
    fetch(app, "taxii")
    fetch(app, "other")
    feeds.serve(path, {"objects": [stix(n, revoked=True) for n in names] +
                       [stix("back.example"), stix("back.example", revoked=True),
                        stix("back.example"), stix("gone.example"),
                        stix("gone.example", revoked=True)]})
    for _ in range(2):
        assert fetch(app, "taxii")["withdrawn"] == 1502
        now = dt.datetime.utcnow()
        assert db.threat_indicators.count_documents({"sources": ["other"],
                                                     "expires_at": {"$gt": now}}) == 500
        assert db.threat_indicators.count_documents({"sources": [],
                                                     "expires_at": {"$lte": now}}) == 1001
        assert db.threat_indicators.find_one({"value": "back.example"})["sources"] == ["taxii"]


def test_taxii_wrong_password(app: Celery, worker: Any, db: Database, medallion: str) -> None:
    add_feed(db, "taxii", "taxii", medallion, username="admin", secret="OTX")
    with pytest.raises(RuntimeError, match="HTTP 401"):
        fetch(app, "taxii")


def test_taxii_revoked_and_circles(app: Celery, worker: Any, db: Database,
                                   feeds: FeedServer) -> None:
    def indicator(value: str, **more: Any) -> dict[str, Any]:
        return {"type": "indicator", "pattern": f"[domain-name:value = '{value}']",
                "pattern_type": "stix", **more}
    path = "/api1/collections/c1/objects/"
    feeds.serve(path, {"objects": [indicator("a.example"), indicator("b.example"),
                                   {"type": "malware"}, {"type": "indicator"}]})
    add_feed(db, "taxii", "taxii", feeds.url + path)
    done = fetch(app, "taxii")
    assert (done["indicators"], done["bad"]) == (2, 1)
    feeds.serve(path, {"objects": [indicator("a.example", revoked=True)]})
    assert fetch(app, "taxii")["withdrawn"] == 1
    row = db.threat_indicators.find_one({"value": "a.example"})
    assert row["sources"] == [] and row["expires_at"] <= dt.datetime.utcnow()
    feeds.serve(path, {"more": True, "next": "same", "objects": []})
    with pytest.raises(ValueError, match="without an end"):
        fetch(app, "taxii")
    feeds.serve(path, {})
    assert fetch(app, "taxii")["status"] == "OK"


# --- MISP: a feed written by PyMISP ------------------------------------------------------------------

def misp_feed(folder: Path) -> None:
    pymisp = pytest.importorskip("pymisp")
    manifest = {}
    for number in range(3):
        event = pymisp.MISPEvent()
        event.uuid = str(uuid.UUID(int=number, version=4))
        event.info = f"Event {number}"
        event.date = "2026-11-20"
        event.timestamp = 1795180000 + number
        org = pymisp.MISPOrganisation()
        org.name, org.uuid = "TESTORG", str(uuid.UUID(int=99, version=4))
        event.Orgc = org
        event.add_tag("tlp:white")
        event.add_attribute("ip-dst", f"203.0.113.{number + 1}", to_ids=True)
        event.add_attribute("filename|sha256", f"a b.exe|{number:064x}", to_ids=True)
        event.add_attribute("comment", "no indicator", to_ids=False)
        item = pymisp.MISPObject("file")
        item.add_attribute("md5", value=f"{number:032x}", to_ids=True)
        event.add_object(item)
        feed = event.to_feed(with_meta=True) if number < 0 else event.to_feed()
        feed["Event"].pop("_hashes", None)
        manifest.update(feed["Event"].pop("_manifest", None) or event.manifest)
        (folder / f"{event.uuid}.json").write_text(json.dumps(feed, default=str))
    (folder / "manifest.json").write_text(json.dumps(manifest, default=str))


def serve_folder(feeds: FeedServer, folder: Path, path: str = "/misp/") -> str:
    for file in folder.iterdir():
        feeds.serve(path + file.name, file.read_bytes(), ETag=f'"{file.stat().st_mtime_ns}"')
    return feeds.url + path


def test_misp_feed(app: Celery, worker: Any, db: Database, feeds: FeedServer,
                   tmp_path: Path) -> None:
    folder = tmp_path / "misp"
    folder.mkdir()
    misp_feed(folder)
    add_feed(db, "misp", "misp", serve_folder(feeds, folder))
    done = fetch(app, "misp")
    assert done["indicators"] == 9, done
    assert {"203.0.113.1": "ip", f"{1:064x}": "hash", f"{2:032x}": "hash"}.items() \
        <= values(db).items()
    assert db.threat_indicators.find_one({"value": "203.0.113.1"})["tags"] == ["tlp:white"]
    assert len(feeds.requests) == 4
    before = snapshot(db)
    assert fetch(app, "misp")["status"] == "OK"
    assert len(feeds.requests) == 5 and snapshot(db) == before  # only the manifest


def test_misp_deleted_attributes(app: Celery, worker: Any, db: Database,
                                 feeds: FeedServer) -> None:
    event = str(uuid.uuid4())

    def publish(timestamp: int, *attributes: dict[str, Any]) -> None:
        feeds.serve("/m/manifest.json", {event: {"timestamp": timestamp}})
        feeds.serve(f"/m/{event}.json", {"Event": {"Attribute": [
            {"type": "domain", "to_ids": True, **a} for a in attributes], "Object": [
            {"deleted": False, "Attribute": [{"type": "domain", "value": "o.example"}]}]}})
    publish(1, {"value": "a.example"}, {"value": "b.example"})
    add_feed(db, "misp", "misp", feeds.url + "/m/")
    assert fetch(app, "misp")["indicators"] == 3
    publish(2, {"value": "a.example", "deleted": True},
            {"value": "b.example"}, {"value": "b.example", "deleted": True})
    assert fetch(app, "misp")["withdrawn"] == 2
    sources = {row["value"]: row["sources"] for row in db.threat_indicators.find()}
    assert sources == {"a.example": [], "b.example": ["misp"], "o.example": ["misp"]}


def test_misp_manifest_without_versions(app: Celery, worker: Any, db: Database,
                                        feeds: FeedServer) -> None:
    event = str(uuid.uuid4())
    feeds.serve("/m/manifest.json", {event: {"info": "x"}})
    add_feed(db, "misp", "misp", feeds.url + "/m/")
    for value in ("a.example", "b.example"):
        feeds.serve(f"/m/{event}.json", {"Event": {"Attribute": [{"type": "domain", "value": value}]}})
        assert fetch(app, "misp")["indicators"] == 1
    assert sorted(values(db)) == ["a.example", "b.example"]


def test_misp_words_of_older_servers(app: Celery, worker: Any, db: Database,
                                     feeds: FeedServer) -> None:
    event, cut = str(uuid.uuid4()), str(uuid.uuid4())
    feeds.serve("/m/manifest.json", {cut: {"timestamp": 1}, event: {"timestamp": 1}})
    feeds.serve(f"/m/{cut}.json", b'{"Event": {"Attribute": [')
    feeds.serve(f"/m/{event}.json", {"Event": {"Attribute": [
        {"type": "domain", "value": f"{i}{i}.example", "to_ids": to_ids, "Tag": [{"name": f"own{i}"}]}
        for i, to_ids in enumerate([True, 1, "1", False, 0, "0", None])],
        "Tag": [{"name": "all"}]}})
    add_feed(db, "misp", "misp", feeds.url + "/m/")
    assert fetch(app, "misp")["bad"] == 1
    assert sorted(values(db)) == ["00.example", "11.example", "22.example"]
    assert db.threat_indicators.find_one({"value": "11.example"})["tags"] == ["all", "own1"]


def test_misp_hostile_manifest(app: Celery, worker: Any, db: Database, feeds: FeedServer) -> None:
    good, lost = str(uuid.uuid4()), str(uuid.uuid4())
    feeds.serve("/m/manifest.json", {"../../etc/passwd": {"timestamp": 1},
                                     good: {"timestamp": "1795180000"}, lost: {"timestamp": 2}})
    feeds.serve(f"/m/{good}.json", (SAMPLES / "misp/5f1b1f1e-0000-4000-8000-000000000001.json")
                .read_bytes())
    add_feed(db, "misp", "misp", feeds.url + "/m/")
    done = fetch(app, "misp")
    assert (done["status"], done["indicators"], done["bad"]) == ("OK", 5, 2)
    assert [path for path, *_ in feeds.requests if "passwd" in path] == []


# --- the fan-out, and what is refused ----------------------------------------------------------------

@pytest.mark.parametrize("name", ["threat_feeds.fetch_all_enabled_feeds",
                                  "app.workers.tasks.fetch_threat_intel"])
def test_one_bad_feed_does_not_stop_the_others(app: Celery, worker: Any, db: Database,
                                               feeds: FeedServer, name: str) -> None:
    add_feed(db, "good", "plain", feeds.serve("/good", b"203.0.113.1\n"))
    add_feed(db, "gone", "plain", feeds.url + "/missing")
    add_feed(db, "wrong", "carrier-pigeon", feeds.url + "/good")
    add_feed(db, "off", "plain", feeds.url + "/good", enabled=False)
    assert get(app.send_task(name, queue="threat_feeds")) == {"sent": 3, "not_due": 0}
    wait_until(lambda: db.threat_feeds.count_documents({"status": {"$in": ["OK", "ERROR"]}}) == 3)
    errors = {row["_id"]: row.get("error") for row in db.threat_feeds.find()}
    assert errors["good"] is None and errors["off"] is None
    assert errors["gone"] == "RuntimeError: HTTP 404 from 127.0.0.1"
    assert errors["wrong"].startswith("ValueError: kind must be")
    assert values(db) == {"203.0.113.1": "ip"}


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "http://169.254.169.254/latest",
                                 "http://[::1]/", "http://localhost/x"])
def test_ssrf_guard(app: Celery, cworker: Callable[..., Any], db: Database, url: str) -> None:
    start_worker(cworker, db, hosts="misp.example")
    add_feed(db, "inside", "plain", url, allow_private=True)
    with pytest.raises(PermissionError):
        fetch(app, "inside")


def test_redirects(app: Celery, worker: Any, db: Database, feeds: FeedServer) -> None:
    """A listed host of ours may send us about on itself, and nowhere else inside; the key stays."""
    feeds.serve("/list", LIST)
    port = feeds.url.rpartition(":")[2]
    add_feed(db, "same", "plain", feeds.serve("/same", b"", 302, Location="list"), secret="URLHAUS")
    assert fetch(app, "same")["indicators"] == 6
    assert feeds.requests[-1][2]["authorization"] == "haus-key"
    for name, target in (("metadata", "http://169.254.169.254/latest"),
                         ("name", f"http://localhost:{port}/list"), ("six", f"http://[::1]:{port}/list")):
        add_feed(db, name, "plain", feeds.serve("/" + name, b"", 302, Location=target))
        with pytest.raises(PermissionError):
            fetch(app, name)
    for name, target in (("file", "file:///etc/passwd"), ("circle", "/circle")):
        add_feed(db, name, "plain", feeds.serve("/" + name, b"", 301, Location=target))
        with pytest.raises(ConnectionError):
            fetch(app, name)


def test_redirect_to_another_listed_host_carries_no_key(app: Celery, cworker: Callable[..., Any],
                                                        db: Database, feeds: FeedServer) -> None:
    start_worker(cworker, db, hosts="127.0.0.1,localhost")
    port = feeds.url.rpartition(":")[2]
    feeds.serve("/list", LIST)
    add_feed(db, "away", "plain", secret="URLHAUS",
             url=feeds.serve("/away", b"", 307, Location=f"http://localhost:{port}/list"))
    assert fetch(app, "away")["indicators"] == 6
    assert feeds.requests[0][2]["authorization"] == "haus-key"
    assert "authorization" not in feeds.requests[1][2]


def test_endless_and_trickling_bodies(app: Celery, worker: Any, db: Database,
                                      feeds: FeedServer) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"#" * 65536 + b"\n"

    def trickle() -> Iterator[bytes]:
        while not stop.wait(0.2):
            yield b"#"
    stop = threading.Event()
    feeds.routes["/endless"] = lambda *_: (200, {}, endless())
    feeds.routes["/trickle"] = lambda *_: (200, {}, trickle())
    add_feed(db, "endless", "plain", feeds.url + "/endless", max_bytes=1 << 20)
    with pytest.raises(ValueError, match="larger than 1048576 bytes"):
        fetch(app, "endless")
    add_feed(db, "trickle", "plain", feeds.url + "/trickle")
    task = app.send_task("threat_feeds.fetch_feed", args=["trickle"], queue="threat_feeds")
    wait_state(task, "RETRY")
    stop.set()
    feed = wait_until(lambda: db.threat_feeds.find_one({"_id": "trickle", "status": "ERROR"}))
    assert "less than 512 bytes in 10 seconds" in feed["error"]


def test_a_port_that_speaks_no_http(app: Celery, worker: Any, db: Database) -> None:
    """The reason is not that the URL were none of HTTP."""
    def greet() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=greet, daemon=True).start()
        add_feed(db, "ssh", "plain", f"http://127.0.0.1:{server.getsockname()[1]}/")
        task = app.send_task("threat_feeds.fetch_feed", args=["ssh"], queue="threat_feeds")
        wait_state(task, "RETRY")
    assert "does not answer in HTTP" in str(task.result)


def test_max_bytes_of_all_requests(app: Celery, worker: Any, db: Database,
                                   feeds: FeedServer) -> None:
    """Used up to the byte: what follows gets none, not any number."""
    events = sorted(str(uuid.uuid4()) for _ in range(4))
    manifest = json.dumps({event: {"timestamp": 1} for event in events}).encode()
    event = json.dumps({"Event": {"Attribute": [{"type": "domain", "value": "a.example"}]}}).encode()
    feeds.serve("/m/manifest.json", manifest)
    for name, body in zip(events, (event, event, b"x", event)):
        feeds.serve(f"/m/{name}.json", body)
    add_feed(db, "misp", "misp", feeds.url + "/m/", max_bytes=len(manifest) + 2 * len(event))
    with pytest.raises(ValueError, match=f"larger than {len(manifest) + 2 * len(event)} bytes .max_bytes"):
        fetch(app, "misp")
    assert len(feeds.requests) == 3
    assert db.threat_feed_events.count_documents({}) == 2  # the next pass goes on there
    assert values(db) == {"a.example": "domain"}


def test_a_page_for_people_is_no_list(app: Celery, worker: Any, db: Database,
                                      feeds: FeedServer) -> None:
    add_feed(db, "page", "plain", feeds.serve("/x", b"Down for\nmaintenance\n", ETag='"1"'))
    with pytest.raises(ValueError, match="none of its 2 rows is an indicator"):
        fetch(app, "page")
    feed = db.threat_feeds.find_one()
    assert feed["status"] == "ERROR" and "state" not in feed
    add_feed(db, "empty", "plain", feeds.serve("/empty", b"# nothing today\n"))
    assert fetch(app, "empty")["status"] == "OK"


@pytest.mark.parametrize(("fields", "error"), [
    ({"url": "file:///etc/passwd"}, "url must be"),
    ({"url": "-o/tmp/x"}, "url must be"),
    ({"secret": "../../x"}, "no secret"),
    ({"secret": "NOT_SET"}, "no secret: set THREAT_FEED_NOT_SET"),
    ({"auth_header": "X: y\r\nHost"}, "auth_header"),
])
def test_bad_documents(app: Celery, worker: Any, db: Database, feeds: FeedServer,
                       fields: dict[str, Any], error: str) -> None:
    add_feed(db, "bad", "plain", **{"url": feeds.serve("/x", LIST), **fields})
    with pytest.raises((ValueError, RuntimeError), match=error):
        fetch(app, "bad")
    assert feeds.requests == []


def test_unknown_feed(app: Celery, worker: Any) -> None:
    with pytest.raises(LookupError, match="no threat feed nope"):
        fetch(app, "nope")


def test_clean_up(app: Celery, worker: Any, db: Database) -> None:
    now = dt.datetime.now(UTC)
    day = dt.timedelta(days=1)
    db.threat_indicators.insert_many([
        {"type": "ip", "value": "1", "last_seen": now, "expires_at": now + day},
        {"type": "ip", "value": "2", "last_seen": now, "expires_at": now - day},
        {"type": "ip", "value": "3", "last_seen": now - 91 * day, "expires_at": now + day}])
    task = "threat_feeds.cleanup_old_indicators"
    assert get(app.send_task(task, queue="threat_feeds")) == {"expired": 1, "old": 1}
    assert get(app.send_task(task, queue="threat_feeds")) == {"expired": 0, "old": 0}
    assert [row["value"] for row in db.threat_indicators.find()] == ["1"]
    db.threat_indicators.insert_many([
        {"type": "ip", "value": f"n{i}", "last_seen": now, "expires_at": now - day}
        for i in range(2500)])
    assert get(app.send_task(task, queue="threat_feeds")) == {"expired": 2500, "old": 0}
    with pytest.raises(ValueError, match="max_age_days"):
        get(app.send_task(task, kwargs={"max_age_days": 0}, queue="threat_feeds"))
    with pytest.raises(TypeError, match="max_age_days"):
        get(app.send_task(task, kwargs={"max_age_days": "x"}, queue="threat_feeds"))


def test_a_killed_worker_ends_in_the_same_documents(app: Celery, cworker: Callable[..., Any],
                                                    db: Database, feeds: FeedServer) -> None:
    """The list stalls until the first worker is dead; the second one reads it again."""
    started, go_on = threading.Event(), threading.Event()

    def body() -> Iterator[bytes]:
        yield b"".join(b"203.0.113.%d\n" % i for i in range(1, 200))
        started.set()
        go_on.wait(TIMEOUT)
        yield b"last.example\n"
    feeds.routes["/slow"] = lambda *_: (200, {}, body())
    add_feed(db, "slow", "plain", feeds.url + "/slow")
    first = start_worker(cworker, db, name="same@test")
    task = app.send_task("threat_feeds.fetch_feed", args=["slow"], queue="threat_feeds")
    assert started.wait(TIMEOUT)
    first.kill()
    go_on.set()
    start_worker(cworker, db, name="same@test")
    assert get(task)["indicators"] == 200
    assert db.threat_indicators.count_documents({}) == 200


def held(feeds: FeedServer, path: str) -> tuple[threading.Event, threading.Event]:
    """Serves a list that stops after its first line: (it has begun, let it go on)."""
    started, go_on = threading.Event(), threading.Event()

    def body() -> Iterator[bytes]:
        yield b"203.0.113.1\n"
        started.set()
        go_on.wait(2 * TIMEOUT)
        yield b"203.0.113.2\n"
    feeds.routes[path] = lambda *_: (200, {"ETag": '"held"'}, body())
    return started, go_on


def test_two_pods_at_the_same_feed(app: Celery, cworker: Callable[..., Any], db: Database,
                                   feeds: FeedServer) -> None:
    started, go_on = held(feeds, "/held")
    add_feed(db, "held", "plain", feeds.url + "/held")
    for name in ("one@test", "two@test"):
        start_worker(cworker, db, name=name)
    first = app.send_task("threat_feeds.fetch_feed", args=["held"], queue="threat_feeds")
    assert started.wait(TIMEOUT)
    assert fetch(app, "held")["status"] == "BUSY"
    go_on.set()
    assert get(first)["indicators"] == 2
    assert len(feeds.requests) == 1
    assert fetch(app, "held")["status"] == "OK"
    # Whoever died for good holds it no longer than a task may run.
    db.threat_feeds.update_one({}, {"$set": {"claimed_task": "dead", "claimed_until":
                                             dt.datetime.utcnow() - dt.timedelta(seconds=1)}})
    assert fetch(app, "held")["status"] == "OK"


def test_a_killed_child_s_pass_is_run_again(app: Celery, worker: Any, db: Database,
                                            feeds: FeedServer) -> None:
    started, go_on = held(feeds, "/held")
    add_feed(db, "held", "plain", feeds.url + "/held", min_interval=3600)
    task = app.send_task("threat_feeds.fetch_feed", args=["held"], queue="threat_feeds")
    assert started.wait(TIMEOUT)
    zygote, = map(int, Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split())
    for child in descendants(zygote):
        os.kill(child, signal.SIGKILL)
    go_on.set()
    assert get(task)["status"] == "OK"  # its own claim does not hold it off
    assert len(feeds.requests) == 2
    assert db.threat_indicators.count_documents({}) == 2


def test_a_pass_that_takes_too_long(app: Celery, worker: Any, db: Database,
                                    feeds: FeedServer) -> None:
    _, go_on = held(feeds, "/held")
    add_feed(db, "held", "plain", feeds.url + "/held")
    task = app.send_task("threat_feeds.fetch_feed", args=["held"], queue="threat_feeds",
                         soft_time_limit=1, time_limit=60)
    with pytest.raises(SoftTimeLimitExceeded):
        get(task, 30)
    go_on.set()
    feed = db.threat_feeds.find_one()
    assert (feed["status"], feed["claimed_until"]) == ("ERROR", None)
    assert feed["error"] == "it ran for longer than its time limit"


def test_a_revoked_pass_gives_its_feed_back(app: Celery, worker: Any, db: Database,
                                            feeds: FeedServer) -> None:
    started, go_on = held(feeds, "/held")
    add_feed(db, "held", "plain", feeds.url + "/held")
    task = app.send_task("threat_feeds.fetch_feed", args=["held"], queue="threat_feeds")
    assert started.wait(TIMEOUT)
    app.control.revoke(task.id, terminate=True)
    wait_state(task, "REVOKED")
    go_on.set()
    assert fetch(app, "held")["status"] == "OK"
    assert db.threat_feeds.find_one()["claimed_until"] is None


def test_validators_survive_the_worker(app: Celery, cworker: Callable[..., Any], db: Database,
                                       feeds: FeedServer) -> None:
    feeds.routes["/list"] = lambda _, headers: \
        (304, {}, b"") if headers.get("if-none-match") == 'W/"1"' else (200, {"ETag": 'W/"1"'}, LIST)
    add_feed(db, "plain", "plain", feeds.url + "/list")
    worker = start_worker(cworker, db)
    assert fetch(app, "plain")["status"] == "OK"
    worker.kill()
    start_worker(cworker, db)
    assert fetch(app, "plain")["status"] == "UNCHANGED"


def test_names_beyond_ascii(app: Celery, worker: Any, db: Database, feeds: FeedServer) -> None:
    add_feed(db, "idn", "plain", feeds.serve(
        "/idn", "b\u00fccher.example\nxn--bcher-kva.example\nhttps://B\u00dcCHER.example/\u00e4\n"
                "\u2603\ufffd.example\n".encode()))
    assert fetch(app, "idn")["indicators"] == 3
    assert values(db) == {"xn--bcher-kva.example": "domain",
                          "https://xn--bcher-kva.example/%C3%A4": "url"}


def test_more_than_one_batch(app: Celery, worker: Any, db: Database, feeds: FeedServer) -> None:
    """A million of them in bounded memory: test/bench/feeds.py."""
    count = 2600
    add_feed(db, "large", "plain", feeds.serve(
        "/large", b"".join(b"host-%d.evil.example\n" % i for i in range(count))))
    assert fetch(app, "large")["indicators"] == count
    assert db.threat_indicators.count_documents({}) == count

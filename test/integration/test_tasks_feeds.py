# SPDX-License-Identifier: Apache-2.0
"""threat_feeds: when a feed is due, what is refused, and what a kill leaves."""
from __future__ import annotations

import datetime as dt
import json
import os
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from pymongo.database import Database

from feed_server import (FeedServer, LIST, UTC, add_feed, db, feeds, fetch, held, peak,  # noqa: F401
                         start_worker, values, worker)
from harness import TIMEOUT, descendants, get, wait_state
from services.process import wait_until


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


def test_a_huge_error_needs_little_memory(app: Celery, worker: Any, db: Database,
                                          feeds: FeedServer) -> None:
    feeds.routes["/x"] = lambda *_: (404, {}, (b"x" * (1 << 20) for _ in range(200)))
    add_feed(db, "x", "plain", feeds.url + "/x")
    with pytest.raises(RuntimeError, match="HTTP 404"):
        fetch(app, "x")
    assert peak(worker) < 100


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

# SPDX-License-Identifier: Apache-2.0
"""A local server of threat feeds, a worker for them, and what they left in the database."""
from __future__ import annotations

import datetime as dt
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

from harness import CWORKER, ROOT, TIMEOUT, descendants, get


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


def peak(worker: Any) -> int:
    """MB of the largest of its processes, so far; the sanitizer keeps what was freed."""
    if "address" in CWORKER:
        return 0
    pids = [worker.pid, *descendants(worker.pid)]
    texts = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
    return max(int(line.split()[1]) for text in texts for line in text.splitlines()
               if line.startswith("VmHWM:")) // 1024


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

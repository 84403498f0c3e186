# SPDX-License-Identifier: Apache-2.0
"""threat_feeds: a list that came short is no list. Whatever the framing says, what is not whole ends
in an error on the feed's document, moves no cursor, keeps no ETag and takes no half of a row."""
from __future__ import annotations

import gzip
import io
import json
import socket
import threading
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from pymongo.database import Database

from feed_server import FeedServer, add_feed, db, feeds, fetch, values, worker  # noqa: F401
from harness import wait_state
from services.process import wait_until

ROWS = [f"198.51.{i // 250}.{i % 250 + 1}" for i in range(900)]
LIST = "".join(f"{row}\n" for row in ROWS).encode()
GZIP = gzip.compress(LIST)


class RawServer:
    """Answers with the bytes of `answers[path]` as they are, then closes the connection."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.requests: list[bytes] = []
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self.run, daemon=True).start()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                request = b""
                while b"\r\n\r\n" not in request and (piece := connection.recv(65536)):
                    request += piece
                self.requests.append(request)
                connection.sendall(self.answers[request.split(b" ")[1].decode()])

    def serve(self, body: bytes, *headers: str, path: str = "/list", status: str = "200 OK",
              version: str = "1.1", framed: bool = True) -> str:
        lines = [f"HTTP/{version} {status}", *headers, *[f"Content-Length: {len(body)}"] * framed]
        self.answers[path] = "".join(f"{line}\r\n" for line in [*lines, ""]).encode() + body
        return self.url + path


@pytest.fixture
def raw() -> Iterator[RawServer]:
    server = RawServer()
    yield server
    server.socket.close()


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[i:i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])


def refused(app: Celery, db: Database, feed_id: str, again: bool = True) -> str:  # noqa: F811
    """The error on the feed's document, of which nothing else has moved."""
    db.threat_feeds.update_one({"_id": feed_id}, {"$set": {"status": "none yet"}})
    before = db.threat_feeds.find_one({"_id": feed_id})
    task = app.send_task("threat_feeds.fetch_feed", args=[feed_id], queue="threat_feeds")
    wait_state(task, "RETRY" if again else "FAILURE")
    feed = wait_until(lambda: db.threat_feeds.find_one({"_id": feed_id, "status": "ERROR"}))
    if again:  # not in the middle of what follows
        app.control.revoke(task.id)
        wait_state(task, "REVOKED")
    assert feed.get("state") == before.get("state")
    assert feed.get("last_success_at") == before.get("last_success_at")
    return str(feed["error"])


def damaged(body: bytes, at: int) -> bytes:
    return body[:at] + bytes([body[at] ^ 0xFF]) + body[at:][1:]


RAW = zlib.compress(LIST)[2:-4]
WHOLE = [
    ("gzip", GZIP),
    ("GZip", gzip.compress(LIST[:1000]) + gzip.compress(b"") + gzip.compress(LIST[1000:])),
    ("x-gzip", GZIP + bytes(20)),
    ("deflate", zlib.compress(LIST)),
    ("deflate", RAW),
    ("identity", LIST),
    ("identity, gzip,", GZIP),
]


def test_whole_bodies(app: Celery, worker: Any, db: Database, raw: RawServer) -> None:  # noqa: F811
    for i, (coding, body) in enumerate(WHOLE):
        for how, packed in (("chunks", chunked(body, 100)), ("bytes", chunked(body[:2000], 1)[:-5] +
                                                             chunked(body[2000:], 5000))):
            feed_id = f"{how}{i}"
            url = raw.serve(packed, f"Content-Encoding: {coding}", "Transfer-Encoding: chunked",
                            'ETag: "1"', framed=False)
            add_feed(db, feed_id, "plain", url)
            assert fetch(app, feed_id)["indicators"] == len(ROWS), (coding, how)
            assert sorted(values(db)) == sorted(ROWS)
            feed = db.threat_feeds.find_one_and_delete({"_id": feed_id})
            assert feed["state"]["etag"] == '"1"'
            db.threat_indicators.delete_many({})
    assert b"\r\naccept-encoding: deflate, gzip\r\n" in raw.requests[0].lower()


CUT = [
    ("gzip", GZIP[:len(GZIP) // 2], "it is cut"),
    ("gzip", GZIP[:-8], "it is cut"),
    ("gzip", damaged(GZIP, len(GZIP) - 8), "incorrect data check"),
    ("gzip", damaged(GZIP, len(GZIP) - 1), "incorrect length check"),
    ("gzip", GZIP + b"<html>\n", "there is more behind its end"),
    ("gzip", GZIP + GZIP[:30], "it is cut"),
    ("gzip", LIST, "incorrect header check"),
    ("deflate", zlib.compress(LIST)[:-4], "it is cut"),
    ("deflate", RAW[:-4], "it is cut"),
    ("gzip, gzip", gzip.compress(GZIP), "the coding gzip, gzip"),
    ("br", LIST, "the coding br"),
]


def test_bodies_that_are_not_whole(app: Celery, worker: Any, db: Database,  # noqa: F811
                                   raw: RawServer) -> None:
    """Their framing is: only what is inside tells."""
    for i, (coding, body, error) in enumerate(CUT):
        url = raw.serve(body, f"Content-Encoding: {coding}", 'ETag: "1"', path=f"/{i}")
        add_feed(db, f"list{i}", "plain", url)
        assert refused(app, db, f"list{i}") == \
            f"ConnectionError: 127.0.0.1: the body cannot be decoded: {error}"
        assert set(values(db)) <= set(ROWS)  # no half of one
        db.threat_indicators.delete_many({})


def test_framing_that_is_cut(app: Celery, worker: Any, db: Database,  # noqa: F811
                             raw: RawServer) -> None:
    half = chunked(LIST, 1000)
    raw.serve(LIST[:-5], 'ETag: "1"', f"Content-Length: {len(LIST)}", path="/length", framed=False)
    raw.serve(half[:-5], 'ETag: "1"', "Transfer-Encoding: chunked", path="/end", framed=False)
    raw.serve(half[:500], 'ETag: "1"', "Transfer-Encoding: chunked", path="/chunk", framed=False)
    raw.serve(GZIP, 'ETag: "1"', "Transfer-Encoding: gzip, chunked", path="/coded", framed=False)
    for name in ("length", "end", "chunk", "coded"):
        add_feed(db, name, "plain", f"{raw.url}/{name}")
        assert refused(app, db, name).startswith("ConnectionError: 127.0.0.1: ")
        assert set(values(db)) <= set(ROWS)


def test_a_body_that_only_the_connection_ends(app: Celery, worker: Any, db: Database,  # noqa: F811
                                              raw: RawServer) -> None:
    """As HTTP/1.0 has them. A cut between two rows shows nowhere: the list is read, and is read
    anew the next time, whatever its ETag; a cut inside of a row is no row."""
    def serve(body: bytes, *headers: str) -> None:
        raw.serve(body, 'ETag: "1"', *headers, framed=False, version="1.0")
    add_feed(db, "list", "plain", raw.url + "/list")
    serve(LIST)
    for _ in range(2):
        assert fetch(app, "list")["status"] == "OK"
        assert b"if-none-match" not in raw.requests[-1].lower()
    assert db.threat_feeds.find_one()["state"] == {"indicators": len(ROWS)}
    serve(LIST + b"203.0.113.1", "Transfer-Encoding: identity")
    assert "ends inside a row" in refused(app, db, "list")
    assert "203.0.113.1" not in values(db)
    serve(gzip.compress(LIST + b"203.0.113.2"))  # a file that tells its own end
    assert fetch(app, "list")["status"] == "OK"
    assert "203.0.113.2" in values(db)
    serve(GZIP, "Content-Encoding: gzip")
    assert fetch(app, "list")["status"] == "OK"
    assert db.threat_feeds.find_one()["state"]["etag"] == '"1"'


def zipped(method: int) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", method) as file:
        file.writestr("list", LIST)
        file.writestr("another", LIST)
    return archive.getvalue()


HEAD = 30 + len("list")  # of the first file
DEFLATED, STORED = zipped(zipfile.ZIP_DEFLATED), zipped(zipfile.ZIP_STORED)
ARCHIVES = [
    (GZIP[:-1], "it is cut"),
    (GZIP + GZIP[:-1], "it is cut"),
    (GZIP + b"\0\0\x1f", "it is cut"),
    (GZIP + b"\0\0oops", "there is more behind its end"),
    (damaged(GZIP, len(GZIP) - 8), "incorrect data check"),
    (DEFLATED[:HEAD + 500], "it is cut"),
    (damaged(DEFLATED, 14), "incorrect data check"),
    (STORED[:HEAD + len(LIST) - 1], "it is cut"),
    (damaged(STORED, HEAD + len(LIST) - 1), "incorrect data check"),
]


def test_archives_that_are_not_whole(app: Celery, worker: Any, db: Database,  # noqa: F811
                                     raw: RawServer) -> None:
    for i, (body, error) in enumerate(ARCHIVES):
        for how, size in (("bytes", 1), ("chunks", 1000)):
            url = raw.serve(chunked(body, size), "Transfer-Encoding: chunked", 'ETag: "1"',
                            path=f"/{how}{i}", framed=False)
            add_feed(db, f"{how}{i}", "plain", url)
            assert refused(app, db, f"{how}{i}", again=False) == \
                f"ValueError: the archive cannot be read: {error}", i
            assert set(values(db)) <= set(ROWS)
    for name, body in (("cut", DEFLATED[:HEAD + len(zlib.compress(LIST)) - 6]), ("stored", STORED),
                       ("parts", GZIP + bytes(9) + gzip.compress(b"") + bytes(3))):
        add_feed(db, name, "plain", raw.serve(body))
        assert fetch(app, name)["indicators"] == len(ROWS)  # the first file is whole


NO_LIST = [
    ("200 OK", b"", "the list is empty; 900 indicators were read before"),
    ("200 OK", b"\r\n\n", "the list is empty; 900 indicators were read before"),
    ("200 OK", gzip.compress(b""), "the list is empty; 900 indicators were read before"),
    ("200 OK", b"\n<!DOCTYPE html>\nwww.example.com\n", "the answer is a page, not a list"),
    ("200 OK", b'{"error":\n "try again later"}\n', "none of its 2 rows is an indicator"),
    ("202 Accepted", b"", "HTTP 202 is no answer of a feed"),
    ("204 No Content", b"", "HTTP 204 is no answer of a feed"),
    ("206 Partial Content", b"3.0.113.7\n203.0.113.8\n", "HTTP 206 is no answer of a feed"),
    ("304 Not Modified", b"", "HTTP 304 is no answer of a feed"),
]


def test_answers_that_are_no_list(app: Celery, worker: Any, db: Database,  # noqa: F811
                                  raw: RawServer) -> None:
    add_feed(db, "list", "plain", raw.serve(LIST))
    fetch(app, "list")
    before = list(db.threat_indicators.find())
    for status, body, error in NO_LIST:
        raw.serve(body, 'ETag: "2"', status=status)
        assert error in refused(app, db, "list", again=False), status
        assert list(db.threat_indicators.find()) == before
    for body in (b"# nothing today\n", b""):  # nor was there anything before
        raw.serve(body, 'ETag: "3"')
        assert fetch(app, "list")["indicators"] == 0


def test_an_encoded_error_that_is_cut(app: Celery, worker: Any, db: Database,  # noqa: F811
                                      raw: RawServer) -> None:
    """Its status tells enough."""
    for i, headers in enumerate(("Content-Encoding: gzip", "Content-Encoding: br")):
        url = raw.serve(GZIP[:50], headers, path=f"/{i}", status="404 Not Found")
        add_feed(db, f"list{i}", "plain", url)
        assert refused(app, db, f"list{i}", again=False) == "RuntimeError: HTTP 404 from 127.0.0.1"


def test_an_otx_page_that_does_not_tell_of_the_next(app: Celery, worker: Any,  # noqa: F811
                                                    db: Database, feeds: FeedServer) -> None:  # noqa: F811
    pulse = {"modified": "2026-11-10T10:11:12", "indicators": []}
    for i, page in enumerate(({}, {"next": {}})):
        add_feed(db, f"otx{i}", "otx", feeds.serve(f"/{i}", {"results": [pulse], **page}), secret="OTX")
        assert "the page has no `next`" in refused(app, db, f"otx{i}", again=False)


def test_a_misp_event_that_is_cut_stops_no_other(app: Celery, worker: Any, db: Database,  # noqa: F811
                                                 feeds: FeedServer) -> None:  # noqa: F811
    def body(i: int) -> bytes:
        return json.dumps({"Event": {"Attribute": [{"type": "domain", "value": f"e{i}.example"}]}}).encode()
    events = [str(uuid.uuid4()) for _ in range(6)]
    feeds.serve("/m/manifest.json", {event: {"timestamp": 1} for event in events}, ETag='"1"')
    for i, event in enumerate(events):
        feeds.serve(f"/m/{event}.json", gzip.compress(body(i)), Content_Encoding="gzip")
    feeds.serve(f"/m/{events[1]}.json", gzip.compress(body(1))[:-9], Content_Encoding="gzip")
    feeds.serve(f"/m/{events[2]}.json", b"", 500)
    add_feed(db, "misp", "misp", feeds.url + "/m/")
    assert f"event {events[1]}: " in refused(app, db, "misp")
    assert sorted(values(db)) == [f"e{i}.example" for i in (0, 3, 4, 5)]
    for i in (1, 2):
        feeds.serve(f"/m/{events[i]}.json", body(i))
    del feeds.requests[:]
    assert fetch(app, "misp")["status"] == "OK"
    assert [path for path, *_ in feeds.requests] == \
        ["/m/manifest.json", f"/m/{events[1]}.json", f"/m/{events[2]}.json"]
    for event in events:
        feeds.serve(f"/m/{event}.json", b"", 500)
    feeds.serve("/m/manifest.json", {event: {"timestamp": 2} for event in events})
    del feeds.requests[:]
    assert "HTTP 500" in refused(app, db, "misp")
    assert len(feeds.requests) == 4  # it is the service

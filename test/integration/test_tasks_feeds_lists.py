# SPDX-License-Identifier: Apache-2.0
"""threat_feeds: lists and CSV, packed or not, from a local server."""
from __future__ import annotations

import gzip
import io
import os
import zipfile
from typing import Any

import pytest
from celery import Celery
from pymongo.database import Database

from feed_server import (FeedServer, LIST, SAMPLES, add_feed, db, feeds, fetch, snapshot,  # noqa: F401
                         values, worker)


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

# SPDX-License-Identifier: Apache-2.0
"""threat_feeds: MISP: a feed written by PyMISP, and hostile ones."""
from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from pymongo.database import Database

from feed_server import (FeedServer, SAMPLES, add_feed, db, feeds, fetch, snapshot, values,  # noqa: F401
                         worker)


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

# SPDX-License-Identifier: Apache-2.0
"""threat_feeds: TAXII, from a real server (medallion) and from hostile ones."""
from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from celery import Celery
from pymongo.database import Database

from feed_server import (FeedServer, SAMPLES, add_feed, db, feeds, fetch, snapshot, values,  # noqa: F401
                         worker)
from harness import wait_state
from services.process import end_process, free_port, wait_until


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

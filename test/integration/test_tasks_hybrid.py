# SPDX-License-Identifier: Apache-2.0
"""On-prem networks (real nmap over loopback, and a fake for hosts with network cards) merged with what
the cloud and the clusters say."""
from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from pymongo.database import Database

from harness import Worker, descendants, get, wait_state
from services.process import wait_until
from tools import FakeTool

HOST = """<host><status state="up" reason="arp-response"/><address addr="{ip}" addrtype="ipv4"/>
<address addr="{mac}" addrtype="mac" vendor="Acme"/><hostnames>{name}</hostnames></host>"""


def nmap_xml(*hosts: tuple[str, str, str], end: str = "success") -> str:
    """As `nmap -sn -oX -` writes it."""
    body = "\n".join(HOST.format(ip=ip, mac=mac, name=f'<hostname name="{name}" type="PTR"/>'
                                 if name else "") for ip, mac, name in hosts)
    return ('<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE nmaprun>\n<nmaprun scanner="nmap">\n'
            f'{body}\n<runstats><finished time="1" exit="{end}"/></runstats></nmaprun>\n')


@pytest.fixture
def database(indexed_database: Database) -> Database:
    indexed_database.approved_targets.insert_one({"team_id": "t1", "target": "127.0.0.0/8"})
    return indexed_database


@pytest.fixture
def start(cworker: Callable[..., Worker], database: Database) -> Callable[..., Worker]:
    return lambda **env: cworker(database=database, queues="discovery", env=env)


def run(app: Celery, team: str = "t1") -> dict[str, Any]:
    return get(app.send_task("discovery.execute_hybrid_asset_discovery", args=(team,),
                             queue="discovery"))


def failure(app: Celery, team: Any = "t1") -> str:
    result = app.send_task("discovery.execute_hybrid_asset_discovery", args=(team,),
                           queue="discovery")
    wait_state(result, "FAILURE")
    return f"{type(result.result).__name__}: {result.result}"


def cloud(database: Database, resource_id: str, **fields: Any) -> None:
    database.assets.insert_one({
        "team_id": "t1", "provider": "aws", "resource_id": resource_id, "source": "steampipe",
        "resource_type": "ec2_instance", "first_seen": datetime(2026, 1, 1), "gone": False, **fields})


def test_real_nmap(app: Celery, start: Callable[..., Worker], database: Database) -> None:
    database.onprem_networks.insert_one({"_id": "n1", "team_id": "t1", "network": "127.0.0.0/30"})
    start()
    first = run(app)
    assert first["status"] == "COMPLETED" and first["hosts"] == first["assets"] >= 3
    found = database.assets.find_one({"resource_id": "n1/127.0.0.1"})
    assert found["provider"] == "onprem" and found["ips"] == ["127.0.0.1"]
    again = run(app)
    assert again["gone"] == 0 and again["assets"] == first["assets"]
    assert database.hybrid_assets.count_documents({}) == first["assets"]
    if found["hostnames"]:
        cloud(database, "arn:1", ips=["127.0.0.1"], hostnames=found["hostnames"], name="web")
        assert run(app)["merged"] == 1
        merged = database.hybrid_assets.find_one({"source_count": 2})
        assert (merged["name"], merged["kinds"]) == ("web", ["steampipe", "nmap"])
        assert merged["first_seen"] == datetime(2026, 1, 1)


def test_hosts_and_networks_go(app: Celery, start: Callable[..., Worker], database: Database,
                               tmp_path: Path) -> None:
    two = nmap_xml(("127.1.0.1", "0A:00:00:00:00:01", ""), ("127.1.0.2", "0A:00:00:00:00:02", "b"))
    nmap = FakeTool(tmp_path, "nmap", {"*": {"output": two}})
    database.onprem_networks.insert_one({"_id": "n1", "team_id": "t1", "network": "127.1.0.0/24"})
    start(CWORKER_NMAP=str(nmap.path))
    assert run(app)["hosts"] == 2
    moved = nmap_xml(("127.1.0.9", "0A:00:00:00:00:01", ""))
    nmap.set({"*": {"output": moved}})
    done = run(app)
    assert (done["hosts"], done["assets"], done["gone"]) == (1, 1, 1)
    kept = database.hybrid_assets.find_one({"gone": False})
    assert (kept["ips"], kept["macs"]) == (["127.1.0.9"], ["0a:00:00:00:00:01"])
    assert database.hybrid_assets.count_documents({}) == 2
    for broken in (moved[:200], nmap_xml(end="error"), "", "<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>"):
        nmap.set({"*": {"output": broken}})
        done = run(app)
        assert done["status"] == "PARTIAL" and "n1" in done["errors"][0] and done["gone"] == 0
    nmap.set({"*": {"exit": 1, "errors": "no route"}})
    assert "no route" in run(app)["errors"][0]
    assert database.assets.count_documents({"gone": False}) == 1


def test_one_thing_with_all_its_sources(app: Celery, start: Callable[..., Worker],
                                        database: Database, tmp_path: Path) -> None:
    nmap = FakeTool(tmp_path, "nmap", {"*": {"output": nmap_xml(
        ("127.1.0.5", "0A:00:00:00:00:01", ""),
        ("127.1.0.6", "00:00:00:00:00:00", "Node-2.internal."),
        ("127.1.0.7", "0A:00:00:00:00:07", "printer"))}})
    database.onprem_networks.insert_one({"_id": "n1", "team_id": "t1", "network": "127.1.0.0/24"})
    cloud(database, "arn:aws:ec2:eu-west-1:1:instance/i-1", macs=["0a:00:00:00:00:01"], name="web")
    cloud(database, "arn:aws:s3:::b", resource_type="s3_bucket", name="b")
    cloud(database, "arn:gone", gone=True)
    cloud(database, "arn:other", team_id="t2")
    node = {"team_id": "t1", "cluster_id": "c1", "kind": "Node", "gone": False,
            "first_seen": datetime(2026, 2, 1)}
    database.k8s_resources.insert_many([
        {**node, "uid": "u1", "name": "node-1", "provider_id": "aws:///eu-west-1a/i-1"},
        {**node, "uid": "u2", "name": "node-2", "addresses": [
            {"type": "InternalIP", "address": "127.1.0.6"},
            {"type": "Hostname", "address": "node-2.internal"}]},
        {**node, "uid": "u3", "name": "pod", "kind": "Pod"}])
    start(CWORKER_NMAP=str(nmap.path))
    for _ in range(2):
        done = run(app)
        assert (done["records"], done["assets"], done["merged"]) == (7, 4, 2)
        assert database.hybrid_assets.count_documents({"gone": False}) == 4
    web = database.hybrid_assets.find_one({"instance_id": None, "name": "web"})
    assert web["kinds"] == ["steampipe", "kubernetes", "nmap"] and web["source_count"] == 3
    assert web["identity"] == "instance:i-1" and web["ips"] == ["127.1.0.5"]
    two = database.hybrid_assets.find_one({"name": "node-2"})
    assert two["kinds"] == ["kubernetes", "nmap"] and two["first_seen"] == datetime(2026, 2, 1)
    nmap.set({"*": {"output": nmap_xml()}})
    assert run(app)["gone"] == 1
    web = database.hybrid_assets.find_one({"name": "web"})
    assert web["kinds"] == ["steampipe", "kubernetes"] and web["ips"] == []


def test_networks_that_are_refused(app: Celery, start: Callable[..., Worker], database: Database,
                                   tmp_path: Path) -> None:
    nmap = FakeTool(tmp_path, "nmap", {"*": {"output": nmap_xml()}})
    database.approved_targets.insert_one({"team_id": "t2", "target": "10.0.0.0/8"})
    refused = ["10.0.0.0/24", "127.0.0.0/8", "-oN/etc/x", "--script=x", "localhost", "127.0.0.1/33",
               "127.0.0.0/24 -sV", "", None, 7]
    database.onprem_networks.insert_many(
        [{"_id": f"n{i}", "team_id": "t1", "network": network} for i, network in enumerate(refused)])
    database.onprem_networks.insert_many([
        {"_id": "off", "team_id": "t1", "network": "127.0.0.1", "enabled": False},
        {"_id": "odd", "team_id": "t1", "network": "127.0.0.1", "enabled": 0},
        {"_id": 7.5, "team_id": "t1", "network": "127.0.0.1"}])
    start(CWORKER_NMAP=str(nmap.path))
    done = run(app)
    assert done["status"] == "PARTIAL" and len(done["errors"]) == len(refused) + 2
    assert "PermissionError" in done["errors"][0] and "larger" in done["errors"][1]
    assert nmap.calls == []


def test_failures(app: Celery, start: Callable[..., Worker], database: Database) -> None:
    database.onprem_networks.insert_one({"_id": "n1", "team_id": "t1", "network": "127.0.0.1"})
    start(CWORKER_NMAP="/nowhere/nmap", CWORKER_HYBRID_MAX_ASSETS="2")
    missing = failure(app)
    assert missing.startswith("FileNotFoundError") and "CWORKER_NMAP" in missing
    assert failure(app, "nobody").startswith("LookupError")
    assert failure(app, 7).startswith("TypeError")
    database.onprem_networks.delete_many({})
    for i in range(3):
        cloud(database, f"arn:{i}")
    assert "CWORKER_HYBRID_MAX_ASSETS" in failure(app)
    assert database.hybrid_assets.count_documents({}) == 0


def test_hostile_documents(app: Celery, start: Callable[..., Worker], database: Database) -> None:
    """Shapes that no discovery writes: they merge nothing and break nothing."""
    cloud(database, "arn:1", ips="10.0.0.1", macs=[7, None, "ff:ff:ff:ff:ff:ff"], hostnames={"a": "b"})
    cloud(database, "arn:2", ips=["10.0.0.1"] * 1000, hostnames=["x" * 300, "|", "n"], name="\0")
    cloud(database, "arn:3", ips=["10.0.0.1"], hostnames=["n"], instance_id="")
    cloud(database, "projects/p/zones/z", provider="gcp", last_seen="never")
    database.assets.insert_one({"team_id": "t1", "resource_id": 7})
    database.k8s_resources.insert_many([
        {"team_id": "t1", "cluster_id": "c", "uid": "u", "kind": "Node", "addresses": "x",
         "provider_id": "aws://"},
        {"team_id": "t1", "cluster_id": "c", "uid": "v", "kind": "Service", "type": "LoadBalancer",
         "load_balancer": [{"ip": "x"}, 7]}])
    start()
    for _ in range(2):
        assert run(app)["assets"] == 6
    assert database.hybrid_assets.count_documents({"gone": False}) == 6


def test_many_and_killed(app: Celery, start: Callable[..., Worker], database: Database) -> None:
    """More than are read at once; a child that is killed in the middle, and a second run, change nothing."""
    pairs, alone = 900, 700
    database.assets.insert_many(
        [{"team_id": "t1", "provider": provider, "resource_id": f"{provider}:{i}", "source": provider,
          "name": f"{provider}-{i}", "macs": [f"0a:00:00:00:{i >> 8:02x}:{i & 255:02x}"], "gone": False}
         for provider, n in (("onprem", pairs), ("aws", pairs + alone)) for i in range(n)])
    worker = start()
    result = app.send_task("discovery.execute_hybrid_asset_discovery", args=("t1",), queue="discovery")
    wait_until(lambda: database.hybrid_assets.count_documents({}) >= 500, what="the first documents")
    for child in descendants(worker.pid)[1:]:
        os.kill(child, signal.SIGKILL)
    counts = {"records": 2 * pairs + alone, "assets": pairs + alone, "merged": pairs, "gone": 0}
    assert get(result).items() >= counts.items()

    def seen() -> dict[str, Any]:
        return {a["asset_key"]: (a["name"], a["kinds"], a["source_count"], a["gone"])
                for a in database.hybrid_assets.find()}
    first = seen()
    assert len(first) == pairs + alone
    assert sum(one[1:] == (["aws", "onprem"], 2, False) for one in first.values()) == pairs
    assert run(app).items() >= counts.items() and seen() == first

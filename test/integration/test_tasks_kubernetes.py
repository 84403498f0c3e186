# SPDX-License-Identifier: Apache-2.0
"""Discovery of Kubernetes clusters against a stand-in that replays a real server's answers."""
from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bson import Decimal128, Int64
from celery import Celery
from pymongo.database import Database

from harness import Worker, get, wait_state
from services.kubernetes import KubernetesStandIn
from services.process import free_port, wait_until


@pytest.fixture
def cluster() -> Iterator[KubernetesStandIn]:
    server = KubernetesStandIn()
    yield server
    server.close()


@pytest.fixture
def database(app_database: Database, cluster: KubernetesStandIn) -> Database:
    app_database.k8s_clusters.insert_one({
        "_id": "c1", "team_id": "team-1", "api_server": cluster.url, "ca": cluster.ca,
        "token_secret": "K8S_TOKEN_C1"})
    return app_database


@pytest.fixture
def start(cworker: Callable[..., Worker], database: Database, cluster: KubernetesStandIn,
          tmp_path: Path) -> Callable[..., Worker]:
    return lambda **env: cworker(database=database, queues="discovery",
        env={"K8S_TOKEN_C1": cluster.token, "CWORKER_KUBECONFIGS": str(tmp_path), **env})


def send(app: Celery, cluster_id: str = "c1") -> Any:
    return app.send_task("discovery.execute_kubernetes_cluster_discovery", args=(cluster_id,),
                         queue="discovery")


def expect_failure(app: Celery, type_name: str, words: str, cluster_id: str = "c1") -> None:
    result = send(app, cluster_id)
    wait_state(result, "FAILURE")
    assert type(result.result).__name__ == type_name, result.result
    assert words in str(result.result)


def named(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "default", "uid": f"uid-{kind}-{name}"}, **spec}


def checks(database: Database, **filters: Any) -> set[tuple[str, str, str]]:
    return {(f["kind"], f["name"], f["check_id"])
            for f in database.k8s_findings.find({"status": "OPEN", **filters})}


def test_recorded_cluster(app: Celery, start: Callable[..., Worker], database: Database,
                          cluster: KubernetesStandIn) -> None:
    start()
    seen = []
    for _ in range(2):
        done = get(send(app))
        assert done["status"] == "COMPLETED" and done["resources"] == 10 and done["skipped"] == []
        assert (done["gone"], done["resolved"]) == (0, 0)
        assert database.k8s_resources.count_documents({"gone": False, "team_id": "team-1"}) == 10
        seen.append({f["uid"] for f in database.k8s_findings.find()})
        assert database.k8s_findings.count_documents({}) == done["findings"]
    assert seen[0] == seen[1]
    assert ("Pod", "web-2", "privileged_container") in checks(database)
    assert ("Pod", "web-3", "host_namespaces") in checks(database)
    assert ("Deployment", "api", "no_resource_limits") in checks(database)
    node = database.k8s_resources.find_one({"kind": "Node", "name": "node-1"})
    assert node["cluster_id"] == "c1" and "managedFields" not in str(node)
    pod = database.k8s_resources.find_one({"name": "web-1"})
    assert pod["images"] == ["nginx:1.25"] and "app=web" in pod["labels"]
    assert database.k8s_clusters.find_one()["discovery_status"] == "COMPLETED"
    assert [q["continue"] for p, q in cluster.requests if p.endswith("pods") and "continue" in q]


def test_vanished_and_back(app: Celery, start: Callable[..., Worker], database: Database,
                           cluster: KubernetesStandIn) -> None:
    start()
    bad = {"containers": [{"name": "c", "image": "x@sha256:0", "securityContext": {
        "privileged": True, "runAsUser": 1}, "resources": {"limits": {"cpu": 1, "memory": 1}}}]}
    cluster.lists["Pod"] = [named("Pod", f"p{i}", spec=bad) for i in range(5)]
    cluster.page = 2
    get(send(app))
    first = database.k8s_findings.find_one({"name": "p4"})
    cluster.lists["Pod"] = cluster.lists["Pod"][:3]
    done = get(send(app))
    assert (done["gone"], done["resolved"]) == (2, 2)
    assert database.k8s_resources.find_one({"name": "p4"})["gone"] is True
    assert database.k8s_findings.find_one({"name": "p4"})["status"] == "RESOLVED"
    anew = named("Pod", "p4", spec=bad)
    anew["metadata"]["uid"] = "another"
    cluster.lists["Pod"].append(anew)
    assert get(send(app))["gone"] == 0
    back = database.k8s_findings.find_one({"name": "p4"})
    assert (back["_id"], back["status"], back["resolved_at"]) == (first["_id"], "OPEN", None)
    assert back["first_seen"] == first["first_seen"]


def test_findings_become_occurrences(app: Celery, cworker: Callable[..., Worker],
                                     start: Callable[..., Worker], database: Database,
                                     cluster: KubernetesStandIn) -> None:
    """From the cluster's answers by discovery and sync, incremental passes included."""
    start()
    cworker(database=database, queues="sync")

    def discover_and_sync() -> dict[str, int]:
        get(send(app))
        return get(app.send_task("sync.sync_vulnerabilities_for_team", args=["team-1"],
                                 queue="sync"))["k8s"]
    made = discover_and_sync()
    findings = list(database.k8s_findings.find({"status": "OPEN"}))
    occurrences = {(o["asset_id"], o["vulnerability_id"], o.get("location", "")): o for o in
                   database.vulnerability_occurrences.find({"status": "OPEN"})}
    assert set(occurrences) == {
        (f"c1/{f.get('namespace', '')}/{f['kind']}/{f['name']}", f["check_id"], f.get("container", ""))
        for f in findings}
    assert made["new"] == len(findings) == len(occurrences) > 5
    one = occurrences["c1/default/Pod/web-2", "privileged_container", "c"]
    assert (one["severity"], one["team_id"], one["source"]) == ("HIGH", "team-1", "k8s")
    assert one["title"] == "Container runs privileged"
    assert discover_and_sync() == {"seen": len(findings), "new": 0, "reopened": 0, "resolved": 0}
    cluster.lists["Pod"] = []
    gone = sum(f["kind"] == "Pod" for f in findings)
    assert discover_and_sync()["resolved"] == gone > 0
    assert database.vulnerability_occurrences.find_one(
        {"_id": one["_id"]})["status"] == "RESOLVED"


def test_forbidden_kind_goes_on(app: Celery, start: Callable[..., Worker], database: Database,
                                cluster: KubernetesStandIn) -> None:
    start()
    get(send(app))
    cluster.forbidden = {"Pod"}
    cluster.absent = {"CronJob"}
    done = get(send(app))
    assert done["status"] == "PARTIAL" and done["gone"] == 0
    assert [s["kind"] for s in done["skipped"]] == ["Pod", "CronJob"]
    assert "cannot list resource" in done["skipped"][0]["reason"]
    assert database.k8s_resources.count_documents({"kind": "Pod", "gone": False}) == 7
    assert database.k8s_clusters.find_one()["discovery_skipped"][0]["kind"] == "Pod"


def test_nothing_allowed(app: Celery, start: Callable[..., Worker], database: Database,
                         cluster: KubernetesStandIn) -> None:
    from services.kubernetes import PATHS
    cluster.forbidden = set(PATHS)
    start()
    expect_failure(app, "PermissionError", "nothing")
    cluster.forbidden = set()
    cluster.token = "another"
    expect_failure(app, "PermissionError", "401 Unauthorized")
    cluster_document = database.k8s_clusters.find_one()
    assert cluster_document["discovery_status"] == "FAILED"
    assert "recorded-token" not in str(cluster_document)


@pytest.mark.parametrize("expiries, status", [(1, "COMPLETED"), (2, "COMPLETED"), (3, "PARTIAL")])
def test_expired_list(app: Celery, start: Callable[..., Worker], database: Database,
                      cluster: KubernetesStandIn, expiries: int, status: str) -> None:
    start()
    get(send(app))
    cluster.expiries = expiries
    done = get(send(app))
    assert done["status"] == status and done["gone"] == 0
    assert database.k8s_resources.count_documents({"gone": False}) == 10
    fresh = [q for p, q in cluster.requests if p.endswith("pods") and "continue" not in q]
    assert len(fresh) == 2 + min(expiries, 2)


def test_busy_server(app: Celery, start: Callable[..., Worker], cluster: KubernetesStandIn) -> None:
    cluster.raw["Node"] = [(429, {"Retry-After": "1"}, b"{}")]
    start()
    assert get(send(app))["status"] == "COMPLETED"


@pytest.mark.parametrize("answer, error, words", [
    ((200, {}, b'{"kind": "PodList", "items": [{"metadata": {"na'), "ValueError", "not JSON"),
    ((200, {}, b"<html>login</html>"), "ValueError", "not JSON"),
    ((200, {}, b'{"kind": "Pod", "metadata": {"name": "x"}, "items": []}'), "ValueError", "not a list"),
    ((200, {}, b'{"kind": "PodList", "metadata": {}}'), "ValueError", "items"),
    ((200, {}, b'{"kind": "PodList", "items": {}}'), "ValueError", "items"),
    ((200, {}, b'{"kind": "PodList", "items": "none"}'), "ValueError", "items"),
    ((200, {}, b'{"kind": "PodList", "items": [], "metadata": {"continue": 7}}'), "ValueError",
     "continue"),
    ((200, {}, b'{"kind": "PodList", "items": [], "metadata": {"continue": "' + b"x" * 5000 + b'"}}'),
     "ValueError", "continue"),
    ((200, {}, b'{"kind": "PodList", "items": [], "metadata": "none"}'), "ValueError", "continue"),
    ((200, {}, b'{"kind": "PodList", "items": [7]}'), "ValueError", "without metadata"),
    ((200, {}, b'{"kind": "PodList", "items": [{"metadata": {}}]}'), "ValueError", "without a name"),
    ((302, {"Location": "http://127.0.0.1:1/latest/meta-data"}, b""), "ValueError", "HTTP 302"),
])
def test_wrong_answers(app: Celery, start: Callable[..., Worker], database: Database,
                       cluster: KubernetesStandIn, answer: Any, error: str, words: str) -> None:
    start()
    get(send(app))
    cluster.raw["Pod"] = [answer]
    expect_failure(app, error, words)
    assert database.k8s_resources.count_documents({"gone": False}) == 10


def test_endless_list(app: Celery, start: Callable[..., Worker], database: Database,
                      cluster: KubernetesStandIn) -> None:
    start()
    page = b'{"kind": "PodList", "items": [], "metadata": {"continue": "same"}}'
    cluster.raw["Pod"] = [(200, {}, page)] * 9
    expect_failure(app, "ValueError", "page 2 leads to itself")
    assert len(cluster.raw["Pod"]) == 7


def test_ids_of_clusters(app: Celery, start: Callable[..., Worker], database: Database,
                         cluster: KubernetesStandIn) -> None:
    """Two clusters are two, however their ids were written."""
    document = database.k8s_clusters.find_one()
    database.k8s_clusters.insert_many([{**document, "_id": 5.0}, {**document, "_id": Int64(6)},
                                       {**document, "_id": Decimal128("7")}])
    start()
    for name in ("5", "6"):
        assert get(send(app, name))["status"] == "COMPLETED"
    expect_failure(app, "ValueError", "_id", "7")
    assert set(database.k8s_resources.distinct("cluster_id")) == {"5", "6"}


def test_cut_and_down_are_tried_again(app: Celery, start: Callable[..., Worker], database: Database,
                                      cluster: KubernetesStandIn) -> None:
    cluster.raw["Pod"] = [(200, {"Content-Length": "5000", "Connection": "close"},
                           b'{"kind": "PodList", "metadata": {}, "items": [')]
    start()
    wait_state(send(app), "RETRY")
    database.k8s_clusters.update_one({}, {"$set": {"api_server": f"https://127.0.0.1:{free_port()}"}})
    wait_state(send(app), "RETRY")


def test_other_authority(app: Celery, start: Callable[..., Worker], database: Database,
                         cluster: KubernetesStandIn) -> None:
    other = KubernetesStandIn()
    database.k8s_clusters.update_one({}, {"$set": {"ca": other.ca}})
    other.close()
    start()
    expect_failure(app, "ConnectionError", "certificate")
    database.k8s_clusters.update_one({}, {"$unset": {"ca": 1}})
    expect_failure(app, "ConnectionError", "certificate")
    assert cluster.requests == []


def test_kubeconfigs(app: Celery, start: Callable[..., Worker], database: Database,
                     cluster: KubernetesStandIn, tmp_path: Path) -> None:
    (tmp_path / "client.yaml").write_text(yaml(cluster.kubeconfig()))
    (tmp_path / "token.json").write_text(json.dumps(cluster.kubeconfig({"token": cluster.token})))
    (tmp_path / "the-token").write_text(cluster.token + "\n")
    (tmp_path / "file.yaml").write_text(yaml(cluster.kubeconfig({"tokenFile": "the-token"})))
    start()
    for name in ("client.yaml", "token.json", "file.yaml"):
        database.k8s_clusters.replace_one({"_id": "c1"}, {"team_id": "team-1", "kubeconfig": name})
        assert get(send(app))["status"] == "COMPLETED", name
    database.k8s_clusters.update_one({}, {"$set": {"kubeconfig": "client.yaml", "context": "none"}})
    expect_failure(app, "LookupError", "no context none")


def yaml(config: dict[str, Any]) -> str:
    """Block style, as kubectl writes it."""
    def lines(value: Any, pad: str) -> list[str]:
        if isinstance(value, dict):
            return [line for name, inner in value.items() for line in
                    ([f"{pad}{name}:", *lines(inner, pad + "  ")] if isinstance(inner, (dict, list))
                     else [f"{pad}{name}: {inner}"])]
        return [line for item in value
                for line in [pad + "- " + lines(item, pad + "  ")[0].strip(),
                             *lines(item, pad + "  ")[1:]]]
    return "\n".join(lines(config, "")) + "\n"


@pytest.mark.parametrize("user, cluster_part, words", [
    ({"exec": {"command": "aws"}}, {}, "exec"),
    ({"username": "a", "password": "b"}, {}, "passwords"),
    ({"token": "a b"}, {}, "blanks"),
    ({"client-certificate-data": "!!!!", "client-key-data": "YQ=="}, {}, "base64"),
    ({"token": "x"}, {"insecure-skip-tls-verify": True}, "insecure"),
    ({"token": "x"}, {"server": "http://169.254.169.254"}, "https"),
    ({"token": "x"}, {"server": "file:///etc/passwd"}, "https"),
])
def test_refused_kubeconfigs(app: Celery, start: Callable[..., Worker], database: Database,
                             cluster: KubernetesStandIn, tmp_path: Path, user: dict[str, Any],
                             cluster_part: dict[str, Any], words: str) -> None:
    (tmp_path / "k").write_text(json.dumps(cluster.kubeconfig(user, **cluster_part)))
    database.k8s_clusters.update_one({}, {"$set": {"kubeconfig": "k"}})
    start()
    expect_failure(app, "ValueError", words)
    assert cluster.requests == []


@pytest.mark.parametrize("change, error, words", [
    ({"kubeconfig": "../k"}, "ValueError", "name of a file"),
    ({"kubeconfig": "missing"}, "FileNotFoundError", "missing"),
    ({"token_secret": "PATH"}, "ValueError", "K8S_TOKEN_"),
    ({"token_secret": "K8S_TOKEN_NONE"}, "LookupError", "K8S_TOKEN_NONE"),
    ({"api_server": "http://127.0.0.1"}, "ValueError", "https"),
    ({"api_server": "https://user:pass@127.0.0.1"}, "ValueError", "https"),
    ({"in_cluster": True}, "ValueError", "pod"),
    *(({"api_server": f"https://{host}:6443"}, "PermissionError", "metadata address") for host in (
        "169.254.169.254", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518",
        "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[fe80::1]", "[fd00:ec2::254]", "0")),
    ({"team_id": {"$ne": 1}}, "ValueError", "team_id"),
    ({"context": 7}, "ValueError", "context must be text"),
    ({"ca": ["x"]}, "ValueError", "ca must be text"),
    ({"in_cluster": "yes"}, "ValueError", "in_cluster must be true or false"),
])
def test_hostile_clusters(app: Celery, start: Callable[..., Worker], database: Database,
                          cluster: KubernetesStandIn, change: dict[str, Any], error: str,
                          words: str) -> None:
    database.k8s_clusters.update_one({}, {"$set": change})
    start()
    expect_failure(app, error, words)
    assert cluster.requests == []


def test_in_cluster(app: Celery, start: Callable[..., Worker], database: Database,
                    cluster: KubernetesStandIn, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(cluster.token + "\n")
    (tmp_path / "ca.crt").write_text(cluster.ca)
    database.k8s_clusters.update_one({}, {"$set": {"in_cluster": True}})
    start(KUBERNETES_SERVICE_HOST="127.0.0.1",
          KUBERNETES_SERVICE_PORT=str(cluster.server_address[1]),
          CWORKER_K8S_SERVICE_ACCOUNT=str(tmp_path))
    assert get(send(app))["status"] == "COMPLETED"


def test_unknown_cluster_and_arguments(app: Celery, start: Callable[..., Worker]) -> None:
    start()
    expect_failure(app, "LookupError", "no cluster", "none")
    result = app.send_task("discovery.execute_kubernetes_cluster_discovery", args=(7,),
                           queue="discovery")
    wait_state(result, "FAILURE")
    assert isinstance(result.result, TypeError)


def test_killed_in_the_middle(app: Celery, start: Callable[..., Worker], database: Database,
                              cluster: KubernetesStandIn) -> None:
    """A worker that dies with half a list stored: the next one ends as if nothing had been."""
    cluster.raw["Deployment"] = [(429, {"Retry-After": "30"}, b"{}")]
    worker = start()
    send(app)
    wait_until(lambda: database.k8s_resources.count_documents({"kind": "Pod"}) == 7, what="the pods")
    worker.kill()
    cluster.raw.pop("Deployment", None)
    start()
    wait_until(lambda: database.k8s_clusters.find_one().get("discovery_status") == "COMPLETED",
               what="the second worker's end")
    assert database.k8s_resources.count_documents({"gone": False}) == 10

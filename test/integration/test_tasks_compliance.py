# SPDX-License-Identifier: Apache-2.0
"""Prowler scans, posture and snapshots: real Redis and MongoDB protocol, a replayed prowler."""
from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import Binary, ObjectId
from celery import Celery
from pymongo.database import Database

from harness import Worker, descendants, get, is_alive, wait_state
from services.process import wait_until
from tools import FakeTool, finding, report, sample

PROWLER = "compliance.execute_prowler_scan"


@pytest.fixture
def database(app_database: Database) -> Database:
    return app_database


@pytest.fixture
def prowler(tmp_path: Path) -> FakeTool:
    return FakeTool(tmp_path, "prowler", {"*": report()})


@pytest.fixture
def worker(cworker: Callable[..., Worker], database: Database, prowler: FakeTool) -> Worker:
    return cworker(database=database, queues="compliance",
                   env={"CWORKER_PROWLER": str(prowler.path), "AWS_ACCESS_KEY_ID": "key",
                        "AWS_SECRET_ACCESS_KEY": "secret", "PRIVATE_VALUE": "ours"})


@pytest.fixture
def run_id(database: Database) -> str:
    database.scan_runs.insert_one({
        "_id": "run-1", "team_id": "team-1", "cloud_account_id": "123456789012", "provider": "aws",
        "regions": ["eu-west-1", "us-east-1"], "frameworks": [], "status": "RUNNING"})
    return "run-1"


def send(app: Celery, name: str, *args: Any, **options: Any) -> Any:
    return app.send_task(name, args=args, queue="compliance", **options)


def states(database: Database) -> dict[str, str]:
    return {f["resource_name"]: f["status"] for f in database.cspm_findings.find()}


def test_findings_are_stored(app: Celery, worker: Worker, database: Database, prowler: FakeTool,
                             run_id: str) -> None:
    prowler.set({"eu-west-1": {"write": sample("prowler/findings.ocsf.json"), "exit": 3},
                 "us-east-1": {"exit": 0}})
    result = get(send(app, PROWLER, run_id, ["eu-west-1", "us-east-1"], ["cis_1.4_aws"]))
    assert result.pop("by_severity")["CRITICAL"] == 1
    assert result == {"scan_run_id": run_id, "status": "COMPLETED", "regions": 2, "findings": 2,
                      "fail": 1, "pass": 1, "manual": 0, "resolved": 0, "errors": []}
    stored = database.cspm_findings.find_one({"status": "FAIL"})
    assert stored["uid"] == \
        "prowler-aws-s3_bucket_public_access-123456789012-eu-west-1-public-data"
    assert (stored["team_id"], stored["account_id"]) == ("team-1", "123456789012")
    assert (stored["region"], stored["severity"]) == ("eu-west-1", "CRITICAL")
    assert stored["resource_id"] == "arn:aws:s3:::public-data"
    assert {"framework": "ISO27001-2022", "requirements": ["A.8.1"]} in stored["compliance"]
    assert stored["scopes"] == ["cis_1.4_aws"]
    call = prowler.calls[0]
    assert call["argv"][:4] == ["aws", "--region", "eu-west-1", "--compliance"]
    assert call["env"]["AWS_SECRET_ACCESS_KEY"] == "secret"
    assert call["env"]["AWS_EC2_METADATA_DISABLED"] == "true"
    assert call["cwd"] == call["env"]["TMPDIR"] and not os.path.exists(call["cwd"])
    assert "PRIVATE_VALUE" not in call["env"] and "secret" not in worker.log
    job = database.scan_jobs.find_one({"scan_run_id": run_id})
    assert (job["status"], job["summary"]["fail"]) == ("COMPLETED", 1)


EKS = "arn:aws:eks:eu-west-1:123456789012:cluster/one"


@pytest.mark.parametrize("provider, words, secret", [
    ("azure", ["azure", "--sp-env-auth", "--subscription-id", "acct-1"], "AZURE_CLIENT_SECRET"),
    ("GCP", ["gcp", "--project-id", "acct-1"], "GOOGLE_APPLICATION_CREDENTIALS"),
    ("kubernetes", ["kubernetes", "--kubeconfig-file", __file__, "--context", "admin@one"], ""),
    ("kubernetes", ["kubernetes", "--kubeconfig-file", __file__, "--context", EKS], "")])
def test_other_providers(app: Celery, cworker: Callable[..., Worker], database: Database,
                         prowler: FakeTool, run_id: str, provider: str, words: list[str],
                         secret: str) -> None:
    """One run over the account, with its own credentials and no other's."""
    cworker(database=database, queues="compliance",
            env={"CWORKER_PROWLER": str(prowler.path), "AWS_SECRET_ACCESS_KEY": "aws",
                 "KUBECONFIG": __file__, **({secret: "its own"} if secret else {})})
    prowler.set({words[-1]: report(finding("a"))})
    database.scan_runs.update_one({}, {"$set": {"provider": provider, "regions": [],
                                                "cloud_account_id": words[-1]}})
    for _ in range(2):
        result = get(send(app, PROWLER, run_id))
        assert (result["status"], result["regions"], result["fail"]) == ("COMPLETED", 1, 1)
    assert database.cspm_findings.find_one()["scan_region"] == "global"
    call = prowler.calls[0]
    assert call["argv"][:len(words)] == words and "--region" not in call["argv"]
    assert not secret or call["env"][secret] == "its own"
    assert not {"AWS_SECRET_ACCESS_KEY", "KUBECONFIG", "KUBERNETES_SERVICE_HOST"} & set(call["env"])
    prowler.set({words[-1]: report()})
    database.scan_runs.insert_one({**database.scan_runs.find_one(), "_id": "run-2"})
    assert get(send(app, PROWLER, "run-2"))["resolved"] == 1
    for account in ("--region", "", None):
        database.scan_runs.update_one({}, {"$set": {"cloud_account_id": account}})
        with pytest.raises(ValueError, match="cloud_account_id"):
            get(send(app, PROWLER, run_id))


def test_kubernetes_findings(app: Celery, cworker: Callable[..., Worker], database: Database,
                             prowler: FakeTool, run_id: str) -> None:
    """What prowler 5.46 said of a cluster: no `cloud`, the namespace beside the resource."""
    cworker(database=database, queues="compliance",
            env={"CWORKER_PROWLER": str(prowler.path), "KUBECONFIG": __file__})
    prowler.set({"c1": {"write": sample("prowler/findings.kubernetes.ocsf.json"), "exit": 3}})
    database.scan_runs.update_one({}, {"$set": {"provider": "kubernetes", "cloud_account_id": "c1"}})
    result = get(send(app, PROWLER, run_id))
    assert (result["fail"], result["pass"], result["manual"]) == (1, 1, 1)
    found = database.cspm_findings.find_one({"status": "FAIL"})
    assert (found["provider"], found["account_id"]) == ("kubernetes", "c1")
    assert (found["namespace"], found["resource_id"]) == ("cluster-wide", "r1")
    assert {"framework": "CIS-1.10", "requirements": ["5.1.3"]} in found["compliance"]


@pytest.mark.parametrize("kubeconfig, error", [("/nowhere/config", FileNotFoundError),
                                               ("config", ValueError), ("", ValueError)])
def test_kubernetes_needs_its_kubeconfig(app: Celery, cworker: Callable[..., Worker],
                                         database: Database, prowler: FakeTool, run_id: str,
                                         kubeconfig: str, error: type) -> None:
    """Prowler would take the cluster that it runs in for the one that was asked for."""
    cworker(database=database, queues="compliance",
            env={"CWORKER_PROWLER": str(prowler.path), "KUBECONFIG": kubeconfig})
    database.scan_runs.update_one({}, {"$set": {"provider": "kubernetes"}})
    with pytest.raises(error, match="(?i)kubeconfig"):
        get(send(app, PROWLER, run_id))
    assert prowler.calls == []


@pytest.mark.parametrize("fields", [
    {"team_id": {"$ne": 1}}, {"cloud_account_id": {"$exists": True}}, {"team_id": [7]},
    {"frameworks": "cis_1.4_aws"}, {"frameworks": ["cis_1.4_aws", None]}, {"regions": {"0": "x"}},
    {"provider": 7}])
def test_documents_of_wrong_types(app: Celery, worker: Worker, database: Database,
                                  prowler: FakeTool, run_id: str, fields: dict[str, Any]) -> None:
    """A team that is an operator would resolve what is not its own."""
    database.cspm_findings.insert_one({"team_id": "other", "uid": "old", "status": "FAIL",
                                       "cloud_account_id": "1", "scan_region": "eu-west-1"})
    database.scan_runs.update_one({}, {"$set": fields})
    with pytest.raises(ValueError):
        get(send(app, PROWLER, run_id))
    assert prowler.calls == [] and database.cspm_findings.find_one()["status"] == "FAIL"


def test_one_uid_of_two_resources(app: Celery, worker: Worker, database: Database,
                                  prowler: FakeTool, run_id: str) -> None:
    """Prowler's uid holds the resource's name, which two resources may share: none hides the other."""
    bad, good = finding("default"), finding("default", "PASS")
    good["resources"][0]["uid"] = "arn:aws:ec2:eu-west-1:1:security-group/sg-2"
    muted, nameless = finding("muted"), finding("nameless")
    muted["status_code"] = "MUTED"
    del nameless["resources"]
    prowler.set({"*": report(bad, good, muted, nameless)})
    for _ in range(2):
        get(send(app, PROWLER, run_id, ["eu-west-1"], []))
        assert database.cspm_findings.count_documents({}) == 4
    assert sorted(f["status"] for f in database.cspm_findings.find({"resource_name": "default"})) == \
        ["FAIL", "PASS"]
    assert [f["uid"][-5:] for f in database.cspm_findings.find({"muted": True})] == ["muted"]


def test_twice_is_once(app: Celery, worker: Worker, database: Database, prowler: FakeTool,
                       run_id: str) -> None:
    prowler.set({"*": report(finding("a"), finding("b", "PASS"))})
    first = get(send(app, PROWLER, run_id, ["eu-west-1"], []))
    seen = database.cspm_findings.find_one({"resource_name": "a"})
    assert get(send(app, PROWLER, run_id, ["eu-west-1"], [])) == first
    again = database.cspm_findings.find_one({"resource_name": "a"})
    assert database.cspm_findings.count_documents({}) == 2
    assert again["first_seen"] == seen["first_seen"] and again["last_seen"] >= seen["last_seen"]
    assert database.scan_jobs.count_documents({}) == 1
    # The same message again: it has been done.
    task_id = database.scan_jobs.find_one()["task_id"]
    app.backend.forget(task_id)
    assert get(send(app, PROWLER, run_id, ["eu-west-1"], [], task_id=task_id)) == first
    assert len(prowler.calls) == 2


def test_vanished_findings_are_resolved(app: Celery, worker: Worker, database: Database,
                                        prowler: FakeTool, run_id: str) -> None:
    prowler.set({"eu-west-1": report(finding("a"), finding("b")),
                 "us-east-1": report(finding("c", region="us-east-1"))})
    get(send(app, PROWLER, run_id, ["eu-west-1", "us-east-1"], []))
    database.scan_runs.insert_one({**database.scan_runs.find_one(), "_id": "run-2"})
    prowler.set({"eu-west-1": report(finding("a")),
                 "us-east-1": {"exit": 1, "errors": "AccessDenied: no"}})
    result = get(send(app, PROWLER, "run-2", ["eu-west-1", "us-east-1"], []))
    assert (result["status"], result["resolved"]) == ("PARTIAL", 1)
    assert "us-east-1: PermissionError" in result["errors"][0]
    # us-east-1 was not looked at: nothing there may vanish.
    assert states(database) == {"a": "FAIL", "b": "RESOLVED", "c": "FAIL"}
    assert database.cspm_findings.find_one({"status": "RESOLVED"})["resolved_by"] == "run-2"
    # What comes back is open again.
    database.scan_runs.insert_one({**database.scan_runs.find_one(), "_id": "run-3"})
    prowler.set({"*": report(finding("a"), finding("b"))})
    get(send(app, PROWLER, "run-3", ["eu-west-1"], []))
    assert states(database) == {"a": "FAIL", "b": "FAIL", "c": "FAIL"}
    assert database.cspm_findings.count_documents({"resolved_by": {"$ne": None}}) == 0


@pytest.mark.parametrize("ids", [
    (1, 2), (Binary(b"1" * 16, 4), Binary(b"2" * 16, 4)), (ObjectId(), ObjectId()), ("a", None)])
def test_other_accounts_are_left_alone(app: Celery, worker: Worker, database: Database,
                                       prowler: FakeTool, run_id: str, ids: tuple[Any, Any]) -> None:
    """Whatever the type of their ids: nothing of theirs is resolved, and each one's role is taken."""
    for number, account in enumerate(ids):
        database.cloud_accounts.insert_one({"_id": account or "nobody's",
                                            "role_arn": f"arn:aws:iam::1:role/{number}"})
        run = f"{run_id}-{number}"
        database.scan_runs.insert_one({**database.scan_runs.find_one(), "_id": run,
                                       "cloud_account_id": account})
        prowler.set({"*": report(finding(f"of-{number}"))})
        get(send(app, PROWLER, run, ["eu-west-1"], []))
        argv = prowler.calls[number]["argv"]
        assert (f"arn:aws:iam::1:role/{number}" in argv) == (account is not None)
    assert states(database) == {"of-0": "FAIL", "of-1": "FAIL"}


@pytest.mark.parametrize("account, error", [
    ({"team_id": "team-2", "role_arn": "arn:aws:iam::1:role/x"}, PermissionError),
    ({"team_id": {"$ne": 1}, "role_arn": "arn:aws:iam::1:role/x"}, PermissionError),
    ({"team_id": "team-1", "role_arn": 7}, ValueError),
    ({"team_id": "team-1", "role_arn": "--profile"}, ValueError)])
def test_role_that_is_not_lent(app: Celery, worker: Worker, database: Database, prowler: FakeTool,
                               run_id: str, account: dict[str, Any], error: type) -> None:
    database.cloud_accounts.insert_one({"_id": "123456789012", **account})
    with pytest.raises(error, match="cloud account|role_arn"):
        get(send(app, PROWLER, run_id, ["eu-west-1"], []))
    assert prowler.calls == []
    database.cloud_accounts.update_one({}, {"$set": {"team_id": "team-1",
                                                     "role_arn": "arn:aws:iam::1:role/x"}})
    get(send(app, PROWLER, run_id, ["eu-west-1"], []))
    assert "arn:aws:iam::1:role/x" in prowler.calls[0]["argv"]


def test_other_frameworks_resolve_nothing(app: Celery, worker: Worker, database: Database,
                                          prowler: FakeTool, run_id: str) -> None:
    prowler.set({"*": report(finding("a"))})
    get(send(app, PROWLER, run_id, ["eu-west-1"], ["pci_4.0_aws"]))
    database.scan_runs.insert_one({**database.scan_runs.find_one(), "_id": "run-2"})
    prowler.set({"*": report()})
    get(send(app, PROWLER, "run-2", ["eu-west-1"], ["cis_1.4_aws"]))
    assert states(database) == {"a": "FAIL"}
    get(send(app, PROWLER, "run-2", ["eu-west-1"], ["pci_4.0_aws"]))
    assert states(database) == {"a": "RESOLVED"}


@pytest.mark.parametrize("step, error, text", [
    ({"exit": 2, "errors": "unrecognized framework"}, "ValueError", "refused its arguments"),
    ({"exit": 1, "errors": "Unable to locate credentials"}, "PermissionError", "refused access"),
    ({"exit": 1, "errors": "Missing environment variable AZURE_CLIENT_ID needed to authenticate "
      "against Azure"}, "PermissionError", "AZURE_CLIENT_ID"),
    ({"exit": 1, "errors": "DefaultCredentialsError[431]: Your default credentials were not found."},
     "PermissionError", "refused access"),
    ({"exit": 1, "errors": "KubernetesInvalidKubeConfigFileError[4006]: The provided kube-config is "
      "invalid. - Service host/port is not set."}, "ValueError", "finds no context"),
    ({"exit": 2, "errors": "usage: " + "x" * 9000 + "\nprowler aws: error: argument --compliance: "
      "invalid choice: 'nope_1' (choose from " + "y" * 5000}, "ValueError", "nope_1"),
    ({"exit": 1, "output": "OSError: [Errno 27] File too large\n"}, "ValueError",
     "CWORKER_MAX_REPORT_MB"),
    ({"exit": 1, "output": "CRITICAL: unknown check\n"}, "RuntimeError", "exit status 1"),
    ({"exit": 3, "write": '[{"metadata": {"event_code": "x"}, "fin'}, "ValueError", "it stops"),
    ({"exit": 0, "write": '{"findings": []}'}, "ValueError", "finding_info.uid"),
    ({"exit": 3, "write": '[{"finding_info": {"uid": 7}}]'}, "ValueError", "finding_info.uid"),
    ({"exit": 0, "write": "[1, 2]"}, "ValueError", "not an object"),
])
def test_failures(app: Celery, worker: Worker, database: Database, prowler: FakeTool, run_id: str,
                  step: dict[str, Any], error: str, text: str) -> None:
    database.cspm_findings.insert_one(
        {"team_id": "team-1", "uid": "old", "status": "FAIL", "resource_name": "old",
         "cloud_account_id": "123456789012", "scan_region": "eu-west-1"})
    prowler.set({"*": step})
    result = send(app, PROWLER, run_id, ["eu-west-1"], [])
    assert wait_state(result, "FAILURE", "RETRY") == "FAILURE"
    assert type(result.result).__name__ == error and text in str(result.result)
    job = database.scan_jobs.find_one()
    assert job["status"] == "FAILED" and text in job["errors"][0]
    assert database.cspm_findings.find_one({"uid": "old"})["status"] == "FAIL"


@pytest.mark.parametrize("words", [
    "Could not connect to the endpoint URL",
    "Attempted credentials:\n\tEnvironmentCredential: Authentication failed: HTTPSConnection("
    "host='login.microsoftonline.com', port=443): Failed to resolve 'login.microsoftonline.com'",
    "OSError: [Errno 28] No space left on device"])
def test_passing_trouble_is_retried(app: Celery, worker: Worker, database: Database,
                                    prowler: FakeTool, run_id: str, words: str) -> None:
    prowler.set({"*": {"exit": 1, "errors": words}})
    result = send(app, PROWLER, run_id, ["eu-west-1"], [])
    assert wait_state(result, "RETRY", "FAILURE") == "RETRY"
    assert database.scan_jobs.find_one()["status"] == "RETRYING"
    result.forget()


@pytest.mark.parametrize("args, error", [
    (["nothing", ["eu-west-1"], []], "LookupError"),
    (["run-1", ["--help"], []], "TypeError"),
    (["run-1", ["eu-west-1; id"], []], "TypeError"),
    (["run-1", ["eu-west-1"], ["--role=x"]], "TypeError"),
    (["run-1", ["e" + "\u00e9" * 40] * 20000, []], "TypeError"),
    (["run-1", "eu-west-1", []], "TypeError"),
    ([], "TypeError"),
])
def test_hostile_arguments(app: Celery, worker: Worker, database: Database, prowler: FakeTool,
                           run_id: str, args: list[Any], error: str) -> None:
    result = send(app, PROWLER, *args)
    wait_state(result, "FAILURE")
    assert type(result.result).__name__ == error, result.result
    assert prowler.calls == []


def test_hostile_documents(app: Celery, worker: Worker, database: Database, prowler: FakeTool) -> None:
    base = {"team_id": "t", "provider": "aws", "regions": ["eu-west-1"], "frameworks": []}
    database.cloud_accounts.insert_one({"_id": "acc", "role_arn": "--output=/etc/passwd"})
    rows = [{"regions": ["-v"]}, {"regions": []}, {"frameworks": ["-x"]}, {"provider": "--gcp"},
            {"cloud_account_id": "acc"}, {"regions": "eu-west-1"}]
    for number, row in enumerate(rows):
        database.scan_runs.insert_one({"_id": f"h{number}", **base, **row})
        result = send(app, PROWLER, f"h{number}")
        wait_state(result, "FAILURE")
        assert type(result.result).__name__ == "ValueError", (row, result.result)
    assert prowler.calls == []


def test_missing_program(app: Celery, cworker: Callable[..., Worker], database: Database,
                         run_id: str) -> None:
    cworker(database=database, queues="compliance",
            env={"CWORKER_PROWLER": "/nowhere/prowler"})
    result = send(app, PROWLER, run_id, ["eu-west-1"], [])
    wait_state(result, "FAILURE")
    assert isinstance(result.result, FileNotFoundError)
    assert "pip install prowler" in str(result.result) and "CWORKER_PROWLER" in str(result.result)


def test_cancelled_run_ends_prowler(app: Celery, worker: Worker, database: Database,
                                    prowler: FakeTool, run_id: str) -> None:
    prowler.set({"*": report(finding("a"), hold=True)})
    result = send(app, PROWLER, run_id, ["eu-west-1"], [])
    wait_until(lambda: prowler.calls, what="the start of prowler")
    database.scan_runs.update_one({"_id": run_id}, {"$set": {"status": "CANCELLED"}})
    assert get(result) == "CANCELLED"
    assert not is_alive(prowler.calls[0]["pid"])
    assert database.cspm_findings.count_documents({}) == 0
    # A cancelled run starts no more of them.
    assert get(send(app, PROWLER, run_id, ["eu-west-1"], [])) == "CANCELLED"
    assert len(prowler.calls) == 1


def test_killed_child(app: Celery, worker: Worker, database: Database, prowler: FakeTool,
                      run_id: str) -> None:
    prowler.set({"*": report(finding("a"), hold=True)})
    result = send(app, PROWLER, run_id, ["eu-west-1"], [])
    call = wait_until(lambda: prowler.calls, what="the start of prowler")[0]
    child = next(pid for pid in descendants(worker.pid) if call["pid"] in descendants(pid)
                 and call["pid"] in [int(p) for t in Path(f"/proc/{pid}/task").glob("*/children")
                                     for p in t.read_text().split()])
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: not is_alive(call["pid"]), what="the end of the lost prowler")
    prowler.release()
    assert get(result)["findings"] == 1
    assert states(database) == {"a": "FAIL"}


def test_more_than_one_batch(app: Celery, worker: Worker, database: Database, prowler: FakeTool,
                             run_id: str) -> None:
    database.cspm_findings.create_index([("team_id", 1), ("uid", 1)], unique=True)
    prowler.set({"*": report(*[finding(f"r{i}", "PASS") for i in range(520)])})
    result = get(send(app, PROWLER, run_id, ["eu-west-1"], []))
    assert result["findings"] == 520
    assert database.cspm_findings.count_documents({}) == 520


# --- posture and snapshots ---

def put_findings(database: Database, team: Any) -> None:
    rows = [("a", "FAIL", ["1.1", "1.2"], False), ("b", "PASS", ["1.1", "1.3"], False),
            ("c", "MANUAL", ["1.4"], False), ("d", "RESOLVED", ["1.3"], False),
            ("e", "FAIL", ["1.3"], True)]
    for uid, status, controls, muted in rows:
        database.cspm_findings.insert_one(
            {"team_id": team, "uid": uid, "status": status, "muted": muted, "severity": "HIGH",
             "compliance": [{"framework": "CIS-1.4", "requirements": controls}]})


@pytest.mark.parametrize("team", ["team-1", ObjectId(), 7])
def test_refresh(app: Celery, worker: Worker, database: Database, team: Any) -> None:
    put_findings(database, team)
    database.compliance_posture.insert_one(
        {"team_id": team, "framework": "gone", "refreshed_at": datetime(2020, 1, 1)})
    for _ in range(2):
        assert get(send(app, "compliance.run_compliance_refresh", str(team))) == \
            {"teams": 1, "frameworks": 1}
        [posture] = database.compliance_posture.find()
        assert (posture["team_id"], posture["framework"]) == (team, "CIS-1.4")
        assert [posture[k] for k in ("pass", "fail", "manual", "total", "score")] == \
            [1, 2, 1, 4, 33.3]
        assert [(c["control"], c["status"], c["pass"], c["fail"], c["score"])
                for c in posture["controls"]] == \
            [("1.1", "FAIL", 1, 1, 50.0), ("1.2", "FAIL", 0, 1, 0.0), ("1.3", "PASS", 1, 0, 100.0),
             ("1.4", "MANUAL", 0, 0, None)]


@pytest.mark.parametrize(("status", "control"), [
    ("fail", "FAIL"), ("Failed", "FAIL"), ("OPEN", "FAIL"), ("Pass", "PASS"), ("manual", "MANUAL"),
    ("Resolved", None), ("something", None), (7, None)])
def test_posture_of_findings_of_others(one_day: None, app: Celery, worker: Worker, database: Database,
                                       status: Any, control: str | None) -> None:
    """Their statuses mean what they do to the sync; what is no judgement makes no control MANUAL."""
    entry = [{"framework": "CIS", "requirements": ["1.1"]}]
    known = [{"framework": "CIS", "requirements": ["1.2"]}]
    database.cspm_findings.insert_many([
        {"team_id": "t1", "status": status, "severity": "high", "compliance": entry},
        {"team_id": "t1", "status": "PASS", "compliance": known}])
    get(send(app, "compliance.run_compliance_refresh"))
    told = {c["control"]: c["status"] for c in database.compliance_posture.find_one()["controls"]}
    assert told == {"1.2": "PASS", **({"1.1": control} if control else {})}
    get(send(app, "compliance.snapshot_team", "t1", get(send(app, "compliance.snapshot_all_teams"))["day"]))
    assert database.compliance_snapshots.find_one()["open_findings"]["HIGH"] == (control == "FAIL")


def test_snapshots(one_day: None, app: Celery, worker: Worker, database: Database) -> None:
    teams = ["team-1", "team-2", ObjectId(), 7, Binary(bytes(range(16)), 4),
             Binary(bytes(range(1, 17)), 3)]
    for team in teams:
        put_findings(database, team)
    assert get(send(app, "compliance.run_compliance_refresh"))["teams"] == len(teams)
    sent = send(app, "compliance.snapshot_all_teams")
    told = get(sent)
    assert told["teams"] == len(teams)
    [group] = sent.children
    assert group.id == told["group_id"] and get(group) == [told["day"]] * len(teams)
    assert all(database.compliance_snapshots.count_documents({"team_id": team}) == 1
               for team in teams)
    before = list(database.compliance_snapshots.find().sort("team_id"))
    assert before[0]["score"] == 33.3 and before[0]["open_findings"]["HIGH"] == 1
    assert before[0]["frameworks"][0]["framework"] == "CIS-1.4"
    database.cspm_findings.update_many({}, {"$set": {"status": "PASS"}})
    get(send(app, "compliance.run_compliance_refresh"))
    day = get(send(app, "compliance.snapshot_team", "team-1", before[0]["day"]))
    assert day == before[0]["day"]
    assert list(database.compliance_snapshots.find().sort("team_id")) == before


def test_posture_of_findings_that_are_gone(app: Celery, worker: Worker, database: Database) -> None:
    """Nothing speaks for it any more; but what a later refresh has made is not an earlier one's."""
    old, new = datetime(2020, 1, 1), (datetime.utcnow() + timedelta(minutes=30)).replace(microsecond=0)
    database.compliance_posture.create_index([("team_id", 1), ("framework", 1)], unique=True)
    put_findings(database, "team-2")
    database.compliance_posture.insert_many([
        {"team_id": "team-1", "framework": "gone", "refreshed_at": old},
        {"team_id": "team-2", "framework": "CIS-1.4", "refreshed_at": new, "score": 1},
        {"team_id": "team-3", "framework": "gone", "refreshed_at": old}])
    assert get(send(app, "compliance.run_compliance_refresh", "team-1"))["frameworks"] == 0
    assert database.compliance_posture.distinct("team_id") == ["team-2", "team-3"]
    assert get(send(app, "compliance.run_compliance_refresh"))["teams"] == 2
    [left] = database.compliance_posture.find()
    assert (left["team_id"], left["refreshed_at"], left["score"]) == ("team-2", new, 1)
    # A count that no clock can have begun yet is of one that was ahead.
    database.compliance_posture.update_one({}, {"$set": {"refreshed_at": datetime(2099, 1, 1)}})
    database.compliance_posture.insert_one(
        {"team_id": "team-3", "framework": "gone", "refreshed_at": datetime(2099, 1, 1)})
    get(send(app, "compliance.run_compliance_refresh"))
    [left] = database.compliance_posture.find()
    assert (left["team_id"], left["score"]) == ("team-2", 33.3) and left["refreshed_at"] < new


def test_a_team_that_cannot_be_counted(app: Celery, worker: Worker, database: Database) -> None:
    """Its posture stays as it was, and the other teams' are made."""
    for team in ("team-0", "team-2"):
        put_findings(database, team)
    database.cspm_findings.insert_one({
        "team_id": "team-1", "status": "FAIL", "severity": "HIGH",
        "compliance": [{"framework": "x", "requirements": [str(i) for i in range(100001)]}]})
    for args in ((), ("team-1",)):
        result = send(app, "compliance.run_compliance_refresh", *args)
        wait_state(result, "FAILURE")
        assert "more than 100000 controls" in str(result.result)
    assert sorted(database.compliance_posture.distinct("team_id")) == ["team-0", "team-2"]


@pytest.mark.parametrize("day", ["2026-02-30", "2026-13-01", "----------", "2026-11-2", "20261121"])
def test_snapshot_of_no_day(app: Celery, worker: Worker, database: Database, day: str) -> None:
    database.compliance_posture.insert_one({"team_id": "team-1", "framework": "a"})
    result = send(app, "compliance.snapshot_team", "team-1", day)
    wait_state(result, "FAILURE")
    assert isinstance(result.result, ValueError)
    assert database.compliance_snapshots.count_documents({}) == 0


def test_snapshot_of_nobody(app: Celery, worker: Worker) -> None:
    result = send(app, "compliance.snapshot_team", "nobody", "2026-11-21")
    wait_state(result, "FAILURE")
    assert isinstance(result.result, LookupError)
    result = send(app, "compliance.snapshot_team", "team-1", "today")
    wait_state(result, "FAILURE")
    assert isinstance(result.result, ValueError)

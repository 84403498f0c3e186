# SPDX-License-Identifier: Apache-2.0
"""cworker tasks: what there is, what it takes, and the indexes it needs."""
from __future__ import annotations

from collections.abc import Callable

import pytest
from celery import Celery

from harness import Worker, run_cworker
from services.mongo import MongoServer
from services.process import free_port


def test_list_and_show() -> None:
    listed = run_cworker("tasks", "list")
    assert listed.returncode == 0 and listed.stdout == run_cworker("tasks").stdout
    assert "scans.execute_cloud_scan" in listed.stdout
    shown = run_cworker("tasks", "show", "compliance.execute_prowler_scan").stdout
    assert "queue: compliance\n" in shown and "max_retries: 3\n" in shown
    assert "  scan_run_id: text;" in shown and "soft 3300 s, hard 3600 s" in shown
    assert run_cworker("tasks", "show", "nothing").returncode == 1
    assert run_cworker("tasks", "show").returncode == 2
    assert run_cworker("tasks", "destroy").returncode == 2


def test_init(mongo: MongoServer, mongo_database: str) -> None:
    name = f"{mongo_database}_init"
    url = ("--set", f"app_database_url={mongo.url(name)}")
    with mongo.client() as client:
        client.drop_database(name)
        for _ in range(2):
            done = run_cworker("tasks", "init", *url)
            assert done.returncode == 0, done.stderr
            assert "cspm_findings: team_id, uid, resource_id (unique)" in done.stdout
            indexes = client[name].cspm_findings.index_information()
            key = indexes["team_id_1_uid_1_resource_id_1"]
            assert key["unique"]
            assert key["key"] == [("team_id", 1), ("uid", 1), ("resource_id", 1)]
            runs = client[name].scan_runs.index_information()
            assert runs["team_id_1_created_at_-1"]["key"] == [("team_id", 1), ("created_at", -1)]


def test_init_without_a_server() -> None:
    assert run_cworker("tasks", "init").returncode == 2
    url = f"app_database_url=mongodb://127.0.0.1:{free_port()}/x?serverSelectionTimeoutMS=300"
    assert run_cworker("tasks", "init", "--set", url).returncode == 69


@pytest.mark.parametrize("queues, args, most", [
    ("celery", [], "N/A"), ("celery,maintenance", [], 100),
    ("maintenance", ["--max-tasks-per-child", "7"], 7),
    ("maintenance", ["--max-tasks-per-child", "0"], "N/A")])
def test_children_are_replaced(app: Celery, cworker: Callable[..., Worker], queues: str,
                               args: list[str], most: object) -> None:
    """The built-in tasks' own policy, where no setting says otherwise."""
    cworker(*args, queues=queues)
    stats = app.control.inspect(["w1@test"]).stats()
    assert stats["w1@test"]["pool"]["max-tasks-per-child"] == most

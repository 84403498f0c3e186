# SPDX-License-Identifier: Apache-2.0
"""Flower's HTTP API shows cworker's workers and tasks, and its controls work."""
from __future__ import annotations

import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flower_server import NODE, Flower, running_flower
from harness import TIMEOUT, descendants, get
from services.process import wait_until


@pytest.fixture
def flower(redis: Any, tmp_path: Path) -> Iterator[Flower]:
    with running_flower(redis, tmp_path / "flower.log") as flower:
        yield flower


def wait_task(flower: Flower, task_id: str, state: str) -> dict[str, Any]:
    def info() -> dict[str, Any] | None:
        try:
            found = flower.ask(f"/api/task/info/{task_id}")
        except urllib.error.HTTPError:
            return None
        return found if found["state"] == state else None
    return wait_until(info, TIMEOUT, f"{task_id} {state} in Flower")


def test_workers_and_tasks(flower, cworker, app):
    worker = cworker("-E", queues="celery,other")
    def known() -> dict[str, Any] | None:
        """Flower asks each question by itself, and forgets an answer that was late."""
        found = flower.worker()
        return found if {"stats", "active_queues", "registered"} <= found.keys() else None
    seen = wait_until(known, TIMEOUT, "what Flower knows of the worker")
    wait_until(flower.hears, TIMEOUT, "its heart in Flower")
    assert seen["stats"]["pool"]["max-concurrency"] == 2
    assert seen["stats"]["pid"] == worker.pid
    assert [q["name"] for q in seen["active_queues"]] == ["celery", "other"]
    assert "demo.add" in seen["registered"]
    good = app.send_task("demo.add", (2, 3))
    bad = app.send_task("demo.fail", ("no",))
    assert get(good) == 5
    info = wait_task(flower, good.id, "SUCCESS")
    assert (info["name"], info["args"], info["kwargs"]) == ("demo.add", "(2, 3)", "{}")
    assert info["result"] == "5" and info["runtime"] >= 0 and info["worker"] == NODE
    info = wait_task(flower, bad.id, "FAILURE")
    assert info["exception"] == "ValueError('no')" and "Traceback" in info["traceback"]
    assert set(flower.ask("/api/tasks")) >= {good.id, bad.id}
    assert flower.ask("/api/tasks", state="FAILURE").keys() == {bad.id}
    for text in (f'flower_worker_online{{worker="{NODE}"}} 1.0', 'type="task-succeeded"'):
        wait_until(lambda text=text: text in flower.ask("/metrics"), TIMEOUT, text)


def test_controls(flower, cworker, app):
    worker = cworker("-E")
    wait_until(lambda: flower.worker() and flower.hears(), TIMEOUT, "the worker in Flower")
    def pool() -> int:
        return flower.worker().get("stats", {}).get("pool", {}).get("max-concurrency", 0)

    assert "Growing" in flower.message(f"/api/worker/pool/grow/{NODE}", n=2)
    wait_until(lambda: pool() == 4, TIMEOUT, "four lanes")
    assert "Shrinking" in flower.message(f"/api/worker/pool/shrink/{NODE}", n=3)
    wait_until(lambda: pool() == 1, TIMEOUT, "one lane")
    assert flower.message("/api/task/rate-limit/demo.add", workername=NODE,
                          ratelimit="100/s") == "new rate limit set successfully"
    assert flower.message("/api/task/timeout/demo.add", workername=NODE, hard=50,
                          soft=40) == "time limits set successfully"
    assert "add consumer" in flower.message(f"/api/worker/queue/add-consumer/{NODE}", queue="more")
    assert get(app.send_task("demo.add", (1, 2), queue="more")) == 3
    assert "no longer" in flower.message(f"/api/worker/queue/cancel-consumer/{NODE}", queue="more")
    running = app.send_task("demo.spin", (60,))
    wait_task(flower, running.id, "STARTED")
    flower.message(f"/api/task/revoke/{running.id}", terminate="true", signal="SIGKILL")
    wait_task(flower, running.id, "REVOKED")
    children = descendants(worker.pid)
    assert flower.message(f"/api/worker/shutdown/{NODE}") == "Shutting down!"
    assert worker.wait() == 0 and children
    wait_until(lambda: flower.ask("/api/workers", status="true") == {NODE: False}, TIMEOUT)

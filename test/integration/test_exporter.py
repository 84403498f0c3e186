# SPDX-License-Identifier: Apache-2.0
"""The well-known celery-exporter counts the same of a cworker as of Celery's worker."""
from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from prometheus_client.parser import text_string_to_metric_families

from harness import ROOT, wait_state
from services.process import end_process, free_port, wait_until

EXPORTER = ROOT / ".venv/exporter"
PATIENCE = 120.0
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(not (EXPORTER / "installed").exists(),
                       reason="no .venv/exporter: it cannot be installed on Python 3.13 and newer"),
]


class Exporter:
    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/metrics"

    def samples(self) -> Samples:
        """All metrics, without what differs from run to run: instants and how long tasks took."""
        with urllib.request.urlopen(self.url, timeout=PATIENCE) as reply:
            families = list(text_string_to_metric_families(reply.read().decode()))
        return {(s.name, tuple(sorted(s.labels.items()))): s.value
                for family in families for s in family.samples
                if not s.name.endswith(("_created", "_bucket", "_sum"))}

    def wait(self, *wanted: str) -> Samples:
        """Until all of these are told, as "name{label} value" with one label."""
        def told() -> Samples | None:
            samples = self.samples()  # takes two seconds: it asks the workers
            seen = {f"{name}{{{label}={text}}} {int(value)}" for (name, labels), value in samples.items()
                    for label, text in labels}
            return samples if seen >= set(wanted) else None
        return wait_until(told, PATIENCE, f"{wanted}")


@contextmanager
def exporter(redis: Any, log: Path) -> Iterator[Exporter]:
    port = free_port()
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", "from src.cli import cli; cli()", "--broker-url", redis.url(),
             "--host", "127.0.0.1", "--port", str(port)],
            stdout=file, stderr=file, env={**os.environ, "PYTHONPATH": str(EXPORTER)})
    one = Exporter(port)

    def hears() -> bool:
        """Only then it misses nothing."""
        with redis.client() as client:
            return any("celeryev" in str(c) for c in client.pubsub_channels("*")) or client.pubsub_numpat()
    try:
        wait_until(hears, PATIENCE, "the exporter's subscription")
        yield one
    finally:
        end_process(process)
        print(log.read_text())


def use(app: Celery, one: Exporter) -> Samples:
    """A worker's whole life, as the exporter tells it."""
    one.wait("celery_worker_up{hostname=test} 1")
    done = [app.send_task("demo.add", (i, 1)) for i in range(3)]
    failed = app.send_task("demo.fail", ("no",))
    app.send_task("demo.fail_n", ("k", 2))
    app.send_task("demo.reject")
    revoked = app.send_task("demo.add", (1, 2), expires=-5)
    for result in done:
        assert wait_state(result, "SUCCESS")
    assert wait_state(failed, "FAILURE") and wait_state(revoked, "REVOKED")
    running = app.send_task("demo.sleep", (600,))
    one.wait("celery_worker_tasks_active{hostname=test} 1")
    app.control.revoke(running.id, terminate=True, signal="SIGKILL")
    return one.wait("celery_task_succeeded_total{name=demo.add} 3",
                    "celery_task_failed_total{exception=ValueError} 1",
                    "celery_task_retried_total{name=demo.fail_n} 1",
                    "celery_task_succeeded_total{name=demo.fail_n} 1",
                    "celery_task_rejected_total{name=demo.reject} 1",
                    "celery_task_revoked_total{name=demo.sleep} 1",
                    "celery_worker_tasks_active{hostname=test} 0",
                    "celery_active_process_count{queue_name=celery} 1")


def test_the_same_metrics(app, redis, cworker, python_worker, tmp_path):
    with exporter(redis, tmp_path / "theirs.log") as one:
        process = python_worker("-E")
        theirs = use(app, one)
        end_process(process, 20)
        one.wait("celery_worker_up{hostname=test} 0")
    with redis.client() as client:
        client.flushall()
    with exporter(redis, tmp_path / "ours.log") as one:
        worker = cworker("-E", concurrency=1)
        ours = use(app, one)
        worker.stop()
        one.wait("celery_worker_up{hostname=test} 0")
    assert ours == theirs
    assert any(name == "celery_task_runtime_count" for name, _ in ours)

# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin that lets Celery's own integration suite run against a worker outside of its process.

The suite starts its worker as a thread of the test process (celery.contrib.testing.worker). Here the
same function starts the command of UPSTREAM_WORKER, and what the tests reach into that thread for is
passed on: settings that are set for one class of tests, the set of revoked stamps, the worker's pid."""
from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from typing import Any

import celery.contrib.testing.worker as testing_worker
import pytest
import redis
from celery import Celery
from celery.app.control import Control
from celery.result import AsyncResult
from celery.utils.nodenames import anon_nodename

LIMIT = 320
# The suite waits by BLPOP for up to a minute; later releases of redis-py give up after some seconds.
redis.Redis.__init__ = functools.partialmethod(redis.Redis.__init__, socket_timeout=None)
workers: list[subprocess.Popen] = []
broadcast = Control.broadcast


def broadcast_to_all(self: Control, *words: Any, reply: bool = False, timeout: float = 1.0,
                     **options: Any) -> Any:
    """Waits for the answers of all the workers there are: a second, Celery's own patience, is little on a
    machine with much to do."""
    if reply and timeout == 1.0:
        timeout = 60
        if not options.get("destination"):
            options["limit"] = sum(worker.poll() is None for worker in workers)
    return broadcast(self, *words, reply=reply, timeout=timeout, **options)


Control.broadcast = broadcast_to_all


def settings_of(app: Celery) -> list[str]:
    """What tests change in app.conf before they start a worker of their own."""
    words = []
    for name in ("worker_deduplicate_successful_tasks", "task_acks_late"):
        words += ["--set", f"{name}={str(bool(app.conf[name])).lower()}"]
    return words


class RevokedStamps:
    """Stands in for celery.worker.state.revoked_stamps, which a test clears between its rounds."""

    def __init__(self, app: Celery) -> None:
        self.app = app

    def clear(self) -> None:
        self.app.control.broadcast("revoked_stamps_clear", reply=True)


@contextlib.contextmanager
def start_worker(app: Celery, concurrency: int = 1, pool: str = "solo", hostname: str = "",
                 **_: Any) -> Iterator[types.SimpleNamespace]:
    import celery.worker.state
    from celery.result import _set_task_join_will_block
    testing_worker.setup_app_for_worker(app, "error", None)
    import celery.contrib.testing.tasks  # noqa: F401 (registers celery.ping)
    node = hostname or anon_nodename()
    words = [*os.environ["UPSTREAM_WORKER"].split(), "-n", node, "-c", str(concurrency),
             *settings_of(app)]
    with open(os.environ["UPSTREAM_LOG"], "ab") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    workers.append(process)
    celery.worker.state.revoked_stamps = RevokedStamps(app)
    # Not app.control: what answers one of these pings late would count there as one of the answers to a
    # later broadcast.
    waiting = Control(app)
    try:
        for _attempt in range(240):
            if waiting.ping(destination=[node], timeout=0.5):
                break
        else:
            raise RuntimeError(f"the worker does not answer: {words}")
        _set_task_join_will_block(False)
        yield types.SimpleNamespace(hostname=node, pid=process.pid, app=app)
    finally:
        workers.remove(process)
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


testing_worker.start_worker = start_worker


@pytest.fixture(autouse=True)
def worker_pid(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """test_stats compares the worker's pid with its own process'."""
    if request.node.name.startswith("test_stats") and workers:
        module = sys.modules[request.module.__name__]
        monkeypatch.setattr(module, "os", types.SimpleNamespace(getpid=lambda: workers[-1].pid))


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The suite waits for some results for a few seconds: enough for a thread of its own process. test_timeout
    wants to wait in vain."""
    if request.node.name == "test_timeout":
        return
    usual = AsyncResult.get

    def get(self: AsyncResult, timeout: float | None = None, *words: Any, **options: Any) -> Any:
        return usual(self, timeout and max(timeout, 60), *words, **options)
    monkeypatch.setattr(AsyncResult, "get", get)


def pytest_configure(config: pytest.Config) -> None:
    for line in ("flaky", "timeout", "celery"):
        config.addinivalue_line("markers", line)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """No hidden reruns, one limit for all. Failures that the suite expects stay expected: run.py counts
    what fails as failed all the same, unless it is excused."""
    for item in items:
        for node in item.listchain():
            node.own_markers = [mark for mark in node.own_markers
                                if mark.name not in ("flaky", "timeout")]
        item.add_marker(pytest.mark.timeout(LIMIT))

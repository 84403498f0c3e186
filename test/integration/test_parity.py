# SPDX-License-Identifier: Apache-2.0
"""Every canvas of canvases.py on Celery's own worker and on cworker: the same outcome for the client,
the same stored documents, ids and times aside."""
from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from canvases import CANVASES, Make
from celery import Celery
from celery.result import AsyncResult, GroupResult
from harness import CWORKER, DEMO_SO

from services.mongo import MongoServer
from services.process import end_process, wait_until
from services.redis import RedisServer

TIMEOUT = 20
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Side:
    """One worker with a broker and a result store of its own."""

    def __init__(self, name: str, folder: Path, store: str) -> None:
        self.redis = RedisServer().start()
        self.mongo = MongoServer().start() if store == "mongo" else None
        self.database = f"parity_{name}_{os.getpid()}"
        self.backend = self.mongo.url(self.database) if self.mongo else self.redis.url()
        self.app = Celery("parity", broker=self.redis.url(), backend=self.backend,
                          set_as_current=False)
        self.app.conf.update(result_extended=True, result_chord_retry_interval=0.1)
        self.log = folder / f"{name}-{store}.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(self.command(name), stdout=log, stderr=log,
                                            stdin=subprocess.DEVNULL, cwd=Path(__file__).parent,
                                            env={**os.environ, "BROKER": self.redis.url(),
                                                 "BACKEND": self.backend, "EXTENDED": "1"})
        wait_until(lambda: "ready." in self.log.read_text(), 30, f"{name}'s ready line")

    def command(self, name: str) -> list[str]:
        if name == "celery":
            return [sys.executable, "-m", "celery", "-A", "python_worker", "worker", "-c", "2",
                    "-l", "INFO"]
        return [CWORKER, "-b", self.redis.url(), "--result-backend", self.backend, "-A", DEMO_SO,
                "-c", "2", "-l", "INFO", "--set", "result_extended=true"]

    def documents(self) -> list[dict[str, Any]]:
        if self.mongo:
            with self.mongo.client() as client:
                return list(client[self.database].celery_taskmeta.find())
        with self.redis.client() as client:
            return [json.loads(client.get(key)) for key in client.scan_iter("celery-task-meta-*")]

    def clear(self) -> None:
        if self.mongo:
            with self.mongo.client() as client:
                client[self.database].celery_taskmeta.delete_many({})
                client[self.database].celery_groupmeta.delete_many({})
        with self.redis.client() as client:
            for key in client.scan_iter("celery-task*"):
                client.delete(key)

    def close(self) -> None:
        end_process(self.process, 20)
        self.app.close()
        self.redis.close()
        if self.mongo:
            with self.mongo.client() as client:
                client.drop_database(self.database)
            self.mongo.close()


@pytest.fixture(scope="module", params=["redis", "mongo"])
def sides(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
          ) -> Iterator[list[Side]]:
    folder = tmp_path_factory.mktemp("parity")
    both = [Side(name, folder, request.param) for name in ("celery", "cworker")]
    yield both
    for side in both:
        side.close()


@contextmanager
def counted_ids(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The client's ids in the order in which it makes them, the same for both sides."""
    numbers = itertools.count(1)
    with monkeypatch.context() as patch:
        for path, module in list(sys.modules.items()):
            if path.startswith(("celery", "kombu")) and callable(getattr(module, "uuid", None)):
                patch.setattr(module, "uuid", lambda: f"{name}-{next(numbers)}")
        yield


def outcome(result: AsyncResult | GroupResult) -> Any:
    """What a client sees: a value, or the exception's type and arguments."""
    try:
        return result.get(timeout=TIMEOUT, interval=0.01)
    except Exception as error:
        return [type(error).__name__, UUID.sub("<new>", repr(error.args))]


def plain(value: Any) -> Any:
    """Without what differs from run to run: ids that a worker has made, times, hosts, stack frames."""
    if isinstance(value, dict):
        return {key: plain(member) for key, member in value.items() if key not in {
            "date_done", "worker", "expires_at"}}
    if isinstance(value, (list, tuple)):
        return [plain(member) for member in value]
    return UUID.sub("<new>", value) if isinstance(value, str) else value


def comparable(document: dict[str, Any]) -> str:
    row = plain(document)
    row["traceback"] = bool(row["traceback"])
    row["done"] = bool(document["date_done"])
    return json.dumps(row, sort_keys=True)


def settled(side: Side, n: int) -> list[str]:
    """The documents, once there are as many as on the other side and all have ended."""
    def look() -> list[dict[str, Any]] | None:
        rows = side.documents()
        done = all(row["status"] in ("SUCCESS", "FAILURE", "REVOKED") for row in rows)
        return rows if done and len(rows) >= n else None
    try:
        rows = wait_until(look, 2, "the documents")
    except TimeoutError:
        rows = side.documents()
    return sorted(map(comparable, rows))


def run(side: Side, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    side.clear()
    with counted_ids(name, monkeypatch):
        result = CANVASES[name](Make(side.app)).apply_async()
    return outcome(result)


@pytest.mark.parametrize("name", CANVASES)
def test_the_same_as_celery(name, sides, monkeypatch):
    celery, cworker = sides
    expected, seen = (run(side, name, monkeypatch) for side in sides)
    assert repr(seen) == repr(expected)
    documents = settled(celery, 1)
    assert settled(cworker, len(documents)) == documents

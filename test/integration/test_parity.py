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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from canvases import CANVASES, Make
from celery import Celery
from celery.result import AsyncResult, GroupResult
from harness import DEMO_SO, TIMEOUT, Worker, start_celery
from pymongo import MongoClient

from services.mongo import MongoServer
from services.process import end_process, wait_until
from services.redis import RedisServer

# Where the two differ for good, by store and canvas: what cworker's client sees, and why.
NO_STATE = "Celery leaves the group's members without a state, so its client waits for ever"
OVERFLOW = "Celery's document does not fit into BSON: it stores no result, and a chord polls for ever"
BETTER = {
    ("redis", "failed-then-group"): (["ValueError", "('no',)"], NO_STATE),
    ("mongo", "failed-then-group"): (["ValueError", "('no',)"], NO_STATE),
    ("mongo", "one-big"): (2 ** 70, OVERFLOW),
    ("mongo", "one-small"): (-2 ** 70, OVERFLOW),
    ("mongo", "chain-big"): (2 ** 70 + 1, OVERFLOW),
    ("mongo", "chord-values"): ({"args": [[None, "ü", 2 ** 70, [1], {"a": 1}]], "kwargs": {}}, OVERFLOW),
}
ONE_CHILD = "a part waits in Celery's only child for parts that have to run there"
RACE = "Celery revokes the members of a failed chord's group and says they failed: one of the two is last"
STEPS = "Celery leaves the first steps of a failed chord's body without a state"
NO = ["ValueError", "('no',)"]
for kind in ("redis", "mongo"):
    BETTER |= {
        (kind, "deep-fails-before-chord"): (NO, NO_STATE),
        (kind, "deep-fails-in-chain-of-chords"): (NO, NO_STATE),
        (kind, "guarded-body-chain"): (NO, STEPS),
        (kind, "guarded-body-group"): (NO, RACE),
    }
BETTER |= {
    ("redis", "deep-header-ends-in-group"): ({"args": [[[3, 4], 18]], "kwargs": {}}, ONE_CHILD),
    ("redis", "deep-fails-inside"): (NO, ONE_CHILD),
}
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

# What the comparison of documents leaves out, and why.
EXTENDED = ("name", "args", "kwargs", "worker", "retries", "queue")  # on MongoDB cworker writes them always,
# null where nothing is known (the body of a failed chord): Celery leaves them out, and its client raises
# KeyError when it reads such a document (celery #8877)

# Whose results Celery's client waits for in vain, with either worker.
SILENT = ("starmap-rejects", "deep-chain-of-groups", "chain-in-group-of-one", "group-then-group")

# A body's parent is the part that ended last; where parts are chains or chords, that depends on the
# moment.
ANY_PARENT = ("chord-header-chains", "chord-header-groups", "chord-header-chords",
              "chord-in-chain-in-chord", "deep-header-ends-in-chord", "deep-chord-of-chord-of-chord",
              "replace-by-chord-in-chord", "replace-by-chain-in-chord", "replace-by-group-in-chord")


class Side:
    """One worker with a broker and a database of its own. It has one child, so that the member of a
    chord that ends last, its body's parent, is the same on both sides."""

    def __init__(self, name: str, folder: Path, mongo: MongoServer | None) -> None:
        self.name = name
        self.redis = RedisServer().start()
        self.mongo = mongo
        store = "mongo" if mongo else "redis"
        self.database = f"parity_{name}_{os.getpid()}"
        self.backend = self.mongo.url(self.database) if self.mongo else self.redis.url()
        self.kind = store
        self.broker = self.redis.client()
        self.store = MongoClient(mongo.url("")) if mongo else None
        self.app = Celery("parity", broker=self.redis.url(), backend=self.backend,
                          set_as_current=False)
        self.app.conf.update(result_extended=True, result_chord_retry_interval=0.1)
        self.log = folder / f"{name}-{store}.log"
        self.process = self.start()

    def start(self) -> subprocess.Popen:
        if self.name == "celery":
            return start_celery("python_worker", "celery@test", self.log, broker=self.redis.url(),
                                backend=self.backend, EXTENDED="1")
        worker = Worker(["-b", self.redis.url(), "--result-backend", self.backend, "-A", DEMO_SO, "-c", "1",
                         "-l", "INFO", "--set", "result_extended=true"], self.log)
        return worker.wait_ready().process

    def documents(self) -> list[dict[str, Any]]:
        if self.store:
            return list(self.store[self.database].celery_taskmeta.find())
        keys = self.broker.keys("celery-task-meta-*")
        return [json.loads(text) for text in self.broker.mget(keys)] if keys else []

    def is_quiet(self) -> bool:
        """Nothing waits and nobody holds anything: what is stored then stays as it is, because both
        workers store and publish before they ack. Kombu pops a message before it files it in `unacked`:
        there is none between the two while its BRPOP waits."""
        keys, clients = self.broker.pipeline().keys().execute_command("CLIENT LIST").execute()
        return not any(key in (b"celery", b"unacked", b"unacked_index") or
                       key.startswith(b"celery\x06") or b".inflight." in key or b".delayed" in key
                       for key in keys) and (self.name == "cworker" or any(
                           client["cmd"] == "brpop" and "b" in client["flags"] for client in clients))

    def wait_quiet(self) -> None:
        wait_until(self.is_quiet, TIMEOUT, f"the end of all work of {self.log.stem}")

    def clear(self) -> None:
        if self.store:
            self.store[self.database].celery_taskmeta.delete_many({})
            self.store[self.database].celery_groupmeta.delete_many({})
        elif keys := self.broker.keys("celery-task*"):
            self.broker.delete(*keys)

    def close(self) -> None:
        end_process(self.process, 20)
        self.app.close()
        self.broker.close()
        self.redis.close()
        if self.mongo:
            self.store.drop_database(self.database)
            self.store.close()


@pytest.fixture(scope="session")
def fleets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], list[Side]]]:
    """fleets(store): both sides, kept to the end, since tests come in any order of stores."""
    started: dict[str, list[Side]] = {}
    servers: list[MongoServer] = []

    def fleet(store: str) -> list[Side]:
        if store not in started:
            mongo = MongoServer().start() if store == "mongo" else None
            servers.extend([mongo] if mongo else [])
            folder = tmp_path_factory.mktemp("parity")
            started[store] = [Side(name, folder, mongo) for name in ("celery", "cworker")]
        return started[store]

    yield fleet
    for side in itertools.chain(*started.values()):
        side.close()
    for server in servers:
        server.close()


@pytest.fixture(params=["redis", "mongo"])
def sides(request: pytest.FixtureRequest, fleets: Callable[[str], list[Side]]) -> list[Side]:
    return fleets(request.param)


@contextmanager
def counted_ids(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The client's ids in the order in which it makes them, the same for both sides."""
    numbers = itertools.count(1)
    with monkeypatch.context() as patch:
        for path, module in list(sys.modules.items()):
            if path.startswith(("celery", "kombu")) and callable(getattr(module, "uuid", None)):
                patch.setattr(module, "uuid", lambda: f"{name}-{next(numbers)}")
        yield


def outcome(name: str, result: AsyncResult | GroupResult) -> Any:
    """What a client sees: a value, or the exception's type and arguments; TimeoutError where nothing was
    stored, which is known at once because all work has ended: two seconds are enough where it has to be so."""
    silent = "ignore" in name or name in SILENT
    try:
        return result.get(timeout=2 if silent else TIMEOUT, interval=0.01)
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


def comparable(document: dict[str, Any], kind: str, name: str) -> str:
    row = plain(document)
    if name in ANY_PARENT:
        row.pop("parent_id", None)
    if kind == "mongo" and row.get("name") is None:
        row = {key: value for key, value in row.items() if key not in EXTENDED}
    row["traceback"] = bool(row["traceback"])
    row["done"] = bool(document["date_done"])
    return json.dumps(row, sort_keys=True)


def start(side: Side, name: str, monkeypatch: pytest.MonkeyPatch) -> AsyncResult | GroupResult:
    side.clear()
    with counted_ids(name, monkeypatch):
        return CANVASES[name](Make(side.app)).apply_async()


@pytest.mark.parametrize("name", CANVASES)
def test_the_same_as_celery(name, sides, monkeypatch):
    celery, cworker = sides
    if row := BETTER.get((cworker.kind, name)):
        result = start(cworker, name, monkeypatch)
        cworker.wait_quiet()
        assert outcome(name, result) == row[0]
        return
    results = [start(side, name, monkeypatch) for side in sides]
    for side in sides:
        side.wait_quiet()
    expected, seen = (outcome(name, result) for result in results)
    assert repr(seen) == repr(expected)
    expected, seen = (sorted(comparable(row, side.kind, name) for row in side.documents())
                      for side in sides)
    assert seen == expected

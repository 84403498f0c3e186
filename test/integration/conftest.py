# SPDX-License-Identifier: Apache-2.0
"""Fixtures: servers for each pytest-xdist worker, and an empty Redis for each test."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from pymongo.database import Database

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import CWORKER, DEMO_SO, Gate, Worker, run_cworker, start_celery  # noqa: E402
from patience import PatientControl  # noqa: E402
from services.mongo import MongoServer  # noqa: E402
from services.process import end_process, wait_until  # noqa: E402
from services.redis import RedisServer  # noqa: E402


# A result that nobody holds any more gives its subscription back, and Celery tries to for 20 s where the
# server has gone before.
SOON = {"interval_step": 0.1, "interval_max": 0.1}


def pytest_configure(config: pytest.Config) -> None:
    for path in (CWORKER, DEMO_SO):
        if not Path(path).exists():
            raise pytest.UsageError(f"no {path}: run make, or set CWORKER_BIN and DEMO_SO")


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """Celery's own commands, run in this process, leave CELERY_BROKER_URL behind."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis(redis_server: RedisServer) -> RedisServer:
    with redis_server.client() as client:
        client.flushall()
    return redis_server


@pytest.fixture
def keys(redis: RedisServer) -> Iterator[Any]:
    """A client of the broker's database."""
    with redis.client() as client:
        yield client


@pytest.fixture(scope="session")
def mongo() -> Iterator[MongoServer]:
    with MongoServer() as server:
        yield server


@pytest.fixture(scope="session")
def mongo_database(mongo: MongoServer) -> Iterator[str]:
    name = f"cworker_test_{os.getpid()}"
    yield name
    if mongo.borrowed:
        with mongo.client() as client:
            client.drop_database(name)
            client.drop_database(f"{name}_tasks")


@pytest.fixture
def app_database(mongo: MongoServer, mongo_database: str) -> Iterator[Database]:
    """An empty database for the built-in tasks; cworker(database=…) gives it to a worker."""
    with mongo.client() as client:
        name = f"{mongo_database}_tasks"
        client.drop_database(name)
        yield client[name]


@pytest.fixture
def indexed_database(mongo: MongoServer, app_database: Database) -> Database:
    """The same with the indexes that `cworker tasks init` makes."""
    url = f"app_database_url={mongo.url(app_database.name)}"
    done = run_cworker("tasks", "init", "--set", url)
    assert done.returncode == 0, done.stderr
    return app_database


@pytest.fixture
def one_day() -> None:
    """The test that begins now ends on the same day: what is kept by day stays one."""
    now = datetime.now(timezone.utc)
    if (now + timedelta(minutes=3)).day != now.day:
        wait_until(lambda: datetime.now(timezone.utc).day != now.day, 200, "the next day")


@pytest.fixture
def redis_backend(redis: RedisServer) -> str:
    return redis.url()


@pytest.fixture
def mongo_backend(mongo: MongoServer, mongo_database: str) -> str:
    return mongo.url(mongo_database)


@pytest.fixture(params=["redis", "mongo"])
def backend(request: pytest.FixtureRequest) -> str:
    """The test runs once for each result store."""
    return request.getfixturevalue(f"{request.param}_backend")


@pytest.fixture
def make_app(redis: RedisServer) -> Iterator[Callable[..., Celery]]:
    """make_app(backend=URL, broker=URL, **conf): a Celery producer; URLs default to `redis`."""
    apps = []

    def make(backend: str | None = None, broker: str | None = None, **conf: Any) -> Celery:
        app = Celery("test", broker=broker or redis.url(), backend=backend or redis.url(),
                     set_as_current=False, control=PatientControl)
        app.conf.update({"broker_connection_retry_on_startup": True,
                         "result_backend_transport_options": {"retry_policy": SOON}, **conf})
        apps.append(app)
        return app

    yield make
    for app in apps:
        app.close()


@pytest.fixture
def app(make_app: Callable[..., Celery], redis_backend: str) -> Celery:
    return make_app(redis_backend)


@pytest.fixture
def cworker(redis: RedisServer, tmp_path: Path,
            request: pytest.FixtureRequest) -> Iterator[Callable[..., Worker]]:
    """cworker(*options, backend=URL, queues=…): a ready worker, stopped after the test."""
    workers: list[Worker] = []

    def start(*args: Any, queues: str | None = "celery", broker: str | None = None,
              backend: str | None = None, concurrency: int = 2, ready: bool = True,
              name: str | None = None, env: dict[str, str] | None = None,
              database: Database | None = None) -> Worker:
        number = len(workers) + 1
        if database is not None:
            url = request.getfixturevalue("mongo").url(database.name)
            args = ("--set", f"app_database_url={url}", *args)
        words = ["-b", broker or redis.url(), "--result-backend", backend or redis.url(),
                 "-A", DEMO_SO, "-c", concurrency, "-l", "INFO", "-n", name or f"w{number}@test",
                 *(["-Q", queues] if queues else []), *args]
        worker = Worker(list(map(str, words)), tmp_path / f"worker-{number}.log", env)
        workers.append(worker)
        return worker.wait_ready() if ready else worker

    yield start
    problems = []
    for worker in workers:
        try:
            worker.stop()
        except (AssertionError, TimeoutError) as error:
            worker.kill()
            problems.append(str(error))
        print(f"--- {worker.log_path.name}\n{worker.log[-20000:]}")
    assert not problems, "\n".join(problems)


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


@pytest.fixture
def python_worker(redis: RedisServer, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """python_worker(*options, env): Celery's own worker on the same queue, ready."""
    processes = []

    def start(*args: str, **env: str) -> subprocess.Popen:
        urls = {"broker": redis.url(), "backend": env.pop("BACKEND", redis.url())}
        processes.append(start_celery("python_worker", "py@test", tmp_path / "python.log", *args, **urls,
                                      **env))
        return processes[-1]

    yield start
    for process in processes:
        end_process(process, 20, signal.SIGQUIT)

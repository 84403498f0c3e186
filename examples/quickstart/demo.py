# SPDX-License-Identifier: Apache-2.0
"""The quickstart: a real Celery producer, cworker as its worker, and an account of what happened.

Everything is private to this run and gone after it. Exit status 1 when anything was not as
expected.
"""
from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from celery import Celery, Signature, chain, group

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "test"))

from services.mongo import MongoServer  # noqa: E402
from services.process import end_process, wait_until  # noqa: E402
from services.redis import RedisServer  # noqa: E402

CWORKER = str(ROOT / os.environ.get("CWORKER_BIN", "build/cworker"))
DEMO_SO = str(ROOT / os.environ.get("DEMO_SO", "build/demo.so"))
QUEUES = "celery,scans,discovery,compliance,threat_feeds,sync,maintenance"
DATABASE = "cspm_orchestration"

# queue, task, args, kwargs, what must come back
CALLS: list[tuple[str, str, tuple, dict, Any]] = [
    ("scans", "demo.add", (2, 3), {}, 5),
    ("discovery", "demo.mul", (2**70, 3), {}, 3 * 2**70),
    ("compliance", "demo.xsum", ([1, 2, 3, 4.5],), {}, 10.5),
    ("threat_feeds", "demo.echo", (1, "grüße"), {"deep": [None, {"a": True}]},
     {"args": [1, "grüße"], "kwargs": {"deep": [None, {"a": True}]}}),
    ("sync", "demo.fail_n", ("quickstart", 3), {}, 3),
    ("maintenance", "demo.progress", (3,), {}, 3),
]

problems: list[str] = []


def heading(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}")


def shorten(value: Any, width: int = 44) -> str:
    text = repr(value)
    return text if len(text) <= width else text[:width - 1] + "…"


def expect(true: bool, what: str) -> None:
    if not true:
        problems.append(what)
        print(f"  NOT AS EXPECTED: {what}")


@contextmanager
def running_cworker(redis: RedisServer, mongo: MongoServer, log: Path) -> Iterator[None]:
    command = [CWORKER, "-b", redis.url(), "--result-backend", mongo.url(DATABASE), "-A", DEMO_SO,
               "-Q", QUEUES, "-c", "2", "-l", "INFO",
               "--set", f"app_database_url={mongo.url(DATABASE)}"]
    print("  $ cworker", *command[1:])
    begin = time.monotonic()
    with open(log, "wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL)
    try:
        def is_ready() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"cworker ended:\n{log.read_text()}")
            return "ready." in log.read_text()
        wait_until(is_ready, 20, "cworker's ready line")
        print(f"  ready after {(time.monotonic() - begin) * 1000:.0f} ms")
        yield
    finally:
        code = end_process(process, 20)
        expect(code == 0, f"cworker ended with exit status {code}")


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.monotonic()
    value = function()
    return value, (time.monotonic() - begin) * 1000


def show_tasks(app: Celery) -> None:
    heading("Six queues, one task each, sent by Celery and awaited by AsyncResult.get()")
    print(f"  {'queue':<14}{'task':<14}{'result':<46}{'ms':>7}")
    for queue, task, args, kwargs, expected in CALLS:
        def call() -> Any:
            result = app.send_task(task, args, kwargs, queue=queue)
            return result.get(timeout=30, interval=0.005)
        value, ms = timed(call)
        print(f"  {queue:<14}{task:<14}{shorten(value):<46}{ms:>7.1f}")
        expect(value == expected, f"{task} gave {value!r}, not {expected!r}")


def show_workflow(app: Celery) -> None:
    heading("A workflow over three queues: add, then two at once, then their sum")

    def step(name: str, queue: str, *args: Any) -> Signature:
        return app.signature(f"demo.{name}", args, queue=queue)
    flow = chain(step("add", "scans", 1, 1),
                 group(step("mul", "compliance", 10), step("mul", "sync", 100), app=app),
                 step("xsum", "maintenance"), app=app)
    value, ms = timed(lambda: flow.apply_async().get(timeout=30, interval=0.005))
    print(f"  demo.add(1, 1) | group(demo.mul(10), demo.mul(100)) | demo.xsum()  =  {value}"
          f"{ms:>17.1f} ms")
    expect(value == 220, f"the workflow gave {value!r}, not 220")


def show_exception(app: Celery) -> None:
    heading("A C task fails; Python raises its exception again")
    result = app.send_task("demo.fail", ("no such account: 42",), queue="celery")
    try:
        result.get(timeout=30, interval=0.005)
        expect(False, "demo.fail raised nothing")
    except ValueError as error:
        print(f"  except ValueError as error:  {error!r}   state {result.state}")
        expect(error.args == ("no such account: 42",), f"{error!r} has other arguments")


def show_scan(app: Celery, mongo: MongoServer) -> None:
    heading("A real network scan of a port that this demo opened on 127.0.0.1")
    with socket.socket() as listener, mongo.client() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        database = client[DATABASE]
        database.approved_targets.insert_one({"team_id": "team-1", "target": "127.0.0.1"})
        database.native_scans.insert_one(
            {"_id": "scan-1", "team_id": "team-1", "target": "127.0.0.1",
             "options": {"ports": str(port)}, "status": "PENDING"})
        result = app.send_task("scans.execute_network_scan", ("scan-1",), queue="scans")
        value, ms = timed(lambda: result.get(timeout=120, interval=0.05))
        scan = database.native_scans.find_one({"_id": "scan-1"})
        findings = list(database.scan_findings.find({"scan_id": "scan-1"}))
    print(f"  result {shorten(value, 80)} after {ms:.0f} ms; status {scan['status']}")
    for finding in findings:
        fields = {k: v for k, v in finding.items()
                  if isinstance(v, (str, int)) and k not in ("_id", "scan_id", "team_id")}
        print("  finding", ", ".join(f"{name}={text}" for name, text in fields.items()))
    expect(scan["status"] == "COMPLETED", f"the scan's status is {scan['status']}")
    expect(any(str(port) in repr(finding) for finding in findings),
           f"no finding names port {port}")


def main() -> int:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cworker-demo-")))
        heading("Private servers")
        redis = stack.enter_context(RedisServer())
        mongo = stack.enter_context(MongoServer(private=True))
        print(f"  Redis    {redis.url()}\n  MongoDB  {mongo.url(DATABASE)}")
        heading("The worker")
        stack.enter_context(running_cworker(redis, mongo, folder / "worker.log"))
        app = Celery("producer", broker=redis.url(), backend=mongo.url(DATABASE))
        try:
            for show in (lambda: show_tasks(app), lambda: show_workflow(app),
                         lambda: show_exception(app), lambda: show_scan(app, mongo)):
                try:
                    show()
                except Exception as error:  # the account goes on; the exit status tells
                    expect(False, f"{type(error).__name__}: {error}")
            if problems:
                heading("The end of the worker's log")
                print((folder / "worker.log").read_text()[-4000:])
        finally:
            app.close()
    heading("All as expected." if not problems else "NOT as expected:")
    for problem in problems:
        print(f"  {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Celery's own integration suite against cworker:  python test/upstream/run.py [redis] [mongo] [-k WORDS]

The suite comes from the release's source distribution, which pip downloads into build/upstream/. Its
tasks are in test/upstream/tasks.c. excused.txt lists the tests that do not count, each with its reason:
what runs in the client alone or needs Python within the worker. Prints the score for each backend;
the exit status is 0 when all that counts has passed."""
from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "test"))

from services.mongo import MongoServer  # noqa: E402
from services.redis import RedisServer  # noqa: E402

VERSION = "5.6.3"
BUILD = ROOT / "build/upstream"
WORKER = ROOT / os.environ.get("CWORKER_BIN", "build/cworker")
IGNORED = ["test_backend.py", "test_security.py", "test_worker.py", "test_django_settings.py",
           "test_native_delayed_delivery_binding.py", "test_quorum_queue_qos_cluster_simulation.py",
           "test_rabbitmq_chord_unlock_routing.py", "test_rabbitmq_default_queue_type_fallback.py",
           "test_rabbitmq_quorum_queue_cycle_detection.py"]


def fetch_suite() -> Path:
    suite = BUILD / f"celery-{VERSION}"
    if not suite.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        subprocess.run([*pip, "download", "--no-deps", "--no-binary", "celery", "--dest", BUILD,
                        f"celery=={VERSION}"], check=True)
        with tarfile.open(BUILD / f"celery-{VERSION}.tar.gz") as archive:
            members = [m for m in archive.getmembers()
                       if m.name.startswith(f"celery-{VERSION}/t/")]
            archive.extractall(BUILD, members, filter="data")
    return suite


def read_excused(backend: str = "") -> dict[str, str]:
    """{test name without parameters: reason}; of one backend, or of all."""
    lines = (HERE / "excused.txt").read_text().splitlines()
    rows = [line.split("  ", 1) for line in lines if line and not line.startswith("#")]
    return {name: reason for name, reason in rows
            if not backend or not reason.startswith("with ") or reason.startswith(f"with {backend}: ")}


def run(backend: str, words: list[str]) -> Path:
    suite, report = fetch_suite(), BUILD / f"{backend}.{os.getpid()}.xml"
    results = MongoServer() if backend == "mongo" else contextlib.nullcontext()
    with RedisServer() as redis, results as mongo:
        url = mongo.url("celery") if mongo else redis.url()
        log = report.with_suffix(".log")
        log.unlink(missing_ok=True)
        database = {"CWORKER_APP_DATABASE_URL": url} if backend == "mongo" else {}
        env = {**os.environ, **database, "PYTHONPATH": f"{suite}:{HERE}", "REDIS_HOST": "127.0.0.1",
               "REDIS_PORT": str(redis.port), "TEST_BROKER": redis.url(), "TEST_BACKEND": url,
               "UPSTREAM_LOG": str(log), "UPSTREAM_WORKER":
               f"{WORKER} -b {redis.url()} --result-backend {url} -A {WORKER.parent}/upstream.so "
               "-l INFO --set result_extended=true"}
        subprocess.run([sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(suite),
                        "-p", "celery.contrib.pytest", "-p", "shim", "-p", "no:cacheprovider",
                        "-o", "python_classes=test_*", "-q", "-rfE", "--tb=short", "t/integration",
                        *[f"--ignore=t/integration/{name}" for name in IGNORED],
                        "--junitxml", str(report), *words], cwd=suite, env=env)
    return report


def score(backend: str, report: Path) -> bool:
    excused, counts, failed = read_excused(backend), Counter(), []
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.get("name", "")
        kinds = {child.tag for child in case}
        if name.split("[")[0] in excused:
            counts["excused"] += 1
        elif (skip := case.find("skipped")) is not None and skip.get("type") != "pytest.xfail":
            counts["skipped"] += 1
        elif kinds & {"failure", "error", "skipped"}:
            failed.append(f"{case.get('classname')}::{name}")
        else:
            counts["passed"] += 1
    print(f"\n{backend}: {counts['passed']} of {counts['passed'] + len(failed)} passed; "
          f"{counts['skipped']} skipped by the suite, {counts['excused']} excused")
    for name in failed:
        print(f"  failed: {name}")
    return not failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("backends", nargs="*", default=["redis", "mongo"])
    parser.add_argument("-k", dest="words", help="only tests whose names match, as in pytest")
    options = parser.parse_args()
    words = ["-k", options.words] if options.words else []
    reports = {backend: run(backend, words) for backend in options.backends}
    results = [score(backend, report) for backend, report in reports.items()]
    print("\nexcused, with the reason:")
    for name, reason in read_excused().items():
        print(f"  {name}: {reason}")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())

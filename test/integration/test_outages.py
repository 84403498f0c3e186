# SPDX-License-Identifier: Apache-2.0
"""Redis and MongoDB gone for a while, with real restarts: work goes on by itself, nothing is lost,
nothing is acked before its result is stored, and memory stays bounded."""
import re
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from celery import signature
from harness import CWORKER, count_messages, get, inflight, read_ledger, wait_state, wait_until

from services.mongo import MongoServer
from services.redis import RedisServer

SANITIZED = "address" in CWORKER


@pytest.fixture
def private_mongo():
    with MongoServer(private=True) as server:
        yield server


def stored(server):
    with server.client() as client:
        return client["celery"]["celery_taskmeta"].count_documents({"status": "SUCCESS"})


def peak_kib(pid):
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def end_during_outage(make_app, cworker, keys, server, name, args, count, *options):
    """A worker whose store went away before `count` tasks; all have ended and none is acked."""
    app = make_app(server.url())
    worker = cworker(*options, backend=server.url())
    get(app.send_task("demo.add", (1, 2)))
    wait_until(lambda: not inflight(keys), what="the first ack")
    server.stop()
    for i in range(count):
        app.send_task(name, args or (i,))
    return worker


def check_recovery(server, worker, keys, count):
    server.start()
    wait_until(lambda: stored(server) == count, what="all results")
    wait_until(lambda: not count_messages(keys), what="all acks")
    assert worker.process.poll() is None


def all_held(keys, count):
    return lambda: keys.llen("celery") == 0 and len(inflight(keys)) == count


def test_thousands_of_results_wait(make_app, cworker, keys, private_mongo, tmp_path):
    ledger = tmp_path / "ledger"
    app = make_app(private_mongo.url())
    worker = cworker(backend=private_mongo.url(), env={"BENCH_TRACE": str(ledger)})
    get(app.send_task("demo.add", (1, 2)))
    wait_until(lambda: not inflight(keys), what="the first ack")
    private_mongo.stop()
    for i in range(3000):
        app.send_task("bench.noop", (i,))
    wait_until(all_held(keys, 3000), what="3000 results that wait")
    wait_until(lambda: len(read_ledger(ledger)) == 3000, what="3000 runs")
    private_mongo.start()
    wait_until(lambda: stored(private_mongo) == 3000, what="all results")
    wait_until(lambda: not inflight(keys), what="all acks")
    assert set(Counter(n for n, _ in read_ledger(ledger)).values()) == {1}
    assert "works again after" in worker.log


def test_large_results_wait_in_a_file(make_app, cworker, keys, private_mongo, tmp_path):
    """100 MB of results, half of the memory that these would take, and no file left."""
    worker = end_during_outage(make_app, cworker, keys, private_mongo, "demo.text", (100_000,), 1000,
                               "--set", f"result_spool_dir={tmp_path}")
    wait_until(all_held(keys, 1000), what="1000 results that wait")
    wait_until(lambda: worker.log.count("demo.text") >= 2000, what="1000 ends")
    assert SANITIZED or peak_kib(worker.pid) < 150_000
    check_recovery(private_mongo, worker, keys, 1000)
    assert not [path for path in tmp_path.iterdir() if "worker-" not in path.name]


def test_full_spool_stops_fetching(make_app, cworker, keys, private_mongo):
    worker = end_during_outage(make_app, cworker, keys, private_mongo, "demo.text", (1_000_000,), 100,
                               "--set", "result_spool_size=5000000")
    worker.wait_log("spool file has reached its limit")
    wait_until(lambda: inflight(keys), what="held messages")
    held = len(inflight(keys))
    assert held < 60 and keys.llen("celery") > 30
    check_recovery(private_mongo, worker, keys, 100)


def test_no_place_for_the_spool(make_app, cworker, keys, private_mongo, tmp_path, monkeypatch):
    """The folder was there when the worker started."""
    folder, stop = tmp_path / "gone", private_mongo.stop
    folder.mkdir()
    monkeypatch.setattr(private_mongo, "stop",
                        lambda: (shutil.rmtree(folder, ignore_errors=True), stop()))
    worker = end_during_outage(make_app, cworker, keys, private_mongo, "demo.text", (1_000_000,), 60,
                               "--set", f"result_spool_dir={folder}")
    worker.wait_log(f"no spool file in {folder}")
    check_recovery(private_mongo, worker, keys, 60)


def test_order_of_states_is_kept(make_app, cworker, keys, private_mongo):
    """STARTED and PROGRESS wait in front of SUCCESS of the same task."""
    app = make_app(private_mongo.url())
    cworker("--set", "task_track_started=true", backend=private_mongo.url())
    get(app.send_task("demo.add", (1, 2)))
    wait_until(lambda: not inflight(keys), what="the first ack")
    private_mongo.stop()
    results = [app.send_task("demo.progress", (3,)) for _ in range(4)]
    results += [app.send_task("demo.fail_n", ("k", 2)) for _ in range(4)]
    wait_until(lambda: len(inflight(keys)) == 8, what="held tasks")
    private_mongo.start()
    assert [get(result) for result in results] == [3] * 4 + [2] * 4
    assert {result.state for result in results} == {"SUCCESS"}
    wait_until(lambda: not inflight(keys), what="all acks")


def test_killed_during_an_outage(make_app, cworker, keys, private_mongo, tmp_path):
    """What ended while the store was down does not run again, whoever takes it over; nor does what
    follows from it get lost."""
    ledger = tmp_path / "ledger"
    options = {"backend": private_mongo.url(), "env": {"BENCH_TRACE": str(ledger)}}
    app = make_app(private_mongo.url())
    worker = cworker("--set", "worker_lease=2", **options)
    get(app.send_task("demo.add", (1, 2)))
    wait_until(lambda: not inflight(keys), what="the first ack")
    private_mongo.stop()
    on_its_way = app.send_task("bench.noop", (102,))
    worker.wait_log("results wait in memory")
    for i in range(20):
        app.send_task("bench.noop", (i,))
    step = signature("bench.noop", (100,), app=app, immutable=True)
    chained = app.send_task("demo.add", (5, 6), chain=[signature("bench.noop", (101,), app=app,
                                                                 immutable=True)], link=step)
    failed = app.send_task("demo.fail", ("for good",))
    retried = app.send_task("demo.fail_n", ("k", 1))
    wait_until(lambda: keys.hlen("{celery}.cworker.outbox") == 24, what="24 ends in Redis")
    worker.kill()
    cworker("--set", "worker_lease=2", **options)
    private_mongo.start()
    get(on_its_way)
    assert get(chained) == 11
    assert get(retried) == 1
    wait_until(lambda: failed.state == "FAILURE", what="the failure")
    assert len(chained.children) == 2
    wait_until(lambda: len(read_ledger(ledger)) >= 23, what="all runs")
    wait_until(lambda: not count_messages(keys), what="all acks")
    assert Counter(n for n, _ in read_ledger(ledger)) == Counter([*range(20), 100, 101, 102])
    assert not keys.exists("{celery}.cworker.outbox")


def test_redis_is_gone_for_seconds(make_app, cworker, tmp_path, gate):
    """With AOF. Running, prefetched, queued, delayed and retrying tasks end, each once."""
    ledger = tmp_path / "ledger"
    with RedisServer(aof=True) as server:
        app = make_app(server.url(), server.url())
        worker = cworker(*gate.options, "--set", "task_track_started=true", broker=server.url(),
                         backend=server.url(), env={"BENCH_TRACE": str(ledger)})
        running = app.send_task("gate", link=signature("bench.noop", (500,), app=app, immutable=True))
        wait_state(running, "STARTED")
        for i in range(100):
            app.send_task("bench.noop", (i,), countdown=2 if i % 2 else None)
        retried = app.send_task("demo.fail_n", ("k", 3))
        server.kill()
        gate.open()
        time.sleep(2)
        server.start()
        with server.client() as keys:
            expected = Counter([*range(100), 500])
            wait_until(lambda: len(read_ledger(ledger)) >= 101, what="all runs")
            wait_until(lambda: not count_messages(keys), what="all acks")
            assert Counter(n for n, _ in read_ledger(ledger)) == expected
            fresh = make_app(server.url(), server.url())
            assert wait_state(fresh.AsyncResult(retried.id), "SUCCESS")
            assert fresh.AsyncResult(running.id).state == "SUCCESS"
        assert "Trying to re-establish the connection" in worker.log
        worker.stop()


def test_cold_shutdown_during_an_outage(make_app, cworker, keys, private_mongo):
    """It ends, and what has no durable result comes back to the next worker."""
    worker = end_during_outage(make_app, cworker, keys, private_mongo, "demo.add", (1, 2), 20)
    wait_until(all_held(keys, 20), what="20 results that wait")
    worker.signal(signal.SIGQUIT)
    worker.wait()
    private_mongo.start()
    cworker(backend=private_mongo.url())
    wait_until(lambda: stored(private_mongo) == 20, what="all results")
    wait_until(lambda: not inflight(keys), what="all acks")


def leads_to(link, place):
    try:
        return str(link.readlink()).startswith(place)
    except OSError:  # a connection that was given up meanwhile
        return False


def test_what_the_spool_file_gives_not_back_runs_again(make_app, cworker, keys, private_mongo,
                                                       tmp_path):
    worker = end_during_outage(make_app, cworker, keys, private_mongo, "demo.text", (1_000_000,), 60,
                               "--set", f"result_spool_dir={tmp_path}")
    wait_until(all_held(keys, 60), what="60 results that wait")
    wait_until(lambda: worker.log.count("demo.text") >= 120, what="60 ends")
    (spool,) = [fd for fd in Path(f"/proc/{worker.pid}/fd").iterdir() if leads_to(fd, f"{tmp_path}/#")]
    with open(spool, "r+b") as file:
        file.truncate(0)
    check_recovery(private_mongo, worker, keys, 60)
    assert "runs again: its record cannot be read back from the spool file" in worker.log

# SPDX-License-Identifier: Apache-2.0
"""sentinel:// brokers: real sentinels, failovers, and WAIT."""
import contextlib
import json
import signal
from collections.abc import Iterator

import pytest
from celery import chord, signature
from harness import count_messages, get, run_cworker, wait_until
from redis.exceptions import ResponseError

from services.sentinel import MASTER_NAME, Sentinels


@pytest.fixture
def fleet() -> Iterator[Sentinels]:
    with Sentinels() as sentinels:
        yield sentinels


@pytest.fixture
def worker(fleet, cworker, redis):
    def start(*options, **more):
        return cworker(*fleet.worker_options(), *options, broker=fleet.url(), backend=redis.url(),
                       **more)
    return start


@pytest.fixture
def producer(fleet, make_app, redis):
    return make_app(broker=fleet.url(), backend=redis.url(),
                    broker_transport_options=fleet.transport_options())


def test_tasks(fleet, producer, worker):
    """The first sentinel is gone already; a second database, too."""
    fleet.processes[0].kill()
    fleet.processes[0].wait()
    log = worker()
    assert [get(producer.send_task("demo.add", (i, 1))) for i in range(10)] == list(range(1, 11))
    assert "sentinel://127.0.0.1" in log.log
    done = run_cworker("-b", fleet.url(), *fleet.worker_options(), "inspect", "ping", "--json")
    assert done.returncode == 0 and '"pong"' in done.stdout, done.stderr


def test_master_dies(fleet, producer, worker):
    """kill -9 of the master: what was replicated is done, once the sentinels have chosen."""
    log = worker("--set", "broker_wait_replicas=1")
    results = [producer.send_task("demo.sleep", (0.05,)) for _ in range(100)]
    master, replica = fleet.master(), fleet.replica()
    wait_until(lambda: any(result.state == "SUCCESS" for result in results), what="a first result")
    with master.client() as client:
        assert client.wait(1, 5000) == 1
    master.kill()
    wait_until(lambda: fleet.master_port() == replica.port, what="the failover")
    assert [get(result) for result in results] == [0.05] * 100
    assert get(producer.send_task("demo.add", (1, 2))) == 3
    assert "Trying to re-establish the connection" in log.log
    with replica.client() as client:
        wait_until(lambda: not count_messages(client), what="empty queues")


def test_planned_failover(fleet, producer, worker):
    """The old master lives on as a replica; the worker leaves it."""
    log = worker()
    assert get(producer.send_task("demo.add", (1, 2))) == 3
    results = [producer.send_task("demo.sleep", (0.05,)) for _ in range(60)]
    old, new = fleet.master(), fleet.replica()
    with old.client() as client:
        assert client.wait(1, 5000) == 1

    def failed_over() -> bool:
        """A sentinel that knows too little of the replica yet refuses, or gives up."""
        if fleet.master_port() == new.port:
            return True
        with contextlib.suppress(ResponseError), fleet.sentinel() as client:
            if "failover_in_progress" not in client.sentinel_master(MASTER_NAME)["flags"]:
                client.execute_command("SENTINEL", "FAILOVER", MASTER_NAME)
        return False
    wait_until(failed_over, what="the failover")
    assert [get(result) for result in results] == [0.05] * 60
    with new.client() as client:
        wait_until(lambda: client.exists("cworker.incarnations") and not client.llen("celery"),
                   what="the worker at the new master")
    log.stop()


def test_password_of_the_sentinels(make_app, cworker, redis):
    with Sentinels(n=1, password="se-cret") as fleet:
        app = make_app(broker=fleet.url(3), backend=redis.url(),
                       broker_transport_options=fleet.transport_options())
        worker = cworker(*fleet.worker_options(), broker=fleet.url(3), backend=redis.url())
        assert get(app.send_task("demo.add", (1, 2))) == 3
        with fleet.first.client(3) as client:
            assert client.exists("cworker.incarnations")
        done = run_cworker("-b", fleet.url(3), *fleet.worker_options(), "purge", "-f")
        assert done.returncode == 0, done
        worker.stop()
        assert "se-cret" not in worker.log


def test_replicas_that_do_not_answer(fleet, producer, worker):
    log = worker("--set", "broker_wait_replicas=1")

    def in_time() -> bool:
        """A second is little for a replica on a machine with too much to do."""
        before = log.log.count("replicas have")
        assert get(producer.send_task("demo.add", (1, 2))) == 3
        return log.log.count("replicas have") == before
    wait_until(in_time, what="an answer of the replica")
    fleet.replica().process.send_signal(signal.SIGSTOP)
    try:
        producer.send_task("demo.add", (1, 2))
        log.wait_log("0 of 1 replicas have what was written")
        assert get(producer.send_task("demo.add", (2, 2))) == 4
        log.stop()
    finally:
        fleet.second.process.send_signal(signal.SIGCONT)


def test_wrong_options():
    done = run_cworker("-b", "sentinel://127.0.0.1:1", "purge", "-f")
    assert done.returncode == 2 and "master_name" in done.stderr
    done = run_cworker("-b", "sentinel://h:1;redis://h", "--set", "master_name=m", "purge", "-f")
    assert done.returncode == 2 and "sentinel://" in done.stderr
    done = run_cworker("-b", "sentinel://:hush@127.0.0.1:1", "--set", "master_name=m", "purge", "-f")
    assert done.returncode == 69 and "no sentinel knows" in done.stderr
    assert "hush" not in done.stderr


def test_results(fleet, make_app, cworker, redis):
    """A Sentinel as result store: results, a chord that is counted there, and a failover."""
    options = json.dumps(fleet.transport_options())
    app = make_app(broker=redis.url(), backend=fleet.url(),
                   result_backend_transport_options=fleet.transport_options())
    worker = cworker("--set", f"result_backend_transport_options={options}", backend=fleet.url())
    assert get(app.send_task("demo.add", (1, 2))) == 3
    parts = [signature("demo.add", (i, 1), app=app) for i in range(3)]
    assert get(chord(parts, signature("demo.xsum", app=app), app=app).apply_async()) == 6
    done = run_cworker("-b", redis.url(), "--result-backend", fleet.url(), "--set",
                       f"result_backend_transport_options={options}", "result",
                       app.send_task("demo.add", (2, 2)).id)
    assert done.returncode in (0, 1), done
    master = fleet.master()
    master.kill()
    wait_until(lambda: fleet.master_port() != master.port, what="the failover")
    late = app.send_task("demo.add", (3, 4))
    worker.wait_log("works again after")
    fresh = make_app(broker=redis.url(), backend=fleet.url(),
                     result_backend_transport_options=fleet.transport_options())
    assert get(fresh.AsyncResult(late.id)) == 7


def test_results_of_an_unnamed_master(fleet, redis):
    done = run_cworker("-b", redis.url(), "--result-backend", fleet.url(), "worker")
    assert done.returncode == 1
    assert "a sentinel:// URL needs master_name" in done.stderr

# SPDX-License-Identifier: Apache-2.0
"""Retries, countdown, ETA and expiry."""
import time
from datetime import datetime, timedelta, timezone

import pytest
from celery.exceptions import MaxRetriesExceededError, TaskRevokedError
from harness import get, inflight, make_due, read_ledger, wait_state, wait_until


def run_time(ledger, number):
    """CLOCK_MONOTONIC, in seconds, of the run of bench.noop(number)."""
    def runs():
        return [at for first, at in read_ledger(ledger) if first == number]
    return wait_until(runs, what=f"the run of {number}")[0] / 1e9


@pytest.fixture
def ledger(tmp_path):
    return tmp_path / "ledger"


@pytest.mark.parametrize("attempts", [1, 2, 4])
def test_succeeds_at_last(backend, make_app, cworker, attempts):
    app = make_app(backend)
    worker = cworker(backend=backend)
    result = app.send_task("demo.fail_n", ("key", attempts))
    assert get(result) == attempts
    assert result.state == "SUCCESS"
    assert worker.log.count("retry: Retry in 0.1s: ValueError(") == attempts - 1


def test_gives_up_with_the_exception(app, cworker):
    worker = cworker()
    with pytest.raises(ValueError):
        get(app.send_task("demo.fail_n", ("key", 100)))
    assert worker.log.count(" retry: ") == 5


def test_gives_up_without_an_exception(app, cworker):
    worker = cworker()
    result = app.send_task("demo.retry_forever", (0.05,))
    message = f"Can't retry demo.retry_forever.{result.id}"
    with pytest.raises(MaxRetriesExceededError, match=message):
        get(result)
    assert worker.log.count(" retry: Retry in 0.05s") == 3


def test_backoff(app, cworker):
    worker = cworker()
    assert get(app.send_task("demo.backoff", (2,))) == 2
    assert worker.log.count(" retry: ") == 1


def test_state_between_attempts(backend, make_app, cworker):
    app = make_app(backend)
    cworker(backend=backend)
    result = app.send_task("demo.retry_forever", (30,))
    assert wait_state(result, "RETRY") == "RETRY"
    assert result.date_done is None


def test_retry_keeps_the_message(app, cworker, keys):
    """Its queue, arguments, headers and id; a Python worker could take it from there."""
    cworker("--set", "task_track_started=true", queues="odd")
    result = app.send_task("demo.fail_n", (), {"key": "ü", "n": 3}, queue="odd", priority=6,
                           headers={"tenant": [1, None]}, soft_time_limit=9)
    assert get(result) == 3


def test_retry_is_atomic_with_its_ack(app, cworker, keys):
    """While it waits, the message is in the delayed set only."""
    cworker()
    result = app.send_task("demo.retry_forever", (30,))
    wait_state(result, "RETRY")
    wait_until(lambda: keys.zcard("{celery}.cworker.delayed") == 1, what="a delayed message")
    wait_until(lambda: not inflight(keys), what="an empty in-flight list")
    assert keys.hlen("{celery}.cworker.delayed.msg") == 1
    assert keys.llen("celery") == 0


def test_countdown(app, cworker, ledger):
    cworker(env={"BENCH_TRACE": str(ledger)})
    begin = time.monotonic()
    app.send_task("bench.noop", (1,), countdown=0.8)
    app.send_task("bench.noop", (2,))
    assert run_time(ledger, 2)
    assert 0.8 <= run_time(ledger, 1) - begin


@pytest.mark.parametrize("zone", [timezone.utc, timezone(timedelta(hours=5, minutes=30)),
                                  timezone(timedelta(hours=-8))], ids=str)
def test_eta(app, cworker, ledger, zone):
    cworker(env={"BENCH_TRACE": str(ledger)})
    begin = time.monotonic()
    app.send_task("bench.noop", (1,), eta=datetime.now(zone) + timedelta(seconds=0.7))
    assert 0.69 <= run_time(ledger, 1) - begin


def test_eta_in_the_past(app, cworker):
    cworker()
    eta = datetime.now(timezone.utc) - timedelta(days=400)
    assert get(app.send_task("demo.add", (1, 2), eta=eta)) == 3


def test_many_waiting_tasks_do_not_fill_the_window(app, cworker, keys):
    cworker(concurrency=1)
    for i in range(100):
        app.send_task("demo.add", (i, 1), countdown=600)
    assert get(app.send_task("demo.add", (1, 2))) == 3
    wait_until(lambda: keys.zcard("{celery}.cworker.delayed") == 100, what="the delayed set")
    wait_until(lambda: not inflight(keys), what="an empty in-flight list")


def test_waiting_tasks_survive_their_worker(app, cworker, keys, ledger):
    first = cworker()
    app.send_task("bench.noop", (1,), countdown=3600)
    wait_until(lambda: keys.zcard("{celery}.cworker.delayed") == 1, what="the delayed set")
    first.kill()
    cworker(env={"BENCH_TRACE": str(ledger)})
    assert get(app.send_task("demo.add", (1, 2))) == 3 and not read_ledger(ledger)
    make_due(keys)
    assert run_time(ledger, 1)
    wait_until(lambda: not inflight(keys), what="the ack")
    assert len(read_ledger(ledger)) == 1


def test_due_tasks_run_in_order_of_their_time(app, cworker, keys, ledger):
    cworker(concurrency=1, env={"BENCH_TRACE": str(ledger)})
    begin = datetime.now(timezone.utc)
    for i in (3, 1, 2):
        app.send_task("bench.noop", (i,), eta=begin + timedelta(seconds=3600 + i))
    wait_until(lambda: keys.zcard("{celery}.cworker.delayed") == 3, what="the delayed set")
    make_due(keys)
    run_time(ledger, 3)
    assert [number for number, _ in read_ledger(ledger)] == [1, 2, 3]


@pytest.mark.parametrize("expires", [-10, datetime(2020, 1, 1, tzinfo=timezone.utc)], ids=str)
def test_expired(backend, make_app, cworker, expires):
    app = make_app(backend)
    cworker(backend=backend)
    result = app.send_task("demo.add", (1, 2), expires=expires)
    with pytest.raises(TaskRevokedError, match="expired"):
        get(result)
    assert result.state == "REVOKED"


def test_not_yet_expired(app, cworker):
    cworker()
    assert get(app.send_task("demo.add", (1, 2), expires=60)) == 3


def test_expires_while_it_waits_for_a_lane(app, cworker, keys):
    keys.hset("cworker.paused", "celery", "now")
    first = app.send_task("demo.sleep", (1.5,))
    second = app.send_task("demo.add", (1, 2), expires=1)
    cworker(concurrency=1)
    keys.delete("cworker.paused")
    with pytest.raises(TaskRevokedError):
        get(second)
    assert get(first) == 1.5

# SPDX-License-Identifier: Apache-2.0
"""Crashes, limits and kills: only the guilty task suffers, nothing is lost."""
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from billiard.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from celery import chord, signature
from celery.exceptions import ChordError
from harness import (CWORKER, TIMEOUT, count_messages, dead_letters, descendants, get, inflight, is_alive,
                     read_ledger, wait_state, wait_until)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT],
                         ids=lambda number: number.name)
def test_crash(backend, make_app, cworker, number):
    app = make_app(backend)
    cworker(backend=backend)
    result = app.send_task("demo.crash", (int(number),))
    with pytest.raises(WorkerLostError, match=f"exited prematurely: signal {int(number)}"):
        get(result)
    assert result.state == "FAILURE"
    assert get(app.send_task("demo.add", (1, 2))) == 3


@pytest.mark.skipif("address" in CWORKER, reason="AddressSanitizer maps more than any limit")
def test_limits_of_the_kernel(app, cworker):
    """A table bounds memory and CPU time of a run: beyond them the child is lost, tasks of others and
    the next ones are not."""
    cworker(concurrency=1)
    assert get(app.send_task("demo.allocate", (64,))) == 64
    with pytest.raises(WorkerLostError):
        get(app.send_task("demo.allocate", (300,)))
    with pytest.raises(WorkerLostError, match="SIGXCPU"):
        get(app.send_task("demo.burn", (20,)))
    assert get(app.send_task("demo.allocate", (64,))) == 64
    assert get(app.send_task("demo.spin", (1.2,))) == 1.2


def test_crash_harms_no_other_task(app, cworker):
    """Neighbours that the dead child had been given already are run by another."""
    cworker()
    results = []
    for i in range(100):
        if i % 10 == 5:
            results.append(app.send_task("demo.crash", (int(signal.SIGSEGV),)))
        else:
            results.append(app.send_task("demo.add", (i, 0)))
    for i, result in enumerate(results):
        value = get(result, propagate=False)
        assert isinstance(value, WorkerLostError) if i % 10 == 5 else value == i


def test_crash_with_reject_on_worker_lost(app, cworker, keys):
    """It goes back and is set aside after task_max_deliveries."""
    cworker("--set", "task_reject_on_worker_lost=true", "--set", "task_max_deliveries=3")
    result = app.send_task("demo.crash", (int(signal.SIGSEGV),))
    assert get(app.send_task("demo.add", (1, 2))) == 3
    wait_until(lambda: dead_letters(keys), what="a dead letter")
    assert get(app.send_task("demo.add", (1, 2))) == 3
    assert result.state == "FAILURE"
    assert not keys.llen("celery") and len(dead_letters(keys)) == 1


def test_what_follows_a_task_that_is_set_aside(backend, make_app, cworker, keys, tmp_path):
    """It has failed: its errback is called, and the chord that it is a part of is not waited for."""
    app = make_app(backend)
    ledger = tmp_path / "ledger"
    cworker("--set", "task_reject_on_worker_lost=true", "--set", "task_max_deliveries=2",
            "--set", "result_chord_retry_interval=0.1", backend=backend,
            env={"BENCH_TRACE": str(ledger)})
    errback = signature("bench.noop", (3,), app=app, immutable=True)
    crash = signature("demo.crash", (int(signal.SIGSEGV),), app=app)
    crash.clone().apply_async(link_error=errback)
    parts = [crash | signature("demo.add", (1, 1), app=app, immutable=True),
             signature("demo.add", (2, 2), app=app)]
    body = chord(parts, signature("demo.xsum", app=app), app=app).apply_async()
    with pytest.raises(ChordError):
        get(app.AsyncResult(body.id))
    wait_until(lambda: read_ledger(ledger), what="the errback")
    assert len(dead_letters(keys)) == 2


def test_hard_limit(backend, make_app, cworker):
    app = make_app(backend)
    worker = cworker(backend=backend)
    begin = time.monotonic()
    result = app.send_task("demo.spin", (600,), time_limit=0.5)
    with pytest.raises(TimeLimitExceeded) as raised:
        get(result)
    assert raised.value.args == (0.5,)
    assert 0.5 <= time.monotonic() - begin
    assert "Hard time limit (0.5s) exceeded for demo.spin" in worker.log
    assert get(app.send_task("demo.add", (1, 2))) == 3


def test_hard_limit_of_the_settings(app, cworker):
    cworker("--time-limit", "0.5")
    with pytest.raises(TimeLimitExceeded):
        get(app.send_task("demo.spin", (600,)))


def test_soft_limit(backend, make_app, cworker):
    app = make_app(backend)
    worker = cworker(backend=backend)
    begin = time.monotonic()
    result = app.send_task("demo.sleep", (600,), soft_time_limit=0.3)
    with pytest.raises(SoftTimeLimitExceeded):
        get(result)
    assert 0.3 <= time.monotonic() - begin
    assert "Soft time limit (0.3s) exceeded for demo.sleep" in worker.log


def test_soft_limit_may_be_ignored(app, cworker):
    cworker("--soft-time-limit", "0.2")
    assert get(app.send_task("demo.spin", (0.6,))) == 0.6


def test_limits_begin_with_the_run(app, cworker):
    """Waiting behind another task does not count."""
    cworker(concurrency=1)
    first = app.send_task("demo.sleep", (6,))
    second = app.send_task("demo.noop", time_limit=5)
    assert (get(first), get(second)) == (6, None)


def test_max_tasks_per_child(app, cworker):
    worker = cworker("--max-tasks-per-child", "5", concurrency=1)
    old = set()

    def replaced():
        """The zygote and one child, another one than before."""
        pids = set(descendants(worker.pid))
        return pids if len(pids) == 2 and pids != old else None

    for _ in range(3):
        old = wait_until(replaced, what="a fresh child")
        for i in range(4):
            assert get(app.send_task("demo.add", (i, 0))) == i
        assert set(descendants(worker.pid)) == old
        assert get(app.send_task("demo.add", (4, 0))) == 4


def test_killed_child(app, cworker):
    """A child that somebody else kills is replaced."""
    cworker("--set", "task_track_started=true", concurrency=1)
    result = app.send_task("demo.sleep", (600,))
    wait_state(result, "STARTED")
    os.kill(result.info["pid"], signal.SIGKILL)
    with pytest.raises(WorkerLostError):
        get(result)
    assert get(app.send_task("demo.add", (1, 2))) == 3


def kill_with_work(app, cworker, tmp_path, gate, **options):
    """kill -9 of a worker with a running task, prefetched ones and more in the queue."""
    ledger = tmp_path / "ledger"
    worker = cworker(*gate.options, "--set", "worker_lease=2", "--set", "task_track_started=true", concurrency=1,
                     env={"BENCH_TRACE": str(ledger)}, **options)
    running = app.send_task("gate")
    wait_state(running, "STARTED")
    for i in range(20):
        app.send_task("bench.noop", (i,))
    children = descendants(worker.pid)
    worker.kill()
    wait_until(lambda: not any(map(is_alive, children)), what="the end of all children")
    assert not Path(f"/dev/shm/mongoc-{worker.pid}").exists(), "libmongoc's counters are left"
    return running, ledger


def test_kill_main_second_worker_takes_over(backend, make_app, cworker, keys, tmp_path, gate):
    app = make_app(backend)
    running, ledger = kill_with_work(app, cworker, tmp_path, gate, backend=backend)
    assert inflight(keys)
    gate.open()
    cworker(*gate.options, "--set", "worker_lease=2", backend=backend, env={"BENCH_TRACE": str(ledger)})
    assert get(running) is None
    wait_until(lambda: len(read_ledger(ledger)) >= 20, what="all runs")
    assert Counter(number for number, _ in read_ledger(ledger)) == Counter(range(20))
    wait_until(lambda: not inflight(keys), what="an empty in-flight list")


def test_a_live_worker_rescues(app, cworker, keys, gate):
    """The rescuer was there all the time, on another queue as well."""
    options = (*gate.options, "--set", "worker_lease=2")
    cworker(*options, queues="other,celery", concurrency=1, name="rescuer@test")
    blocker = app.send_task("gate")
    results = [app.send_task("demo.add", (i, 0)) for i in range(10)]
    victim = cworker(*options)
    wait_until(lambda: any(result.state == "SUCCESS" for result in results), what="the victim's work")
    more = [app.send_task("gate") for _ in range(8)]
    wait_until(lambda: len(inflight(keys)) > 4, what="more tasks in flight than the rescuer can hold")
    victim.kill()
    gate.open()
    assert [get(result) for result in (blocker, *more)] == [None] * 9
    assert [get(result) for result in results] == list(range(10))


def test_paused_longer_than_its_lease(app, cworker, keys, gate):
    """What it had fetched is begun when the lease is back, though nothing else happens then."""
    worker = cworker(*gate.options, "--set", "worker_lease=1", "--set", "task_track_started=true",
                     concurrency=1)
    first = app.send_task("gate")
    wait_state(first, "STARTED")
    more = [app.send_task("demo.sleep", (0.01 * i,)) for i in range(3)]
    wait_until(lambda: len(inflight(keys)) == 4, what="all to be fetched")
    worker.signal(signal.SIGSTOP)
    gate.open()
    wait_until(lambda: not keys.keys("cworker.lease.*"), what="the end of the lease")
    worker.signal(signal.SIGCONT)
    assert [get(result) for result in (first, *more)] == [None, 0.0, 0.01, 0.02]
    wait_until(lambda: not inflight(keys), what="all acks")


def test_solo_lives_while_its_task_runs(app, cworker, keys):
    """One process a pod, as many run Celery: nobody takes a task that lasts longer than the lease, and
    the worker answers."""
    options = ("-P", "solo", "--set", "worker_lease=1")
    worker = cworker(*options, "--set", "task_track_started=true", concurrency=1)
    result = app.send_task("demo.spin", (8.0,))
    wait_state(result, "STARTED")
    other = cworker(*options, concurrency=1)
    assert app.control.ping(timeout=TIMEOUT, destination=["w1@test"]) == [{"w1@test": {"ok": "pong"}}]
    active, = app.control.inspect(["w1@test"], timeout=TIMEOUT).active()["w1@test"]
    assert (active["id"], active["worker_pid"]) == (result.id, worker.pid)
    assert get(app.send_task("demo.add", (1, 2))) == 3
    assert get(result) == 8.0
    assert result.id not in other.log
    wait_until(lambda: not inflight(keys), what="an empty in-flight list")


def test_solo_waits_for_what_it_cannot_end(app, cworker, keys):
    """A cold stop asks the task to end, which goes back; one that does not look ends by itself."""
    worker = cworker("-P", "solo", "--set", "task_track_started=true", concurrency=1)
    asked = app.send_task("demo.sleep", (600,))
    wait_state(asked, "STARTED")
    worker.signal(signal.SIGQUIT)
    assert worker.wait() == 0
    assert count_messages(keys) == 1
    keys.delete("celery")

    worker = cworker("-P", "solo", "--set", "task_track_started=true", concurrency=1)
    deaf = app.send_task("demo.spin", (2.0,))
    wait_state(deaf, "STARTED", "SUCCESS")
    worker.signal(signal.SIGQUIT)
    assert worker.wait() == 0
    assert (deaf.state, count_messages(keys), inflight(keys)) == ("SUCCESS", 0, [])


def test_restarted_worker_takes_its_own_back_at_once(app, cworker, keys):
    """Long before the lease has lapsed: the same host can prove the death."""
    options = ("--set", "task_track_started=true", "--set", "worker_lease=3600")
    worker = cworker(*options, concurrency=1, name="same@test")
    running = app.send_task("demo.sleep", (2,))
    wait_state(running, "STARTED", "SUCCESS")
    others = [app.send_task("demo.add", (i, 0)) for i in range(5)]
    worker.kill()
    cworker(concurrency=1, name="same@test")
    assert get(running) == 2
    assert [get(result) for result in others] == list(range(5))


@pytest.mark.parametrize("round_", range(3))
def test_kill_storm(app, cworker, keys, tmp_path, round_):
    """Every task ends although its worker is killed again and again."""
    results = [app.send_task("demo.sleep", (0.01,)) for _ in range(200)]
    done = 0
    for _ in range(3):
        worker = cworker("--set", "worker_lease=2", name="storm@test")
        wait_until(lambda: sum(r.state == "SUCCESS" for r in results) >= min(done + 1, 200), what="progress")
        worker.kill()
        done = sum(result.state == "SUCCESS" for result in results)
    cworker("--set", "worker_lease=2", name="storm@test")
    assert [get(result) for result in results] == [0.01] * 200
    wait_until(lambda: not count_messages(keys), what="empty queues")


@pytest.mark.parametrize("ignored", [False, True])
def test_a_task_of_which_workers_die_is_set_aside(app, cworker, keys, tmp_path, ignored):
    """After task_max_deliveries; its neighbours, held as often, run."""
    ledger = tmp_path / "ledger"
    poison = app.send_task("demo.sleep", (600,), ignore_result=ignored)
    for i in range(6):
        app.send_task("bench.noop", (i,))

    def start():
        return cworker("--set", "task_max_deliveries=3", "--prefetch-multiplier", 8, concurrency=1,
                       env={"BENCH_TRACE": str(ledger)})

    def marks():
        return {field.partition(b"/")[0].decode(): value.partition(b" ")[2]
                for field, value in keys.hgetall("{celery}.cworker.outbox").items()}

    def lists():
        return set(keys.keys("*.cworker.inflight.*"))

    for mark in ({}, {poison.id: b'{"starts": 1}'}, {poison.id: b'{"starts": 2}'}):
        dead = lists()
        worker = start()
        wait_until(lambda dead=dead: [keys.llen(key) for key in lists() - dead] == [7], what="all held")
        wait_until(lambda: marks() == mark, what="the mark of its start")
        children = descendants(worker.pid)
        worker.kill()
        wait_until(lambda: not any(map(is_alive, children)), what="the end of all children")
    start()
    wait_until(lambda: len(read_ledger(ledger)) == 6, what="the neighbours' runs")
    wait_until(lambda: not inflight(keys), what="all acks")
    [letter] = dead_letters(keys)
    assert letter["reason"] == "its workers died too often (task_max_deliveries is 3)"
    assert not keys.exists("{celery}.cworker.outbox")
    if not ignored:
        with pytest.raises(WorkerLostError, match="its workers died too often"):
            get(poison)

# SPDX-License-Identifier: Apache-2.0
"""Queues paused for the whole fleet: the hash cworker.paused in Redis."""
from harness import get, inflight, make_due, run_cworker, wait_until


def paused(worker, queue="celery"):
    wait_until(lambda: f"queue {queue} is paused" in worker.log, what="the pause")


def test_pause_and_resume(app, cworker, keys):
    """Two workers that run and one that starts later; another queue goes on."""
    workers = [cworker(queues="celery,other"), cworker(queues="celery,other")]
    assert get(app.send_task("demo.add", (1, 1))) == 2
    keys.hset("cworker.paused", "celery", "now")
    for worker in workers:
        paused(worker)
    results = [app.send_task("demo.add", (i, 1)) for i in range(20)]
    delayed = app.send_task("demo.add", (5, 5), countdown=0.2)
    paused(cworker(queues="celery,other"))
    assert get(app.send_task("demo.add", (2, 2), queue="other")) == 4
    assert keys.llen("celery") == 21 and not inflight(keys)
    assert not delayed.ready()
    broker = f"redis+socket://{keys.connection_pool.connection_kwargs['path']}"
    table = run_cworker("-b", broker, "queues").stdout.splitlines()
    assert [line.split()[0] for line in table if line.endswith("(paused)")] == ["celery"]
    keys.hdel("cworker.paused", "celery")
    assert [get(result) for result in results] == [i + 1 for i in range(20)]
    assert get(delayed) == 10
    for worker in workers:
        worker.wait_log("queue celery is resumed")


def test_pause_with_a_prefix(app, make_app, cworker, keys):
    prefixed = make_app(broker_transport_options={"global_keyprefix": "p."})
    keys.hset("p.cworker.paused", "celery", "now")
    worker = cworker("--set", "global_keyprefix=p.")
    paused(worker)
    result = prefixed.send_task("demo.add", (1, 2))
    wait_until(lambda: keys.llen("p.celery") == 1)
    keys.delete("p.cworker.paused")
    assert get(result) == 3


def test_delayed_tasks_come_due_while_paused(app, cworker, keys):
    """They wait in their queue, and run when it goes on."""
    worker = cworker()
    result = app.send_task("demo.add", (1, 2), countdown=3600)
    wait_until(lambda: keys.zcard("{celery}.cworker.delayed") == 1, what="the delayed task")
    keys.hset("cworker.paused", "celery", "now")
    paused(worker)
    make_due(keys)
    wait_until(lambda: keys.llen("celery") == 1, what="its promotion")
    assert not result.ready() and not inflight(keys)
    keys.delete("cworker.paused")
    assert get(result) == 3

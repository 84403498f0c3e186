# SPDX-License-Identifier: Apache-2.0
"""kill -9 at each step between a task's end and its ack: what succeeded does not run again, and what
it causes is sent exactly once."""
import json
import signal
from collections import Counter
from datetime import datetime, timedelta, timezone

import pytest
from celery import chain, chord, signature
from harness import (count_messages, cut_off, get, inflight, make_message, read_ledger, run_cworker,
                     wait_state, wait_until)

from services.proxy import Proxy

ACK = b"LREM"
ACK_WITH_EFFECTS = b"\r\n$4\r\ntext\r\n"
RECORD = b"\r\n$4\r\nheld\r\n"
STORE = b"SUCCESS"
COMPLETED = "Task already completed successfully."
KEPT = "had ended while the result store was down"


@pytest.fixture
def proxy(redis):
    with Proxy(redis.port) as proxy:
        yield proxy


@pytest.fixture
def ledger(tmp_path):
    return tmp_path / "ledger"


def wait_known(worker):
    """It has found that the task had ended. Where the store took a second to write, its end was kept too."""
    wait_until(lambda: COMPLETED in worker.log or KEPT in worker.log, what="the end that was found")


def runs(ledger):
    return Counter(number for number, _ in read_ledger(ledger))


class Crash:
    """A worker whose bytes to the broker stop where the test says, and its successor."""

    def __init__(self, cworker, proxy, ledger, keys, backend):
        self.cworker, self.proxy, self.keys = cworker, proxy, keys
        self.backend, self.redis_url = backend, f"redis://127.0.0.1:{proxy.target}/0"
        self.options = {"backend": backend, "env": {"BENCH_TRACE": str(ledger)}}
        self.url = f"redis://127.0.0.1:{proxy.port}/0"

    def at(self, wanted, send, *, stored=True):
        """Ends the worker as it is about to send `wanted`; what send() returned."""
        worker = self.cworker(broker=self.url, concurrency=1, **self.options)
        self.proxy.hold(wanted)
        result = send()
        self.proxy.wait_held()
        if stored:
            wait_state(result, "SUCCESS")
        assert len(inflight(self.keys)) == 1
        worker.kill()
        return result

    def hand_back(self, status=0, backend=None):
        """The fleet goes back to Celery's workers: what `cworker recover` says."""
        for lease in self.keys.scan_iter("cworker.lease.*"):
            self.keys.delete(lease)
        done = run_cworker("-b", self.redis_url, "--result-backend", backend or self.backend,
                           "recover")
        assert done.returncode == status, done
        if status == 0:
            assert not self.keys.keys("*cworker*")
        return done.stdout + done.stderr

    def recover(self):
        worker = self.cworker(**self.options)
        wait_until(lambda: not count_messages(self.keys), what="the end")
        assert not self.keys.keys("*.cworker.outbox")
        return worker


@pytest.fixture
def crash(cworker, proxy, ledger, keys, backend):
    return Crash(cworker, proxy, ledger, keys, backend)


@pytest.fixture
def app(make_app, backend):
    return make_app(backend)


def test_success_is_not_run_again(app, crash, ledger):
    result = crash.at(ACK, lambda: app.send_task("bench.noop", (1,)))
    worker = crash.recover()
    wait_known(worker)
    assert runs(ledger) == {1: 1}
    assert result.state == "SUCCESS"


def test_next_step_of_a_chain_is_sent_once(app, crash, ledger):
    steps = chain(signature("bench.noop", (1,), app=app),
                  signature("bench.noop", (2,), app=app, immutable=True),
                  signature("bench.noop", (3,), app=app, immutable=True))
    last = []
    crash.at(ACK_WITH_EFFECTS, lambda: last.append(steps.apply_async()) or last[0].parent.parent)
    crash.recover()
    get(last[0])
    assert runs(ledger) == {1: 1, 2: 1, 3: 1}


def test_chain_goes_on_with_the_stored_result(app, crash):
    steps = chain(signature("demo.add", (2**64, 1), app=app), signature("demo.add", (1,), app=app))
    last = []
    crash.at(ACK_WITH_EFFECTS, lambda: last.append(steps.apply_async()) or last[0].parent)
    crash.recover()
    assert get(last[0]) == 2**64 + 2


def test_callbacks_are_sent_once_under_the_ids_that_are_stored(app, crash, ledger):
    links = [signature("bench.noop", (n,), app=app, immutable=True) for n in (2, 3)]
    result = crash.at(ACK_WITH_EFFECTS, lambda: app.send_task("bench.noop", (1,), link=links))
    (group,) = result.children
    children = {child.id for child in group}
    crash.recover()
    wait_until(lambda: len(read_ledger(ledger)) >= 3, what="the callbacks")
    assert runs(ledger) == {1: 1, 2: 1, 3: 1}
    assert len(children) == 2
    for child in children:
        wait_state(app.AsyncResult(child), "SUCCESS")


def test_what_a_task_revokes_is_not_forgotten(app, crash):
    crash.at(ACK_WITH_EFFECTS, lambda: app.send_task("demo.revoke", ("victim",)))
    wait_state(app.AsyncResult("victim"), "REVOKED")
    crash.recover()


def send_child(app):
    return app.send_task("demo.send", ("bench.noop", [7]))


def test_what_a_task_sent_is_sent_once(app, crash, ledger):
    result = crash.at(ACK_WITH_EFFECTS, lambda: send_child(app))
    child = get(result)
    assert not runs(ledger)
    worker = crash.recover()
    wait_known(worker)
    wait_state(app.AsyncResult(child), "SUCCESS")
    assert runs(ledger) == {7: 1}


def test_killed_before_the_record(app, crash, ledger):
    """Nothing was stored: it runs again, and sends once."""
    result = crash.at(RECORD, lambda: send_child(app), stored=False)
    assert result.state == "PENDING"
    crash.recover()
    get(result)
    wait_until(lambda: read_ledger(ledger), what="the child's run")
    assert runs(ledger) == {7: 1}


def test_killed_between_record_and_store(make_app, cworker, redis_backend, proxy, keys, ledger):
    app = make_app(redis_backend)
    slow = f"redis://127.0.0.1:{proxy.port}/0"
    worker = cworker(backend=slow, concurrency=1, env={"BENCH_TRACE": str(ledger)})
    proxy.hold(STORE)
    result = send_child(app)
    proxy.wait_held()
    assert keys.hlen("{celery}.cworker.outbox") == 1
    worker.kill()
    worker = cworker(env={"BENCH_TRACE": str(ledger)})
    get(result)
    wait_until(lambda: not inflight(keys), what="the ack")
    wait_until(lambda: read_ledger(ledger), what="the child's run")
    assert COMPLETED not in worker.log
    assert runs(ledger) == {7: 1}
    wait_until(lambda: not keys.keys("*.cworker.outbox"), what="the record's end")


def test_ten_thousand_sends_survive(make_app, mongo_backend, cworker, proxy, keys, ledger):
    """As one record and one step."""
    app = make_app(mongo_backend)
    crash = Crash(cworker, proxy, ledger, keys, mongo_backend)
    crash.at(ACK_WITH_EFFECTS, lambda: app.send_task("demo.send_many", (10000, "elsewhere")))
    cworker(backend=mongo_backend)
    wait_until(lambda: keys.llen("elsewhere"), what="the children")
    assert keys.llen("elsewhere") == 10000
    wait_until(lambda: not keys.exists("{celery}.cworker.outbox"), what="the record's end")


def redelivered(app, keys, **options):
    """A message with the mark, and its id; nothing of it is stored yet."""
    message = make_message(app, keys, "bench.noop", (5,), **options)
    message["headers"]["redelivered"] = True
    message["properties"]["delivery_info"]["redelivered"] = True
    return message


@pytest.mark.parametrize("state, count", [("SUCCESS", 0), ("REVOKED", 0), ("FAILURE", 1),
                                          ("RETRY", 1), ("STARTED", 1), (None, 1)])
def test_the_stored_state_decides(app, cworker, backend, keys, ledger, state, count):
    message = redelivered(app, keys)
    task_id = message["headers"]["id"]
    if state:
        app.backend.store_result(task_id, ValueError("x") if state in ("FAILURE", "RETRY") else None,
                                 state)
    keys.lpush("celery", json.dumps(message))
    cworker(backend=backend, concurrency=1, env={"BENCH_TRACE": str(ledger)})
    get(app.send_task("bench.noop", (6,)))
    wait_until(lambda: not inflight(keys), what="the ack")
    assert runs(ledger) == Counter({5: count, 6: 1})
    assert app.AsyncResult(task_id).state == ("SUCCESS" if count else state)


def test_ignored_results_run_again(app, cworker, backend, keys, ledger):
    message = redelivered(app, keys, ignore_result=True)
    app.backend.store_result(message["headers"]["id"], None, "SUCCESS")
    keys.lpush("celery", json.dumps(message))
    cworker(backend=backend, env={"BENCH_TRACE": str(ledger)})
    wait_until(lambda: runs(ledger) == {5: 1}, what="the run")


def test_errback_of_a_result_that_cannot_be_stored(make_app, cworker, mongo_backend, keys, ledger):
    """What was recorded belongs to the success that it is not."""
    app = make_app(mongo_backend)
    errback = signature("bench.noop", (3,), app=app, immutable=True)
    app.send_task("demo.text", (17 << 20,), queue="template", link_error=errback)
    message = json.loads(keys.rpop("template"))
    message["headers"]["redelivered"] = True
    message["properties"]["delivery_info"] |= {"redelivered": True, "routing_key": "celery"}
    keys.lpush("celery", json.dumps(message))
    cworker(backend=mongo_backend, env={"BENCH_TRACE": str(ledger)})
    wait_state(app.AsyncResult(message["headers"]["id"]), "FAILURE")
    wait_until(lambda: runs(ledger) == {3: 1}, what="the errback")
    wait_until(lambda: not keys.exists("{celery}.cworker.outbox"), what="the record's end")


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGQUIT])
def test_a_mark_keeps_what_was_sent(app, cworker, backend, keys, ledger, end):
    """An earlier worker was only paused when the next one began, and stores its SUCCESS yet."""
    child = make_message(app, keys, "bench.noop", (7,))
    message = make_message(app, keys, "demo.sleep", (60,))
    message["properties"]["delivery_info"]["redelivered"] = message["headers"]["redelivered"] = True
    task_id = message["headers"]["id"]
    field = task_id + "/" + message["properties"]["delivery_tag"]
    row = {"queue": "celery", "priority": 0, "due": None, "id": "child", "text": json.dumps(child)}
    keys.hset("{celery}.cworker.outbox", field, "2 " + json.dumps({"sends": [row]}))
    keys.lpush("celery", json.dumps(message))
    options = {"backend": backend, "concurrency": 1, "env": {"BENCH_TRACE": str(ledger)}}
    worker = cworker(**options)
    wait_until(lambda: b"starts" in keys.hget("{celery}.cworker.outbox", field), what="the mark")
    worker.signal(end)
    worker.wait()
    app.backend.store_result(task_id, None, "SUCCESS")
    cworker(**options).wait_log(COMPLETED)
    wait_until(lambda: runs(ledger) == {7: 1}, what="what was sent")
    wait_until(lambda: not inflight(keys), what="the acks")
    assert not keys.exists("{celery}.cworker.outbox")


def test_gone_before_its_start_is_marked(make_app, cworker, redis_backend, keys, ledger, gate):
    """Somebody else has got it, and the next comparison with Redis must not meet it again."""
    app = make_app(redis_backend)
    worker = cworker(*gate.options, "--set", "task_track_started=true", backend=redis_backend, concurrency=1,
                     env={"BENCH_TRACE": str(ledger)})
    running = app.send_task("gate")
    wait_state(running, "STARTED")
    keys.lpush("celery", json.dumps(redelivered(app, keys)))
    wait_until(lambda: len(inflight(keys)) == 2, what="both in flight")
    [held] = keys.scan_iter("*.cworker.inflight.*")
    assert keys.lpop(held)
    gate.open()
    get(running)
    get(app.send_task("demo.add", (1, 2)))
    cut_off(keys)
    worker.wait_log("Trying to re-establish the connection")
    assert get(app.send_task("demo.add", (1, 2))) == 3
    assert not runs(ledger)


def test_expired_meanwhile_is_still_a_success(app, crash, keys, ledger):
    """Its callback is due although the message is too late to be run."""
    link = signature("bench.noop", (2,), app=app, immutable=True)
    result = crash.at(ACK_WITH_EFFECTS, lambda: app.send_task("bench.noop", (1,), link=link, expires=600))
    (held,) = keys.scan_iter("*.cworker.inflight.*")
    message = json.loads(keys.lpop(held))
    message["headers"]["expires"] = (datetime.now(timezone.utc) - timedelta(seconds=1)).isoformat()
    keys.lpush(held, json.dumps(message))
    crash.recover()
    wait_until(lambda: runs(ledger) == {1: 1, 2: 1}, what="the callback")
    assert result.state == "SUCCESS"


# --- handed back to Celery's workers, which look at no stored result --------------------------------


ENDED = "Gave back 0 messages in flight and 0 delayed.\n1 more had ended"


def queued(keys, queue="celery"):
    return [json.loads(text)["headers"]["id"] for text in keys.lrange(queue, 0, -1)]


def test_recover_publishes_what_a_task_sent(app, crash, keys):
    result = crash.at(ACK_WITH_EFFECTS, lambda: send_child(app))
    assert ENDED in crash.hand_back()
    assert queued(keys) == [get(result)]


def test_recover_publishes_the_next_step(app, crash, keys):
    steps = chain(signature("bench.noop", (1,), app=app), signature("bench.noop", (2,), app=app))
    last = []
    crash.at(ACK_WITH_EFFECTS, lambda: last.append(steps.apply_async()) or last[0].parent)
    assert ENDED in crash.hand_back()
    assert queued(keys) == [last[0].id]


def test_recover_acks_what_has_ended(app, crash, keys):
    crash.at(ACK, lambda: app.send_task("bench.noop", (1,)))
    assert ENDED in crash.hand_back()
    assert queued(keys) == []


def test_recover_gives_back_what_has_not_ended(app, crash, keys):
    result = crash.at(RECORD, lambda: send_child(app), stored=False)
    assert "Gave back 1 message in flight" in crash.hand_back()
    assert queued(keys) == [result.id]
    assert json.loads(keys.lindex("celery", 0))["headers"]["redelivered"] is True


def test_recover_finds_what_is_in_its_queue_again(app, crash, keys):
    """A worker gave it back and ended before anyone took it."""
    result = crash.at(ACK_WITH_EFFECTS, lambda: send_child(app))
    (held,) = keys.keys("*.cworker.inflight.*")
    keys.lmove(held, "celery", "LEFT", "RIGHT")
    for _ in range(1500):
        keys.lpush("celery", json.dumps(make_message(app, keys, "bench.noop", (9,))))
    assert ENDED in crash.hand_back()
    assert queued(keys)[0] == get(result) and keys.llen("celery") == 1501


def test_recover_without_the_store_gives_nothing_back(app, crash, keys, tmp_path):
    crash.at(ACK_WITH_EFFECTS, lambda: send_child(app))
    nobody = "redis://127.0.0.1:1/0" if crash.backend.startswith("redis") else \
        "mongodb://127.0.0.1:1/none?serverSelectionTimeoutMS=300"
    assert "the result store does not answer" in crash.hand_back(69, nobody)
    assert keys.llen("celery") == 0 and len(inflight(keys)) == 1
    assert ENDED in crash.hand_back()
    assert keys.llen("celery") == 1


# --- records of a later version of cworker ----------------------------------------------------------


def test_a_later_record_is_put_off(app, cworker, backend, keys, ledger):
    """Only a later worker can publish it: not met again at once, said once, and others are not kept."""
    messages = [redelivered(app, keys) for _ in range(2)]
    for message in messages:
        app.backend.store_result(message["headers"]["id"], None, "SUCCESS")
        keys.hset("{celery}.cworker.outbox", message["headers"]["id"] + "/" +
                  message["properties"]["delivery_tag"], "3 {what}")
        keys.lpush("celery", json.dumps(message))
    worker = cworker(backend=backend, concurrency=1, env={"BENCH_TRACE": str(ledger)})
    get(app.send_task("bench.noop", (6,)))
    wait_until(lambda: keys.zcard("{celery}.cworker.delayed") == 2, what="both put off")
    wait_until(lambda: not inflight(keys), what="an empty list")
    assert worker.log.count("in a later version of cworker") == 1
    assert runs(ledger) == {6: 1}
    soonest = keys.zrange("{celery}.cworker.delayed", 0, 0, withscores=True)[0][1] / 1e6
    assert soonest > datetime.now(timezone.utc).timestamp() + 30
    assert keys.hlen("{celery}.cworker.outbox") == 2
    # One whose record it can read, as the later worker might have left it, is published.
    keys.hset("{celery}.cworker.outbox", mapping={
        field: '2 {"sends": []}' for field in keys.hkeys("{celery}.cworker.outbox")})
    keys.zadd("{celery}.cworker.delayed",
              {member: 0 for member in keys.zrange("{celery}.cworker.delayed", 0, -1)})
    wait_until(lambda: not keys.keys("*.cworker.outbox") and not inflight(keys), what="the acks")
    assert runs(ledger) == {6: 1}


def test_an_earlier_record_is_published(app, cworker, backend, keys, ledger):
    """Its worker died after the task had ended, and its successor is of this version."""
    child = make_message(app, keys, "bench.noop", (7,))
    message = redelivered(app, keys)
    task_id = message["headers"]["id"]
    field = task_id + "/" + message["properties"]["delivery_tag"]
    row = {"queue": "celery", "priority": 0, "due": None, "id": "child", "text": json.dumps(child)}
    app.backend.store_result(task_id, None, "SUCCESS")
    keys.hset("{celery}.cworker.outbox", field, "1 " + json.dumps([row]))
    keys.lpush("celery", json.dumps(message))
    cworker(backend=backend, env={"BENCH_TRACE": str(ledger)})
    wait_until(lambda: runs(ledger) == {7: 1}, what="what was sent")
    wait_until(lambda: not inflight(keys) and not keys.exists("{celery}.cworker.outbox"),
               what="the acks")


def test_later_delayed_entries_and_workers_are_left(app, cworker, backend, keys):
    keys.zadd("{celery}.cworker.delayed", {"id/1": 1})
    keys.hset("{celery}.cworker.delayed.msg", "id/1", "2 what")
    keys.hset("cworker.incarnations", "later", json.dumps({"v": 2, "lists": "?"}))
    worker = cworker(backend=backend)
    worker.wait_log("a later version of cworker uses this Redis")
    assert get(app.send_task("demo.add", (1, 2), countdown=0.2)) == 3
    assert keys.hget("{celery}.cworker.delayed.msg", "id/1") == b"2 what"
    assert keys.hexists("cworker.incarnations", "later")
    assert worker.log.count("a later version") == 1
    keys.hdel("cworker.incarnations", "later")


def test_recover_counts_the_part_of_a_chord(make_app, redis_backend, cworker, proxy, keys, ledger,
                                            python_worker):
    """A Python worker runs the other part and the body."""
    app = make_app(redis_backend)
    crash = Crash(cworker, proxy, ledger, keys, redis_backend)
    parts = [signature("bench.noop", (1,), app=app),
             signature("demo.add", (2, 3), app=app, queue="later")]
    sent = []

    def send():
        sent.append(chord(parts, signature("demo.echo", app=app), app=app).apply_async())
        return sent[0].parent.results[0]

    crash.at(ACK, send)
    assert ENDED in crash.hand_back()
    python_worker("-Q", "celery,later")
    assert get(sent[0])["args"] == [[None, 5]]


def test_a_stored_result_that_cannot_be_read(make_app, redis_backend, cworker, keys, ledger):
    """Of a Python worker with another serializer, say: nobody knows whether it has succeeded."""
    app = make_app(redis_backend)
    message = redelivered(app, keys)
    task_id = message["headers"]["id"]
    keys.set(f"celery-task-meta-{task_id}", b"\x80\x05pickled")
    keys.lpush("celery", json.dumps(message))
    worker = cworker(backend=redis_backend, env={"BENCH_TRACE": str(ledger)})
    wait_until(lambda: runs(ledger) == {5: 1}, what="the run")
    wait_until(lambda: not inflight(keys), what="the ack")
    assert app.AsyncResult(task_id).state == "SUCCESS"
    assert "cannot be read" in worker.log


def test_a_worker_without_the_task_leaves_its_record(make_app, redis_backend, cworker, keys):
    """Who has the task publishes it when the dead letter is put back."""
    app = make_app(redis_backend)
    message = make_message(app, keys, "no.such")
    message["properties"]["delivery_info"]["redelivered"] = message["headers"]["redelivered"] = True
    field = message["headers"]["id"] + "/" + message["properties"]["delivery_tag"]
    keys.hset("{celery}.cworker.outbox", field, '2 {"sends": []}')
    keys.lpush("celery", json.dumps(message))
    cworker(backend=redis_backend)
    wait_until(lambda: keys.llen("{celery}.cworker.dead") == 1, what="the dead letter")
    assert keys.hexists("{celery}.cworker.outbox", field)

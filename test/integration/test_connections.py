# SPDX-License-Identifier: Apache-2.0
"""Every way to reach Redis and MongoDB, and servers that come late or go away."""
import re
import subprocess
from datetime import datetime, timedelta

import pytest
from celery import chain, signature
from harness import CWORKER, cut_off, get, run_cworker, wait_state, wait_until

from services.mongo import MongoServer
from services.process import free_port
from services.redis import RedisServer


def check(app, worker_url, cworker, **options):
    worker = cworker(broker=worker_url, backend=worker_url, **options)
    assert get(app.send_task("demo.add", (1, 2))) == 3
    return worker


def test_unix_socket(make_app, cworker, redis):
    app = make_app(redis.url(), redis.url())
    check(app, redis.socket_url(), cworker)


@pytest.mark.parametrize("options", [
    {"password": "p@ss/w:rd %"}, {"user": "alice", "password": "s3cret#?"}, {"tls": True},
    {"tls": True, "password": "both"}], ids=["password", "ACL user", "TLS", "TLS and password"])
def test_login(make_app, cworker, options):
    with RedisServer(**options) as server:
        app = make_app(server.url(), server.url())
        worker = check(app, server.url(), cworker)
        worker.stop()
        password = options.get("password")
        assert not password or password not in worker.log


def test_socket_with_password(make_app, cworker):
    with RedisServer(password="secret") as server:
        check(make_app(server.url(), server.url()), server.socket_url(), cworker)


def test_wrong_password_is_told(cworker):
    with RedisServer(password="right") as server:
        worker = cworker(broker=server.url().replace("right", "wrong"), ready=False)
        worker.wait_log("WRONGPASS")
        assert ":wrong@" not in worker.log


def test_unknown_certificate_is_refused(cworker):
    with RedisServer(tls=True) as server:
        url = server.url().partition("?")[0]
        worker = cworker(broker=url, ready=False)
        worker.wait_log("certificate")
        assert "ready." not in worker.log


def test_certificate_check_can_be_switched_off(make_app, cworker):
    with RedisServer(tls=True) as server:
        url = server.url().partition("?")[0] + "?ssl_cert_reqs=none"
        check(make_app(server.url(), server.url()), url, cworker)


def test_database_number(make_app, cworker, redis):
    check(make_app(redis.url(7), redis.url(7)), redis.url(7), cworker)
    with redis.client(0) as zero, redis.client(7) as seven:
        assert zero.dbsize() == 0 and seven.dbsize() > 0


def test_key_prefix(make_app, cworker, redis, keys):
    options = {"global_keyprefix": "shop:"}
    app = make_app(broker_transport_options=options, result_backend_transport_options=options)
    cworker("--set", "global_keyprefix=shop:",
            "--set", 'result_backend_transport_options={"global_keyprefix": "shop:"}')
    assert get(app.send_task("demo.add", (1, 2))) == 3
    assert all(key.startswith(b"shop:") for key in keys.scan_iter("*"))


def test_redis_starts_after_the_worker(make_app, cworker):
    server = RedisServer(port=free_port())
    try:
        worker = cworker(broker=server.url(), backend=server.url(), ready=False)
        worker.wait_log(f"127.0.0.1:{server.port}")
        server.start()
        assert get(make_app(server.url(), server.url()).send_task("demo.add", (1, 2))) == 3
        worker.stop()
    finally:
        server.close()


def test_worker_without_redis_can_be_stopped(cworker):
    worker = cworker(broker="redis://127.0.0.1:1/0", backend="disabled://", ready=False)
    worker.wait_log("127.0.0.1:1")
    worker.stop()


@pytest.mark.parametrize("setting", ["broker_connection_retry_on_startup=false",
                                     "broker_connection_max_retries=1"])
def test_gives_up_at_the_start(cworker, setting):
    worker = cworker("--set", setting, broker="redis://127.0.0.1:1/0", ready=False)
    assert worker.wait() == 1
    assert f"giving up, as {setting.partition('=')[0]} says" in worker.log


def test_gives_up_when_redis_goes(cworker):
    with RedisServer() as server:
        worker = cworker("--set", "broker_connection_retry=false", broker=server.url(),
                         backend="disabled://")
        server.kill()
        assert worker.wait() == 1


def test_mongo_starts_after_the_worker(make_app, cworker):
    server = MongoServer(private=True)
    try:
        worker = cworker(backend=server.url("late"))
        app = make_app(server.url("late"))
        result = app.send_task("demo.add", (1, 2))
        worker.wait_log("received")
        server.start()
        assert get(result) == 3
    finally:
        server.close()


def test_redis_restarts_while_tasks_are_queued(make_app, cworker):
    """With AOF: whatever was queued, running or prefetched when Redis was killed ends once."""
    with RedisServer(aof=True) as server:
        app = make_app(server.url(), server.url())
        worker = cworker(broker=server.url(), backend=server.url())
        results = [app.send_task("demo.sleep", (0.02,)) for _ in range(200)]
        worker.wait_log("succeeded")
        server.kill()
        server.start()
        with server.client() as client:
            def ended():
                return len(list(client.scan_iter("celery-task-meta-*", count=1000))) == 200
            wait_until(ended, what="all results")
            wait_until(lambda: not client.llen("celery"), what="an empty queue")
            # A fresh client: the one that sent lost its subscriptions with the old server.
            fresh = make_app(server.url(), server.url())
            assert {fresh.AsyncResult(result.id).state for result in results} == {"SUCCESS"}
        worker.stop()


def test_connection_is_cut(app, cworker, keys):
    """CLIENT KILL of every connection, again and again."""
    worker = cworker()
    results = []
    for round_ in range(3):
        results += [app.send_task("demo.sleep", (0.01,)) for _ in range(30)]
        cut_off(keys)
        wait_until(lambda round_=round_: worker.log.count("Connected to") >= round_ + 2,
                   what="another connection")
    keys_left = [result.id for result in results]
    wait_until(lambda: all(keys.exists(f"celery-task-meta-{i}") for i in keys_left), what="results")
    assert worker.process.poll() is None


def test_report_needs_no_server():
    assert run_cworker("-b", "redis://127.0.0.1:1/0", "report").returncode == 0


@pytest.mark.parametrize("options, told", [
    ((), "WARNING/MainProcess] Redis keeps nothing on disk"),
    (("--save", "60 1"), "a crash of it loses what came since its last snapshot (save 60 1)"),
    (("--appendonly", "yes"), "INFO/MainProcess] Redis syncs its append-only file every second"),
    (("--appendonly", "yes", "--appendfsync", "always"), None)])
def test_what_a_crash_of_redis_loses(cworker, options, told):
    with RedisServer(extra=options) as server:
        worker = cworker(broker=server.url(), backend=server.url())
        if told:
            worker.wait_log(told)
        worker.stop()
        assert told or "crash of" not in worker.log


def test_replica_is_asked_less_and_less_often(make_app, cworker):
    """A replica greets like a master: only the first write shows what it is."""
    with RedisServer() as server, server.client() as client:
        app = make_app(server.url(), server.url())
        worker = check(app, server.url(), cworker)
        client.execute_command("REPLICAOF", "127.0.0.1", free_port())
        told = re.compile(r"^\[[\d-]+ ([\d:]+),(\d+).*lost: the server is a read-only replica",
                          re.MULTILINE)

        def pauses():
            times = [datetime.strptime(f"{second}.{ms}", "%H:%M:%S.%f")
                     for second, ms in told.findall(worker.log)]
            return [later - sooner for sooner, later in zip(times, times[1:])]
        wait_until(lambda: any(pause > timedelta(seconds=0.7) for pause in pauses()), what="a pause")
        client.execute_command("REPLICAOF", "NO", "ONE")
        assert get(app.send_task("demo.add", (1, 2))) == 3


def test_why_a_server_hangs_up_is_told(cworker):
    with RedisServer(extra=("--maxclients", "3")) as server, server.client() as client:
        client.config_set("maxclients", 1)
        client.ping()
        worker = cworker(broker=server.url(), ready=False)
        worker.wait_log("refused: ERR max number of clients reached")
        client.config_set("maxclients", 100)
        worker.wait_ready()


def test_idle_connection_of_the_results_is_no_outage(make_app, cworker):
    with RedisServer() as server, server.client() as client:
        def made():
            return client.info("stats")["total_connections_received"]
        worker = check(make_app(server.url(), server.url()), server.url(), cworker)
        before = made()
        client.config_set("timeout", 1)
        wait_until(lambda: made() > before, what="another connection")
        worker.stop()
        assert "results wait" not in worker.log


def test_results_wait_for_a_permission(make_app, cworker):
    """A script tells in other words that its user may not do something."""
    with RedisServer() as server, server.client() as client:
        client.execute_command("ACL", "SETUSER", "worker", "on", ">pw", "~*", "&*", "+@all",
                               "-publish")
        url = server.url().replace("//", "//worker:pw@")
        app = make_app(server.url(), server.url())
        worker = cworker(broker=url, backend=url)
        first, second = signature("demo.add", (1, 2), app=app), signature("demo.add", (4,), app=app)
        result = chain(first, second, app=app).apply_async()
        worker.wait_log("results wait in memory")
        client.execute_command("ACL", "SETUSER", "worker", "+publish")
        wait_state(result, "SUCCESS")
        assert "cannot be stored" not in worker.log


def test_full_redis_can_be_looked_at(make_app, cworker):
    with RedisServer() as server, server.client() as client:
        app = make_app(server.url(), server.url())
        check(app, server.url(), cworker)
        client.lpush("full", "x")
        asked = ("-d", "w1@test", "-t", "120")
        client.config_set("maxmemory", 1)
        for words in (["queues", "-Q", "full"], ["status", *asked], ["inspect", "ping", *asked]):
            done = run_cworker("-b", server.url(), *words)
            assert done.returncode == 0, done.stderr
        done = run_cworker("-b", server.url(), "call", "demo.add")
        assert done.returncode == 69 and done.stderr.count("OOM") == 1
        client.config_set("maxmemory", 0)


JUMPING_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *t)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(id, t);
    if (id == CLOCK_REALTIME && access(getenv("JUMPED"), F_OK) == 0)
        t->tv_sec += 3600;
    return code;
}
"""


@pytest.mark.skipif("address" in CWORKER, reason="ASan does not let itself be preceded")
def test_a_clock_that_jumps_ahead(app, cworker, tmp_path):
    """Redis' clock counts: nothing expires, and no retry waits an hour."""
    source, shim, jumped = tmp_path / "clock.c", tmp_path / "clock.so", tmp_path / "jumped"
    source.write_text(JUMPING_CLOCK)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", shim, source, "-ldl"], check=True)
    cworker(env={"LD_PRELOAD": str(shim), "JUMPED": str(jumped)})
    assert get(app.send_task("demo.add", (1, 2))) == 3
    jumped.touch()
    assert get(app.send_task("demo.add", (1, 2), expires=600)) == 3
    assert get(app.send_task("demo.fail_n", (str(tmp_path / "runs"), 2))) == 2

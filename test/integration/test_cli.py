# SPDX-License-Identifier: Apache-2.0
"""The command line: Celery's words, its exit codes, errors that say what would be right."""
import json
import os
import re
import signal
import stat
import subprocess
from pathlib import Path

import pytest
from harness import CWORKER, DEMO_SO, TIMEOUT, descendants, get, run_cworker, wait_state, wait_until


def test_help():
    done = run_cworker("--help")
    assert done.returncode == 0 and not done.stderr
    for word in ("--broker", "--result-backend", "--concurrency", "--queues", "--set", "purge"):
        assert word in done.stdout, word
    assert max(map(len, done.stdout.splitlines())) <= 120


def test_version():
    done = run_cworker("--version")
    assert done.returncode == 0 and re.search(r"\d+\.\d+", done.stdout)


@pytest.mark.parametrize("args, hint", [
    (["--concurency", "2"], "concurrency"),
    (["--set", "task_acks_lat=1"], "task_acks_late"),
    (["--set", "task_acks_late"], "task_acks_late"),
    (["-c", "many"], "many"),
    (["-c", "-3"], "-3"),
    (["-l", "LOUD"], "LOUD"),
    (["-P", "gevent"], "prefork"),
    (["-b", "amqp://localhost"], "redis"),
    (["-b", "redis://localhost:notaport/0"], "port"),
    (["--result-backend", "postgres://x"], "mongodb"),
    (["--config", "/no/such/file.json"], "/no/such/file.json"),
    (["-A", "/no/such/plugin.so"], "/no/such/plugin.so"),
    (["prge"], "purge"),
    (["-b"], "-b"),
    (["-c", "2000"], "1024"),
    (["-Q", "a", "b"], "-Q a,b"),
    (["beat"], "celery beat"),
    (["--result-backend", "redis"], "redis://"),
    (["--set", "result_spool_dir=/no/such/folder"], "/no/such/folder: No such file"),
    (["-b", "redis://h?ssl_cert_reqs=maybe"], "required, optional or none"),
    (["--logfile", "/no/such/folder/log"], "/no/such/folder/log: No such file"),
    (["--pidfile", "/no/such/folder/pid"], "/no/such/folder/pid: No such file"),
    (["-D", "--pidfile", "/no/such/folder/pid"], "/no/such/folder/pid: No such file"),
], ids=" ".join)
def test_wrong_usage(args, hint):
    done = run_cworker(*args)
    assert done.returncode in (1, 2), done
    assert hint in done.stderr and not done.stdout
    assert len(done.stderr.splitlines()) <= 6


def test_broken_config(tmp_path):
    config = tmp_path / "config.json"
    config.write_text('{\n  "worker_concurrency": 2\n  "worker_lease": 3}')
    done = run_cworker("--config", config)
    assert done.returncode == 2 and "line 3, column 3" in done.stderr
    config.write_text('{"worker_concurrency": 2,')
    done = run_cworker("--config", config)
    assert done.returncode in (1, 2) and "config.json" in done.stderr
    config.write_text('{"worker_concurency": 2}')
    done = run_cworker("--config", config)
    assert done.returncode in (1, 2) and "worker_concurrency" in done.stderr


def test_call_and_result(app, cworker, redis):
    cworker()
    where = ("-b", redis.url(), "--result-backend", redis.url())
    done = run_cworker(*where, "call", "demo.add", "--args", "[2, 3]")
    assert done.returncode == 0, done
    task_id = done.stdout.strip()
    assert get(app.AsyncResult(task_id)) == 5
    done = run_cworker(*where, "result", task_id)
    assert (done.returncode, done.stdout.strip()) == (0, "5")


def test_call_options(app, keys, redis):
    done = run_cworker("-b", redis.url(), "call", "demo.echo", "-a", "[1]", "-k", '{"k": "ü"}',
                       "--queue", "other", "--countdown", "60")
    assert done.returncode == 0, done
    message = json.loads(keys.rpop("other"))
    assert message["headers"]["id"] == done.stdout.strip()
    assert message["headers"]["eta"] and message["headers"]["task"] == "demo.echo"


def test_python_worker_could_run_what_call_sends(app, keys, redis):
    """The message decodes with Kombu and has every header that Celery's own has."""
    run_cworker("-b", redis.url(), "call", "demo.add", "-a", "[1, 2]")
    ours = json.loads(keys.rpop("celery"))
    app.send_task("demo.add", (1, 2))
    theirs = json.loads(keys.rpop("celery"))
    assert set(theirs) == set(ours)
    assert set(theirs["headers"]) <= set(ours["headers"])
    assert set(theirs["properties"]) <= set(ours["properties"]) | {"reply_to"}


@pytest.mark.parametrize("args", ["[1", "{}", "5"])
def test_call_with_wrong_arguments(redis, keys, args):
    done = run_cworker("-b", redis.url(), "call", "demo.add", "--args", args)
    assert done.returncode == 2 and "args" in done.stderr
    assert keys.llen("celery") == 0


@pytest.mark.parametrize("args", [
    ["--queue", ""], ["--id", ""], ["--wait", "--timeout", "-1"], ["--wait", "--timeout", "soon"],
], ids=" ".join)
def test_call_sends_nothing_that_is_wrong(redis, keys, args):
    done = run_cworker("-b", redis.url(), "--result-backend", redis.url(1), "call", "demo.add", *args)
    assert done.returncode == 2 and args[-2] in done.stderr and not done.stdout
    assert keys.llen("celery") == keys.llen("") == 0


@pytest.mark.parametrize("words", [["report"], ["call", "demo.add"], ["queues", "--json"]],
                         ids=" ".join)
def test_output_that_a_full_disk_does_not_take(redis, keys, words):
    with open("/dev/full", "w") as full:
        done = subprocess.run([CWORKER, "-b", redis.url(), *words], stdout=full,
                              stderr=subprocess.PIPE, text=True, timeout=TIMEOUT)
    assert done.returncode == 1 and "could not be written" in done.stderr


def test_worker_whose_standard_streams_are_closed(app, redis, keys):
    """No socket gets their numbers: what is logged or printed would be sent there."""
    worker = subprocess.Popen(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", CWORKER, "-b", redis.url(), "-c", "1",
         "--result-backend", redis.url(1), "-A", DEMO_SO, "-l", "debug"])
    try:
        assert get(app.send_task("demo.add", (2, 3))) == 5
        for fd in range(3):
            assert os.readlink(f"/proc/{worker.pid}/fd/{fd}") == "/dev/null"
    finally:
        worker.terminate()
    assert worker.wait(TIMEOUT) == 0


def test_more_children_than_descriptors(redis, keys):
    """The soft limit is for programs of old; main goes up to the hard one, its children do not."""
    worker = subprocess.Popen(["sh", "-c", 'ulimit -Sn 40; exec "$@"', "sh", CWORKER, "-b",
                               redis.url(), "-c", "40"], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: len(descendants(worker.pid)) == 41, what="the zygote and 40 children")
        with open(f"/proc/{max(descendants(worker.pid))}/limits") as file:
            assert re.search(r"Max open files +40 ", file.read())
    finally:
        worker.terminate()
    assert worker.wait(TIMEOUT) == 0


def test_result_of_a_failure(app, cworker, redis):
    cworker()
    result = app.send_task("demo.fail", ("the reason",))
    get(result, propagate=False)
    done = run_cworker("--result-backend", redis.url(), "result", result.id)
    assert done.returncode != 0 and "the reason" in done.stdout + done.stderr


def test_result_does_not_steer_the_terminal(redis, keys):
    keys.set("celery-task-meta-x", json.dumps(
        {"task_id": "x", "status": "FAILURE", "traceback": "Line\n\tof \x1b[2J",
         "result": {"exc_type": "E\x1b", "exc_message": ["\x1bc"]}}))
    for words in (["x"], ["x", "--traceback"]):
        done = run_cworker("--result-backend", redis.url(), "result", *words)
        assert done.returncode == 1 and "\n\tof" in done.stderr + done.stdout
        assert "\x1b" not in done.stderr + done.stdout


def test_purge(app, keys, redis):
    for i in range(7):
        app.send_task("demo.add", (i, 1), priority=i)
    done = run_cworker("-b", redis.url(), "purge", "-f")
    assert done.returncode == 0 and "7" in done.stdout
    assert not keys.llen("celery") and not keys.llen("celery\x06\x166")


def test_purge_asks_first(app, keys, redis):
    app.send_task("demo.add", (1, 1))
    run_cworker("-b", redis.url(), "purge")
    assert keys.llen("celery") == 1


def test_report(redis):
    done = run_cworker("-b", "redis://:topsecret@localhost:1/0", "report")
    assert done.returncode == 0 and "topsecret" not in done.stdout
    assert "broker_url" in done.stdout


def test_no_broker_is_a_clear_error():
    done = run_cworker("-b", "redis://127.0.0.1:1/0", "call", "demo.add", "-a", "[1, 2]")
    assert done.returncode not in (0, 2)
    assert "127.0.0.1:1" in done.stderr and len(done.stderr.splitlines()) <= 3


def test_settings_from_environment(app, cworker, redis, keys):
    """CELERY_BROKER_URL and CELERY_RESULT_BACKEND, as Celery has them."""
    done = run_cworker("call", "demo.add", "-a", "[1, 2]",
                       env={"PATH": "/usr/bin", "CELERY_BROKER_URL": redis.url()})
    assert done.returncode == 0 and keys.llen("celery") == 1


def test_log_names_what_runs(app, cworker):
    worker = cworker("-l", "INFO")
    result = app.send_task("demo.add", (2, 3))
    get(result)
    worker.wait_log(f"Task demo.add[{result.id}] received")
    worker.wait_log(f"Task demo.add[{result.id}] succeeded in ")
    assert re.search(r"^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}: INFO/MainProcess\] ", worker.log,
                     re.MULTILINE)
    assert "demo.mul" in worker.log


def test_secrets_are_masked():
    done = run_cworker("-b", "redis://user:hidden@127.0.0.1:1/0", "call", "demo.noop")
    assert "hidden" not in done.stdout + done.stderr


def test_json_log(app, cworker):
    worker = cworker("--set", "worker_log_json=true", "-q")
    get(app.send_task("demo.add", (2, 3)))
    worker.stop()
    lines = [json.loads(line) for line in worker.log.splitlines() if line.startswith("{")]
    assert lines and any("demo.add" in json.dumps(line) for line in lines)


def test_logfile_and_pidfile(app, cworker, tmp_path):
    log, pid = tmp_path / "own.log", tmp_path / "own.pid"
    worker = cworker("-f", log, "--pidfile", pid, ready=False)
    wait_until(lambda: log.exists() and "ready." in log.read_text(), what="ready")
    assert int(pid.read_text()) == worker.pid
    worker.stop()
    assert not pid.exists()


def test_log_file_that_cannot_be_opened_again(cworker, tmp_path):
    folder, moved = tmp_path / "logs", tmp_path / "moved"
    folder.mkdir()
    log = folder / "log"
    worker = cworker("-f", log, ready=False)
    wait_until(lambda: log.exists() and "ready." in log.read_text(), what="ready")
    folder.rename(moved)
    worker.signal(signal.SIGHUP)
    told = f"--logfile: {log}: No such file or directory. The file that is open"
    wait_until(lambda: told in (moved / "log").read_text(), what="the reason")


def test_files_that_are_none(app, cworker):
    """Celery's `--pidfile=`; and no file takes the place of a device."""
    worker = cworker("--pidfile=", "--logfile=")
    assert not Path(".pid").exists() and "ready." in worker.log
    worker.stop()
    terminal, device = os.openpty()
    name = os.ttyname(device)
    worker = cworker("--pidfile", name)
    worker.stop()
    done = run_cworker("-S", name)
    assert done.returncode == 1 and f"{name}: this is no regular file" in done.stderr
    assert stat.S_ISCHR(os.stat(name).st_mode)
    os.close(device)
    os.close(terminal)


def test_interrupt_is_warm(app, cworker):
    worker = cworker("--set", "task_track_started=true")
    result = app.send_task("demo.sleep", (0.5,))
    wait_state(result, "STARTED", "SUCCESS")
    worker.signal(signal.SIGINT)
    assert worker.wait() in (0, 1)
    assert get(result) == 0.5


def test_plugin_without_tables(tmp_path):
    other = tmp_path / "not-a-plugin.so"
    other.write_bytes(b"\x7fELF nothing")
    done = run_cworker("-A", other)
    assert done.returncode in (1, 2) and "not-a-plugin.so" in done.stderr


@pytest.mark.parametrize(("end", "told"), [("abort()", "crashes"), ("exit(3)", "ends the program")])
def test_plugin_that_does_not_survive_its_loading(tmp_path, end, told):
    source, plugin = tmp_path / "bad.c", tmp_path / "bad.so"
    source.write_text("#include <stdlib.h>\n"
                      f"__attribute__((constructor)) static void begin(void) {{ {end}; }}\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", plugin, source], check=True)
    done = run_cworker("-A", plugin, "tasks", "list")
    assert done.returncode != 0 and f"cworker: {plugin} {told} while it is loaded" in done.stderr

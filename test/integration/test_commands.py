# SPDX-License-Identifier: Apache-2.0
"""Programs as tasks: the `tasks` table of the config file."""
import json
import sys
import textwrap

import pytest
from billiard.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from harness import get, is_alive, run_cworker, wait_until

PROGRAMS = {
    "cmd.echo": """
        import json, sys
        print(json.dumps(json.load(sys.stdin)))""",
    "cmd.sum": """
        import json, sys
        print(json.dumps(sum(json.load(sys.stdin)["args"])))""",
    "cmd.silent": "import sys; sys.stdin.read()",
    "cmd.progress": """
        import json, os, sys, time
        go = json.load(sys.stdin)["args"][0]
        for i in range(4):
            print(json.dumps({"progress": {"done": i}}), flush=True)
        while not os.path.exists(go):
            time.sleep(0.02)
        print('"end"')""",
    "cmd.raise": """
        import json, sys
        print(json.dumps({"error": {"type": "LookupError", "message": "no such thing: ü"}}))
        sys.exit(1)""",
    "cmd.exit": "import sys; print('the last words', file=sys.stderr); sys.exit(3)",
    "cmd.retry": """
        import json, sys
        request = json.load(sys.stdin)
        if request["retries"] < 2:
            sys.exit(75)
        print(request["retries"])""",
    "cmd.garbage": "print('this is not JSON {')",
    "cmd.signal": "import os; os.kill(os.getpid(), 9)",
    "cmd.deaf": "print(1)",
}


@pytest.fixture
def commands(cworker, tmp_path):
    """Starts a worker that knows the programs above; returns it."""
    def start(**rows):
        table = []
        for name, text in PROGRAMS.items():
            path = tmp_path / f"{name}.py"
            path.write_text(textwrap.dedent(text))
            table.append({"name": name, "queue": "celery", "command": [sys.executable, str(path)],
                          **rows.get(name.partition(".")[2], {})})
        sleeper = f"echo $$ > {tmp_path}/pid; exec sleep 600"
        table.append({"name": "cmd.sleep", "queue": "celery", "command": ["sh", "-c", sleeper],
                      **rows.get("sleep", {})})
        table.append({"name": "cmd.missing", "queue": "celery", "command": ["no-such-program"]})
        config = tmp_path / "config.json"
        config.write_text(json.dumps({"tasks": table}))
        return cworker("--config", config)
    return start


def test_request_on_standard_input(app, commands):
    commands()
    result = app.send_task("cmd.echo", (1, "ü", 2**70), {"k": None})
    assert get(result) == {"id": result.id, "name": "cmd.echo", "args": [1, "ü", 2**70],
                           "kwargs": {"k": None}, "retries": 0}


def test_values(app, commands):
    commands()
    assert get(app.send_task("cmd.sum", (1, 2, 3.5))) == 6.5
    assert get(app.send_task("cmd.silent")) is None


def test_program_that_does_not_read(app, commands):
    commands()
    assert get(app.send_task("cmd.deaf", ("x" * 1_000_000,))) == 1


def test_progress(app, commands, tmp_path):
    commands()
    result = app.send_task("cmd.progress", (str(tmp_path / "go"),))
    last = {"status": "PROGRESS", "result": {"done": 3}}
    wait_until(lambda: result.backend.get_task_meta(result.id).items() >= last.items(), what="PROGRESS")
    (tmp_path / "go").touch()
    assert get(result) == "end"


def test_error_of_its_own(app, commands):
    commands()
    with pytest.raises(LookupError, match="no such thing: ü"):
        get(app.send_task("cmd.raise"))


@pytest.mark.parametrize("name, hint", [("cmd.exit", "3"), ("cmd.exit", "the last words"),
                                        ("cmd.garbage", "JSON"), ("cmd.signal", "9|KILL"),
                                        ("cmd.missing", "no-such-program")])
def test_failure(app, commands, name, hint):
    commands()
    result = app.send_task(name)
    with pytest.raises(Exception, match=hint) as raised:
        get(result)
    assert not isinstance(raised.value, (TimeoutError, WorkerLostError))
    assert result.state == "FAILURE"
    assert get(app.send_task("cmd.sum", (1, 2))) == 3


def test_retry(app, commands):
    worker = commands(retry={"default_retry_delay": 0.1})
    assert get(app.send_task("cmd.retry")) == 2
    assert worker.log.count(" retry: ") == 2


@pytest.mark.parametrize("how", ["timeout", "soft_time_limit", "time_limit"])
def test_limits_end_the_program(app, commands, tmp_path, how):
    commands(**({"sleep": {"timeout": 2}} if how == "timeout" else {}))
    pid_file = tmp_path / "pid"
    options = {} if how == "timeout" else {how: 2}
    result = app.send_task("cmd.sleep", **options)
    wait_until(lambda: pid_file.exists() and pid_file.read_text(), what="the program's start")
    with pytest.raises((SoftTimeLimitExceeded, TimeLimitExceeded)):
        get(result)
    pid = int(pid_file.read_text())
    wait_until(lambda: not is_alive(pid), what="the end of the program")


def test_kill_of_the_worker_ends_the_program(app, commands, tmp_path):
    worker = commands()
    pid_file = tmp_path / "pid"
    app.send_task("cmd.sleep")
    wait_until(lambda: pid_file.exists() and pid_file.read_text(), what="the program's start")
    worker.kill()
    pid = int(pid_file.read_text())
    wait_until(lambda: not is_alive(pid), what="the end of the program")


@pytest.mark.parametrize("row, hint", [
    ({"queue": "celery", "command": ["true"]}, "name"),
    ({"name": "x"}, "command"),
    ({"name": "x", "command": []}, "command"),
    ({"name": "x", "command": "true"}, "command"),
    ({"name": "x", "command": ["true"], "timeout": "long"}, "timeout"),
    ({"name": "x", "command": ["true"], "comand": 1}, "comand"),
], ids=str)
def test_wrong_table(tmp_path, row, hint):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"tasks": [row]}))
    done = run_cworker("-b", "redis://127.0.0.1:1/0", "--config", config)
    assert done.returncode in (1, 2) and hint in done.stderr, done

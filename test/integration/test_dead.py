# SPDX-License-Identifier: Apache-2.0
"""cworker dead list|show|retry|purge."""
import json
import uuid

import pytest
from harness import dead_letters, get, make_message, run_cworker, wait_until


@pytest.fixture
def dead(redis):
    def run(*words, status=0, options=()):
        done = run_cworker("-b", redis.url(), *options, "dead", *map(str, words))
        assert done.returncode == status, done
        return done.stdout if status == 0 else done.stderr
    return run


@pytest.fixture
def letters(app, cworker, keys):
    """Three dead letters: two unknown tasks (one by priority) and an unreadable element."""
    worker = cworker(queues="celery,scans")
    ids = [str(uuid.uuid4()) for _ in range(2)]
    app.send_task("no.such", (1, "ü"), task_id=ids[0])
    wait_until(lambda: len(dead_letters(keys)) == 1, what="the first letter")
    app.send_task("no.such.either", task_id=ids[1], queue="scans", priority=5)
    keys.lpush("celery", b"\xff\x00 not JSON")
    wait_until(lambda: len(dead_letters(keys)) == 2 and len(dead_letters(keys, "scans")) == 1,
               what="all letters")
    worker.stop()
    return ids


def test_list(dead, letters):
    lines = dead("list").splitlines()
    assert len(lines) == 4 and lines[0].split()[0] == "NUMBER"
    assert letters[0] in lines[1] and "no.such" in lines[1] and "celery" in lines[1]
    assert lines[1].split()[0] == "1" and lines[2].split()[0] == "2"
    assert letters[1] in lines[3] and "scans" in lines[3]
    assert dead() == dead("list")
    assert len(dead("list", "-Q", "scans").splitlines()) == 2
    rows = json.loads(dead("list", "--json"))
    assert [(row["queue"], row["number"]) for row in rows] == [("celery", 1), ("celery", 2),
                                                               ("scans", 1)]
    assert rows[0]["id"] == letters[0] and rows[0]["task"] == "no.such" and rows[0]["reason"]
    assert json.loads(rows[0]["message"])["headers"]["id"] == letters[0]
    assert rows[1]["id"] is None and rows[1]["encoding"] == "base64"


def test_list_of_nothing(dead, redis):
    assert dead("list") == "No dead letters.\n"
    assert json.loads(dead("list", "--json")) == []


def test_show(dead, letters):
    text = dead("show", letters[0])
    assert "Letter 1 of queue celery" in text and letters[0] in text and '[[1, "\\u00fc"]' in text
    (row,) = json.loads(dead("show", letters[0], "--json"))
    assert row["body"][0] == [1, "ü"]
    assert "in 2 queues" in dead("show", 1, status=2)
    assert letters[1] in dead("show", 1, "-Q", "scans")


def test_retry_puts_it_back_as_it_was(app, dead, keys):
    message = make_message(app, keys, "demo.add", (2, 3), task_id="again")
    message["properties"]["priority"] = 4
    message = json.dumps(message)
    letter = {"v": 1, "reason": "for the test", "at": "2026-11-21T00:00:00+00:00", "queue": "scans",
              "worker": "w@test", "message": message}
    keys.lpush("{scans}.cworker.dead", json.dumps(letter))
    keys.lpush("{scans}.cworker.dead", json.dumps({**letter, "message": "other"}))
    assert dead("retry", "again") == "Put back 1 message.\n"
    assert keys.lrange("scans\x06\x163", 0, -1) == [message.encode()]
    assert [letter["message"] for letter in dead_letters(keys, "scans")] == ["other"]
    assert json.loads(dead("retry", "--all", "--json")) == {"retried": 1}
    assert keys.lrange("scans", 0, -1) == [b"other"]


def test_retry_runs(app, dead, letters, cworker, keys):
    keys.set("scans\x06\x163", "in the way")
    assert "WRONGTYPE" in dead("retry", letters[1], status=69)
    assert len(dead_letters(keys, "scans")) == 1
    keys.delete("scans\x06\x163")
    config = json.dumps({"no.such": "demo.add"})
    assert dead("retry", 1, "-Q", "celery")
    cworker("--set", f"task_aliases={config}")
    result = app.AsyncResult(letters[0])
    wait_until(lambda: result.ready(), what="the run")
    assert result.state == "FAILURE" and "unsupported operand" not in str(result.result)
    assert get(app.send_task("no.such", (1, 2))) == 3


def test_retry_of_an_element_that_is_no_text(dead, letters, keys):
    dead("retry", 2, "-Q", "celery")
    assert keys.lrange("celery", 0, -1) == [b"\xff\x00 not JSON"]


def test_purge(dead, letters, keys):
    assert "which ones" in dead("purge", status=2)
    assert "no letter has the id" in dead("purge", "nobody", "-f", status=1)
    assert dead("purge", letters[0], "-f") == "Purged 1 message.\n"
    assert len(dead_letters(keys)) == 1 and len(dead_letters(keys, "scans")) == 1
    done = dead("purge", "--all", status=1)
    assert done == "" and len(dead_letters(keys)) == 1
    assert dead("purge", "--all", "-f", "-Q", "scans") == "Purged 1 message.\n"
    assert dead("purge", "--all", "-f", "--json") == '{"purged": 1}\n'
    assert not keys.keys("*.cworker.dead")


def test_prefix(app, dead, keys):
    keys.lpush("p*.{celery}.cworker.dead", json.dumps({"v": 1, "message": "text"}))
    keys.lpush("pq.{celery}.cworker.dead", json.dumps({"v": 1, "message": "not ours"}))
    options = ("--set", "global_keyprefix=p*.")
    assert len(dead("list", options=options).splitlines()) == 2
    assert dead("retry", "--all", options=options) == "Put back 1 message.\n"
    assert keys.lrange("p*.celery", 0, -1) == [b"text"]


@pytest.mark.parametrize("letter", ["no JSON", "{}", "[]", '{"message": 5}'])
def test_letters_that_nobody_can_read(dead, keys, letter):
    keys.lpush("{celery}.cworker.dead", letter)
    assert len(dead("list").splitlines()) == 2
    json.loads(dead("show", 1, "--json"))
    assert "holds no message" in dead("retry", "--all", status=1)
    dead("purge", 1, "-f")
    assert not keys.keys("*.cworker.dead")


def test_letters_do_not_steer_the_terminal(dead, keys):
    message = json.dumps({"headers": {"id": "\x1b[2J", "task": "a\x1b]0;b\nc"}})
    keys.lpush("{celery}.cworker.dead", json.dumps({"reason": "not\x1bc", "message": message}))
    assert "\x1b" not in dead("list") + dead("show", 1) and len(dead("list").splitlines()) == 2
    (row,) = json.loads(dead("list", "--json"))
    assert row["message"] == message and row["reason"] == "not\x1bc"


def test_excluded_queues(dead, letters, keys):
    assert len(dead("list", "-X", "celery").splitlines()) == 2
    assert dead("purge", "--all", "-f", "-X", "celery") == "Purged 1 message.\n"
    assert len(dead_letters(keys)) == 2 and not dead_letters(keys, "scans")


def test_usage(dead, redis):
    assert "list, show, retry and purge" in dead("delete", status=2)
    assert "contradict" in dead("retry", "1", "--all", status=2)

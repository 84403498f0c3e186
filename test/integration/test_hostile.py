# SPDX-License-Identifier: Apache-2.0
"""Messages that nobody can run: the worker lives on, the next task runs, nothing is lost."""
from __future__ import annotations

import base64
import copy
import json
from random import Random
from typing import Any

import pytest
from celery import chain, chord
from harness import body_of, count_messages, dead_letters, get, inflight, make_message, wait_until

DROP = object()


def change(*path: str, to: Any = DROP):
    """A mutation: the member at path is set, or removed."""
    def apply(message: dict) -> dict:
        place = message
        for step in path[:-1]:
            place = place[step]
        if to is DROP:
            del place[path[-1]]
        else:
            place[path[-1]] = to
        return message
    return apply


def body(value: Any):
    return change("body", to=body_of(value))


EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}

# No list element of this kind can be read at all.
GARBAGE = {
    "empty": b"", "text": b"hello", "number": b"12", "null": b"null", "string": b'"x"',
    "list": b"[1,2]", "empty object": b"{}", "cut": b'{"body": "W1sx', "not UTF-8": b"\xff\xfe\x00",
    "nul bytes": b"\x00" * 64, "only braces": b"{" * 100_000, "only brackets": b"[" * 100_000,
    "trailing text": b"{} {}",
}

# The id can still be read: the producer is told.
READABLE = {
    "no body": change("body"),
    "body is null": change("body", to=None),
    "body is a number": change("body", to=5),
    "body is not base64": change("body", to="%%%"),
    "body is empty": change("body", to=""),
    "body is not JSON": change("body", to="bm90IGpzb24="),
    "body is not UTF-8": change("body", to="//79"),
    "body is text, said to be base64": change("body", to='[[1, 2], {}, {}]'),
    "body without encoding": change("properties", "body_encoding"),
    "unknown body encoding": change("properties", "body_encoding", to="rot13"),
    "body is a pair": body([[1, 2], {}]),
    "body is a quadruple": body([[1, 2], {}, EMBED, 4]),
    "body is a number inside": body(7),
    "body is a string inside": body("text"),
    "body is an object without args": body({"x": 1}),
    "args is a number": body([5, {}, EMBED]),
    "kwargs is null": body([[1, 2], None, EMBED]),
    "kwargs is a list": body([[1, 2], [], EMBED]),
    "embed is a string": body([[1, 2], {}, "x"]),
    "callbacks are no list": body([[1, 2], {}, {**EMBED, "callbacks": 5}]),
    "no content type": change("content-type"),
    "empty content type": change("content-type", to=""),
    "content type pickle": change("content-type", to="application/x-python-serialize"),
    "content type unknown": change("content-type", to="application/x-nonsense"),
    "content type data": change("content-type", to="application/data"),
    "eta is nonsense": change("headers", "eta", to="tomorrow"),
    "eta is a number": change("headers", "eta", to=12),
    "expires is nonsense": change("headers", "expires", to="never"),
    "expires is a list": change("headers", "expires", to=[]),
}

# Neither name nor id: only the dead-letter list can tell.
UNKNOWN = {
    "no headers": change("headers"),
    "headers are null": change("headers", to=None),
    "headers are a list": change("headers", to=[]),
    "no task": change("headers", "task"),
    "no id": change("headers", "id"),
    "id is null": change("headers", "id", to=None),
    "id is an object": change("headers", "id", to={}),
    "task is a number": change("headers", "task", to=3),
}

# Odd, but a Python worker runs them too (or should: the last three make it lose its connection).
TOLERATED = {
    "minimal": lambda m: {
        "body": m["body"], "content-type": "application/json", "content-encoding": "utf-8",
        "headers": {name: m["headers"][name] for name in ("task", "id")},
        "properties": {"body_encoding": "base64", "delivery_tag": "t",
                       "delivery_info": {"exchange": "", "routing_key": "celery"}}},
    "no content encoding": change("content-encoding"),
    "time limits are null": change("headers", "timelimit", to=None),
    "retries is null": change("headers", "retries", to=None),
    "embed is null": body([[1, 2], {}, None]),
    "priority is text": change("properties", "priority", to="high"),
    "hybrid body": body({"args": [1, 2], "kwargs": {}}),
    "unknown members": lambda m: {**m, "extra": {"x": [1]}},
    "unknown headers": change("headers", "x-tenant", to={"a": [1, None]}),
    "no delivery info": change("properties", "delivery_info"),
    "no delivery tag": change("properties", "delivery_tag"),
    "reply_to is null": change("properties", "reply_to", to=None),
}


def check_goes_on(app, keys) -> dict:
    """The following good task runs; the one dead letter is returned."""
    assert get(app.send_task("demo.add", (40, 2))) == 42
    wait_until(lambda: len(dead_letters(keys)) == 1, what="one dead letter")
    wait_until(lambda: not inflight(keys), what="an empty in-flight list")
    assert keys.llen("celery") == 0
    [letter] = dead_letters(keys)
    assert letter["reason"], letter
    return letter


@pytest.mark.parametrize("element", GARBAGE.values(), ids=GARBAGE)
def test_garbage(app, cworker, keys, element):
    worker = cworker()
    keys.lpush("celery", element)
    check_goes_on(app, keys)
    assert worker.process.poll() is None


@pytest.mark.parametrize("mutate", READABLE.values(), ids=READABLE)
def test_unreadable_with_an_id(app, cworker, keys, mutate):
    good = make_message(app, keys)
    cworker()
    keys.lpush("celery", json.dumps(mutate(copy.deepcopy(good))))
    letter = check_goes_on(app, keys)
    assert good["headers"]["id"] in json.dumps(letter)
    result = app.AsyncResult(good["headers"]["id"])
    assert result.state == "FAILURE"
    assert isinstance(get(result, propagate=False), Exception)


@pytest.mark.parametrize("mutate", UNKNOWN.values(), ids=UNKNOWN)
def test_unknown_message(app, cworker, keys, mutate):
    message = mutate(make_message(app, keys))
    cworker()
    keys.lpush("celery", json.dumps(message))
    letter = check_goes_on(app, keys)
    assert message["body"] in json.dumps(letter)


@pytest.mark.parametrize("mutate", TOLERATED.values(), ids=TOLERATED)
def test_tolerated(app, cworker, keys, mutate):
    message = mutate(make_message(app, keys))
    cworker()
    keys.lpush("celery", json.dumps(message))
    assert get(app.AsyncResult(message["headers"]["id"])) == 3
    assert not dead_letters(keys)


def test_too_big(app, cworker, keys):
    cworker("--set", "message_max_size=100000")
    keys.lpush("celery", json.dumps({"body": "x" * 200_000}))
    check_goes_on(app, keys)


def test_a_storm_of_garbage(app, cworker, keys):
    """All kinds many times over between good tasks; each good one runs, each bad one is kept."""
    good = make_message(app, keys)
    bad = [*GARBAGE.values(), *(json.dumps(mutate(copy.deepcopy(good))).encode()
                                for mutate in (*READABLE.values(), *UNKNOWN.values()))] * 5
    results = []
    for i, element in enumerate(bad):
        keys.lpush("celery", element)
        results.append(app.send_task("demo.add", (i, 1)))
    cworker()
    assert [get(result) for result in results] == [i + 1 for i in range(len(bad))]
    wait_until(lambda: len(dead_letters(keys)) == len(bad), what="all dead letters")


# --- well-formed messages with anything anywhere ------------------------------------------------------

ANYTHING = [None, True, 0, -1, 5, 2**70, 1.5, 1e308, float("nan"), "", "x", "\x00", "ü😀", "\ud800", "a/b",
            "a" * 5000, "1", [], [1], [[]], [None], {}, {"a": 1}, {"task": "demo.add"},
            {"__type__": "datetime", "__value__": "x"}, [{"task": "demo.add", "args": [1]}],
            "2030-01-01T00:00:00", "application/x-gzip", DROP, DROP, DROP]


def places(value, path=()):
    """The path of every member, at any depth."""
    items = value.items() if isinstance(value, dict) else \
        enumerate(value) if isinstance(value, list) else ()
    for name, member in items:
        yield (*path, name)
        yield from places(member, (*path, name))


def good_messages(app, keys):
    signature = app.signature("demo.add", (1,))
    stamped = app.signature("demo.add", (1, 2))
    stamped.stamp(a="b", c=[1])
    app.send_task("demo.add", (1, 2), priority=3, expires=600, headers={"t": 1})
    app.send_task("demo.add", (1, 2), link=signature, link_error=app.signature("demo.echo"))
    chain(app.signature("demo.add", (1, 2)), signature).apply_async()
    chord([app.signature("demo.add", (1, 2)), app.signature("demo.fail", ("x",))],
          app.signature("demo.xsum"), app=app).apply_async()
    app.send_task("demo.unique", ("k", 0))
    app.send_task("demo.add", (1, 2), countdown=1)
    app.send_task("celery.chord_unlock", ("group", signature), {"result": [], "max_retries": 1})
    app.send_task("celery.map", (), {"task": signature, "it": [[1, 2]]})
    app.send_task("demo.fail_n", ("k", 2))
    stamped.apply_async()
    while text := keys.rpop("celery") or keys.rpop("celery\x06\x163"):
        message = json.loads(text)
        message["body"] = json.loads(base64.b64decode(message["body"]))
        yield message


def mutated(message, random, number):
    message = copy.deepcopy(message)
    message["headers"]["id"] = f"m-{number}"
    if random.random() < 0.3:
        message["headers"]["redelivered"] = True
    for _ in range(random.choice([1, 1, 2, 3])):
        path = random.choice(list(places(message)))
        change(*path, to=random.choice(ANYTHING))(message)
    if "body" in message:
        message["body"] = body_of(message["body"])
    return json.dumps(message)


def test_anything_anywhere(app, cworker, keys):
    """Each is run or set aside; none ends the worker, comes round for ever, or keeps others waiting."""
    random = Random(4)
    good = list(good_messages(app, keys))
    with keys.pipeline() as pipe:
        for number in range(600):
            pipe.lpush("celery", mutated(random.choice(good), random, number))
        pipe.execute()
    worker = cworker()
    assert get(app.send_task("demo.add", (40, 2))) == 42
    wait_until(lambda: not count_messages(keys), what="all ended")
    assert worker.process.poll() is None and "CRITICAL" not in worker.log
    assert len(dead_letters(keys)) > 100

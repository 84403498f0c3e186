# SPDX-License-Identifier: Apache-2.0
"""Values that come back: each JSON value as it was sent, in documents that Celery itself reads."""
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from uuid import uuid4

import pytest
from celery import group
from harness import TIMEOUT, get

VALUES = [
    None, True, False, 0, -1, 2**53 + 1, 2**63, -(2**200), 0.1, 1.0, 1e300, 5e-324, -0.0,
    "", "text", "grüße 🎉 \x00 \x7f \u2028 \"\\/", [], {}, [[]], [{}], {"a": {"b": [1, None]}},
    {"": 0, "ключ": "значение"}, "x" * 70_000, list(range(2000)),
    datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone.utc), date(2026, 1, 2), time(3, 4, 5, 6),
    Decimal("1.10"), uuid4(), b"text bytes", b"\xff\x00", {"__type__": "x", "__value__": 1, "z": 2},
]


def test_sum(backend, make_app, cworker):
    app = make_app(backend)
    cworker(backend=backend)
    result = app.send_task("demo.add", (2, 3))
    assert get(result) == 5
    assert result.state == "SUCCESS"
    assert result.traceback is None
    done = result.date_done.replace(tzinfo=timezone.utc)
    assert abs(datetime.now(timezone.utc) - done) < timedelta(minutes=1)


def test_every_value_comes_back_as_it_was(backend, make_app, cworker):
    app = make_app(backend)
    cworker(backend=backend)
    results = [app.send_task("demo.identity", (value,)) for value in VALUES]
    for value, result in zip(VALUES, results):
        seen = get(result)
        assert seen == value and type(seen) is type(value), (value, seen)


def test_floats_that_are_not_numbers(app, cworker):
    cworker()
    seen = get(app.send_task("demo.identity", ([float("nan"), float("inf"), float("-inf")],)))
    assert repr(seen) == "[nan, inf, -inf]"


def test_lone_surrogates(app, cworker):
    cworker()
    assert get(app.send_task("demo.identity", ("a\ud800b",))) == "a\ud800b"


def test_deeply_nested(app, cworker):
    cworker()
    value: list = []
    for _ in range(200):
        value = [value]
    assert get(app.send_task("demo.identity", (value,))) == value


@pytest.mark.parametrize("x, y", [(2**70, 3), (-(2**500), 2**500), (0, 2**65), (10**18, 10**18)])
def test_products_are_exact(app, cworker, x, y):
    cworker()
    assert get(app.send_task("demo.mul", (x, y))) == x * y


def test_sum_of_a_list(app, cworker):
    cworker()
    assert get(app.send_task("demo.xsum", ([1, 2, 3.5],))) == 6.5


def test_no_value(backend, make_app, cworker):
    app = make_app(backend)
    cworker(backend=backend)
    result = app.send_task("demo.noop")
    assert get(result) is None
    assert result.state == "SUCCESS"


def test_a_megabyte(backend, make_app, cworker):
    app = make_app(backend)
    cworker(backend=backend)
    text = "0123456789abcdef" * 65536
    assert get(app.send_task("demo.identity", (text,))) == text


def test_many(backend, make_app, cworker):
    app = make_app(backend)
    cworker(backend=backend)
    results = [app.send_task("demo.add", (i, 1)) for i in range(300)]
    assert [get(result) for result in results] == list(range(1, 301))


def test_group_joins(backend, make_app, cworker):
    app = make_app(backend)
    cworker(backend=backend)
    tasks = group(app.signature("demo.mul", (i, i)) for i in range(10))
    result = tasks.apply_async()
    assert result.join(timeout=TIMEOUT, interval=0.02) == [i * i for i in range(10)]


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_pools(app, cworker, pool):
    cworker("-P", pool, concurrency=1 if pool == "solo" else 4)
    results = [app.send_task("demo.add", (i, i)) for i in range(50)]
    assert [get(result) for result in results] == [2 * i for i in range(50)]


def test_ids_that_are_no_uuid(app, cworker):
    cworker()
    for task_id in ("a", "with space", "ключ", "x" * 300, "{curly}:*"):
        assert get(app.send_task("demo.add", (1, 1), task_id=task_id)) == 2
        assert app.AsyncResult(task_id).result == 2

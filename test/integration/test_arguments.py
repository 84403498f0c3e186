# SPDX-License-Identifier: Apache-2.0
"""Arguments by place and by name; wrong ones are a TypeError that names what is wrong."""
import pytest
from harness import get

GOOD = [
    (("demo.add", (2, 3), {}), 5),
    (("demo.add", (), {"x": 2, "y": 3}), 5),
    (("demo.add", (2,), {"y": 3}), 5),
    (("demo.identity", ([1, 2],), {}), [1, 2]),
    (("demo.identity", (), {"x": None}), None),
    (("demo.echo", (), {}), {"args": [], "kwargs": {}}),
    (("demo.echo", (1, "two", None), {"three": [3], "args": 4}),
     {"args": [1, "two", None], "kwargs": {"three": [3], "args": 4}}),
]

WRONG = [
    ("demo.mul", (), {}, "x"),
    ("demo.mul", (1,), {}, "y"),
    ("demo.mul", (1, 2, 3), {}, "3"),
    ("demo.mul", (1, 2), {"z": 3}, "z"),
    ("demo.mul", (1,), {"x": 2, "y": 3}, "x"),
    ("demo.mul", ("1", 2), {}, "x"),
    ("demo.mul", (1, [2]), {}, "y"),
    ("demo.mul", (1, None), {}, "y"),
    ("demo.xsum", (5,), {}, "numbers"),
    ("demo.noop", (1,), {}, "1"),
]


@pytest.mark.parametrize("call, value", GOOD, ids=str)
def test_good_call(app, cworker, call, value):
    cworker()
    name, args, kwargs = call
    assert get(app.send_task(name, args, kwargs)) == value


@pytest.mark.parametrize("name, args, kwargs, hint", WRONG, ids=str)
def test_wrong_call(app, cworker, name, args, kwargs, hint):
    cworker()
    result = app.send_task(name, args, kwargs)
    with pytest.raises(TypeError, match=hint):
        get(result)
    assert result.state == "FAILURE"
    assert get(app.send_task("demo.add", (1, 1))) == 2


def test_wrong_call_is_not_retried(app, cworker, keys):
    worker = cworker()
    with pytest.raises(TypeError):
        get(app.send_task("demo.fail_n", ("key",)))
    assert " retry: " not in worker.log
    assert keys.llen("celery") == 0


def test_other_serializer_versions(make_app, cworker):
    """Protocol 1, and custom headers that a C worker does not know."""
    cworker()
    assert get(make_app(task_protocol=1).send_task("demo.add", (4, 5))) == 9
    assert get(make_app().send_task("demo.add", (4, 6), headers={"tenant": {"id": 7}})) == 10

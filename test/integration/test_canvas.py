# SPDX-License-Identifier: Apache-2.0
"""Canvases: what a producer's chain, group, chord and callbacks give, on both result stores."""
from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, chain, chord, group, signature
from celery.canvas import Signature, chunks, xmap, xstarmap
from celery.exceptions import ChordError
from celery.result import AsyncResult

from harness import Worker, get


def add(*args: Any, **options: Any) -> Signature:
    return signature("demo.add", args=args, **options)


def xsum(*args: Any, **options: Any) -> Signature:
    return signature("demo.xsum", args=args, **options)


def identity(*args: Any, **options: Any) -> Signature:
    return signature("demo.identity", args=args, **options)


def fail(*args: Any) -> Signature:
    return signature("demo.fail", args=args or ("broken",))


CANVASES: dict[str, tuple[Callable[[], Signature], Any]] = {
    "chain": (lambda: chain(add(1, 2), add(3), add(4)), 10),
    "group": (lambda: group(add(i, i) for i in range(4)), [0, 2, 4, 6]),
    "chord": (lambda: chord([add(1, 1), add(2, 2), add(3, 3)], xsum()), 12),
    "chord of one": (lambda: chord([add(1, 1)], xsum()), 2),
    "empty chord": (lambda: chord([], xsum()), 0),
    "chord, then chain": (lambda: chain(chord([add(1, 1), add(2, 2)], xsum()), add(10)), 16),
    "chain, then group": (lambda: chain(add(1, 1), group(add(10), add(20))), [12, 22]),
    "chain, then chord": (lambda: chain(add(1, 1), group(add(10), add(20)), xsum()), 34),
    "chain, chord, chord": (lambda: chain(add(1, 1), group(add(10), add(20)), xsum(),
                                          group(add(1), add(2)), xsum()), 71),
    "chord of chains": (lambda: chord([chain(add(1, 1), add(1)), chain(add(2, 2), add(2))],
                                      xsum()), 9),
    "chord of chords": (lambda: chord([chord([add(1, 1), add(2, 2)], xsum()), add(5, 5)],
                                      xsum()), 16),
    "chord with a chain as body": (lambda: chord([add(1, 1), add(2, 2)],
                                                 chain(xsum(), add(1), add(1))), 8),
    "chord with a chord as body": (lambda: chord([add(1, 1), add(2, 2)],
                                                 chain(xsum(), group(add(1), add(2)), xsum())), 15),
    "chord with a group as body": (lambda: chord([add(1, 1), add(2, 2)],
                                                 group(xsum(), identity())), [6, [2, 4]]),
    "groups in a group": (lambda: group(group(add(1, 1), add(2, 2)), add(3, 3)), [2, 4, 6]),
    "chord of a chain with a group at its end": (
        lambda: chord([chain(add(1, 1), group(add(1), add(2))), add(9, 9)], identity()),
        [[3, 4], 18]),
    "order": (lambda: chord([add(i, 0) for i in range(50)], identity()), list(range(50))),
    "immutable": (lambda: chain(add(1, 1), add(5, 5, immutable=True)), 10),
    "big integers": (lambda: chain(identity(2**70), add(1), add(1)), 2**70 + 2),
    "link": (lambda: add(1, 1, link=add(1)), 2),
    "chunks": (lambda: chunks(add(), [(i, i) for i in range(6)], 4).group(),
               [[0, 2, 4, 6], [8, 10]]),
    "map": (lambda: xmap(xsum(), [[1, 2], [3, 4]]), [3, 7]),
    "starmap": (lambda: xstarmap(add(), [(1, 2), (3, 4)]), [3, 7]),
}


def stub(*args: Any) -> None:
    """Stands for a task that only the worker knows."""


def apply(app: Celery, canvas: Signature) -> AsyncResult:
    with app.connection_for_write():
        canvas._app = app
        return canvas.apply_async()


@pytest.fixture
def current(make_app: Callable[..., Celery], backend: str) -> Iterator[Celery]:
    """Canvases take the current app wherever they are not told."""
    app = make_app(backend, result_chord_retry_interval=0.1)
    app.set_current()
    for name in ("add", "xsum", "identity", "fail", "echo"):
        app.task(name=f"demo.{name}")(stub)
    yield app
    gc.collect()  # results unsubscribe when they go: before their server does


def start(cworker: Callable[..., Worker], backend: str, *options: str) -> Worker:
    return cworker("--set", "result_chord_retry_interval=0.1", *options, backend=backend)


def test_canvases_give_what_celery_gives(current: Celery, backend: str,
                                         cworker: Callable[..., Worker]) -> None:
    start(cworker, backend)
    sent = {name: apply(current, make()) for name, (make, _) in CANVASES.items()}
    got = {name: get(result, timeout=30) for name, result in sent.items()}
    assert got == {name: CANVASES[name][1] for name in sent}


def test_a_failed_part_fails_the_body(current: Celery, backend: str,
                                      cworker: Callable[..., Worker]) -> None:
    start(cworker, backend)
    result = apply(current, chord([add(1, 1), fail("broken")], xsum()))
    with pytest.raises(ChordError, match="broken"):
        get(AsyncResult(result.id, app=current))


def test_a_failed_chain_in_a_header_fails_the_body(current: Celery, backend: str,
                                                   cworker: Callable[..., Worker]) -> None:
    start(cworker, backend)
    result = apply(current, chord([add(1, 1), chain(fail("broken"), identity(), identity())],
                                  xsum()))
    with pytest.raises(ChordError, match="broken"):
        get(AsyncResult(result.id, app=current))

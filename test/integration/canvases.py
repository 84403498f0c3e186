# SPDX-License-Identifier: Apache-2.0
"""A table of canvases, each a function of an app to a signature: what test_parity.py runs on Celery's
own worker and on cworker. Names of tasks are the demo plugin's."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery, Signature, chain, chord, group
from celery.canvas import StampingVisitor

CANVASES: dict[str, Callable[[Make], Signature]] = {}


class Make:
    """Short names for signatures of one app's tasks."""

    def __init__(self, app: Celery) -> None:
        self.app = app

    def __call__(self, name: str, *args: Any, **options: Any) -> Signature:
        return self.app.signature(f"demo.{name}", args, **options)

    def add(self, *args: Any, **options: Any) -> Signature:
        return self("add", *args, **options)

    def same(self, *args: Any, **options: Any) -> Signature:
        return self("identity", *args, **options)

    def sum(self, *args: Any, **options: Any) -> Signature:
        return self("xsum", *args, **options)

    def echo(self, *args: Any, **options: Any) -> Signature:
        return self("echo", *args, **options)

    def fail(self, message: str = "no", **options: Any) -> Signature:
        return self("fail", message, immutable=True, **options)

    def adds(self, n: int) -> list[Signature]:
        return [self.add(i, i) for i in range(n)]

    def chain(self, *tasks: Any, **options: Any) -> Signature:
        return chain(*tasks, app=self.app, **options)

    def group(self, *tasks: Any) -> Signature:
        return group(*tasks, app=self.app)

    def chord(self, header: Any, body: Any = None) -> Signature:
        return chord(header, body, app=self.app)


def canvas(name: str, build: Callable[[Make], Signature]) -> None:
    assert name not in CANVASES, name
    CANVASES[name] = build


def linked(sig: Signature, *callbacks: Signature) -> Signature:
    for callback in callbacks:
        sig.link(callback)
    return sig


def guarded(sig: Signature, *errbacks: Signature) -> Signature:
    for errback in errbacks:
        sig.link_error(errback)
    return sig


# --- one task -------------------------------------------------------------------------------------

VALUES = {"null": None, "true": True, "float": 0.1, "big": 2 ** 70, "small": -2 ** 70, "text": "ü€𝄞\x00",
          "list": [1, [2, [3, []]]], "dict": {"a": {"b": [None, {}]}}, "empty": "",
          "infinity": float("inf")}
for word, value in VALUES.items():
    canvas(f"one-{word}", lambda m, value=value: m.same(value))
canvas("one-kwargs", lambda m: m("add", kwargs={"x": 1, "y": 2}))
canvas("one-mixed", lambda m: m.echo(1, [2], kwargs={"k": {"l": 3}}))
canvas("one-fails", lambda m: m.fail("ü"))
canvas("one-wrong-arguments", lambda m: m.add(1))
canvas("one-ignores", lambda m: m("ignore"))
canvas("one-priority", lambda m: m.add(1, 2).set(priority=6))
canvas("one-countdown", lambda m: m.add(1, 2).set(countdown=0.05))
canvas("one-expires", lambda m: m.add(1, 2).set(expires=60))
canvas("one-headers", lambda m: m.add(1, 2).set(headers={"x-one": "1"}))
canvas("one-shadow", lambda m: m.add(1, 2).set(shadow="other.name"))
canvas("one-retries", lambda m: m("fail_n", "KEY", 2))

# --- callbacks ------------------------------------------------------------------------------------

canvas("link", lambda m: linked(m.add(1, 2), m.add(10)))
canvas("link-immutable", lambda m: linked(m.add(1, 2), m.add(7, 8, immutable=True)))
canvas("link-kwargs", lambda m: linked(m.add(1, 2), m.echo(kwargs={"k": 1})))
canvas("link-two", lambda m: linked(m.add(1, 2), m.add(10), m.add(20)))
canvas("link-of-link", lambda m: linked(m.add(1, 2), linked(m.add(10), m.add(100))))
canvas("link-chain", lambda m: linked(m.add(1, 2), m.chain(m.add(10), m.add(100))))
canvas("link-group", lambda m: linked(m.add(1, 2), m.group(m.add(10), m.add(20))))
canvas("link-chord", lambda m: linked(m.add(1, 2), m.chord([m.add(10), m.add(20)], m.sum())))
canvas("link-fails", lambda m: linked(m.add(1, 2), m.fail()))
canvas("link-of-failed", lambda m: linked(m.fail(), m.add(10)))
canvas("link-error", lambda m: guarded(m.fail(), m.echo()))
canvas("link-error-immutable", lambda m: guarded(m.fail(), m.echo(1, immutable=True)))
canvas("link-error-two", lambda m: guarded(m.fail(), m.echo(), m.echo(2, immutable=True)))
canvas("link-error-unused", lambda m: guarded(m.add(1, 2), m.echo()))
canvas("link-error-chain", lambda m: guarded(m.fail(), m.chain(m.echo(1, immutable=True), m.echo())))
canvas("link-both", lambda m: guarded(linked(m.add(1, 2), m.add(10)), m.echo()))

# --- chains ---------------------------------------------------------------------------------------

for n in range(1, 6):
    canvas(f"chain-{n}", lambda m, n=n: m.chain(m.add(1, 1), *[m.add(10) for _ in range(n - 1)]))
canvas("chain-immutable", lambda m: m.chain(m.add(1, 1), m.add(2, 2, immutable=True), m.add(3)))
canvas("chain-kwargs", lambda m: m.chain(m.add(1, 1), m.echo(kwargs={"k": 1})))
for at in range(3):
    canvas(f"chain-fails-at-{at}", lambda m, at=at: m.chain(
        *[m.fail() if i == at else m.add(1) if i else m.add(1, 1) for i in range(3)]))
canvas("chain-of-chains", lambda m: m.chain(m.chain(m.add(1, 1), m.add(2)), m.chain(m.add(3), m.add(4))))
canvas("chain-linked", lambda m: linked(m.chain(m.add(1, 1), m.add(2)), m.add(100)))
canvas("chain-guarded", lambda m: guarded(m.chain(m.add(1, 1), m.fail(), m.add(2)), m.echo(1, immutable=True)))
canvas("chain-middle-linked", lambda m: m.chain(m.add(1, 1), linked(m.add(2), m.echo()), m.add(3)))
canvas("chain-middle-guarded", lambda m: m.chain(
    m.add(1, 1), guarded(m.fail(), m.echo(1, immutable=True)), m.add(3)))
canvas("chain-priority", lambda m: m.chain(m.add(1, 1), m.add(2)).set(priority=3))
canvas("chain-step-priority", lambda m: m.chain(m.add(1, 1), m.add(2).set(priority=9)))
canvas("chain-step-countdown", lambda m: m.chain(m.add(1, 1), m.add(2).set(countdown=0.05)))
canvas("chain-step-expires", lambda m: m.chain(m.add(1, 1), m.add(2).set(expires=60)))
canvas("chain-step-headers", lambda m: m.chain(m.add(1, 1), m.add(2).set(headers={"x-two": "2"})))
canvas("chain-big", lambda m: m.chain(m.same(2 ** 70), m.add(1)))
canvas("chain-text", lambda m: m.chain(m.same("ü\x00"), m.echo()))
canvas("chain-null", lambda m: m.chain(m("noop"), m.echo()))
canvas("chain-retries", lambda m: m.chain(m("fail_n", "KEY", 2), m.add(5)))
canvas("chain-ignores", lambda m: m.chain(m.add(1, 1), m("ignore", immutable=True), m.add(2)))
canvas("chain-20", lambda m: m.chain(m.add(0, 1), *[m.add(1) for _ in range(19)]))

# --- groups ---------------------------------------------------------------------------------------

for n in range(1, 5):
    canvas(f"group-{n}", lambda m, n=n: m.group(*m.adds(n)))
canvas("group-one-fails", lambda m: m.group(m.add(1, 1), m.fail()))
canvas("group-of-chains", lambda m: m.group(m.chain(m.add(1, 1), m.add(2)), m.chain(m.add(3, 3), m.add(4))))
canvas("group-of-groups", lambda m: m.group(m.group(m.add(1, 1)), m.group(m.add(2, 2), m.add(3, 3))))
canvas("group-of-chords", lambda m: m.group(m.chord(m.adds(2), m.sum()), m.chord(m.adds(3), m.sum())))
canvas("group-linked", lambda m: linked(m.group(*m.adds(2)), m.echo()))
canvas("group-guarded", lambda m: guarded(m.group(m.add(1, 1), m.fail()), m.echo(1, immutable=True)))
canvas("group-20", lambda m: m.group(*m.adds(20)))
canvas("task-then-group", lambda m: m.chain(m.add(1, 1), m.group(m.add(10), m.add(20))))
canvas("task-then-group-of-chains", lambda m: m.chain(
    m.add(1, 1), m.group(m.chain(m.add(10), m.add(20)), m.chain(m.add(30), m.add(40)))))
canvas("failed-then-group", lambda m: m.chain(m.fail(), m.group(m.add(10), m.add(20))))

# --- chords ---------------------------------------------------------------------------------------

for n in range(1, 5):
    canvas(f"chord-{n}", lambda m, n=n: m.chord(m.adds(n), m.sum()))
canvas("chord-order", lambda m: m.chord([m.same(i) for i in range(8)], m.same()))
canvas("chord-values", lambda m: m.chord([m.same(v) for v in (None, "ü", 2 ** 70, [1], {"a": 1})], m.echo()))
canvas("chord-immutable-body", lambda m: m.chord(m.adds(2), m.add(5, 5, immutable=True)))
canvas("chord-body-kwargs", lambda m: m.chord(m.adds(2), m.echo(kwargs={"k": 1})))
canvas("chord-body-args", lambda m: m.chord(m.adds(2), m.echo(7)))
canvas("chord-body-chain", lambda m: m.chord(m.adds(2), m.chain(m.sum(), m.add(100))))
canvas("chord-body-group", lambda m: m.chord(m.adds(2), m.group(m.sum(), m.echo())))
canvas("chord-body-chord", lambda m: m.chord(m.adds(2), m.chord([m.sum(), m.sum()], m.echo())))
canvas("chord-body-fails", lambda m: m.chord(m.adds(2), m.fail()))
canvas("chord-body-linked", lambda m: m.chord(m.adds(2), linked(m.sum(), m.add(100))))
canvas("chord-header-chains", lambda m: m.chord(
    [m.chain(m.add(1, 1), m.add(2)), m.chain(m.add(3, 3), m.add(4))], m.sum()))
canvas("chord-header-groups", lambda m: m.chord(
    [m.group(m.add(1, 1), m.add(2, 2)), m.add(3, 3)], m.echo()))
canvas("chord-header-chords", lambda m: m.chord(
    [m.chord(m.adds(2), m.sum()), m.chord(m.adds(3), m.sum())], m.sum()))
canvas("chord-header-fails", lambda m: m.chord([m.add(1, 1), m.fail("header")], m.sum()))
canvas("chord-header-fails-in-quotes", lambda m: m.chord([m.add(1, 1), m.fail("it's\nü")], m.sum()))
canvas("chord-header-all-fail", lambda m: m.chord([m.fail("a"), m.fail("a")], m.sum()))
canvas("chord-header-chain-fails", lambda m: m.chord([m.add(1, 1), m.chain(m.add(1, 1), m.fail())], m.sum()))
canvas("chord-guarded", lambda m: guarded(m.chord([m.add(1, 1), m.fail()], m.sum()), m.echo(1, immutable=True)))
canvas("chord-header-retries", lambda m: m.chord([m("fail_n", "KEY", 2), m.add(1, 1)], m.sum()))
canvas("chord-20", lambda m: m.chord(m.adds(20), m.sum()))
canvas("group-then-task", lambda m: m.chain(m.group(*m.adds(3)), m.sum()))
canvas("group-then-tasks", lambda m: m.chain(m.group(*m.adds(3)), m.sum(), m.add(100)))
canvas("group-then-group", lambda m: m.chain(m.group(*m.adds(2)), m.group(m.sum(), m.echo())))
canvas("group-group-task", lambda m: m.chain(m.group(*m.adds(2)), m.group(m.sum(), m.sum()), m.sum()))
canvas("task-group-task", lambda m: m.chain(m.add(1, 1), m.group(m.add(10), m.add(20)), m.sum()))
canvas("task-group-task-fails", lambda m: m.chain(m.add(1, 1), m.group(m.add(10), m.fail()), m.sum()))
canvas("task-chord-task", lambda m: m.chain(m.add(1, 1), m.chord([m.add(10), m.add(20)], m.sum()), m.add(100)))
canvas("chord-in-chain-in-chord", lambda m: m.chord(
    [m.chain(m.add(1, 1), m.group(m.add(10), m.add(20)), m.sum()), m.add(5, 5)], m.sum()))
canvas("chain-group-chain-group", lambda m: m.chain(
    m.add(1, 1), m.group(m.add(1), m.add(2)), m.sum(), m.group(m.add(3), m.add(4)), m.sum()))

# --- chunks, map, starmap, stamps --------------------------------------------------------------------


def task_of(m: Make, name: str) -> Any:
    def placeholder(*args: Any, **kwargs: Any) -> None:
        """Never run: only its name is sent."""
    return m.app.task(name=f"demo.{name}", shared=False, typing=False)(placeholder)


canvas("map", lambda m: task_of(m, "identity").map([1, "a", None]))
canvas("starmap", lambda m: task_of(m, "add").starmap([(1, 2), (3, 4)]))
canvas("chunks", lambda m: task_of(m, "add").chunks([(i, i) for i in range(5)], 2).group())
canvas("map-fails", lambda m: task_of(m, "fail").map(["a"]))


def stamped(sig: Signature, **stamps: str) -> Signature:
    sig.stamp(**stamps)
    return sig


canvas("stamp-one", lambda m: stamped(m.add(1, 2), tenant="a"))
canvas("stamp-chain", lambda m: stamped(m.chain(m.add(1, 1), m.add(2)), tenant="a"))
canvas("stamp-group", lambda m: stamped(m.group(*m.adds(2)), tenant="a"))
canvas("stamp-chord", lambda m: stamped(m.chord(m.adds(2), m.sum()), tenant="a"))
canvas("stamp-link", lambda m: stamped(linked(m.add(1, 2), m.add(10)), tenant="a"))
canvas("stamp-retry", lambda m: stamped(m("fail_n", "KEY", 2), tenant="a"))

# --- deep nestings ----------------------------------------------------------------------------------

canvas("deep-chain-chord-chain", lambda m: m.chain(
    m.add(1, 1), m.chord([m.chain(m.add(1), m.add(2)), m.chain(m.add(3), m.add(4))], m.sum()), m.add(5)))
canvas("deep-body-of-chords", lambda m: m.chord(
    m.adds(2), m.chain(m.sum(), m.group(m.add(1), m.add(2)), m.sum(), m.group(m.add(3), m.add(4)), m.echo())))
canvas("deep-group-of-chains-of-groups", lambda m: m.group(
    m.chain(m.add(1, 1), m.group(m.add(1), m.add(2))), m.chain(m.add(2, 2), m.group(m.add(3), m.add(4)))))
canvas("deep-header-ends-in-group", lambda m: m.chord(
    [m.chain(m.add(1, 1), m.group(m.add(1), m.add(2))), m.add(9, 9)], m.echo()))
canvas("deep-header-ends-in-chord", lambda m: m.chord(
    [m.chain(m.add(1, 1), m.chord([m.add(1), m.add(2)], m.sum())), m.add(9, 9)], m.echo()))
canvas("deep-chord-of-chord-of-chord", lambda m: m.chord(
    [m.chord([m.chord(m.adds(2), m.sum()), m.add(1, 1)], m.sum()), m.add(2, 2)], m.sum()))
canvas("deep-body-group-of-chains", lambda m: m.chord(
    m.adds(2), m.group(m.chain(m.sum(), m.add(1)), m.chain(m.sum(), m.add(2)))))
canvas("deep-chain-of-groups", lambda m: m.chain(
    m.group(m.add(1, 1), m.add(2, 2)), m.group(m.echo(), m.echo()), m.group(m.echo(), m.echo())))
canvas("deep-chord-then-chord", lambda m: m.chain(
    m.chord(m.adds(2), m.sum()), m.chord([m.add(1), m.add(2)], m.sum()), m.chord([m.add(3)], m.sum())))
canvas("deep-group-in-group-in-chord", lambda m: m.chord(
    m.group(m.group(m.add(1, 1), m.group(m.add(2, 2), m.add(3, 3))), m.add(4, 4)), m.echo()))
canvas("deep-chain-in-chain-in-group", lambda m: m.group(
    m.chain(m.chain(m.add(1, 1), m.add(1)), m.chain(m.add(2), m.chain(m.add(3), m.add(4)))), m.add(1, 1)))
canvas("deep-fails-inside", lambda m: m.chord(
    [m.chain(m.add(1, 1), m.group(m.add(1), m.fail())), m.add(9, 9)], m.echo()))
canvas("deep-fails-in-inner-body", lambda m: m.chord(
    [m.chord(m.adds(2), m.fail()), m.add(9, 9)], m.echo()))
canvas("deep-fails-in-chain-of-chords", lambda m: m.chain(
    m.chord(m.adds(2), m.fail()), m.chord([m.add(1), m.add(2)], m.sum()), m.add(3)))
canvas("deep-fails-before-chord", lambda m: m.chain(
    m.add(1, 1), m.fail(), m.group(m.add(1), m.add(2)), m.sum()))

# --- what a chord gives to its members ---------------------------------------------------------------


def chord_with_kwargs(m: Make, header: Any, body: Signature, **kwargs: Any) -> Signature:
    return chord(header, body, kwargs={"kwargs": kwargs}, app=m.app)


canvas("chord-kwargs", lambda m: chord_with_kwargs(m, [m("add", 1), m("add", 2)], m.sum(), y=5))
canvas("chord-kwargs-in-chain", lambda m: m.chain(
    m.add(1, 1), chord_with_kwargs(m, [m("add"), m.chain(m("add"), m.add(1))], m.sum(), y=5)))
canvas("chord-kwargs-immutable-part", lambda m: m.chain(
    m.add(1, 1), chord_with_kwargs(m, [m("add"), m.add(3, 3, immutable=True)], m.sum(), y=5)))
canvas("chord-options-in-chain", lambda m: m.chain(
    m.add(1, 1), m.chord([m.add(1), m.add(2)], m.sum()).set(priority=3, max_retries=99)))

# --- nothing in it ----------------------------------------------------------------------------------

canvas("empty-chord", lambda m: m.chord([], m.sum()))
canvas("empty-chord-in-chain", lambda m: m.chain(m.add(1, 1), m.chord([], m.echo())))
canvas("empty-chord-body-chain", lambda m: m.chord([], m.chain(m.sum(), m.add(1))))
canvas("empty-group", lambda m: m.group())
canvas("group-of-one-then-task", lambda m: m.chain(m.group(m.add(1, 1)), m.echo()))
canvas("task-group-of-one", lambda m: m.chain(m.add(1, 1), m.group(m.add(1))))
canvas("task-group-of-one-task", lambda m: m.chain(m.add(1, 1), m.group(m.add(1)), m.echo()))
canvas("chain-in-group-of-one", lambda m: m.group(m.chain(m.add(1, 1), m.group(m.add(1), m.add(2)))))

# --- links on canvases --------------------------------------------------------------------------------

canvas("linked-chord", lambda m: linked(m.chord(m.adds(2), m.sum()), m.add(10)))
canvas("linked-chord-chain-body", lambda m: linked(m.chord(m.adds(2), m.chain(m.sum(), m.add(1))), m.add(10)))
canvas("linked-chain-to-group", lambda m: linked(
    m.chain(m.add(1, 1), m.group(m.add(1), linked(m.add(2), m.same()))), m.echo()))
canvas("link-linked-chain-to-group", lambda m: linked(m.same(1), linked(
    m.chain(m.add(1), m.group(m.add(1), m.add(2))), m.echo())))
canvas("linked-header-part", lambda m: m.chord([linked(m.add(1, 1), m.add(10)), m.add(2, 2)], m.sum()))
canvas("guarded-header-part", lambda m: m.chord([guarded(m.fail(), m.echo(1, immutable=True)), m.add(2, 2)], m.sum()))
canvas("guarded-body", lambda m: m.chord([m.fail(), m.add(2, 2)], guarded(m.sum(), m.echo(1, immutable=True))))
canvas("guarded-body-with-id", lambda m: m.chord([m.fail(), m.add(2, 2)], guarded(m.sum(), m.echo(2))))
canvas("guarded-body-that-fails", lambda m: m.chord(m.adds(2), guarded(m.fail(), m.echo(2))))
canvas("guarded-body-chain", lambda m: guarded(m.chord(
    [m.fail(), m.add(2, 2)], m.chain(m.sum(), m.add(1))), m.echo(1, immutable=True)))
canvas("guarded-body-group", lambda m: guarded(m.chord(
    [m.fail(), m.add(2, 2)], m.group(m.sum(), m.echo())), m.echo(1, immutable=True)))
canvas("guarded-twice", lambda m: guarded(m.chain(
    guarded(m.fail(), m.echo(1, immutable=True)), m.add(1)), m.echo(2, immutable=True)))
canvas("guarded-group-in-chain", lambda m: m.chain(
    m.add(1, 1), guarded(m.group(m.add(1), m.fail()), m.echo(1, immutable=True)), m.echo()))
canvas("guarded-by-group", lambda m: guarded(m.fail(), m.group(m.echo(1, immutable=True), m.echo(2, immutable=True))))
canvas("guarded-errback-fails", lambda m: guarded(m.fail(), m.fail("errback")))
canvas("link-immutable-chain", lambda m: linked(m.add(1, 2), m.chain(m.add(1, 1, immutable=True), m.add(2))))
canvas("link-in-chain-of-chord", lambda m: m.chain(
    linked(m.add(1, 1), m.echo()), m.group(linked(m.add(1), m.echo()), m.add(2)), linked(m.sum(), m.echo())))
canvas("link-with-options", lambda m: linked(m.add(1, 2), m.add(3).set(priority=3, expires=60)))

# --- options of parts ---------------------------------------------------------------------------------

canvas("parts-countdown", lambda m: m.chord([m.add(1, 1).set(countdown=0.05), m.add(2, 2)], m.sum()))
canvas("parts-priority", lambda m: m.chord([m.add(1, 1).set(priority=9), m.add(2, 2)], m.sum().set(priority=3)))
canvas("parts-expires", lambda m: m.chord([m.add(1, 1).set(expires=60), m.add(2, 2)], m.sum().set(expires=60)))
canvas("parts-expired", lambda m: m.chain(m.add(1, 1), m.add(1).set(expires=-1)))
canvas("parts-headers", lambda m: m.chord([m.add(1, 1).set(headers={"x-a": "1"}), m.add(2, 2)], m.sum()))
canvas("parts-immutable", lambda m: m.chain(
    m.add(1, 1), m.group(m.add(5, 5, immutable=True), m.add(2)), m.echo(3, immutable=True)))
canvas("parts-kwargs", lambda m: m.chord([m("add", kwargs={"x": 1, "y": 2}), m("add", 1, kwargs={"y": 3})],
                                         m("xsum")))
canvas("parts-retry", lambda m: m.chain(m.add(1, 1), m.group(m("fail_n", "KEY", 2, immutable=True), m.add(2)), m.sum()))
canvas("ignored-mid-chain", lambda m: m.chain(m.add(1, 1), m.add(2).set(ignore_result=True), m.add(3)))
canvas("ignored-last", lambda m: m.chain(m.add(1, 1), m.add(2).set(ignore_result=True)))
canvas("ignored-link", lambda m: linked(m.add(1, 1).set(ignore_result=True), m.add(2)))
canvas("huge-arguments", lambda m: m.chain(m.same("x" * 300_000), m.echo(), m.same()))
canvas("huge-parts", lambda m: m.chord([m.same("ü" * 100_000) for _ in range(3)], m.same()))
canvas("big-through-chord", lambda m: m.chain(m.group(m.same(10 ** 18), m.same(-2 ** 63)), m.sum()))
canvas("nan-through-chain", lambda m: m.chain(m.same(float("nan")), m.echo(float("-inf"))))

# --- replacing ------------------------------------------------------------------------------------------

canvas("replace-task", lambda m: m("replace", m.add(1, 1)))
canvas("replace-chain", lambda m: m("replace", m.chain(m.add(1, 1), m.add(2))))
canvas("replace-group", lambda m: m("replace", m.group(*m.adds(2))))
canvas("replace-chord", lambda m: m("replace", m.chord(m.adds(2), m.sum())))
canvas("replace-in-chain", lambda m: m.chain(m("replace", m.chain(m.add(1, 1), m.add(2))), m.add(10)))
canvas("replace-by-group-in-chain", lambda m: m.chain(m("replace", m.group(*m.adds(2))), m.echo()))
canvas("replace-by-chord-in-group", lambda m: m.group(m("replace", m.chord(m.adds(2), m.sum())), m.add(1, 1)))
canvas("replace-by-chord-in-chord", lambda m: m.chord([m("replace", m.chord(m.adds(2), m.sum())), m.add(1, 1)],
                                                      m.sum()))
canvas("replace-by-chain-in-chord", lambda m: m.chord([m("replace", m.chain(m.add(1, 1), m.add(2))), m.add(1, 1)],
                                                      m.sum()))
canvas("replace-by-group-in-chord", lambda m: m.chord([m("replace", m.group(*m.adds(2))), m.add(1, 1)], m.echo()))
canvas("replace-body", lambda m: m.chord(m.adds(2), m("replace", m.add(5, 5), immutable=True)))
canvas("replace-linked", lambda m: linked(m("replace", m.add(1, 1)), m.add(10)))
canvas("replace-guarded", lambda m: guarded(m("replace", m.fail()), m.echo(1, immutable=True)))
canvas("replace-twice", lambda m: m("replace", m("replace", m.add(1, 1))))
canvas("replace-twice-in-chain", lambda m: m.chain(m("replace", m("replace", m.add(1, 1))), m.add(2)))
canvas("replace-by-failing-chain", lambda m: m.chain(m("replace", m.chain(m.add(1, 1), m.fail())), m.add(2)))

# --- pieces of work in chains ---------------------------------------------------------------------------

canvas("map-in-chain", lambda m: m.chain(task_of(m, "identity").map([1, 2]), m.sum()))
canvas("starmap-in-chord", lambda m: m.chord([task_of(m, "add").starmap([(1, 2), (3, 4)])], m.echo()))
canvas("chunks-in-chain", lambda m: m.chain(task_of(m, "add").chunks([(i, i) for i in range(5)], 2).group(), m.echo()))
canvas("chunks-plain", lambda m: task_of(m, "add").chunks([(i, i) for i in range(5)], 2))
canvas("starmap-ignores", lambda m: task_of(m, "ignore").starmap([()]))
canvas("starmap-rejects", lambda m: task_of(m, "reject").starmap([()]))
canvas("starmap-fails", lambda m: m.chain(task_of(m, "add").starmap([(1, 2), (3,)]), m.echo()))

# --- stamps: visitors ------------------------------------------------------------------------------------


class Visitor(StampingVisitor):
    """Marks every kind of member with what it is."""

    def on_signature(self, sig: Signature, **headers: Any) -> dict[str, Any]:
        return {"seen": sig.task, "many": ["a", "b"], "stamped_headers": ["seen", "many"]}

    def on_chord_body(self, sig: Signature, **headers: Any) -> dict[str, Any]:
        return {"body": "yes"}

    def on_callback(self, callback: Signature, **headers: Any) -> dict[str, Any]:
        return {"callback": "yes"}

    def on_errback(self, errback: Signature, **headers: Any) -> dict[str, Any]:
        return {"errback": "yes"}


def visited(sig: Signature) -> Signature:
    sig.stamp(visitor=Visitor())
    return sig


canvas("visit-one", lambda m: visited(m.add(1, 2)))
canvas("visit-chain", lambda m: visited(m.chain(m.add(1, 1), m.add(2), m.add(3))))
canvas("visit-chord", lambda m: visited(m.chord(m.adds(2), m.sum())))
canvas("visit-links", lambda m: visited(linked(guarded(m.add(1, 2), m.echo()), m.add(10))))
canvas("visit-errback", lambda m: visited(guarded(m.fail(), m.echo(1, immutable=True))))
canvas("visit-task-group-task", lambda m: visited(m.chain(m.add(1, 1), m.group(m.add(10), m.add(20)), m.sum())))
canvas("stamp-replace", lambda m: stamped(m("replace", m.add(1, 1)), tenant="a"))
canvas("stamp-errback", lambda m: stamped(guarded(m.fail(), m.echo(1, immutable=True)), tenant="a"))
canvas("stamp-twice", lambda m: stamped(stamped(m.chain(m.add(1, 1), m.add(2)), tenant="a"), region="b"))
canvas("stamp-task-chord", lambda m: stamped(m.chain(m.add(1, 1), m.group(m.add(1), m.add(2)), m.sum()), tenant="a"))

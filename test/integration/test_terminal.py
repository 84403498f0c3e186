# SPDX-License-Identifier: Apache-2.0
"""What is only there on a terminal: the screen of `cworker events`, progress bars of long work."""
from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import TIMEOUT, get, run_cworker
from services.process import wait_until
from terminal import Terminal

ENTER, LEAVE = "\x1b[?1049h", "\x1b[?25h\x1b[?1049l"
HOME, END = "\x1b[?7l\x1b[H", "\x1b[J\x1b[?7h"
LETTERS = 20000


@pytest.fixture
def terminal(redis: Any) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*words: Any, **options: Any) -> Terminal:
        opened.append(Terminal("-b", redis.url(), *words, **options))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def frames(text: str) -> list[list[str]]:
    """The lines of each whole drawing, without what steers the terminal."""
    drawn = [part.partition(END)[0] for part in text.split(HOME)[1:] if END in part]
    return [[re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).rstrip() for line in frame.split("\r\n")]
            for frame in drawn]


def wait_frame(terminal: Terminal, what: Callable[[list[str]], Any]) -> list[str]:
    def last() -> list[str] | None:
        drawn = frames(terminal.text)
        return drawn[-1] if drawn and what(drawn[-1]) else None
    return wait_until(last, TIMEOUT, "the picture")


# --- events -------------------------------------------------------------------------------------------

def test_screen(app, cworker, terminal):
    """Workers and tasks; it fits, whatever size the terminal has got; q gives the terminal back."""
    cworker("-E")
    screen = terminal("events", "-F", "0.1")
    screen.wait_text(ENTER)
    wait_frame(screen, lambda lines: any(re.match(r" w1@test +online", line) for line in lines))
    good = app.send_task("demo.add", (2, 3))
    bad = app.send_task("demo.fail", ("no",))
    assert get(good) == 5
    lines = wait_frame(screen, lambda lines: any(bad.id in line and " failed " in line for line in lines) and
                       any(good.id in line and " succeeded " in line for line in lines))
    line = next(line for line in lines if good.id in line)
    assert re.search(r"demo\.add +succeeded +(\d+\.\d+s)? +w1@test +5$", line)
    assert any("ValueError('no')" in line for line in lines)
    results = [app.send_task("demo.add", (i, 1)) for i in range(40)]
    assert [get(result) for result in results] == list(range(1, 41))
    full = wait_frame(screen, lambda lines: len(lines) == 24)
    assert full[-1] == ""  # nothing is written into the last row: it would scroll
    for rows in (60, 8, 3, 12):
        screen.resize(rows, 100)
        wait_frame(screen, lambda lines, rows=rows: len(lines) == min(rows, 6 + 42 + 1))
    assert screen.settings() != screen.before
    screen.type("x")
    screen.type("q")
    assert screen.wait() == 0
    assert screen.text.endswith(LEAVE) and screen.settings() == screen.before
    assert "xq" not in screen.text


@pytest.mark.parametrize("how", [lambda t: t.type("\x03"), lambda t: t.process.terminate()],
                         ids=["ctrl-c", "SIGTERM"])
def test_screen_ends(terminal, how):
    screen = terminal("events")
    screen.wait_text(END)
    how(screen)
    assert screen.wait() == 0
    assert screen.text.endswith(LEAVE) and screen.settings() == screen.before


def test_screen_is_suspended(terminal):
    """Ctrl-Z leaves the terminal as it was; SIGCONT, as by fg, draws the screen again."""
    screen = terminal("events")
    screen.wait_text(END)
    screen.type("\x1a")
    _, status = os.waitpid(screen.process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    screen.wait_text(LEAVE)
    assert screen.settings() == screen.before
    seen = len(screen.text)
    screen.process.send_signal(signal.SIGCONT)
    screen.wait_text(ENTER, seen)
    screen.wait_text(END, seen)
    screen.type("q")
    assert screen.wait() == 0 and screen.settings() == screen.before


def test_screen_tells_of_a_lost_connection(terminal, redis):
    screen = terminal("events", "-F", "0.1")
    wait_frame(screen, lambda lines: "no connection" not in lines[0])
    seen = len(screen.text)
    with redis.client() as client:
        client.config_set("maxclients", 1)  # so that nobody comes back
        try:
            client.client_kill_filter(skipme=True, _type="pubsub")
            screen.wait_text("no connection to Redis", seen)
        finally:
            client.config_set("maxclients", 10000)
    wait_frame(screen, lambda lines: "no connection" not in lines[0])


def test_no_server_no_screen(terminal):
    """The reason must not vanish with the screen."""
    screen = terminal("-b", "redis://127.0.0.1:1", "events")
    assert screen.wait() == 69
    assert "127.0.0.1:1" in screen.text and ENTER not in screen.text


# --- progress -----------------------------------------------------------------------------------------

@pytest.fixture
def letters(keys: Any) -> None:
    text = json.dumps({"at": "2026-11-21T12:00:00", "reason": "no", "worker": "w", "message": "%d"})
    for first in range(0, LETTERS, 1000):
        keys.lpush("{celery}.cworker.dead", *[text % i for i in range(first, first + 1000)])


def bars(text: str, what: str) -> list[tuple[int, int, int]]:
    """Percent, done and total of each drawing, which grow."""
    found = [tuple(map(int, bar)) for bar in re.findall(
        rf"\r{what} \[[#.]*\] +(\d+)% (\d+) of (\d+)\x1b\[K", text)]
    assert found == sorted(found) and all(done <= total for _, done, total in found)
    return found


def test_bar_of_dead_retry(terminal, letters, keys):
    work = terminal("dead", "retry", "--all")
    assert work.wait() == 0
    assert {total for _, _, total in bars(work.text, "Putting back")} == {LETTERS}
    assert work.text.endswith(f"\r\x1b[KPut back {LETTERS} messages.\r\n")
    assert keys.llen("celery") == LETTERS


def test_bar_of_dead_purge(terminal, letters, keys):
    work = terminal("dead", "purge", "--all", "-f")
    assert work.wait() == 0
    assert bars(work.text, "Purging")
    assert work.text.endswith(f"\r\x1b[KPurged {LETTERS} messages.\r\n")
    assert not keys.exists("{celery}.cworker.dead")


def test_bar_of_recover(terminal, keys):
    for first in range(0, 60000, 1000):
        ids = [f"id-{i}" for i in range(first, first + 1000)]
        keys.zadd("{celery}.cworker.delayed", {id: 2e15 for id in ids})
        keys.hset("{celery}.cworker.delayed.msg", mapping={id: "1 0 {}" for id in ids})
    work = terminal("recover")
    assert work.wait() == 0
    assert {total for _, _, total in bars(work.text, "Giving back")} == {60000}
    assert "60000 delayed" in work.text and keys.llen("celery") == 60000


def test_bar_of_purge(terminal, keys):
    """Each queue is emptied in one step, so the bar counts queues."""
    names = [f"q{i}" for i in range(6000)]
    with keys.pipeline() as pipe:
        for name in names:
            pipe.lpush(name, "{}")
        pipe.execute()
    work = terminal("purge", "-f", "-Q", ",".join(names))
    assert work.wait() == 0
    assert bars(work.text, "Emptying queues")
    assert "Purged 6000 messages from 6000 known task queues." in work.text


@pytest.mark.parametrize("words", [["--json"], ["-q"]], ids=" ".join)
def test_no_bar_where_nobody_wants_it(terminal, letters, words):
    work = terminal("dead", "retry", "--all", *words)
    assert work.wait() == 0
    assert "Putting back" not in work.text and "\x1b" not in work.text


def test_no_bar_without_a_terminal(letters, redis):
    done = run_cworker("-b", redis.url(), "dead", "purge", "--all", "-f")
    assert done.stderr == "" and done.stdout == f"Purged {LETTERS} messages.\n"


def test_bar_beside_a_piped_result(terminal, letters, tmp_path: Path):
    """stdout may be a file: the bar is on stderr."""
    path = tmp_path / "out"
    with open(path, "wb") as out:
        work = terminal("dead", "retry", "--all", stdout=out)
        assert work.wait() == 0
    assert bars(work.text, "Putting back")
    assert path.read_text() == f"Put back {LETTERS} messages.\n"

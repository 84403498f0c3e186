# SPDX-License-Identifier: Apache-2.0
"""What all test servers share: free ports, waiting for a condition, a folder and a process."""
from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from pymongo.errors import OperationFailure


@functools.cache
def ports_file() -> int:
    """Its byte number p is locked by the process that has port p, for as long as that lives."""
    path = f"{tempfile.gettempdir()}/cworker-test-ports.{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


taken: set[int] = set()


def free_port() -> int:
    """Not of those that the kernel gives to clients: one of these could take it before its server does. Nor
    one that a test has got that runs beside this one, whose server is not up yet, or away for a while."""
    while True:
        port = random.SystemRandom().randrange(10000, 32000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            if port not in taken:
                fcntl.lockf(ports_file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
                taken.add(port)
                return port


def wait_until(condition: Callable[[], Any], timeout: float = 120, what: str = "") -> Any:
    """The first true value of condition(); TimeoutError when there was none in time. The patience is that of
    a machine with far too much to do: who waits for what is right waits no longer for it."""
    deadline = time.monotonic() + timeout
    while True:
        late = time.monotonic() > deadline
        try:
            value = condition()
        except OperationFailure as error:
            # MongoDB's stand-in reads without a lock what is just being written, and trips over it.
            if late or not str(error).startswith("Unknown error"):
                raise
            value = None
        if value:
            return value
        if late:
            what = what or getattr(condition, "__name__", "the condition")
            raise TimeoutError(f"{what} did not come true in {timeout} s (last: {value!r})")
        time.sleep(0.01)


libc = ctypes.CDLL(None)


def die_with_us() -> None:
    """For preexec_fn: a session that is killed leaves nobody behind who would come back to its port for ever,
    and there take part in a later test."""
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


def end_process(process: subprocess.Popen, timeout: float = 10, number: int = signal.SIGTERM) -> int:
    if process.poll() is None:
        process.send_signal(number)
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def descendants(pid: int) -> list[int]:
    """Every live process below pid."""
    found = []
    with contextlib.suppress(OSError):  # it has just ended, or below: a thread of it
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                for child in map(int, (task / "children").read_text().split()):
                    found += [child, *descendants(child)]
    return found


class Service:
    """A server with a temporary folder, started by start() or `with`, stopped by its pid."""

    def __init__(self, name: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"cworker-{name}-"))
        self.process: subprocess.Popen | None = None

    def start(self) -> Self:
        raise NotImplementedError

    def run(self, *command: str, log: str = "log") -> subprocess.Popen:
        with open(self.folder / log, "ab") as file:
            return subprocess.Popen(command, cwd=self.folder, stdout=file, stderr=file,
                                    stdin=subprocess.DEVNULL, preexec_fn=die_with_us)

    def check_alive(self) -> None:
        if self.process and self.process.poll() is not None:
            raise RuntimeError(f"{self.process.args[0]} ended: "
                               f"{(self.folder / 'log').read_text()[-2000:]}")

    def stop(self) -> None:
        if self.process:
            end_process(self.process)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

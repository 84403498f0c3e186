# SPDX-License-Identifier: Apache-2.0
"""What all test servers share: free ports, waiting for a condition, stopping by pid."""
from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until(condition: Callable[[], Any], timeout: float = 10, what: str = "") -> Any:
    """The first true value of condition(); TimeoutError when there was none in time."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            what = what or getattr(condition, "__name__", "the condition")
            raise TimeoutError(f"{what} did not come true in {timeout} s (last: {value!r})")
        time.sleep(0.01)


def end_process(process: subprocess.Popen, timeout: float = 10) -> int:
    if process.poll() is None:
        process.terminate()
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()

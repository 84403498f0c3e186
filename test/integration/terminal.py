# SPDX-License-Identifier: Apache-2.0
"""A cworker command on a terminal of its own: a pty, read as it comes."""
from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import threading
from typing import Any

from harness import CWORKER, SANITIZER, TIMEOUT
from services.process import wait_until


class Terminal:
    """`text` is all that was written to the terminal so far. With `stdout`, that is no part of it."""

    def __init__(self, *words: Any, rows: int = 24, columns: int = 160, stdout: Any = None) -> None:
        self.master, slave = pty.openpty()
        self.text = ""
        self.closed = False
        self.resize(rows, columns)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.process = subprocess.Popen(
            [CWORKER, *map(str, words)], stdin=slave, stdout=slave if stdout is None else stdout,
            stderr=slave, start_new_session=True, env={**os.environ, "TERM": "xterm"},
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        while not self.closed:
            if select.select([self.master], [], [], 0.1)[0]:
                self.text += os.read(self.master, 65536).decode(errors="replace")

    def resize(self, rows: int, columns: int) -> None:
        """The kernel tells the process by SIGWINCH."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def wait_text(self, text: str, since: int = 0) -> None:
        wait_until(lambda: text in self.text[since:], TIMEOUT, f"{text!r} on the terminal")

    def settings(self) -> list[Any]:
        return termios.tcgetattr(self.slave)

    def wait(self) -> int:
        code = self.process.wait(TIMEOUT)
        os.write(self.slave, b"<end>")  # behind all that it has written
        self.wait_text("<end>")
        self.text = self.text.removesuffix("<end>")
        assert not SANITIZER.search(self.text), self.text
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.closed = True
        self.thread.join(5)
        os.close(self.master)
        os.close(self.slave)

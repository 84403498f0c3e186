# SPDX-License-Identifier: Apache-2.0
"""A private PostgreSQL: free loopback port, own temporary folder, stopped by its pid."""
from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from services.process import free_port, wait_until

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def is_installed() -> bool:
    return bool(PROGRAMS)


class PostgresServer:
    """One database `test`, one user `cw` with a password; it refuses to run as root, so the user
    that Debian's package makes runs it there."""

    password = "s3cret-of-pg"

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="cworker-pg-"))
        self.process: subprocess.Popen | None = None
        if os.getuid() == 0:
            shutil.chown(self.folder, "postgres")

    def _run(self, *args: str, **options: str) -> None:
        done = subprocess.run([*self._prefix, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, cwd="/", **options)
        if done.returncode:
            raise RuntimeError(f"{args[0]} ended with {done.returncode}:\n{done.stdout[-2000:]}")

    @property
    def _prefix(self) -> list[str]:
        return ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"] \
            if os.getuid() == 0 else []

    def __enter__(self) -> PostgresServer:
        secret = self.folder / "password"
        secret.write_text(self.password)
        secret.chmod(0o644)
        programs, data = PROGRAMS[-1], str(self.folder / "data")
        self._run(str(programs / "initdb"), "-D", data, "-U", "cw", "-A", "scram-sha-256",
                  f"--pwfile={secret}", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8")
        self.process = subprocess.Popen(
            [*self._prefix, str(programs / "postgres"), "-D", data, "-p", str(self.port),
             "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.folder}",
             "-c", "fsync=off"], cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self._is_ready, what="PostgreSQL")
        return self

    def __exit__(self, *_: object) -> None:
        if self.process:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(20)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _is_ready(self) -> bool:
        return subprocess.run([PROGRAMS[-1] / "pg_isready", "-q", "-h", "127.0.0.1", "-p",
                               str(self.port)]).returncode == 0

    @property
    def url(self) -> str:
        return f"postgresql://cw:{self.password}@127.0.0.1:{self.port}/postgres"

    def sql(self, text: str) -> str:
        return subprocess.run(["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", self.url,
                               "-c", text], check=True, capture_output=True, text=True).stdout

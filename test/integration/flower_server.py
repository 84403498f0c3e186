# SPDX-License-Identifier: Apache-2.0
"""Flower from PyPI as a server of a test, and its HTTP API."""
from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import TIMEOUT
from services.process import end_process, free_port, wait_until

NODE = "w1@test"


class Flower:
    """Flower's HTTP API."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, path: str, post: bool = False, **arguments: Any) -> Any:
        query = urllib.parse.urlencode(arguments)
        url = f"{self.url}{path}" + (f"?{query}" if query and not post else "")
        data = query.encode() if post else None
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=TIMEOUT) as reply:
            text = reply.read().decode()
        return json.loads(text) if text.startswith(("{", "[")) else text

    def is_up(self) -> bool:
        try:
            return self.ask("/healthcheck") == "OK"
        except (OSError, urllib.error.URLError):
            return False

    def worker(self) -> dict[str, Any]:
        """What it knows, when it has asked anew; nothing before it has heard of the worker."""
        try:
            return self.ask("/api/workers", refresh="true", workername=NODE).get(NODE, {})
        except urllib.error.HTTPError:
            return {}

    def hears(self) -> bool:
        """The worker's heart: only then it misses no event of its tasks."""
        return self.ask("/api/workers", status="true") == {NODE: True}

    def message(self, path: str, **arguments: Any) -> str:
        return self.ask(path, post=True, **arguments)["message"]


@contextmanager
def running_flower(redis: Any, log: Path) -> Iterator[Flower]:
    port = free_port()
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "python_worker", "flower", f"--port={port}",
             "--address=127.0.0.1",
             "--tasks-columns=name,uuid,state,args,kwargs,result,received,runtime,worker"],
            cwd=Path(__file__).parent, stdout=file, stderr=subprocess.STDOUT,
            env={**os.environ, "FLOWER_UNAUTHENTICATED_API": "true", "BROKER": redis.url(),
                 "BACKEND": redis.url()})
    flower = Flower(port)
    try:
        wait_until(flower.is_up, 120, "Flower")
        yield flower
    finally:
        end_process(process)
        print(log.read_text())

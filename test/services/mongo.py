# SPDX-License-Identifier: Apache-2.0
"""A MongoDB for tests: MONGODB_URL's, else a private mongod, else mongo.sh's stand-in."""
from __future__ import annotations

import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from services.process import Service, free_port, wait_until

STAND_IN = Path(__file__).with_name("mongo.sh")


class MongoServer(Service):
    """`private`: one of our own even where MONGODB_URL names another, for tests that stop it.
    `durable`: the stand-in keeps its data in a file (a mongod always does)."""

    def __init__(self, *, private: bool = False, port: int = 0, durable: bool = False) -> None:
        super().__init__("mongo")
        self.durable = durable
        self.borrowed = None if private else os.environ.get("MONGODB_URL")
        self.port = port or free_port()

    def url(self, database: str = "celery") -> str:
        if self.borrowed:
            return urlunsplit(urlsplit(self.borrowed)._replace(path=f"/{database}"))
        return f"mongodb://127.0.0.1:{self.port}/{database}"

    def client(self) -> MongoClient:
        return MongoClient(self.url(""), serverSelectionTimeoutMS=10000, connectTimeoutMS=10000)

    def _command(self) -> list[str]:
        if mongod := shutil.which("mongod"):
            return [mongod, "--bind_ip", "127.0.0.1", "--port", str(self.port),
                    "--dbpath", str(self.folder)]
        data = [str(self.folder / "data")] if self.durable else []
        return [str(STAND_IN), "run", "127.0.0.1", str(self.port), *data]

    def is_up(self) -> bool:
        self.check_alive()
        try:
            with MongoClient(self.url(""), serverSelectionTimeoutMS=300) as client:
                return bool(client.admin.command("ping")["ok"])
        except PyMongoError:
            return False

    def start(self) -> MongoServer:
        if not self.borrowed:
            self.process = self.run(*self._command())
        wait_until(self.is_up, 120, "MongoDB's start")
        return self

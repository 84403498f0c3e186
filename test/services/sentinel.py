# SPDX-License-Identifier: Apache-2.0
"""A master, a replica and sentinels that watch them: real processes on loopback ports of their own."""
from __future__ import annotations

import json
import shutil
import subprocess

from redis import Redis
from redis.exceptions import RedisError

from services.process import Service, end_process, free_port, wait_until
from services.redis import RedisServer

MASTER_NAME = "mymaster"


class Sentinels(Service):
    """`with Sentinels(n=3) as fleet:` fleet.url() is what Celery and cworker are given."""

    def __init__(self, n: int = 3, password: str = "") -> None:
        super().__init__("sentinel")
        self.password = password
        self.ports = [free_port() for _ in range(n)]
        self.processes: list[subprocess.Popen] = []
        self.first = RedisServer(extra=("--repl-diskless-sync-delay", "0"))
        self.second = RedisServer(extra=("--replicaof", f"127.0.0.1 {self.first.port}",
                                         "--repl-diskless-sync-delay", "0"))

    def url(self, db: int = 0) -> str:
        return ";".join(f"sentinel://127.0.0.1:{port}/{db}" for port in self.ports)

    def transport_options(self) -> dict:
        options: dict = {"master_name": MASTER_NAME}
        if self.password:
            options["sentinel_kwargs"] = {"password": self.password}
        return options

    def worker_options(self) -> tuple[str, ...]:
        return ("--set", f"broker_transport_options={json.dumps(self.transport_options())}")

    def sentinel(self, i: int = 0) -> Redis:
        return Redis(port=self.ports[i], password=self.password or None, decode_responses=True)

    def master_port(self) -> int:
        """Where the sentinels say that the master is."""
        for i, process in enumerate(self.processes):
            if process.poll() is None:
                with self.sentinel(i) as client:
                    return int(client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME",
                                                      MASTER_NAME)[1])
        raise RuntimeError("no sentinel is left")

    def master(self) -> RedisServer:
        return self.first if self.master_port() == self.first.port else self.second

    def replica(self) -> RedisServer:
        return self.second if self.master_port() == self.first.port else self.first

    def is_whole(self) -> bool:
        """All sentinels know each other, and the replica is in step."""
        try:
            for i in range(len(self.ports)):
                with self.sentinel(i) as client:
                    state = client.sentinel_master(MASTER_NAME)
                    if state["num-other-sentinels"] + 1 < len(self.ports) or not state["num-slaves"]:
                        return False
            with self.second.client() as client:
                return client.info("replication")["master_link_status"] == "up"
        except (RedisError, OSError):
            return False

    def start(self) -> Sentinels:
        self.first.start()
        self.second.start()
        program = shutil.which("redis-server")
        quorum = len(self.ports) // 2 + 1
        for port in self.ports:
            config = self.folder / f"{port}.conf"
            config.write_text(
                f"port {port}\nbind 127.0.0.1\ndir {self.folder}\n"
                + (f"requirepass {self.password}\nsentinel sentinel-pass {self.password}\n"
                   if self.password else "")
                + f"sentinel monitor {MASTER_NAME} 127.0.0.1 {self.first.port} {quorum}\n"
                f"sentinel down-after-milliseconds {MASTER_NAME} 1500\n"
                f"sentinel failover-timeout {MASTER_NAME} 5000\n")
            self.processes.append(self.run(program, str(config), "--sentinel", log=f"{port}.log"))
        wait_until(self.is_whole, what="a fleet of sentinels")
        return self

    def close(self) -> None:
        for process in self.processes:
            end_process(process)
        self.second.close()
        self.first.close()
        super().close()

# SPDX-License-Identifier: Apache-2.0
"""A private redis-server: free loopback port, own temporary folder, stopped by its pid."""
from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

from redis import Redis
from redis.exceptions import RedisError

from services.process import Service, free_port, wait_until


def make_certificates(folder: Path) -> None:
    """ca.pem, and server.pem with server.key that it signed for 127.0.0.1."""
    def openssl(*args: str) -> None:
        subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)

    (folder / "san.ext").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem",
            "-days", "2", "-subj", "/CN=test authority")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "server.key", "-out", "server.csr",
            "-subj", "/CN=127.0.0.1")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
            "-CAcreateserial", "-days", "2", "-extfile", "san.ext", "-out", "server.pem")


class RedisServer(Service):
    """Keeps nothing across a restart unless `aof`, which syncs every write. Not started before
    start() or `with`; `port` is known before, so that a client can be started first."""

    def __init__(self, *, aof: bool = False, password: str = "", user: str = "", tls: bool = False,
                 port: int = 0, extra: tuple[str, ...] = ()) -> None:
        super().__init__("redis")
        self.port = port or free_port()
        self.socket = self.folder / "redis.sock"
        self.password, self.user, self.tls = password, user, tls
        if tls:
            make_certificates(self.folder)
        self.options = self._options(aof) + list(extra)

    def _options(self, aof: bool) -> list[str]:
        options = ["--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "",
                   "--unixsocket", str(self.socket), "--unixsocketperm", "700"]
        if aof:
            options += ["--appendonly", "yes", "--appendfsync", "always"]
        if self.user:
            options += ["--user", "default", "off",
                        "--user", self.user, "on", f">{self.password}", "~*", "&*", "+@all"]
        elif self.password:
            options += ["--requirepass", self.password]
        if self.tls:
            options += ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no",
                        "--tls-cert-file", "server.pem", "--tls-key-file", "server.key",
                        "--tls-ca-cert-file", "ca.pem"]
        else:
            options += ["--port", str(self.port)]
        return options

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    def _login(self) -> str:
        words = [quote(word, safe="") for word in (self.user, self.password)]
        return ":".join(words) + "@" if self.password else ""

    def url(self, db: int = 0) -> str:
        if self.tls:
            return (f"rediss://{self._login()}127.0.0.1:{self.port}/{db}"
                    f"?ssl_cert_reqs=required&ssl_ca_certs={self.ca_file}")
        return f"redis://{self._login()}127.0.0.1:{self.port}/{db}"

    def socket_url(self, db: int = 0) -> str:
        return f"redis+socket://{self._login()}{self.socket}?virtual_host={db}"

    def client(self, db: int = 0) -> Redis:
        return Redis(unix_socket_path=str(self.socket), db=db, username=self.user or None,
                     password=self.password or None)

    def is_up(self) -> bool:
        self.check_alive()
        try:
            with self.client() as client:
                return client.ping() and not client.info("persistence")["loading"]
        except (RedisError, OSError):
            return False

    def start(self) -> RedisServer:
        program = shutil.which("redis-server")
        if not program:
            raise RuntimeError("no redis-server on PATH; run test/setup.sh test")
        self.process = self.run(program, *self.options)
        wait_until(self.is_up, what="redis-server's start")
        return self

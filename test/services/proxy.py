# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy that stops the client's bytes at a chosen place: what a crash or a slow network does
between two steps. `with Proxy(port) as proxy:`; then `proxy.hold(b"LREM")`."""
from __future__ import annotations

import socket
import threading


class Proxy:
    def __init__(self, target: int) -> None:
        self.target = target
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.held = threading.Event()
        self._wanted: bytes | None = None
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self, wanted: bytes) -> None:
        """From the first bytes that contain `wanted` on, nothing reaches the server any more."""
        self._wanted = wanted

    def wait_held(self, timeout: float = 15) -> None:
        assert self.held.wait(timeout), f"no {self._wanted!r} came by in {timeout} s"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                return
            self._sockets += [client, server]
            for source, sink, is_client in [(client, server, True), (server, client, False)]:
                threading.Thread(target=self._pump, args=(source, sink, is_client),
                                 daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, is_client: bool) -> None:
        try:
            while data := source.recv(65536):
                if is_client and self._wanted and self._wanted in data:
                    self.held.set()
                if not (is_client and self.held.is_set()):
                    sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self) -> None:
        for end in [self.listener, *self._sockets]:
            end.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

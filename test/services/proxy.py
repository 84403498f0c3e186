# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy that stops the client's bytes at a chosen place, or cuts its connections after a chosen
number of bytes: what a crash or a bad network does between two steps, or between any two bytes.
`with Proxy(port) as proxy:`; then `proxy.hold(b"LREM")` or `proxy.cut(100)`."""
from __future__ import annotations

import socket
import threading


class Proxy:
    def __init__(self, target: int) -> None:
        self.target = target
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.held = threading.Event()
        self.cuts = 0
        self._wanted: bytes | None = None
        self._left: int | None = None
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self, wanted: bytes) -> None:
        """From the first bytes that contain `wanted` on, nothing reaches the server any more."""
        self._wanted = wanted

    def wait_held(self, timeout: float = 120) -> None:
        assert self.held.wait(timeout), f"no {self._wanted!r} came by in {timeout} s"

    def cut(self, after: int) -> None:
        """The connection ends by which the last of so many more bytes passes, either way."""
        with self._lock:
            self._left = after

    def _allowed(self, size: int) -> tuple[int, bool]:
        """How many of these bytes may pass, and whether their connection ends then."""
        with self._lock:
            if self._left is None or size < self._left:
                self._left = None if self._left is None else self._left - size
                return size, False
            passed, self._left = self._left, None
            self.cuts += 1
            return passed, True

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:  # the server is away for a while
                client.close()
                continue
            self._sockets += [client, server]
            for source, sink, is_client in [(client, server, True), (server, client, False)]:
                threading.Thread(target=self._pump, args=(source, sink, is_client),
                                 daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, is_client: bool) -> None:
        try:
            while data := source.recv(65536):
                if is_client and self._wanted and self._wanted in data:
                    self.held.set()
                if is_client and self.held.is_set():
                    continue
                size, ends = self._allowed(len(data))
                sink.sendall(data[:size])
                if ends:
                    break
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

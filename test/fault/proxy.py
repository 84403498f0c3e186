# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy on loopback whose connections can be cut after a chosen number of bytes."""
from __future__ import annotations

import selectors
import socket
import threading


class Proxy:
    """Forwards to `port`. cut(n): every connection ends when n more bytes have passed it, either
    way; between any two bytes of a command or of an answer."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.lock = threading.Lock()
        self.left: int | None = None
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, after: int) -> None:
        with self.lock:
            self.left = after

    def close(self) -> None:
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _allowed(self, size: int) -> tuple[int, bool]:
        """How many of these bytes may pass, and whether the connection ends then."""
        with self.lock:
            if self.left is None:
                return size, False
            if size < self.left:
                self.left -= size
                return size, False
            passed, self.left = self.left, None
            self.cuts += 1
            return passed, True

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self.target))
        except OSError:
            client.close()
            return
        ends = {client: server, server: client}
        with client, server, selectors.DefaultSelector() as selector:
            for end in ends:
                selector.register(end, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    try:
                        data = key.fileobj.recv(65536)
                        size, ends_now = self._allowed(len(data))
                        ends[key.fileobj].sendall(data[:size])
                    except OSError:
                        return
                    if not data or ends_now:
                        return

# SPDX-License-Identifier: Apache-2.0
"""A stand-in for a Kubernetes API server, not the real one: TLS, tokens and client certificates, and the
answers that a real 1.36.3 server gave (test/samples/kubernetes), besides lists that a test makes."""
from __future__ import annotations

import base64
import json
import shutil
import ssl
import subprocess
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from services.redis import make_certificates

SAMPLES = Path(__file__).resolve().parents[1] / "samples/kubernetes"
KINDS = {
    "/api/v1/namespaces": "Namespace", "/api/v1/nodes": "Node", "/api/v1/pods": "Pod",
    "/api/v1/services": "Service", "/api/v1/serviceaccounts": "ServiceAccount",
    "/apis/apps/v1/deployments": "Deployment", "/apis/apps/v1/daemonsets": "DaemonSet",
    "/apis/apps/v1/statefulsets": "StatefulSet", "/apis/apps/v1/replicasets": "ReplicaSet",
    "/apis/batch/v1/jobs": "Job", "/apis/batch/v1/cronjobs": "CronJob",
    "/apis/networking.k8s.io/v1/ingresses": "Ingress",
    "/apis/networking.k8s.io/v1/networkpolicies": "NetworkPolicy",
    "/apis/rbac.authorization.k8s.io/v1/roles": "Role",
    "/apis/rbac.authorization.k8s.io/v1/rolebindings": "RoleBinding",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles": "ClusterRole",
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings": "ClusterRoleBinding",
}
PATHS = {kind: path for path, kind in KINDS.items()}


def recorded(name: str) -> dict[str, Any]:
    return json.loads((SAMPLES / name).read_text())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: KubernetesStandIn

    def do_GET(self) -> None:  # noqa: N802
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        peer = self.connection.getpeercert()
        with self.server.lock:
            self.server.requests.append((url.path, query))
            status, headers, body = self.server.answer(
                url.path, query, self.headers.get("Authorization"), bool(peer))
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)),
                            **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        if headers.get("Connection") == "close":
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


class KubernetesStandIn(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = Path(tempfile.mkdtemp(prefix="cworker-k8s-"))
        self.lock = threading.Lock()
        self.token = "recorded-token"
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.lists: dict[str, list[dict[str, Any]]] = {}  # kind → items; else what was recorded
        self.forbidden: set[str] = set()
        self.absent: set[str] = set()
        self.expiries = 0  # so many requests for a further page are answered with the recorded 410
        self.page = 500
        self.raw: dict[str, list[tuple[int, dict[str, str], bytes]]] = {}  # kind → answers, then as usual
        self._make_tls()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02},
                         daemon=True).start()

    def _make_tls(self) -> None:
        make_certificates(self.folder)
        for args in (["req", "-newkey", "rsa:2048", "-nodes", "-keyout", "client.key", "-out",
                      "client.csr", "-subj", "/CN=reader"],
                     ["x509", "-req", "-in", "client.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
                      "-CAcreateserial", "-days", "2", "-out", "client.pem"]):
            subprocess.run(["openssl", *args], cwd=self.folder, check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.pem", self.folder / "server.key")
        context.load_verify_locations(self.folder / "ca.pem")
        context.verify_mode = ssl.CERT_OPTIONAL
        self.socket = context.wrap_socket(self.socket, server_side=True,
                                          do_handshake_on_connect=False)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that refuse our certificate are a test's business."""

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server_address[1]}"

    @property
    def ca(self) -> str:
        return (self.folder / "ca.pem").read_text()

    def kubeconfig(self, user: dict[str, Any] | None = None, **cluster: Any) -> dict[str, Any]:
        def data(name: str) -> str:
            return base64.b64encode((self.folder / name).read_bytes()).decode()

        user = user if user is not None else {"client-certificate-data": data("client.pem"),
                                              "client-key-data": data("client.key")}
        return {"apiVersion": "v1", "kind": "Config", "current-context": "one",
                "contexts": [{"name": "one", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {
                    "server": self.url, "certificate-authority-data": data("ca.pem"), **cluster}}],
                "users": [{"name": "u", "user": user}]}

    # --- answers ---

    def answer(self, path: str, query: dict[str, str], authorization: str | None,
               known: bool) -> tuple[int, dict[str, str], bytes]:
        kind = KINDS.get(path, "")
        if not known and authorization != f"Bearer {self.token}":
            return self._json(401, recorded("401-status.json"))
        if kind in self.forbidden:
            return self._json(403, recorded("403-status.json"))
        if not kind or kind in self.absent:
            return 404, {"Content-Type": "text/plain"}, b"404 page not found\n"
        if self.raw.get(kind):
            return self.raw[kind].pop(0)
        if "continue" in query and self.expiries:
            self.expiries -= 1
            return self._json(410, recorded("k8s-410-expired-continue.json"))
        return self._json(200, self._list(kind, query.get("continue", "")))

    @staticmethod
    def _json(status: int, value: Any) -> tuple[int, dict[str, str], bytes]:
        return status, {}, json.dumps(value).encode()

    def _list(self, kind: str, token: str) -> dict[str, Any]:
        if kind in self.lists:
            return self._made(kind, token)
        if kind == "Pod":
            first = recorded("k8s-podlist-page1.json")
            return recorded("k8s-podlist-page2.json") if token else first
        if kind in ("Node", "Deployment"):
            return recorded(f"k8s-{kind.lower()}list.json")
        return self._made(kind, token)

    def _made(self, kind: str, token: str) -> dict[str, Any]:
        start = int(token) if token.isdigit() else 0
        items = self.lists.get(kind, [])
        end = start + self.page
        metadata = {"resourceVersion": "446"}
        if end < len(items):
            metadata |= {"continue": str(end), "remainingItemCount": len(items) - end}
        return {"kind": f"{kind}List", "apiVersion": "v1", "metadata": metadata,
                "items": items[start:end] or None}

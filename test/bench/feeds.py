# SPDX-License-Identifier: Apache-2.0
"""How fast a long list of indicators is read, and in how much memory, twice: all new, then all known.

    .venv/bin/python test/bench/feeds.py -n 1000000

CPU seconds and peak memory are those of the pool's child; the database's time is most of the rest."""
from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]),
                str(Path(__file__).resolve().parents[1] / "integration")]

from celery import Celery  # noqa: E402
from pymongo import MongoClient  # noqa: E402

from harness import Worker, descendants  # noqa: E402
from services.mongo import MongoServer  # noqa: E402
from services.redis import RedisServer  # noqa: E402
from sync import cpu_seconds, peak_kb  # noqa: E402

CHUNK = 10000


def serve(count: int) -> ThreadingHTTPServer:
    class Feed(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            for start in range(0, count, CHUNK):
                self.wfile.write(b"".join(b"host-%d.evil.example\n" % i for i in
                                          range(start, min(count, start + CHUNK))))

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Feed)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-n", type=int, default=1000000, help="indicators")
    count, name = parser.parse_args().n, f"bench_feeds_{os.getpid()}"
    os.environ.setdefault("MONGO_SERVICE_MEMORY", f"{512 + count // 120}m")
    feed = serve(count)
    with RedisServer() as redis, MongoServer() as mongo, MongoClient(mongo.url("")) as client, \
            tempfile.TemporaryDirectory() as folder:
        db = client[name]
        db.threat_indicators.create_index([("type", 1), ("value", 1)], unique=True)
        db.threat_feeds.insert_one({"_id": "long", "name": "long", "kind": "plain", "enabled": True,
                                    "url": f"http://127.0.0.1:{feed.server_port}/"})
        app = Celery("bench", broker=redis.url(), backend=redis.url())
        worker = Worker(["-b", redis.url(), "--result-backend", redis.url(), "-Q", "threat_feeds",
                         "-c", "1", "-l", "INFO", "--set",
                         f"app_database_url={mongo.url(name)}"], Path(folder) / "log",
                        {"CWORKER_THREAT_FEEDS_PRIVATE_HOSTS": "127.0.0.1"}).wait_ready()
        for what in ("all new", "all known"):
            pids = descendants(worker.pid)
            begun, cpu = time.monotonic(), cpu_seconds(*pids)
            done = app.send_task("threat_feeds.fetch_feed", args=["long"],
                                 queue="threat_feeds").get(timeout=3500, interval=0.05)
            seconds = time.monotonic() - begun
            assert done["indicators"] == count, done
            print(f"{what:10} {seconds:8.2f} s {count / seconds:9.0f}/s   "
                  f"cpu {cpu_seconds(*pids) - cpu:6.2f} s "
                  f"{max(map(peak_kb, pids)) / 1024:7.1f} MiB peak", flush=True)
        worker.stop()
        gc.collect()  # Celery's results say goodbye to the server while it is there
        assert db.threat_indicators.count_documents({}) == count
        client.drop_database(name)


if __name__ == "__main__":
    main()

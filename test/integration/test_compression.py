# SPDX-License-Identifier: Apache-2.0
"""Compressed messages: each of Kombu's methods, broken data, and bombs."""
import base64
import gzip
import json
import zlib

import pytest
from harness import ROOT, body_of, dead_letters, get, make_message, wait_until

GOLDEN = sorted((ROOT / "test/golden").glob("celery-*/compress-*.json"))
TEXT = "compressible " * 5000


@pytest.mark.parametrize("method", ["gzip", "zlib", "bzip2", "lzma"])
def test_method(app, cworker, method):
    cworker()
    assert get(app.send_task("demo.identity", (TEXT,), compression=method)) == TEXT


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_captured_message(app, cworker, keys, path):
    """What real producers of four Celery versions have sent, brotli and zstd among it."""
    capture = json.loads(path.read_text())
    message = json.loads(capture["elements"][0]["raw"])
    if message["content-type"] != "application/json":
        pytest.skip("the task's arguments are not JSON")
    message["headers"]["task"] = "demo.echo"
    keys.lpush("celery", json.dumps(message))
    cworker()
    value = get(app.AsyncResult(message["headers"]["id"]))
    assert value == {"args": ["abc" * 40], "kwargs": {}}


def compressed(app, keys, data: bytes, method: str) -> dict:
    message = make_message(app, keys, "demo.identity", ("x",))
    message["headers"]["compression"] = method
    message["body"] = base64.b64encode(data).decode()
    return message


BODY = base64.b64decode(body_of([["x"], {}, {}]))
BROKEN = {
    "unknown method": (BODY, "application/x-nonsense"),
    "not compressed at all": (BODY, "application/x-gzip"),
    "cut short": (zlib.compress(BODY)[:-6], "application/x-gzip"),
    "damaged": (zlib.compress(BODY)[:4] + b"\xff\xff\xff\xff", "application/x-gzip"),
    "real gzip, which Kombu does not mean": (gzip.compress(BODY), "application/x-gzip"),
    "empty": (b"", "application/x-bz2"),
    "wrong method": (zlib.compress(BODY), "application/x-lzma"),
}


@pytest.mark.parametrize("data, method", BROKEN.values(), ids=BROKEN)
def test_broken(app, cworker, keys, data, method):
    message = compressed(app, keys, data, method)
    cworker()
    keys.lpush("celery", json.dumps(message))
    assert get(app.send_task("demo.add", (1, 2))) == 3
    wait_until(lambda: dead_letters(keys), what="a dead letter")
    assert app.AsyncResult(message["headers"]["id"]).state == "FAILURE"


def test_bomb(app, cworker, keys):
    """A hundred megabytes in a small message are refused at the limit, not unpacked."""
    bomb = compressed(app, keys, zlib.compress(b'[["' + b"x" * 100_000_000 + b'"], {}, {}]'),
                      "application/x-gzip")
    cworker("--set", "message_max_size=1000000")
    keys.lpush("celery", json.dumps(bomb))
    wait_until(lambda: dead_letters(keys), what="a dead letter")
    assert app.AsyncResult(bomb["headers"]["id"]).state == "FAILURE"
    assert get(app.send_task("demo.add", (1, 2))) == 3

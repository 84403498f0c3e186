# SPDX-License-Identifier: Apache-2.0
"""Applications on older and newer releases of Celery, each with its own packages."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PRODUCERS = Path(sys.prefix) / "producers"


@pytest.mark.parametrize("version", ["5.2.7", "5.7.0"])
def test_producer_of_another_release(version, backend, redis, cworker):
    assert (PRODUCERS / version).is_dir(), "run test/setup.sh test"
    cworker(backend=backend)
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("producer.py"), redis.url(), backend],
        env={**os.environ, "PYTHONPATH": str(PRODUCERS / version)}, capture_output=True, text=True,
        timeout=240)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "version": version, "one": 5, "kwargs": {"args": [1], "kwargs": {"k": "ü"}}, "big": 2 ** 70,
        "fails": ["ValueError", "no"], "retries": 2, "countdown": 2, "link": 2, "chain": 7,
        "group": [0, 2, 4], "chord": 6, "nested": 7}

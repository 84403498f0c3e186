# SPDX-License-Identifier: Apache-2.0
"""A fast part of Celery's own integration suite; `make upstream` runs all of it."""
from __future__ import annotations

import fcntl
import subprocess
import sys

import pytest
from harness import ROOT

sys.path.insert(0, str(ROOT / "test/upstream"))
import run as upstream  # noqa: E402

QUICK = ["simple_chain", "complex_chain", "nested_chain_group_mid", "chain_inside_group_receives",
         "parent_ids", "second_order_replace", "empty_header_chord", "add_to_chord", "chord_on_error",
         "nested_chord_group", "chain_of_nine_chords", "add_to_all", "stamping_example_canvas",
         "replace_chain_with_empty_chain", "errback_called_by_group_fail_first", "wrong_arguments",
         "fail_with_unpickleable", "retried_headers", "test_conf", "test_stats", "active_queues"]


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> None:
    upstream.BUILD.mkdir(parents=True, exist_ok=True)
    with open(upstream.BUILD / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            upstream.fetch_suite()
        except subprocess.CalledProcessError:
            pytest.skip(f"the source distribution of Celery {upstream.VERSION} cannot be downloaded")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("backend", ["redis", "mongo"])
def test_the_quick_part_of_celerys_own_suite(suite: None, backend: str) -> None:
    report = upstream.run(backend, ["-k", " or ".join(QUICK)])
    assert upstream.score(backend, report), report.with_suffix(".log").read_text()[-4000:]

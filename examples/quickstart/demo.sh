#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Shows cworker at work: private Redis and MongoDB, a cworker on seven queues, a real Celery producer.
# `make demo` prepares the machine first; this needs build/cworker, build/demo.so and .venv.
set -eu
cd "$(dirname "$0")/../.."
[ -x build/cworker ] || { echo "demo: build/cworker is not there; run make demo" >&2; exit 1; }
exec .venv/bin/python examples/quickstart/demo.py

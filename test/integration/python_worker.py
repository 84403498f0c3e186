# SPDX-License-Identifier: Apache-2.0
"""A Celery worker for mixed fleets and comparisons: tasks of the demo plugin, the same ledger format.
    python -m celery -A python_worker worker    (environment: BROKER, BACKEND, BENCH_TRACE, EXTENDED, NAP, GATE)
"""
import os
import struct
import time

from celery import Celery
from celery.exceptions import Ignore, Reject
from patience import PatientControl

app = Celery("fleet", broker=os.environ["BROKER"], backend=os.environ["BACKEND"],
             control=PatientControl)
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1,
                broker_connection_retry_on_startup=True,
                result_extended=bool(os.environ.get("EXTENDED")))


@app.task(name="bench.noop")
def noop(*args):
    if path := os.environ.get("BENCH_TRACE"):
        with open(path, "ab", buffering=0) as ledger:
            ledger.write(struct.pack("<QQ", args[0], time.monotonic_ns()))


@app.task(name="demo.sleep")
def sleep(seconds):
    time.sleep(float(os.environ.get("NAP", seconds)))
    return seconds


@app.task(name="gate")
def gate():
    while not os.path.exists(os.environ["GATE"]):
        time.sleep(0.02)


@app.task(name="demo.add")
def add(x, y):
    return x + y


@app.task(name="demo.fail")
def fail(message="failed"):
    raise ValueError(message)


@app.task(name="demo.fail_n", bind=True, max_retries=5)
def fail_n(self, key, n):
    attempt = self.request.retries + 1
    if attempt >= n:
        return attempt
    raise self.retry(countdown=0.1, exc=ValueError(f"{key}: attempt {attempt} of {n}"))


@app.task(name="demo.retry_forever", bind=True, max_retries=3)
def retry_forever(self, countdown):
    raise self.retry(countdown=countdown)


@app.task(name="demo.reject", bind=True)
def reject(self, requeue=False):
    raise Reject("not wanted", requeue=requeue)


@app.task(name="demo.ignore")
def ignore():
    raise Ignore()


@app.task(name="demo.replace", bind=True)
def replace(self, sig):
    raise self.replace(self.app.signature(sig))


@app.task(name="demo.identity")
def identity(x):
    return x


@app.task(name="demo.noop")
def nothing():
    return None


@app.task(name="demo.xsum")
def xsum(numbers):
    return sum(numbers)


@app.task(name="demo.echo", bind=True)  # bound, so that Celery sends it as an errback with the id
def echo(self, *args, **kwargs):
    return {"args": args, "kwargs": kwargs}

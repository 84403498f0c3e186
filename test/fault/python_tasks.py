# SPDX-License-Identifier: Apache-2.0
"""The fault kit's tasks for a Python worker that shares the queue: the same ledger as ledger.c."""
import os
import struct
import time

from celery import Celery

app = Celery("storm", broker=os.environ["BROKER"], backend=os.environ["BACKEND"])
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1,
                broker_connection_retry_on_startup=True)


def note(number, event, attempt):
    ledger = os.open(os.environ["FAULT_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(ledger, struct.pack("<QQIIII", number, time.monotonic_ns(), os.getpid(), event, attempt,
                                 int(os.environ["FAULT_LIFE"])))
    os.close(ledger)


@app.task(name="fault.run", bind=True, max_retries=None)
def run(self, number, seconds=0, failures=0):
    note(number, 1, self.request.retries)
    time.sleep(seconds)
    note(number, 2, self.request.retries)
    if self.request.retries < failures:
        raise self.retry(exc=ValueError("not yet"), countdown=0.05)
    return number


@app.task(name="fault.sum", bind=True)
def total(self, numbers, number):
    note(number, 1, 0)
    note(number, 2, 0)
    return sum(numbers)

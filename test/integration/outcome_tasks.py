# SPDX-License-Identifier: Apache-2.0
"""The demo plugin's ways to end, for Celery's own worker: what test_outcomes.py compares with.
    python -m celery -A outcome_tasks worker    (environment: BROKER, BACKEND, CONF as JSON)
"""
import json
import os
import signal
import time

from celery import Celery
from celery.exceptions import Ignore, Reject

app = Celery("outcomes", broker=os.environ["BROKER"], backend=os.environ["BACKEND"])
app.conf.update(broker_connection_retry_on_startup=True, **json.loads(os.environ["CONF"]))


@app.task(name="demo.add")
def add(x, y):
    return x + y


@app.task(name="demo.fail")
def fail(message):
    raise ValueError(message)


@app.task(name="demo.ignore")
def ignore():
    raise Ignore()


@app.task(name="demo.reject", bind=True)
def reject(self, requeue):
    if requeue and self.request.delivery_info.get("redelivered"):
        time.sleep(60)
    raise Reject("no", requeue=requeue)


@app.task(name="demo.retry_forever", bind=True, max_retries=3)
def retry_forever(self, countdown):
    raise self.retry(countdown=countdown)


@app.task(name="demo.spin")
def spin(seconds):
    time.sleep(seconds)


@app.task(name="demo.crash")
def crash(number):
    os.kill(os.getpid(), signal.Signals(number))
    time.sleep(1)


@app.task(name="demo.sleep")
def sleep(seconds):
    time.sleep(seconds)

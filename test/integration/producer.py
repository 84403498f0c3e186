# SPDX-License-Identifier: Apache-2.0
"""What an application does with Celery, in whatever version is on PYTHONPATH: sends, waits, prints what
it got as JSON. Run by test_producers.py.    python producer.py BROKER BACKEND"""
import json
import sys

import celery
from celery import Celery, chain, chord, group

app = Celery("producer", broker=sys.argv[1], backend=sys.argv[2], set_as_current=False)
app.conf.update(broker_connection_retry_on_startup=True)


def task(name, *args, **options):
    return app.signature("demo." + name, args, **options)


def outcome(result):
    try:
        return result.get(timeout=60, interval=0.02)
    except Exception as error:
        return [type(error).__name__, str(error)]


def main():
    add, same, total = "add", "identity", "xsum"
    canvases = {
        "one": task(add, 2, 3),
        "kwargs": task("echo", 1, kwargs={"k": "\u00fc"}),
        "big": task(same, 2 ** 70),
        "fails": task("fail", "no"),
        "retries": task("fail_n", "producer", 2),
        "countdown": task(add, 1, 1, countdown=0.1),
        "link": task(add, 1, 1, link=[task(add, 10)]),
        "chain": chain(task(add, 1, 1), task(add, 2), task(add, 3), app=app),
        "group": group([task(add, i, i) for i in range(3)], app=app),
        "chord": chord([task(add, i, i) for i in range(3)], app=app, body=task(total)),
        "nested": chain(task(add, 1, 1), group([task(add, 1), task(add, 2)], app=app), task(total),
                        app=app),
    }
    print(json.dumps({"version": celery.__version__,
                      **{name: outcome(sig.apply_async()) for name, sig in canvases.items()}}))


main()

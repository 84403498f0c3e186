# SPDX-License-Identifier: Apache-2.0
"""Retries and instants beside Celery's own: the messages, and what its parser makes of a date."""
import base64
import json
import re
from datetime import datetime, timezone

import pytest
from celery import chain, chord, group
from celery.utils.time import maybe_iso8601, maybe_make_aware
from harness import dead_letters, get, inflight, make_message, wait_until

EXPIRES = datetime(2099, 1, 1, tzinfo=timezone.utc)
FOREVER = "demo.retry_forever"
SENDS = {
    "plain": lambda app, queue: app.send_task(FOREVER, (600,), queue=queue),
    "options": lambda app, queue: app.send_task(
        FOREVER, (), {"countdown": 600}, queue=queue, priority=6, headers={"tenant": [1, None]},
        soft_time_limit=9, time_limit=20, shadow="other", expires=EXPIRES),
    "eta": lambda app, queue: app.send_task(FOREVER, (600,), queue=queue, eta=datetime(2019, 1, 1)),
    "links": lambda app, queue: app.send_task(
        FOREVER, (600,), queue=queue, link=app.signature("demo.add", (1,)),
        link_error=app.signature("demo.add", (2,))),
    "chain": lambda app, queue: chain(app.signature(FOREVER, (600,), queue=queue),
                                      app.signature("demo.add", (1, 2))).apply_async(),
    "group": lambda app, queue: group([app.signature(FOREVER, (600,), queue=queue)],
                                      app=app).apply_async(),
    "chord": lambda app, queue: chord([app.signature(FOREVER, (600,), queue=queue)],
                                      app.signature("demo.add", (3,)), app=app).apply_async(),
    "second": lambda app, queue: app.send_task(FOREVER, (600,), queue=queue, retries=1),
    "child": lambda app, queue: app.send_task(FOREVER, (600,), queue=queue, parent_id="p",
                                              root_id="r"),
    "stamped": lambda app, queue: stamped(app, queue).apply_async(),
}


def stamped(app, queue):
    signature = app.signature(FOREVER, (600,), queue=queue)
    signature.stamp(tenant="t", ids=["a"])
    return signature


def comparable(message):
    """Without what is drawn anew, or says which queue, or is of the moment."""
    headers, properties = message["headers"], message["properties"]
    body = json.loads(base64.b64decode(message.pop("body")))
    headers["parent_id"] = "own" if headers["parent_id"] == headers["id"] else headers["parent_id"]
    headers["eta"] = headers["eta"][19:].lstrip(".0123456789")
    del properties["delivery_tag"], properties["delivery_info"]["routing_key"]
    properties.pop("origin", None)  # Celery's leaks there out of the headers
    properties.pop("expiration", None)
    return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID",
                  json.dumps([message, body], sort_keys=True).replace("theirs", "ours"))


def test_the_message_is_celerys(app, cworker, python_worker, keys):
    python_worker("-Q", "theirs")
    cworker(queues="ours")

    def theirs():
        """Celery's waits in memory; a first delivery that is about to end may be there too."""
        for value in keys.hvals("unacked"):
            message = json.loads(value)[0]
            if (message["headers"]["eta"] or "") > "2020":
                return message
        return None

    def ours():
        values = keys.hvals("{ours}.cworker.delayed.msg")
        return json.loads(values[0].split(b" ", 2)[2]) if values else None

    for name, send in SENDS.items():
        send(app, "theirs")
        expected = wait_until(theirs, what=f"Celery's retry of {name}")
        keys.delete("unacked", "unacked_index")
        send(app, "ours")
        seen = wait_until(ours, what=f"our retry of {name}")
        wait_until(lambda: not inflight(keys), what="the ack")
        keys.delete("{ours}.cworker.delayed", "{ours}.cworker.delayed.msg")
        assert seen["headers"]["retries"] in (1, 2)
        assert comparable(seen) == comparable(expected), name


INSTANTS = [
    "2030-01-01", "2030-01-01T00:00", "2030-01-01T00:00:00", "2030-01-01 00:00:00", "20300101T000000",
    "2030-01-01T00:00:00Z", "2030-01-01t00:00:00z", "2030-01-01T00:00:00.5", "2030-01-01T00:00:00,5",
    "2030-01-01T00:00:00.123456+05:30", "2030-01-01T00:00:00.1234567", "2030-01-01T00:00:00+0530",
    "2030-01-01T00:00:00+23:59", "2030-01-01T00:00:00+24:00", "2030-01-01T25:00:00",
    "2030-01-01T00:00:60", "2030-13-01", "2030-02-30", " 2030-01-01", "2030-01-01 ", "1970-01-01",
    "0001-01-01T00:00:00", "9999-12-31T23:59:59.999999+00:00", "9999-12-31T23:59:59-10:00",
    "0001-01-01T00:00:00+10:00", "tomorrow", 12, 1e18, True]


def celerys_end(field, value):
    try:
        instant = maybe_make_aware(maybe_iso8601(value), timezone.utc)
    except (AttributeError, ValueError, TypeError):
        return "refused"
    past = instant <= datetime.now(timezone.utc)
    return {"eta": ("waits", "SUCCESS"), "expires": ("SUCCESS", "REVOKED")}[field][past]


@pytest.mark.parametrize("field", ["eta", "expires"])
def test_instants_are_read_as_by_celery(app, cworker, keys, field):
    message = make_message(app, keys)
    for i, value in enumerate(INSTANTS):
        message["headers"] |= {"id": str(i), field: value}
        message["properties"]["delivery_tag"] = f"tag-{i}"
        keys.lpush("celery", json.dumps(message))
    cworker(concurrency=1)
    get(app.send_task("demo.add", (1, 2)))
    wait_until(lambda: not inflight(keys), what="all acks")
    waiting = {member.partition(b"/")[0] for member in keys.zrange("{celery}.cworker.delayed", 0, -1)}
    refused = {letter["message"] for letter in dead_letters(keys)}
    for i, value in enumerate(INSTANTS):
        if any(f'"id": "{i}"' in text for text in refused):
            seen = "refused"
        else:
            seen = "waits" if str(i).encode() in waiting else app.AsyncResult(str(i)).state
        assert seen == celerys_end(field, value), (field, value)

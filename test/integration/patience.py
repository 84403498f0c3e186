# SPDX-License-Identifier: Apache-2.0
"""A Celery client that waits for the replies of those that it asks by name: its usual second is little on a
machine that has much to do. Who asks all workers has to wait for the whole of it, and does so."""
from __future__ import annotations

from typing import Any

from celery.app.control import Control
from kombu.pidbox import Mailbox
from kombu.utils.uuid import uuid

USUAL = 1.0


class OwnReplies(Mailbox):
    """Each question has a queue of its own for the replies: in one that is shared, one that comes late is
    taken for one of those to the next question, and nobody waits for these any more."""

    own = ""

    def __call__(self, connection: Any) -> Mailbox:
        bound = super().__call__(connection)
        bound.own = uuid()
        return bound

    @property
    def oid(self) -> str:
        return self.own or super().oid


class PatientControl(Control):
    Mailbox = OwnReplies

    def broadcast(self, *words: Any, destination: Any = None, timeout: float = USUAL,
                  **options: Any) -> Any:
        patience = 120.0 if destination and timeout == USUAL else timeout
        return super().broadcast(*words, destination=destination, timeout=patience, **options)

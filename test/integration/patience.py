# SPDX-License-Identifier: Apache-2.0
"""A Celery client that waits for the replies of those that it asks by name: its usual second is little on a
machine that has much to do. Who asks all workers has to wait for the whole of it, and does so."""
from __future__ import annotations

from typing import Any

from celery.app.control import Control

USUAL = 1.0


class PatientControl(Control):
    def broadcast(self, *words: Any, destination: Any = None, timeout: float = USUAL,
                  **options: Any) -> Any:
        patience = 120.0 if destination and timeout == USUAL else timeout
        return super().broadcast(*words, destination=destination, timeout=patience, **options)

"""Messages of the store and the backends, most of which a guest can cause at will: so many, and no more, reach the host's log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

#: Packages whose messages are limited, each of their loggers by itself.
LIMITED = ("pyxen.xenstore", "pyxen.backends")
#: So many at once, and so many a second after that, as in the hypervisor's own log.
BURST = 200
MESSAGES_PER_SECOND = 20.0


class LogLimit(logging.Filter):
    """Drops what is too much, and says how much that was with the next message that is let through. ``now`` gives seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._allowances: dict[str, tuple[float, float, int]] = {}  # logger -> (messages left, when, dropped)

    def filter(self, record: logging.LogRecord) -> bool:
        """See ``logging.Filter``. Called under the handler's lock."""
        if not record.name.startswith(LIMITED):
            return True
        now = self._now()
        left, when, dropped = self._allowances.get(record.name, (float(BURST), now, 0))
        left = min(float(BURST), left + (now - when) * MESSAGES_PER_SECOND)
        if left < 1:
            self._allowances[record.name] = (left, now, dropped + 1)
            return False
        self._allowances[record.name] = (left - 1, now, 0)
        if dropped:
            record.msg, record.args = f"{record.getMessage()} ({dropped} messages before it suppressed)", ()
        return True

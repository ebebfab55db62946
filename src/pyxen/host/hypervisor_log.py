"""The hypervisor's log as a file, ``log/hypervisor.log``: what ``xl dmesg`` shows, without the ring's limit."""

from __future__ import annotations

import logging
import logging.handlers
from pathlib import Path

_LOG_BYTES = 4 << 20


class HypervisorLog:
    """A file of bounded size; the one before it is kept. ``write`` may be called on any thread."""

    def __init__(self, path: Path) -> None:
        self._handler = logging.handlers.RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=1, encoding="utf-8", errors="replace")
        self._handler.setFormatter(logging.Formatter("%(message)s"))

    def write(self, line: str) -> None:
        self._handler.handle(logging.makeLogRecord({"msg": line}))

    def close(self) -> None:
        self._handler.close()

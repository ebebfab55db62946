"""When this process was started, before its program could look at a clock."""

from __future__ import annotations

import os
import time
from pathlib import Path

#: Field 22 of proc(5)'s stat, counted after the closing parenthesis of field 2.
_STARTTIME = 19


def process_start() -> float:
    """Of ``time.monotonic()``, to a hundredth of a second. Raises ``OSError`` without /proc."""
    fields = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    since_boot = int(fields[_STARTTIME]) / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)

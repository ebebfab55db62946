"""Why a domain shut down, as xl prints it: SHUTDOWN_* of Xen's sched.h."""

from __future__ import annotations

_CODES = {"poweroff": 0, "reboot": 1, "suspend": 2, "crash": 3, "watchdog": 4, "soft-reset": 5}
_LETTERS = {"reboot": "r", "suspend": "s", "crash": "c", "watchdog": "w", "soft-reset": "S"}


def reason_code(reason: str) -> int:
    """-1: unknown."""
    return _CODES.get(reason, -1)


def reason_letter(reason: str) -> str:
    """The letter of the state column; a poweroff, and a domain that runs, have none."""
    return _LETTERS.get(reason, "-")

"""Why a guest can't be booted from its disk."""

from __future__ import annotations


class BootError(Exception):
    """``str()`` is one line for the user, without the name of the disk."""

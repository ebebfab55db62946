"""Names of files that a user gave, as a command in some folder sees them."""

from __future__ import annotations

import os

from pyxen.toolstack.errors import Fault, ToolstackError


def absolute_path(path: str, working_directory: str) -> str:
    """``~`` and relative names are resolved; an empty name stays so. Raises ``ToolstackError`` for a relative one without a folder."""
    path = os.path.expanduser(path)
    if not path or os.path.isabs(path):
        return path
    if not os.path.isabs(working_directory):
        raise ToolstackError(f"the path {path!a} is relative, and it is not known to which folder", Fault.INVALID)
    return os.path.normpath(os.path.join(working_directory, path))


def image_path(target: str, working_directory: str) -> str:
    """``absolute_path`` of a disk's target; but what is not there by that name and is in /dev is meant to be that, as
    xl-disk-configuration(5) says of all relative names ("vg/guest-volume")."""
    path = absolute_path(target, working_directory)
    device = os.path.normpath(os.path.join("/dev", target))
    if target and not os.path.isabs(target) and not os.path.lexists(path) and os.path.exists(device):
        return device
    return path

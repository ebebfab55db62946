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

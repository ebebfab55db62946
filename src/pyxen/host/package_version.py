"""Which version of pyxen this is."""

from __future__ import annotations

import importlib.metadata


def package_version() -> str:
    """The installed package's version; "unknown" when it runs from a source tree that was never installed."""
    try:
        return importlib.metadata.version("pyxen")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"

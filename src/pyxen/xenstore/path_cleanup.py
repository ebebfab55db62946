"""Removing a node together with the folders that nothing else needs."""

from __future__ import annotations

import contextlib

from pyxen.xenstore.errors import StoreError
from pyxen.xenstore.store import Store


def remove_with_empty_folders(store: Store, path: str) -> None:
    """Remove a node, and then the folders above it as long as they are empty (libxl__xs_path_cleanup). It may be gone already."""
    with contextlib.suppress(StoreError):
        store.rm(path)
        while folder := path.rpartition("/")[0]:
            if store.ls(folder):
                return
            store.rm(folder)
            path = folder

"""Removing a node together with the folders that nothing else needs."""

from __future__ import annotations

import contextlib

from pyxen.xenstore.errors import StoreError
from pyxen.xenstore.store import Store

_DOMAIN_FOLDER_DEPTH = 3


def remove_with_empty_folders(store: Store, path: str) -> None:
    """Remove a node, and then the folders above it as long as they are empty (libxl__xs_path_cleanup). It may be gone already.
    A domain's own folder (``/local/domain/5``) stays, and what is above it."""
    with contextlib.suppress(StoreError):
        store.rm(path)
        folder = path.rpartition("/")[0]
        while folder.count("/") > _DOMAIN_FOLDER_DEPTH and not store.ls(folder):
            store.rm(folder)
            folder = folder.rpartition("/")[0]

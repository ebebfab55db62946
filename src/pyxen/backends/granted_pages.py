"""Pages that a frontend grants for data: mapped for one request, or kept mapped (persistent grants of io/blkif.h)."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

from pyxen.hypervisor.dom0_interface import Dom0Hypercalls, HypercallError

#: Linux's backends keep so many for a ring (xen_blkif_max_pgrants).
PERSISTENT_LIMIT = 1056


class GrantedPages:
    """Views of a guest's granted pages, for requests that run on several threads at once."""

    def __init__(self, dom0: Dom0Hypercalls, domid: int, *, persistent: bool) -> None:
        self._dom0 = dom0
        self._domid = domid
        self._persistent = persistent
        self._kept: dict[int, memoryview] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def mapped(self, untrusted_references: Sequence[int], *, writable: bool) -> Iterator[Sequence[memoryview]]:
        """The pages of these references, in their order, for as long as the block lasts. Raises ``HypercallError`` for a bad one."""
        if self._persistent:
            kept = self._keep(untrusted_references)
            if kept is not None:
                yield kept
                return
        pages = self._dom0.map_grants(self._domid, untrusted_references, writable=writable)
        try:
            yield pages
        finally:
            self._unmap(untrusted_references, writable=writable)

    def _keep(self, untrusted_references: Sequence[int]) -> list[memoryview] | None:
        """Persistent grants serve both directions, so they are mapped writable. None: no room to keep these."""
        with self._lock:
            missing = [reference for reference in dict.fromkeys(untrusted_references) if reference not in self._kept]
            if len(self._kept) + len(missing) > PERSISTENT_LIMIT:
                return None
            if missing:
                self._kept.update(zip(missing, self._dom0.map_grants(self._domid, missing, writable=True), strict=True))
            return [self._kept[reference] for reference in untrusted_references]

    def release(self) -> None:
        """Unmap what was kept. No request may be running."""
        if self._kept:
            self._unmap(list(self._kept), writable=True)
            self._kept.clear()

    def _unmap(self, references: Sequence[int], *, writable: bool) -> None:
        with contextlib.suppress(HypercallError):  # the domain is gone, and all mappings of it
            self._dom0.unmap_grants(self._domid, references, writable=writable)

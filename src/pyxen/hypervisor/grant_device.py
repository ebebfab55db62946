"""Grants as Domain 0's programs use them (the shape of Linux's gntdev): mappings and copies by domain and reference.

All methods are called with the hypervisor lock held.
"""

from __future__ import annotations

import errno
import functools
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyxen.abi.grant_table import (
    GNTMAP_host_map,
    GNTMAP_readonly,
    GNTST_bad_domain,
    GNTST_bad_gntref,
    GNTST_eagain,
    GNTST_no_space,
    GNTST_okay,
)
from pyxen.hypervisor import grant_copy, grant_mapping
from pyxen.hypervisor.dom0_interface import GrantCopy, HypercallError
from pyxen.hypervisor.frame_views import FrameViews
from pyxen.hypervisor.grant_entries import GrantError

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.hypervisor import Hypervisor

_ERRNO = {GNTST_bad_gntref: errno.EINVAL, GNTST_bad_domain: errno.ESRCH, GNTST_no_space: errno.ENOSPC, GNTST_eagain: errno.EAGAIN}


class GrantDevice:
    """What Domain 0 has mapped, by (domain, reference); the same grant may be mapped several times."""

    def __init__(self, hypervisor: Hypervisor, views: FrameViews) -> None:
        self._hypervisor = hypervisor
        self._views = views
        #: Of each mapping: its handle, whether it is writable, its frame.
        self._handles: dict[tuple[Domain, int], list[tuple[int, bool, int]]] = {}

    def map(self, granter: Domain, references: Sequence[int], *, writable: bool) -> list[memoryview]:
        """Views of the granted frames, all or none. EINVAL for a reference beyond the table, EPERM for one not granted so, ENOSPC."""
        domain0 = self._hypervisor.domain(0)
        flags = GNTMAP_host_map | (0 if writable else GNTMAP_readonly)
        pages: list[memoryview] = []
        try:
            for reference in references:
                handle, mfn = grant_mapping.map_grant(domain0, None, granter.domid, reference, flags)
                self._handles.setdefault((granter, reference), []).append((handle, writable, mfn))
                pages.append(self._views.give(mfn, writable=writable))
        except GrantError as refusal:
            self.unmap(granter, references[: len(pages)], writable)
            raise HypercallError(_ERRNO.get(refusal.status, errno.EPERM), refusal.reason) from None
        return pages

    def unmap(self, granter: Domain, references: Sequence[int], writable: bool | None = None) -> None:
        """Give one mapping of each reference back, the newest (of that access, unless None). EINVAL, and nothing happens, when one is
        not mapped so."""
        for reference, wanted in Counter(references).items():
            mapped = self._handles.get((granter, reference), ())
            if sum(writable in (None, access) for _, access, _ in mapped) < wanted:
                raise HypercallError(errno.EINVAL, f"grant {reference} of domain {granter.domid} is not mapped")
        domain0 = self._hypervisor.domain(0)
        batch = []
        for reference in references:
            handles = self._handles[granter, reference]
            newest = max(index for index, (_, access, _) in enumerate(handles) if writable in (None, access))
            handle, access, mfn = handles.pop(newest)
            if not handles:
                del self._handles[granter, reference]
            if self._views.take_back(mfn, functools.partial(self._unmap_later, handle), writable=access):
                batch.append(grant_mapping.unmap_grant(domain0, None, handle))
        grant_mapping.complete(domain0, batch)

    def _unmap_later(self, handle: int) -> None:
        """A view that outlived its mapping is gone."""
        domain0 = self._hypervisor.domain(0)
        grant_mapping.complete(domain0, [grant_mapping.unmap_grant(domain0, None, handle)])

    def copy(self, operations: Sequence[GrantCopy]) -> list[int]:
        """-> a GNTST_* for each operation."""
        statuses = []
        for operation in operations:
            try:
                grant_copy.copy_local(self._hypervisor.domain(0), operation)
                statuses.append(GNTST_okay)
            except GrantError as refusal:
                statuses.append(refusal.status)
        return statuses

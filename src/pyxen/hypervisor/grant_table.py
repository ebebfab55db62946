"""Grant table: frames that a domain lets another one map or copy (grant_table.h, Xen's common/grant_table.c).

An entry that is in use has an ``ActiveGrant``, which keeps what the entry said when it was first used: whatever the guest writes into
the entry afterwards, users get that frame and no other. Only the marks in the shared entry (GTF_reading, GTF_writing) tell the guest about
it.

All methods are called with the hypervisor lock held.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyxen.abi.grant_table import (
    GNTTAB_NR_RESERVED_ENTRIES,
    GNTMAP_device_map,
    GNTMAP_host_map,
    GNTMAP_readonly,
    GNTST_bad_domain,
    GNTST_bad_page,
    GNTST_eagain,
    GNTST_general_error,
    GTF_accept_transfer,
    GTF_invalid,
    GTF_permit_access,
    GTF_reading,
    GTF_readonly,
    GTF_sub_page,
    GTF_transfer_committed,
    GTF_transfer_completed,
    GTF_transitive,
    GTF_type_mask,
    GTF_writing,
)
from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.frame_table import WRITABLE
from pyxen.hypervisor.grant_entries import (
    IN_USE,
    PAGE_SIZE,
    STATUS_PER_FRAME,
    V2_PER_FRAME,
    Entry,
    GrantError,
    SharedEntries,
    UnstableEntry,
)

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain

INITIAL_FRAMES = 1
MAX_VERSION = 2
#: Uses of one entry of each kind (Xen counts them in octets, and refuses when the top bit is set).
MAX_PINS = 128
HOST_WRITE, HOST_READ, DEVICE_WRITE, DEVICE_READ = range(4)


def pin_kinds(map_flags: int) -> list[int]:
    """Which pins a mapping with these GNTMAP_* holds."""
    readonly = bool(map_flags & GNTMAP_readonly)
    kinds = [HOST_WRITE + readonly] if map_flags & GNTMAP_host_map else []
    return [*kinds, DEVICE_WRITE + readonly] if map_flags & GNTMAP_device_map else kinds


@dataclass(slots=True)
class ActiveGrant:
    """An entry in use by ``domid``. ``table`` and ``reference`` name the grant below a transitive one, else the entry itself."""

    domid: int
    frame: int
    table: GrantTable
    reference: int
    start: int = 0
    length: int = PAGE_SIZE
    is_sub_page: bool = False
    pins: list[int] = field(default_factory=lambda: [0, 0, 0, 0])

    @property
    def written(self) -> bool:
        """Whether anybody uses it for writing."""
        return bool(self.pins[HOST_WRITE] or self.pins[DEVICE_WRITE])


@dataclass(slots=True)
class ForeignUse:
    """References that other domains hold on a frame by grants: general ones, and WRITABLE ones among them."""

    times: int = 0
    writers: int = 0


class GrantTable:
    """The grants that one domain gives. ``active`` is indexed by reference, ``foreign`` by MFN."""

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.entries = SharedEntries(domain)
        self.max_frames = 0
        self.max_version = MAX_VERSION
        self.active: dict[int, ActiveGrant] = {}
        self.foreign: dict[int, ForeignUse] = {}

    # -- size and version ----------------------------------------------------------------------------------------------
    def open(self, max_frames: int, max_version: int = MAX_VERSION) -> None:
        """Let the domain have a table of up to ``max_frames`` frames. ENOMEM."""
        self.max_frames = max_frames
        self.max_version = max_version
        self.grow(INITIAL_FRAMES)

    def close(self) -> None:
        """The domain is dead: the frames of the table go with its others. Mappings of its grants stay until they are given back."""
        self.entries.frames, self.entries.status_frames = [], []
        self.max_frames = 0

    @property
    def frames(self) -> list[int]:
        """MFNs of the table."""
        return self.entries.frames

    def grow(self, count: int) -> None:
        """Have at least ``count`` frames, and what belongs to them. EINVAL above the domain's limit, ENOMEM."""
        if count > self.max_frames:
            raise HypercallError(errno.EINVAL, f"{count} grant frames, the limit is {self.max_frames}")
        entries = self.entries
        if entries.version == 2:
            self._grow_status(max(count, len(entries.frames)))
        while len(entries.frames) < count:
            entries.frames.append(self.domain.allocate_xen_heap_frame())

    def _grow_status(self, table_frames: int) -> None:
        while len(self.entries.status_frames) * STATUS_PER_FRAME < table_frames * V2_PER_FRAME:
            self.entries.status_frames.append(self.domain.allocate_xen_heap_frame())

    def set_version(self, version: int) -> None:
        """GNTTABOP_set_version: the reserved entries are kept, all others cleared. EINVAL, ENOSYS, EBUSY while other entries are in use,
        ERANGE for a reserved entry that version 1 can't say, ENOMEM."""
        entries = self.entries
        if version not in (1, 2):
            raise HypercallError(errno.EINVAL, f"grant table version {version}")
        if version > self.max_version:
            raise HypercallError(errno.ENOSYS, f"grant table version {version}")
        if version == entries.version:
            return
        if any(reference >= GNTTAB_NR_RESERVED_ENTRIES for reference in self.active):
            raise HypercallError(errno.EBUSY, "the version can't change while grants are in use")
        kept = [self._reserved(reference) for reference in range(GNTTAB_NR_RESERVED_ENTRIES)]
        if version == 2:
            self._grow_status(len(entries.frames))
        else:
            self.domain.free_xen_heap_frames(entries.status_frames)
            entries.status_frames = []
        for mfn in entries.frames:
            self.domain.hypervisor.memory.tables[mfn] = 0
        entries.version = version
        for reference, (entry, status) in enumerate(kept):
            if version == 2:
                entries.set_status(reference, status)
                entries.write(reference, entry)
            else:
                entries.write(reference, Entry(entry.header | status, entry.body))

    def _reserved(self, reference: int) -> tuple[Entry, int]:
        """An entry to be kept, and its marks."""
        entry, status = self.entries.read(reference), self.entries.status(reference) & IN_USE
        if self.entries.version == 1:
            return Entry(entry.header & ~IN_USE, entry.body), status
        kind = entry.flags & GTF_type_mask
        if kind == GTF_transitive or kind == GTF_permit_access and entry.frame >> 32:
            raise HypercallError(errno.ERANGE, f"grant {reference} has no form in version 1")
        if kind in (GTF_invalid, GTF_accept_transfer):
            return Entry(0, 0), 0
        return Entry(entry.header & 0xFFFFFFFF, entry.body), status

    # -- entries ---------------------------------------------------------------------------------------------------------
    def seed(self, reference: int, granted_domid: int, mfn: int) -> None:
        """Write an entry on behalf of a domain under construction. EINVAL beyond the table."""
        if not 0 <= reference < self.entries.count:
            raise HypercallError(errno.EINVAL, f"grant reference {reference} is beyond the table")
        self.entries.write(reference, Entry(GTF_permit_access | granted_domid << 16, mfn))

    def swap(self, untrusted_first: int, untrusted_second: int) -> None:
        """GNTTABOP_swap_grant_ref. GNTST_bad_gntref, GNTST_eagain for an entry in use."""
        entries = self.entries
        for reference in (untrusted_first, untrusted_second):
            entries.check(reference)
        if untrusted_first == untrusted_second:
            return
        for reference in (untrusted_first, untrusted_second):
            if reference in self.active:
                raise GrantError(GNTST_eagain, f"grant {reference:#x} is in use")
        pair = ((untrusted_first, entries.read(untrusted_second)), (untrusted_second, entries.read(untrusted_first)))
        if entries.version == 2:
            status = entries.status(untrusted_first)
            entries.set_status(untrusted_first, entries.status(untrusted_second))
            entries.set_status(untrusted_second, status)
        for reference, entry in pair:
            entries.write(reference, entry)

    def accept_transfer(self, untrusted_reference: int, giver: int) -> Entry:
        """Commit an entry that waits for a frame of domain ``giver``. -> the entry. GNTST_general_error."""

        def check(entry: Entry) -> None:
            if entry.flags != GTF_accept_transfer or entry.domid != giver:
                raise GrantError(GNTST_general_error, f"grant {untrusted_reference:#x} accepts no transfer from domain {giver}")

        entries = self.entries
        if not 0 <= untrusted_reference < entries.count:
            raise GrantError(GNTST_general_error, f"grant {untrusted_reference:#x} is beyond the table")
        for _ in range(5):
            entry = entries.read(untrusted_reference)
            check(entry)
            word = entry.header | entry.body << 32 if entries.version == 1 else entry.header
            address = entries.address(untrusted_reference)
            if self.domain.hypervisor.engine.compare_exchange(address, word, word | GTF_transfer_committed):
                return entry
        raise GrantError(GNTST_general_error, f"grant {untrusted_reference:#x} is unstable")

    def complete_transfer(self, reference: int, mfn: int) -> None:
        """The frame is there: tell the guest, the frame before the flag. An HVM guest has named where it is to be."""
        if self.domain.hvm is None:
            entry = self.entries.read(reference)
            self.entries.write(reference, Entry(entry.header, mfn))
        self.entries.set_flags(reference, GTF_transfer_completed)

    # -- use -------------------------------------------------------------------------------------------------------------
    def pin_for_mapping(self, untrusted_reference: int, domid: int, map_flags: int) -> ActiveGrant:
        """Domain ``domid`` begins to map an entry. GNTST_bad_gntref, GNTST_general_error, GNTST_bad_page."""
        kinds = pin_kinds(map_flags)
        active = self._find_active(untrusted_reference, domid, kinds)
        if active is not None and active.is_sub_page:
            raise GrantError(GNTST_general_error, f"grant {untrusted_reference:#x} is of a part of a page")
        readonly = bool(map_flags & GNTMAP_readonly)
        if active is None or (not readonly and not active.written):
            entry = self._claim(untrusted_reference, domid, readonly=readonly, mapping=True)
            if active is None:
                active = self._activate(untrusted_reference, domid, entry)
        for kind in kinds:
            active.pins[kind] += 1
        return active

    def pin_for_copy(self, untrusted_reference: int, domid: int, *, readonly: bool, below: bool = False) -> ActiveGrant:
        """Domain ``domid`` begins a copy from or to an entry. ``below``: it is itself the grant that a transitive one hands on, and
        must not be transitive. GNTST_bad_gntref, GNTST_general_error, GNTST_bad_page, GNTST_bad_domain, GNTST_eagain."""
        kind = HOST_READ if readonly else HOST_WRITE
        active = self._find_active(untrusted_reference, domid, [kind])
        is_transitive = self.entries.version == 2 and self.entries.read(untrusted_reference).flags & GTF_type_mask == GTF_transitive
        if is_transitive:
            active = self._pin_transitive(untrusted_reference, domid, active, readonly=readonly, below=below)
        elif active is None or (not readonly and not active.written):
            entry = self._claim(untrusted_reference, domid, readonly=readonly, mapping=False)
            if active is None:
                active = self._activate(untrusted_reference, domid, entry)
        elif self.domain.dying or self.domain.hypervisor.memory.owner[active.frame] != self.domain.domid:
            raise GrantError(GNTST_bad_domain, f"the frame of grant {untrusted_reference:#x} is not domain {self.domain.domid}'s any more")
        active.pins[kind] += 1
        return active

    def _find_active(self, untrusted_reference: int, domid: int, kinds: list[int]) -> ActiveGrant | None:
        self.entries.check(untrusted_reference)
        active = self.active.get(untrusted_reference)
        if active is not None and (active.domid != domid or any(active.pins[kind] >= MAX_PINS for kind in kinds)):
            raise GrantError(GNTST_general_error, f"grant {untrusted_reference:#x} is in use by domain {active.domid}, or too often")
        return active

    def _claim(self, reference: int, domid: int, *, readonly: bool, mapping: bool, transitive: bool = False) -> Entry:
        """Check and mark an entry that is used for the first time, or for writing for the first time. Of one in use only GTF_readonly
        matters: the rest was settled at its first use."""
        in_use = reference in self.active
        wanted = GTF_transitive if transitive else GTF_permit_access
        mask = GTF_type_mask | (GTF_sub_page if mapping else 0)

        def check(entry: Entry) -> None:
            if not in_use and (entry.flags & mask != wanted or entry.domid != domid):
                raise GrantError(
                    GNTST_general_error,
                    f"grant {reference:#x} of domain {self.domain.domid} has flags {entry.flags:#x} for domain {entry.domid}, not {domid}",
                )
            if not readonly and entry.flags & GTF_readonly:
                raise GrantError(GNTST_general_error, f"grant {reference:#x} of domain {self.domain.domid} is read-only")

        try:
            return self.entries.claim(reference, GTF_reading if readonly else IN_USE, check)
        except UnstableEntry:
            self._reduce_status(reference, readonly=readonly)
            raise

    def _activate(self, reference: int, domid: int, entry: Entry) -> ActiveGrant:
        """The first use of an entry that has been claimed."""
        frames, mfn = self.domain.hypervisor.frames, entry.frame
        try:
            mfn = self.domain.machine_frame(mfn)
            frames.get(mfn, self.domain.domid)
        except HypercallError as refusal:
            self._reduce_status(reference, readonly=False)
            raise GrantError(GNTST_bad_page, refusal.reason) from None
        frames.put(mfn)
        active = ActiveGrant(domid, mfn, self, reference)
        if self.entries.version == 2 and entry.flags & GTF_sub_page:
            active.start, active.length, active.is_sub_page = entry.page_offset, entry.length, True
        self.active[reference] = active
        return active

    def _pin_transitive(self, reference: int, domid: int, active: ActiveGrant | None, *, readonly: bool, below: bool) -> ActiveGrant:
        """The grant below is pinned, too. A transitive grant in use can't be mapped, as a partial page can't."""
        if active is None or (not readonly and not active.written):
            self._claim(reference, domid, readonly=readonly, mapping=False, transitive=True)
        lower: GrantTable | None = None
        entry = self.entries.read(reference)
        try:
            if below:
                raise GrantError(GNTST_general_error, f"grant {reference:#x} is transitive over a transitive one")
            if entry.transitive_domid == self.domain.domid:
                raise GrantError(GNTST_general_error, f"grant {reference:#x} refers to its own table")
            lower = self.domain.hypervisor.grant_table(entry.transitive_domid)
            if lower is None:
                raise GrantError(GNTST_general_error, f"grant {reference:#x} hands on a grant of no domain")
            found = lower.pin_for_copy(entry.transitive_reference, self.domain.domid, readonly=readonly, below=True)
        except GrantError:
            self._reduce_status(reference, readonly=readonly)
            raise
        wanted = ActiveGrant(domid, found.frame, lower, entry.transitive_reference, found.start, found.length, True)
        if active is None:
            self.active[reference] = wanted
            return wanted
        if (active.frame, active.table, active.reference, active.start, active.length, active.is_sub_page) != (
            *(wanted.frame, wanted.table, wanted.reference, wanted.start, wanted.length),
            True,
        ):
            lower.unpin(entry.transitive_reference, [HOST_READ if readonly else HOST_WRITE])
            self._reduce_status(reference, readonly=readonly)
            raise GrantError(GNTST_eagain, f"grant {reference:#x} changed while in use")
        return active

    def unpin(self, reference: int, kinds: list[int]) -> None:
        """The reverse of the pins, of all that they took but references on the frame."""
        active = self.active[reference]
        for kind in kinds:
            active.pins[kind] -= 1
        if not any(active.pins):
            del self.active[reference]
        self._reduce_status(reference, readonly=all(kind in (HOST_READ, DEVICE_READ) for kind in kinds))

    def unpin_copy(self, reference: int, *, readonly: bool) -> None:
        """The end of a copy, for a transitive grant on both levels."""
        active = self.active[reference]
        kinds = [HOST_READ if readonly else HOST_WRITE]
        self.unpin(reference, kinds)
        if active.table is not self:
            active.table.unpin(active.reference, kinds)

    def _reduce_status(self, reference: int, *, readonly: bool) -> None:
        """Take back the marks that no pin justifies."""
        active = self.active.get(reference)
        bits = 0 if active is not None else GTF_reading
        if not readonly and (active is None or not active.written):
            bits |= GTF_writing
        if bits:
            self.entries.clear_status(reference, bits)

    # -- frames that others hold -------------------------------------------------------------------------------------------
    def take_frame(self, mfn: int, domid: int, *, writable: bool) -> None:
        """References on a granted frame for domain ``domid``. GNTST_general_error: not this domain's any more, or in use as a table."""
        frames = self.domain.hypervisor.frames
        try:
            if writable:
                frames.get_page_and_type(mfn, self.domain.domid, WRITABLE)
            else:
                frames.get(mfn, self.domain.domid)
        except HypercallError as refusal:
            raise GrantError(GNTST_general_error, refusal.reason) from None
        if domid != self.domain.domid:
            use = self.foreign.setdefault(mfn, ForeignUse())
            use.times += 1
            use.writers += writable

    def drop_frame(self, mfn: int, domid: int, *, writable: bool) -> None:
        """Give references back. The caller has flushed the TLBs of ``domid``. A dead domain goes with its last frame."""
        frames = self.domain.hypervisor.frames
        if domid != self.domain.domid:
            use = self.foreign[mfn]
            use.times -= 1
            use.writers -= writable
            if not use.times:
                del self.foreign[mfn]
        if writable:
            frames.put_type(mfn)
        frames.put(mfn)
        self.domain.hypervisor.finish_if_dead(self.domain)

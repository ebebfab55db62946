"""Mapping and unmapping of grants: GNTTABOP_map_grant_ref, unmap_grant_ref, unmap_and_replace (Xen's common/grant_table.c and
arch/x86/pv/grant_table.c).

Who holds what: a mapping for the CPU is an L1 entry of the mapper with ``page_tables.GRANTED``, and that entry holds the references on
the granter's frame, until it goes in whatever way. In an HVM domain it is an entry of its physical memory (``hvm.p2m``), which only an
unmap takes away; the maptrack entry holds the references. A mapping for devices, and every mapping of the embedded Domain 0, is held by the
maptrack entry. The maptrack entry holds the pins of the grant.

All functions are called with the hypervisor lock held.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyxen.abi.grant_table import (
    GNTMAP_application_map,
    GNTMAP_contains_pte,
    GNTMAP_device_map,
    GNTMAP_host_map,
    GNTMAP_readonly,
    GNTST_bad_dev_addr,
    GNTST_bad_domain,
    GNTST_bad_gntref,
    GNTST_bad_handle,
    GNTST_general_error,
)
from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.frame_table import L1
from pyxen.hypervisor.grant_entries import GrantError
from pyxen.hypervisor.grant_table import pin_kinds
from pyxen.hypervisor.guest_access import LOWER_HALF_END, XEN_RANGE_END
from pyxen.hypervisor.maptrack import Mapping
from pyxen.hypervisor.page_tables import ADDRESS, GRANTED, NX, PRESENT, RW, USER
from pyxen.hypervisor.preemption import BUDGET
from pyxen.hypervisor.vcpu import VcpuStuckError

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.hvm.container import HvmContainer

#: Frames of the machine, and L1 tables of a dead domain, that are searched at once.
FRAMES_PER_SEARCH, TABLES_PER_PIECE = 1 << 18, 32
#: GNTMAP_guest_avail0 and up go to the three bits of an entry that are the guest's.
GUEST_BITS_SHIFT, ENTRY_BITS_SHIFT, GUEST_BITS = 16, 9, 7


@dataclass(slots=True)
class Unmapped:
    """What an unmap has taken away, to be given back when no TLB can hold it any more."""

    mapping: Mapping
    done: int  #: GNTMAP_host_map, GNTMAP_device_map and GNTMAP_readonly
    entry: int | None = None  #: the L1 entry that was there and holds the references; None: they are held without one


def map_grant(
    mapper: Domain, root: int | None, domid: int, untrusted_reference: int, flags: int, untrusted_address: int = 0
) -> tuple[int, int]:
    """Map one grant of domain ``domid``. ``untrusted_address``: as in gnttab_map_grant_ref, in the address space at machine address
    ``root``; None for the embedded Domain 0, which has none. -> (handle, MFN). GrantError."""
    if not flags & (GNTMAP_host_map | GNTMAP_device_map):
        raise GrantError(GNTST_bad_gntref, f"map flags {flags:#x}")
    if mapper.hvm is not None:
        with suppress(HypercallError):  # it is refused below
            mapper.hvm.physical_map.reach(untrusted_address >> 12)
    table = mapper.hypervisor.grant_table(domid)
    if table is None:
        raise GrantError(GNTST_bad_domain, f"there is no domain {domid}")
    if mapper.hvm is not None and flags & (GNTMAP_device_map | GNTMAP_application_map | GNTMAP_contains_pte):
        raise GrantError(GNTST_general_error, f"HVM domains have no mappings with flags {flags:#x}")
    mapper.maptrack.reserve()
    active = table.pin_for_mapping(untrusted_reference, mapper.domid, flags)
    writable = not flags & GNTMAP_readonly
    mfn = active.frame
    taken = 0
    try:
        for kind in (GNTMAP_device_map, GNTMAP_host_map):
            if flags & kind:
                table.take_frame(mfn, mapper.domid, writable=writable)
                taken += 1
        if mapper.hvm is not None:
            _place_in_physical_memory(mapper, mapper.hvm, untrusted_address, mfn, writable=writable)
        elif flags & GNTMAP_host_map and root is not None:
            _place(mapper, root, untrusted_address, flags, mfn)
    except GrantError:
        for _ in range(taken):
            table.drop_frame(mfn, mapper.domid, writable=writable)
        table.unpin(untrusted_reference, pin_kinds(flags))
        raise
    return mapper.maptrack.add(Mapping(table, untrusted_reference, flags, mfn)), mfn


def _place_in_physical_memory(mapper: Domain, container: HvmContainer, untrusted_address: int, mfn: int, *, writable: bool) -> None:
    """Map at a guest physical address. A grant that is mapped there already costs the domain, as on Xen."""
    gfn = untrusted_address >> 12
    if container.physical_map.is_grant(gfn):
        mapper.crash(f"a grant is mapped over another one at guest frame {gfn:#x}")
    try:
        container.physical_map.place_grant(gfn, mfn, writable=writable)
    except HypercallError as refusal:
        raise GrantError(GNTST_general_error, refusal.reason) from refusal


def _place(mapper: Domain, root: int, untrusted_address: int, flags: int, mfn: int) -> None:
    """Write the L1 entry of a new mapping. What was there is given up."""
    entry = mfn << 12 | PRESENT | USER | GRANTED | NX | (flags >> GUEST_BITS_SHIFT & GUEST_BITS) << ENTRY_BITS_SHIFT
    if not flags & GNTMAP_readonly:
        entry |= RW
    page_tables = mapper.hypervisor.page_tables
    where = _l1_entry(mapper, root, untrusted_address, flags)
    page_tables.put_l1_entry(mapper, page_tables.exchange_l1_entry(mapper, where, entry))


def _l1_entry(mapper: Domain, root: int, untrusted_address: int, flags: int) -> int:
    """Machine address of the L1 entry meant by an address: in a table in use of the domain. GNTST_general_error."""
    hypervisor = mapper.hypervisor
    where: int | None = None
    if flags & GNTMAP_contains_pte:
        where = None if untrusted_address & 7 else untrusted_address
    elif not LOWER_HALF_END <= untrusted_address < XEN_RANGE_END:
        where = hypervisor.page_tables.l1_entry_address(root, untrusted_address)
    mfn = where >> 12 if where is not None else -1
    frames, memory = hypervisor.frames, hypervisor.memory
    if where is None or mfn >= memory.total_frames or memory.owner[mfn] != mapper.domid:
        raise GrantError(GNTST_general_error, f"no L1 entry of domain {mapper.domid} at {untrusted_address:#x}")
    if frames.type[mfn] != L1 or not frames.type_count[mfn]:
        raise GrantError(GNTST_general_error, f"frame {mfn:#x} is no L1 table in use")
    return where


def unmap_grant(
    mapper: Domain,
    root: int | None,
    untrusted_handle: int,
    untrusted_address: int = 0,
    untrusted_device_address: int = 0,
    untrusted_new_address: int = 0,
) -> Unmapped:
    """Take a mapping away; ``complete`` gives its references back. GrantError. A handle of a domain that is gone crashes the mapper,
    as on Xen."""
    mapping = mapper.maptrack.get(untrusted_handle)
    if not mapper.hypervisor.is_present(mapping.table.domain):
        mapper.crash(f"unmap of grant handle {untrusted_handle:#x}, whose domain {mapping.table.domain.domid} is gone")
        raise GrantError(GNTST_bad_handle, "the granting domain is gone")
    flags = mapping.flags
    device = untrusted_device_address and flags & GNTMAP_device_map
    if device and untrusted_device_address != mapping.frame << 12:
        raise GrantError(GNTST_bad_dev_addr, f"bus address {untrusted_device_address:#x} is not that of frame {mapping.frame:#x}")
    unmapped = Unmapped(mapping, flags & GNTMAP_readonly)
    if mapper.hvm is not None:
        if untrusted_address:
            gfn, writable = untrusted_address >> 12, not flags & GNTMAP_readonly
            if untrusted_new_address or not mapper.hvm.physical_map.take_grant(gfn, mapping.frame, writable=writable):
                raise GrantError(GNTST_general_error, f"grant {mapping.reference:#x} is not mapped at {untrusted_address:#x}")
            unmapped.done |= GNTMAP_host_map
    elif flags & GNTMAP_host_map and root is None:
        unmapped.done |= GNTMAP_host_map
    elif root is not None and flags & GNTMAP_host_map and untrusted_address:
        unmapped.entry = _replace(mapper, root, mapping, untrusted_address, untrusted_new_address)
        unmapped.done |= GNTMAP_host_map
    if device:
        unmapped.done |= GNTMAP_device_map
    mapping.flags &= ~(unmapped.done & (GNTMAP_host_map | GNTMAP_device_map))
    if not mapping.flags & (GNTMAP_host_map | GNTMAP_device_map):
        mapper.maptrack.remove(untrusted_handle)
    return unmapped


def _replace(mapper: Domain, root: int, mapping: Mapping, untrusted_address: int, untrusted_new_address: int) -> int:
    """Replace a mapping's L1 entry by nothing, or by the entry that maps the new address. -> the old one, still with its references."""
    page_tables = mapper.hypervisor.page_tables
    new = 0
    if untrusted_new_address:
        if mapping.flags & GNTMAP_contains_pte:
            raise GrantError(GNTST_general_error, "a mapping by its entry's address can't be replaced")
        new = page_tables.exchange_l1_entry(mapper, _l1_entry(mapper, root, untrusted_new_address, 0), 0)
    try:
        where = _l1_entry(mapper, root, untrusted_address, mapping.flags)
        wanted = mapping.frame << 12 | PRESENT | (0 if mapping.flags & GNTMAP_readonly else RW)
        if (mapper.hypervisor.memory.words[where >> 3] ^ wanted) & (ADDRESS | PRESENT | RW):
            raise GrantError(GNTST_general_error, f"the entry of {untrusted_address:#x} does not map grant {mapping.reference:#x}")
    except GrantError:
        page_tables.put_l1_entry(mapper, new)
        raise
    return page_tables.exchange_l1_entry(mapper, where, new)


def complete(mapper: Domain, batch: list[Unmapped]) -> None:
    """Flush the mapper's TLBs, once for the batch; then give back what the mappings held: the frames may be reused from now on."""
    if not batch:
        return
    try:
        mapper.flush_tlbs()
    except VcpuStuckError:
        mapper.when_stopped.append(lambda: _give_back(mapper, batch))
    else:
        _give_back(mapper, batch)


def _give_back(mapper: Domain, batch: list[Unmapped]) -> None:
    for unmapped in batch:
        mapping, done = unmapped.mapping, unmapped.done
        table, writable = mapping.table, not done & GNTMAP_readonly
        kinds = pin_kinds(done)
        if kinds:
            table.unpin(mapping.reference, kinds)
        if done & GNTMAP_device_map:
            table.drop_frame(mapping.frame, mapper.domid, writable=writable)
        if unmapped.entry is not None:
            mapper.hypervisor.page_tables.put_l1_entry(mapper, unmapped.entry)
        elif done & GNTMAP_host_map:
            if writable and mapper.hvm is None:  # by Domain 0, whose writes no engine sees
                mapper.hypervisor.note_write(mapping.frame)
            table.drop_frame(mapping.frame, mapper.domid, writable=writable)


def release_all(mapper: Domain, give_way: Callable[[], None]) -> None:
    """The mapper is dead, and none of its vCPUs runs: give up all that it has mapped (gnttab_release_mappings). ``give_way`` is called
    now and then."""
    if not len(mapper.maptrack):
        return
    hypervisor = mapper.hypervisor
    if mapper.hvm is None:
        _give_up_entries(mapper, give_way)
    for number, mapping in enumerate(list(mapper.maptrack), 1):
        if not number % BUDGET:
            give_way()
        table = mapping.table
        if hypervisor.is_present(table.domain):
            table.unpin(mapping.reference, pin_kinds(mapping.flags))
            # What a PV guest had mapped for its processor was given up with the entry.
            held = GNTMAP_device_map if mapper.hvm is None else GNTMAP_host_map
            if mapping.flags & held:
                table.drop_frame(mapping.frame, mapper.domid, writable=not mapping.flags & GNTMAP_readonly)
    mapper.maptrack.clear()


def _give_up_entries(mapper: Domain, give_way: Callable[[], None]) -> None:
    """Remove the L1 entries of all its mappings from its page tables, which nothing walks any more."""
    hypervisor = mapper.hypervisor
    frames, memory = hypervisor.frames, hypervisor.memory
    wanted = np.uint64(GRANTED | PRESENT)
    for start in range(0, memory.total_frames, FRAMES_PER_SEARCH):
        part = slice(start, start + FRAMES_PER_SEARCH)
        kinds = (memory.owners[part] == mapper.domid) & (frames.types[part] == L1) & (frames.type_counts[part] != 0)
        tables = np.flatnonzero(kinds) + start
        for first in range(0, len(tables), TABLES_PER_PIECE):
            piece = tables[first : first + TABLES_PER_PIECE]
            for index, slot in np.argwhere((memory.tables[piece] & wanted) == wanted).tolist():
                table = memory.tables[piece[index]]
                entry = int(table[slot])
                table[slot] = 0
                hypervisor.page_tables.put_l1_entry(mapper, entry)
            give_way()

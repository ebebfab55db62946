"""Recount every reference from what refers, and compare with what the hypervisor has counted.

The reasons for a reference are listed here a second time, independently of the code that takes them: whoever adds a holder of
references to the hypervisor has to add it here, too.
"""

from __future__ import annotations

import numpy as np

from pyxen.abi import event_channel as abi
from pyxen.abi.grant_table import GNTMAP_device_map, GNTMAP_host_map, GNTMAP_readonly, GTF_reading, GTF_writing
from pyxen.hypervisor import descriptors
from pyxen.hypervisor.domain import Domain
from pyxen.hypervisor.frame_table import ALLOCATED, L1, L4, NONE, PINNED, SEGMENT_DESCRIPTORS, TYPE_NAMES, WRITABLE, XEN_HEAP
from pyxen.hypervisor.grant_table import GrantTable, pin_kinds
from pyxen.hypervisor.hvm.p2m import NO_MEMORY
from pyxen.hypervisor.hypervisor import Hypervisor
from pyxen.hypervisor.machine_memory import OWNER_NONE, OWNER_XEN
from pyxen.hypervisor.page_tables import (
    ADDRESS,
    FIRST_XEN_SLOT,
    GRANTED,
    L1_DISALLOWED,
    LAST_XEN_SLOT,
    M2P_SLOT,
    PER_DOMAIN_SLOT,
    PRESENT,
    PSE,
    RW,
)


class Expected:
    """References as they should be."""

    def __init__(self, hypervisor: Hypervisor, *, guests_write: bool) -> None:
        self.hypervisor = hypervisor
        self.guests_write = guests_write
        self.memory = hypervisor.memory
        self.frames = hypervisor.frames
        self.counts = np.zeros(self.memory.total_frames, dtype=np.int64)
        self.type_counts = np.zeros(self.memory.total_frames, dtype=np.int64)
        self.linear: dict[int, int] = {}  # of tables that name others of their level, and of those others
        self.foreign: dict[int, list[int]] = {}  # frames held by grants of other domains: [times, for writing]
        self.pins: dict[tuple[GrantTable, int], list[int]] = {}

    def hold(self, mfn: int, domid: int, kind: int | None, why: str) -> None:
        """``why`` refers to the frame: as ``kind``, or without a type."""
        assert mfn < self.memory.total_frames, f"{why} refers to frame {mfn:#x} outside memory"
        owner = self.memory.owner[mfn]
        assert owner == domid, f"{why} of domain {domid} refers to frame {mfn:#x} of owner {owner}"
        self.counts[mfn] += 1
        if kind is not None:
            self.type_counts[mfn] += 1
            found = self.frames.type[mfn]
            assert found == kind, f"{why} holds frame {mfn:#x} as {TYPE_NAMES[kind]}, but it is {TYPE_NAMES[found]}"

    def grant(self, mfn: int, mapper: Domain, *, writable: bool) -> None:
        """A mapping of a granted frame."""
        owner = self.memory.owner[mfn]
        self.hold(mfn, owner, WRITABLE if writable else None, f"a grant mapping of domain {mapper.domid}")
        if owner != mapper.domid:
            use = self.foreign.setdefault(mfn, [0, 0])
            use[0] += 1
            use[1] += writable


def check(hypervisor: Hypervisor, *, guests_write: bool = True) -> None:
    """AssertionError when a count, type, entry or channel is not what everything else says that it should be. ``guests_write``: guests may
    have written anything into their grant tables, so the marks there prove nothing."""
    with hypervisor.lock:
        expected = Expected(hypervisor, guests_write=guests_write)
        for domain in hypervisor.domains():
            if not domain.released:
                expected.linear = {}
                _owned_frames(expected, domain)
                assert domain.linear_tables == expected.linear
                if domain.domid:
                    _domain(expected, domain)
            _foreign_maps(expected, domain)
            _maptrack(expected, domain)
            _event_channels(domain)
        for domain in hypervisor.domains():
            _grants(expected, domain)
        _compare(expected, hypervisor)


def _owned_frames(expected: Expected, domain: Domain) -> None:
    frames = expected.frames
    owned = np.flatnonzero(expected.memory.owners == domain.domid).tolist()
    reserved = 0
    for mfn in owned:
        flags = frames.flags[mfn]
        if flags & ALLOCATED:
            expected.hold(mfn, domain.domid, None, "the reservation")
        if flags & XEN_HEAP:
            expected.hold(mfn, domain.domid, WRITABLE, "Xen's heap")
        else:
            reserved += 1
        if flags & PINNED:
            assert L1 <= frames.type[mfn] <= L4
            expected.hold(mfn, domain.domid, frames.type[mfn], "a pin")
        if frames.type_count[mfn]:
            _contents(expected, domain, mfn)
    assert domain.total_pages == reserved, f"domain {domain.domid} counts {domain.total_pages} pages and owns {reserved}"


def _domain(expected: Expected, domain: Domain) -> None:
    for vcpu in domain.vcpus:
        name = f"vCPU {vcpu.vcpu_id}'s"
        for root in (vcpu.kernel_root, vcpu.user_root):
            if root:
                expected.hold(root >> 12, domain.domid, L4, f"{name} root")
        for mfn in (*vcpu.gdt_frames, *vcpu.ldt_frames.values()):
            expected.hold(mfn, domain.domid, SEGMENT_DESCRIPTORS, f"{name} descriptor table")
        if vcpu.info_registered:
            assert vcpu.info >> 12 == vcpu.info_frame
            expected.hold(vcpu.info_frame, domain.domid, WRITABLE, f"{name} vcpu_info")
        if not domain.dying and domain.hvm is None:
            assert vcpu.state.cr3 in (vcpu.kernel_root, vcpu.user_root)
    for mfn in domain.event_channels.held_frames():
        expected.hold(mfn, domain.domid, WRITABLE, "the FIFO ABI of event channels")
    if domain.hvm is None:
        _per_domain_area(expected, domain)
    else:
        _physical_map(expected, domain)


def _physical_map(expected: Expected, domain: Domain) -> None:
    """Every entry of an HVM domain's P2M; RAM is at one place, and the machine-to-physical table says which. Grants, whose references are
    counted with their mappings, are at as many places as there are such mappings."""
    assert domain.hvm is not None
    table = domain.hvm.physical_map
    mapped = sum(1 for mapping in domain.maptrack if mapping.flags & GNTMAP_host_map)
    assert len(table._grants) == mapped
    for gfn in np.flatnonzero(table._entries != NO_MEMORY).tolist():
        if table.is_grant(gfn):
            continue
        mfn = table.frame(gfn)
        expected.hold(mfn, domain.domid, None, f"guest frame {gfn:#x}")
        assert expected.hypervisor.m2p[mfn] == gfn


def _contents(expected: Expected, domain: Domain, mfn: int) -> None:
    """What a validated table refers to."""
    kind = expected.frames.type[mfn]
    table = expected.memory.tables[mfn]
    if kind == SEGMENT_DESCRIPTORS:
        for value in table[table != 0].tolist():
            assert descriptors.checked_descriptor(value) == value, f"descriptor {value:#x} in frame {mfn:#x}"
        return
    if not L1 <= kind <= L4:
        return
    for slot in np.flatnonzero(table & np.uint64(PRESENT)).tolist():
        entry = int(table[slot])
        if kind == L4 and FIRST_XEN_SLOT <= slot <= LAST_XEN_SLOT:
            continue
        assert not entry & (L1_DISALLOWED & ~GRANTED if kind == L1 else PSE), f"L{kind} entry {entry:#x}"
        target = (entry & ADDRESS) >> 12
        if kind == L1 and entry & GRANTED:
            expected.grant(target, domain, writable=bool(entry & RW))
        elif kind == L1:
            expected.hold(target, domain.domid, WRITABLE if entry & RW else None, f"entry {slot} of L1 {mfn:#x}")
        elif target == mfn:
            assert not entry & RW, f"L{kind} {mfn:#x} maps itself writable"
        elif expected.frames.type[target] == kind:
            assert not entry & RW, f"L{kind} {mfn:#x} maps another writable"
            expected.hold(target, domain.domid, kind, f"linear entry {slot} of L{kind} {mfn:#x}")
            expected.linear[mfn] = expected.linear.get(mfn, 0) + 1
            expected.linear[target] = expected.linear.get(target, 0) - 1
            assert expected.linear[mfn] > 0 > expected.linear[target], f"a chain of L{kind} tables at {mfn:#x}"
        else:
            expected.hold(target, domain.domid, kind - 1, f"entry {slot} of L{kind} {mfn:#x}")
    if kind == L4:
        for slot in range(FIRST_XEN_SLOT, LAST_XEN_SLOT + 1):
            entry = int(table[slot]) & ADDRESS
            if slot in (M2P_SLOT, PER_DOMAIN_SLOT):
                assert expected.memory.owner[entry >> 12] == OWNER_XEN
            else:
                assert not entry


def _per_domain_area(expected: Expected, domain: Domain) -> None:
    """Nothing is mapped there but the descriptor pages that are held, and pages of Xen's; nothing writable."""
    held = [dict(enumerate(vcpu.gdt_frames)) for vcpu in domain.vcpus]
    for vcpu, pages in zip(domain.vcpus, held, strict=True):
        pages.update({descriptors.LDT_FIRST_PAGE + page: mfn for page, mfn in vcpu.ldt_frames.items()})
    table = expected.memory.tables[domain._per_domain_l1]
    for index, entry in enumerate(table.tolist()):
        assert not entry & RW
        vcpu_id, page = divmod(index, descriptors.PAGES_PER_VCPU)
        mfn = (entry & ADDRESS) >> 12
        wanted = held[vcpu_id].get(page) if vcpu_id < len(held) else None
        if wanted is not None:
            assert entry & PRESENT and mfn == wanted
        elif entry & PRESENT:
            assert expected.memory.owner[mfn] == OWNER_XEN


def _foreign_maps(expected: Expected, domain: Domain) -> None:
    for hold in domain.foreign_maps.values():
        for number in range(hold.times):
            expected.hold(hold.mfn, domain.domid, WRITABLE if hold.writable and not number else None, "Domain 0's mapping")


def _maptrack(expected: Expected, domain: Domain) -> None:
    """The pins of all mappings, and the references of those that no L1 entry holds (of an HVM domain: all)."""
    for mapping in domain.maptrack:
        if not expected.hypervisor.is_present(mapping.table.domain):
            continue
        pins = expected.pins.setdefault((mapping.table, mapping.reference), [0, 0, 0, 0])
        kinds = pin_kinds(mapping.flags)
        assert kinds
        for kind in kinds:
            pins[kind] += 1
        active = mapping.table.active[mapping.reference]
        assert active.domid == domain.domid and active.frame == mapping.frame
        if mapping.flags & GNTMAP_device_map or not domain.domid or domain.hvm is not None:
            expected.grant(mapping.frame, domain, writable=not mapping.flags & GNTMAP_readonly)


def _grants(expected: Expected, domain: Domain) -> None:
    """Every grant in use has the pins of its mappings (copies are over when nothing runs), and its marks in the table."""
    table = domain.grant_table
    assert set(table.active) == {reference for owner, reference in expected.pins if owner is table}
    for reference, active in table.active.items():
        assert active.pins == expected.pins[table, reference]
        if table.frames and domain.vcpus and not expected.guests_write:
            wanted = GTF_reading | (GTF_writing if active.written else 0)
            assert table.entries.status(reference) & wanted == wanted
    owned = {mfn: use for mfn, use in expected.foreign.items() if expected.memory.owner[mfn] == domain.domid}
    assert {mfn: [use.times, use.writers] for mfn, use in table.foreign.items()} == owned


def _event_channels(domain: Domain) -> None:
    channels = domain.event_channels.ports()
    for port, channel in channels.items():
        assert channel.port == port > 0
        assert channel.state != abi.EVTCHNSTAT_closed
        if channel.state == abi.EVTCHNSTAT_interdomain:
            assert channel.remote is not None
            theirs = channel.remote.ports()[channel.remote_port]
            assert theirs.state == abi.EVTCHNSTAT_interdomain and theirs.remote is domain.event_channels and theirs.remote_port == port
        elif channel.state == abi.EVTCHNSTAT_virq:
            assert [vcpu for vcpu in domain.vcpus if vcpu.virqs.get(channel.virq) == port]
    for vcpu in domain.vcpus:
        for virq, port in vcpu.virqs.items():
            assert channels[port].state == abi.EVTCHNSTAT_virq and channels[port].virq == virq


def _compare(expected: Expected, hypervisor: Hypervisor) -> None:
    frames, owners = hypervisor.frames, hypervisor.memory.owners
    for name, found, wanted in (
        ("count", frames.counts, expected.counts),
        ("typed count", frames.type_counts, expected.type_counts),
    ):
        wrong = np.flatnonzero(found != wanted)
        assert not len(wrong), (
            f"{name} of frame {wrong[0]:#x} (owner {owners[wrong[0]]}) is {found[wrong[0]]}, should be {wanted[wrong[0]]}"
        )
    of_domains = (owners != OWNER_NONE) & (owners != OWNER_XEN)
    assert (frames.counts[of_domains] > 0).all(), "a domain owns a frame that nothing refers to"
    assert not frames.flags_array[~of_domains].any()
    assert (frames.types[~of_domains] == NONE).all()
    assert hypervisor.memory.free_frames == int((owners == OWNER_NONE).sum()) - 1

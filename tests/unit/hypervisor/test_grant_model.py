"""Random grant operations of two domains and Domain 0 against a model, and the recount of every reference after them."""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import dataclass

import pytest

from pyxen.abi import grant_table as abi
from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.hypervisor import Hypervisor
from tests.unit.hypervisor import invariants
from tests.unit.hypervisor.grant_guest import GrantGuest

STEPS = 600
#: A mapping whose entry the guest overwrote can't be undone, so now and then both domains die and new ones begin.
ROUNDS = 100 if os.environ.get("PYXEN_LONG") else 3
REFERENCES = range(20, 26)
PAGES = range(8, 12)
WINDOWS = range(30, 36)
READ_ONLY = abi.GNTMAP_readonly


@dataclass
class Mapped:
    """A mapping that the model knows of. ``window`` is None for Domain 0's."""

    granter: GrantGuest
    reference: int
    readonly: bool
    frame: int
    window: int | None = None
    lost: bool = False  #: its entry went by other means


class Model:
    """What must be so, by the public header alone."""

    def __init__(self, machine: Hypervisor, seed: int) -> None:
        self.random = random.Random(seed)
        self.machine = machine
        self.guests = [GrantGuest(machine), GrantGuest(machine, vcpus=2)]
        self.handles: dict[GrantGuest, dict[int, Mapped]] = {guest: {} for guest in self.guests}
        self.domain0: list[Mapped] = []
        self.done: Counter[str] = Counter()

    def users(self, granter: GrantGuest, reference: int) -> list[tuple[int, Mapped]]:
        """(mapper's domain id, mapping) of a grant."""
        found = [(guest.domid, mapped) for guest, handles in self.handles.items() for mapped in handles.values()]
        found += [(0, mapped) for mapped in self.domain0]
        return [(domid, mapped) for domid, mapped in found if mapped.granter is granter and mapped.reference == reference]

    def may_map(self, granter: GrantGuest, reference: int, domid: int, *, readonly: bool) -> tuple[bool, int]:
        """(whether a mapping is to succeed, the frame it must get)."""
        users = self.users(granter, reference)
        flags, granted_to, frame = granter.entry(reference)
        if users:
            frame = users[0][1].frame
            if users[0][0] != domid:
                return False, 0
            is_first_writer = not readonly and all(mapped.readonly for _, mapped in users)
            return not (is_first_writer and flags & abi.GTF_readonly), frame
        good = flags & abi.GTF_type_mask == abi.GTF_permit_access and granted_to == domid and not flags & abi.GTF_sub_page
        return good and (readonly or not flags & abi.GTF_readonly), frame

    # -- steps -----------------------------------------------------------------------------------------------------------
    def step(self) -> None:
        action = self.random.choice(
            (
                self.grant,
                self.grant,
                self.map,
                self.map,
                self.map,
                self.unmap,
                self.unmap,
                self.map0,
                self.unmap0,
                self.overwrite,
                self.copy,
            )
        )
        action()
        self.done[action.__name__] += 1

    def pick(self) -> tuple[GrantGuest, GrantGuest, int]:
        return self.random.choice(self.guests), self.random.choice(self.guests), self.random.choice(REFERENCES)

    def grant(self) -> None:
        """The guest writes an entry, keeping the marks or not: it should not, but it can."""
        granter, mapper, reference = self.pick()
        marks = granter.marks(reference) if granter.domain.grant_table.entries.version == 1 else 0
        flags = self.random.choice((0, 1, 1, 1, 1, 5, abi.GTF_accept_transfer, 1 | abi.GTF_sub_page))
        domid = self.random.choice((mapper.domid, mapper.domid, 0))
        granter.grant(reference, domid, pfn=self.random.choice(PAGES), flags=flags | marks)

    def map(self) -> None:
        granter, mapper, reference = self.pick()
        readonly = self.random.random() < 0.4
        window = self.random.choice(WINDOWS)
        by_entry = self.random.random() < 0.3
        wanted, frame = self.may_map(granter, reference, mapper.domid, readonly=readonly)
        flags = abi.GNTMAP_host_map | (READ_ONLY if readonly else 0) | (abi.GNTMAP_contains_pte if by_entry else 0)
        op = mapper.map(granter.domid, reference, window, flags, mapper.pte_address(window) if by_entry else None)
        assert (op.status == 0) == wanted, op.status
        if wanted:
            self.lose(mapper, window)
            assert mapper.mapped_frame(window) == frame
            assert op.handle not in self.handles[mapper]
            self.handles[mapper][op.handle] = Mapped(granter, reference, readonly, frame, -window if by_entry else window)

    def lose(self, mapper: GrantGuest, window: int) -> None:
        """What was mapped at a window is not any more."""
        for mapped in self.handles[mapper].values():
            if mapped.window is not None and abs(mapped.window) == window:
                mapped.lost = True

    def unmap(self) -> None:
        mapper = self.random.choice(self.guests)
        if not self.handles[mapper] or self.random.random() < 0.1:
            assert mapper.unmap(self.random.choice((1 << 31, 0xFFFFFFFF))) == abi.GNTST_bad_handle
            return
        handle = self.random.choice(list(self.handles[mapper]))
        mapped = self.handles[mapper][handle]
        assert mapped.window is not None
        window = abs(mapped.window)
        there = next((other for other in self.handles[mapper].values() if other.window in (window, -window) and not other.lost), None)
        address = mapper.pte_address(window) if mapped.window < 0 else None
        status = mapper.unmap(handle, window, address)
        # An entry that another mapping of the same frame has made there is as good.
        fits = there is not None and there.frame == mapped.frame and there.readonly == mapped.readonly
        assert (status == 0) == fits, (status, mapped, there)
        if fits:
            assert there is not None and mapper.pte(window) == 0
            there.lost = True
            del self.handles[mapper][handle]

    def overwrite(self) -> None:
        """The guest maps something of its own over a window."""
        mapper, window = self.random.choice(self.guests), self.random.choice(WINDOWS)
        assert mapper.write_pte(window, self.random.choice((0, mapper.mfns[window] << 12 | 0x63))) == 0
        self.lose(mapper, window)

    def map0(self) -> None:
        granter, _, reference = self.pick()
        readonly = self.random.random() < 0.4
        wanted, frame = self.may_map(granter, reference, 0, readonly=readonly)
        try:
            self.machine.dom0.map_grant(granter.domid, reference, writable=not readonly)
        except HypercallError:
            assert not wanted
            return
        assert wanted
        self.domain0.append(Mapped(granter, reference, readonly, frame))

    def unmap0(self) -> None:
        if self.domain0:
            chosen = self.random.choice(self.domain0)
            self.machine.dom0.unmap_grant(chosen.granter.domid, chosen.reference)
            # The newest mapping of the reference goes.
            newest = [mapped for mapped in self.domain0 if (mapped.granter, mapped.reference) == (chosen.granter, chosen.reference)][-1]
            self.domain0 = [mapped for mapped in self.domain0 if mapped is not newest]

    def copy(self) -> None:
        granter, mapper, reference = self.pick()
        users = self.users(granter, reference)
        flags, granted_to, _ = granter.entry(reference)
        offset, length = self.random.randrange(4096), self.random.randrange(1, 64)
        op = abi.gnttab_copy(len=length, flags=abi.GNTCOPY_source_gref)
        op.source.u.ref, op.source.domid, op.source.offset = reference, granter.domid, offset
        op.dest.u.gmfn, op.dest.domid = mapper.mfns[40], 0x7FF0
        assert mapper.op(abi.GNTTABOP_copy, op) == 0
        if users:
            granted = users[0][0] == mapper.domid
        else:
            granted = flags & abi.GTF_type_mask == abi.GTF_permit_access and granted_to == mapper.domid
        if offset + length > 4096:
            assert op.status
        elif not (granted and not users and flags & abi.GTF_sub_page):
            assert (op.status == 0) == granted, op.status

    # -- what must hold between steps ------------------------------------------------------------------------------------
    def check(self) -> None:
        for granter in self.guests:
            for reference in REFERENCES:
                users = self.users(granter, reference)
                active = granter.domain.grant_table.active.get(reference)
                assert (active is not None) == bool(users)
                if active is not None:
                    assert active.frame == users[0][1].frame
                    assert active.written == any(not mapped.readonly for _, mapped in users)
        for guest, handles in self.handles.items():
            for window in WINDOWS:
                live = [mapped for mapped in handles.values() if mapped.window in (window, -window) and not mapped.lost]
                assert len(live) <= 1
                if live:
                    assert guest.mapped_frame(window) == live[0].frame


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("versions", [(1, 1), (2, 1), (2, 2)])
def test_random_operations(machine: Hypervisor, versions: tuple[int, int], number: int) -> None:
    model = Model(machine, seed=1000 * number + 10 * versions[0] + versions[1])
    for guest, version in zip(model.guests, versions, strict=True):
        assert guest.set_version(version) == 0
    for step in range(STEPS):
        model.step()
        model.check()
        if step % 100 == 0:
            invariants.check(machine)
    assert len(model.done) == 7
    invariants.check(machine)
    # Death in either order; Domain 0 holds on to what it has for longest.
    first, second = model.guests
    first.destroy()
    invariants.check(machine)
    for handle, mapped in list(model.handles[second].items()):
        if mapped.granter is first and not mapped.lost and mapped.window is not None:
            window = abs(mapped.window)
            assert second.unmap(handle, window, second.pte_address(window) if mapped.window < 0 else None) == 0
    second.destroy()
    for mapped in model.domain0:
        machine.dom0.unmap_grant(mapped.granter.domid, mapped.reference)
    assert len(machine.dom0.list_domains()) == 1

"""mmu_update, update_va_mapping, mmuext_op: results, what *pdone says, and long lists done in parts."""

from __future__ import annotations

import errno
import struct

import pytest

from pyxen.abi import xen
from pyxen.engine.interface import Dirty
from pyxen.hypervisor.frame_table import L1
from pyxen.hypervisor.hypervisor import Hypervisor
from pyxen.hypervisor.page_tables import PRESENT, RW, USER
from pyxen.hypervisor.preemption import BUDGET, Preempted
from tests.unit.hypervisor.machine import BASE, LEAF_FLAGS, MASK64, PAGE, SmallDomain

SELF = 0x7FF0
DONE = BASE + 0xFF0
PREEMPTED_BIT = 1 << 31


def mmu_update(guest: SmallDomain, *updates: tuple[int, int], count: int | None = None, domid: int = SELF, done: int = DONE) -> int:
    where = guest.write(guest.at(1), b"".join(struct.pack("<2Q", *update) for update in updates))
    return guest.call(xen.HYPERVISOR_mmu_update, where, len(updates) if count is None else count, done, domid)


def mmuext(guest: SmallDomain, *operations: tuple[int, int, int], domid: int = SELF, count: int | None = None) -> int:
    where = guest.write(guest.at(1), b"".join(struct.pack("<IIQQ", command, 0xDEAD, one, two) for command, one, two in operations))
    return guest.call(xen.HYPERVISOR_mmuext_op, where, len(operations) if count is None else count, DONE, domid)


def done(guest: SmallDomain) -> int:
    return guest.get("I", at=DONE)[0]


def test_update(guest: SmallDomain) -> None:
    slot = (guest.l1 << 12) + 8 * 5
    assert mmu_update(guest, (slot, 0), (slot, guest.mfns[6] << 12 | LEAF_FLAGS)) == 0
    assert done(guest) == 2
    guest.write(guest.at(5), b"hello")
    assert guest.read(guest.at(6), 5) == b"hello"


def test_preserves_accessed_bits(guest: SmallDomain) -> None:
    slot = (guest.l1 << 12) + 8 * 5
    assert mmu_update(guest, (slot | xen.MMU_PT_UPDATE_PRESERVE_AD, guest.mfns[5] << 12 | PRESENT | RW)) == 0
    assert guest.words[slot >> 3] == guest.mfns[5] << 12 | LEAF_FLAGS
    assert mmu_update(guest, (slot | xen.MMU_NORMAL_PT_UPDATE, guest.mfns[5] << 12 | PRESENT | RW)) == 0
    assert guest.words[slot >> 3] == guest.mfns[5] << 12 | PRESENT | RW | USER


def test_the_first_failure_ends_the_list(machine: Hypervisor) -> None:
    guest, other = SmallDomain(machine), SmallDomain(machine)
    slot = (guest.l1 << 12) + 8 * 5
    for bad, number in (
        ((slot, guest.l1 << 12 | LEAF_FLAGS), errno.EBUSY),
        ((slot, guest.mfns[0] << 12 | PRESENT | 1 << 7), errno.EINVAL),
        ((other.l1 << 12, 0), errno.EINVAL),
        ((machine.memory.total_frames << 12, 0), errno.EINVAL),
        ((MASK64 & ~7, 0), errno.EINVAL),
        ((slot | 3, 0), errno.ENOSYS),
        ((other.mfns[0] << 12 | xen.MMU_MACHPHYS_UPDATE, 0), errno.EINVAL),
    ):
        result = mmu_update(guest, (slot, 0), bad, (slot, guest.mfns[5] << 12 | LEAF_FLAGS))
        if bad[0] == slot | 3:  # MMU_PT_UPDATE_NO_TRANSLATE
            assert result == 0
        else:
            assert (result, done(guest)) == (-number, 1), hex(bad[0])
            assert not guest.words[slot >> 3]


def test_an_ordinary_page_is_simply_written(guest: SmallDomain) -> None:
    assert mmu_update(guest, (guest.mfns[9] << 12 | 0x18, 0x1234567890ABCDEF)) == 0
    assert guest.get("Q", at=guest.at(9, 0x18)) == (0x1234567890ABCDEF,)


def test_machine_to_physical(guest: SmallDomain) -> None:
    for value in (7, MASK64, 0):
        assert mmu_update(guest, (guest.mfns[5] << 12 | xen.MMU_MACHPHYS_UPDATE, value)) == 0
        assert guest.hypervisor.m2p[guest.mfns[5]] == value


def test_whose_tables(machine: Hypervisor) -> None:
    guest, other = SmallDomain(machine), SmallDomain(machine)
    slot = (guest.l1 << 12) + 8 * 5
    for domid, number in (
        (guest.domid, 0),
        (SELF | (guest.domid + 1) << 16, 0),
        (other.domid, errno.EPERM),
        (0, errno.EPERM),
        (SELF | (other.domid + 1) << 16, errno.EPERM),
        (77, errno.ESRCH),
        (SELF | 78 << 16, errno.ESRCH),
    ):
        assert mmu_update(guest, (slot, 0), domid=domid) == -number
        assert mmuext(guest, (xen.MMUEXT_TLB_FLUSH_LOCAL, 0, 0), domid=domid) == -number


def test_a_list_that_ends_in_unmapped_memory(guest: SmallDomain) -> None:
    end = BASE + len(guest.mfns) * PAGE
    guest.words[(guest.l1 << 9) + len(guest.mfns) - 1] = 0  # an L1 page's own slot: no reference of a writable kind
    guest.frames.put(guest.l1)
    address = guest.write(end - PAGE * 5, b"")
    assert guest.call(xen.HYPERVISOR_mmu_update, address, 1 << 20, DONE, SELF) < 0


@pytest.mark.parametrize("earlier", [0, 5, 0xFFFFFFFF])
def test_done_before(guest: SmallDomain, earlier: int) -> None:
    """The top bit of the count says that *pdone holds what is done already; the guest can say so, too."""
    guest.put("I", earlier, at=DONE)
    slot = (guest.l1 << 12) + 8 * 5
    assert mmu_update(guest, (slot, 0), (slot, 0), count=2 | PREEMPTED_BIT) == 0
    assert done(guest) == (earlier + 2) & 0xFFFFFFFF


def test_bad_done_address(guest: SmallDomain) -> None:
    """Nobody is told: Xen ignores it."""
    slot = (guest.l1 << 12) + 8 * 5
    assert mmu_update(guest, (slot, 0), done=0) == 0
    for address in (8, 0xFFFF_8000_0000_0000, MASK64, guest.at(len(guest.mfns) - 1)):
        assert mmu_update(guest, (slot, 0), done=address) == 0


def test_a_long_list_is_done_in_parts(machine: Hypervisor) -> None:
    """With the result that it would have in one: 1,300 updates, of which the last fails."""
    guest = SmallDomain(machine, pages=64)
    table = guest.free_page()
    guest.frames.pin(table, guest.domid, L1)
    updates = [((table << 12) + 8 * (n % 512), guest.mfns[n % 8] << 12 | PRESENT) for n in range(1299)] + [(table << 12 | 3, 1 << 50)]
    where = guest.write(guest.at(16), b"".join(struct.pack("<2Q", *update) for update in updates))
    steps = []
    real = Preempted.__init__

    def counted(self: Preempted, *arguments: int) -> None:
        steps.append(arguments[1])
        real(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Preempted, "__init__", counted)
        result = guest.call(xen.HYPERVISOR_mmu_update, where, len(updates), DONE, SELF)
    assert steps == [len(updates) - BUDGET | PREEMPTED_BIT, len(updates) - 2 * BUDGET | PREEMPTED_BIT]
    assert (result, done(guest)) == (0, len(updates))
    for slot in range(512):
        last = max(n for n in range(1299) if n % 512 == slot)
        if slot:
            assert guest.words[table << 9 | slot] == guest.mfns[last % 8] << 12 | PRESENT | USER
    guest.frames.unpin(table, guest.domid)


def test_a_long_list_that_fails_in_its_last_part(guest: SmallDomain) -> None:
    slot = (guest.l1 << 12) + 8 * 5
    updates = [(slot, 0)] * (2 * BUDGET + 3) + [(slot, guest.l1 << 12 | LEAF_FLAGS)]
    where = guest.write(guest.at(16), b"".join(struct.pack("<2Q", *update) for update in updates))
    assert guest.call(xen.HYPERVISOR_mmu_update, where, len(updates), DONE, SELF) == -errno.EBUSY
    assert done(guest) == 2 * BUDGET + 3


def test_long_mmuext_list(guest: SmallDomain) -> None:
    operations = [(xen.MMUEXT_CLEAR_PAGE, guest.mfns[40], 0)] * (BUDGET + 7) + [(99, 0, 0)]
    where = guest.write(guest.at(16), b"".join(struct.pack("<IIQQ", command, 0, one, two) for command, one, two in operations))
    assert guest.call(xen.HYPERVISOR_mmuext_op, where, len(operations), DONE, SELF) == -errno.ENOSYS
    assert done(guest) == BUDGET + 7


# -- update_va_mapping -----------------------------------------------------------------------------------------------------
def test_va_mapping(guest: SmallDomain) -> None:
    entry = guest.mfns[6] << 12 | LEAF_FLAGS
    assert guest.call(xen.HYPERVISOR_update_va_mapping, guest.at(5, 0x123), entry, xen.UVMF_INVLPG | xen.UVMF_LOCAL) == 0
    assert guest.words[(guest.l1 << 9) + 5] == entry
    assert guest.call(xen.HYPERVISOR_update_va_mapping, guest.at(5), guest.l1 << 12 | LEAF_FLAGS, 0) == -errno.EBUSY
    assert guest.words[(guest.l1 << 9) + 5] == entry


@pytest.mark.parametrize("address", [0, BASE + (1 << 30), 0xFFFF_8000_0000_0000, 0xFFFF_8200_0000_0000, BASE | 1 << 48, BASE | 1 << 63])
def test_va_mapping_of_nothing(guest: SmallDomain, address: int) -> None:
    """No table there, Xen's range, and addresses that are not canonical."""
    assert guest.call(xen.HYPERVISOR_update_va_mapping, address, 0, 0) == -errno.EINVAL


def test_va_mapping_flushes(machine: Hypervisor) -> None:
    guest = SmallDomain(machine, vcpus=3)
    vcpus = guest.domain.vcpus
    guest.put("Q", 0b101)
    for flags, flushed in (
        (xen.UVMF_TLB_FLUSH | xen.UVMF_LOCAL, [True, False, False]),
        (xen.UVMF_TLB_FLUSH | xen.UVMF_ALL, [True, True, True]),
        (xen.UVMF_INVLPG | xen.UVMF_ALL, [True, True, True]),
        (xen.UVMF_TLB_FLUSH | guest.at(0), [True, False, True]),
        (xen.UVMF_NONE, [False, False, False]),
    ):
        before = [vcpu.flush_clock for vcpu in vcpus]
        assert guest.call(xen.HYPERVISOR_update_va_mapping, guest.at(5), 0, flags) == 0
        assert [vcpu.flush_clock > clock for vcpu, clock in zip(vcpus, before, strict=True)] == flushed, flags
    assert guest.call(xen.HYPERVISOR_update_va_mapping, guest.at(5), 0, xen.UVMF_TLB_FLUSH | 0x8000) == -errno.EFAULT


# -- mmuext_op -------------------------------------------------------------------------------------------------------------
def test_pins(guest: SmallDomain) -> None:
    table = guest.free_page()
    for command in (xen.MMUEXT_PIN_L1_TABLE, xen.MMUEXT_PIN_L2_TABLE, xen.MMUEXT_PIN_L3_TABLE, xen.MMUEXT_PIN_L4_TABLE):
        assert mmuext(guest, (command, table, 0)) == 0
        assert mmuext(guest, (command, table, 0)) == -errno.EINVAL
        assert guest.count(table) == (2, 1)
        assert mmuext(guest, (xen.MMUEXT_UNPIN_TABLE, table, 0)) == 0
    assert mmuext(guest, (xen.MMUEXT_UNPIN_TABLE, table, 0)) == -errno.EINVAL
    assert done(guest) == 0


def test_roots(guest: SmallDomain) -> None:
    table, vcpu = guest.free_page(), guest.vcpu
    assert mmuext(guest, (xen.MMUEXT_NEW_USER_BASEPTR, table, 0)) == 0
    assert vcpu.user_root == table << 12 and guest.count(table) == (2, 1)
    assert mmuext(guest, (xen.MMUEXT_NEW_USER_BASEPTR, guest.l1, 0)) == -errno.EINVAL
    assert vcpu.user_root == table << 12
    assert mmuext(guest, (xen.MMUEXT_NEW_USER_BASEPTR, 0, 0)) == 0
    assert vcpu.user_root == 0 and guest.count(table) == (1, 0)
    for bad in (0, guest.l1, 1 << 51, guest.mfns[0]):
        assert mmuext(guest, (xen.MMUEXT_NEW_BASEPTR, bad, 0)) < 0
        assert vcpu.kernel_root == vcpu.state.cr3 == guest.l4 << 12
    vcpu.state.dirty = 0
    assert mmuext(guest, (xen.MMUEXT_NEW_BASEPTR, table, 0)) == 0, "*pdone is not mapped any more"
    assert vcpu.kernel_root == vcpu.state.cr3 == table << 12
    assert vcpu.state.dirty & Dirty.CONTROL and vcpu.state.dirty & Dirty.FLUSH_TLB


def test_new_root_in_user_mode_leaves_cr3(guest: SmallDomain) -> None:
    table, vcpu = guest.free_page(), guest.vcpu
    with guest.hypervisor.lock:
        guest.domain.address_space.new_user_root(vcpu, guest.l4)
        vcpu.toggle_mode()
        guest.domain.address_space.new_kernel_root(vcpu, table)
        assert vcpu.state.cr3 == guest.l4 << 12
        vcpu.toggle_mode()
        assert vcpu.state.cr3 == table << 12


def test_clear_and_copy(machine: Hypervisor) -> None:
    guest, other = SmallDomain(machine), SmallDomain(machine)
    guest.write(guest.at(7), b"content" * 500)
    assert mmuext(guest, (xen.MMUEXT_COPY_PAGE, guest.mfns[8], guest.mfns[7])) == 0
    assert guest.read(guest.at(8), 7) == b"content"
    assert mmuext(guest, (xen.MMUEXT_CLEAR_PAGE, guest.mfns[8], 0)) == 0
    assert not any(guest.read(guest.at(8), PAGE))
    for table in (guest.l1, guest.l4):
        assert mmuext(guest, (xen.MMUEXT_CLEAR_PAGE, table, 0)) == -errno.EINVAL
        assert mmuext(guest, (xen.MMUEXT_COPY_PAGE, table, guest.mfns[7])) == -errno.EINVAL
    for bad in (other.mfns[0], machine.gdt_frame):
        assert mmuext(guest, (xen.MMUEXT_CLEAR_PAGE, bad, 0)) == -errno.EINVAL
        assert mmuext(guest, (xen.MMUEXT_COPY_PAGE, guest.mfns[8], bad)) == -errno.EINVAL
    assert mmuext(guest, (xen.MMUEXT_COPY_PAGE, guest.mfns[8], 1 << 60)) == -errno.EINVAL


def test_ldt_size_is_32_bits(guest: SmallDomain) -> None:
    assert mmuext(guest, (xen.MMUEXT_SET_LDT, guest.at(9), 0xDEADBEEF_00000010)) == 0
    assert guest.vcpu.ldt_entries == 16 and guest.vcpu.state.ldt.limit == 127
    assert mmuext(guest, (xen.MMUEXT_SET_LDT, guest.at(9), 8193)) == -errno.EINVAL
    assert mmuext(guest, (xen.MMUEXT_SET_LDT, guest.at(9, 8), 1)) == -errno.EINVAL
    assert guest.vcpu.ldt_entries == 16
    assert mmuext(guest, (xen.MMUEXT_SET_LDT, 0, 0)) == 0
    assert guest.vcpu.state.ldt.selector == 0


def test_flushes(machine: Hypervisor) -> None:
    guest = SmallDomain(machine, vcpus=3)
    guest.put("Q", 0b110)
    for command, first, second, flushed in (
        (xen.MMUEXT_TLB_FLUSH_LOCAL, 0, 0, [True, False, False]),
        (xen.MMUEXT_TLB_FLUSH_ALL, 0, 0, [True, True, True]),
        (xen.MMUEXT_INVLPG_ALL, guest.at(3), 0, [True, True, True]),
        (xen.MMUEXT_TLB_FLUSH_MULTI, 0, guest.at(0), [False, True, True]),
        (xen.MMUEXT_INVLPG_MULTI, guest.at(3), guest.at(0), [False, True, True]),
        (xen.MMUEXT_INVLPG_LOCAL, guest.at(3), 0, [False, False, False]),
    ):
        before = [vcpu.flush_clock for vcpu in guest.domain.vcpus]
        assert mmuext(guest, (command, first, second)) == 0
        assert [vcpu.flush_clock > clock for vcpu, clock in zip(guest.domain.vcpus, before, strict=True)] == flushed, command
    assert mmuext(guest, (xen.MMUEXT_TLB_FLUSH_MULTI, 0, 0x8000)) == -errno.EINVAL
    assert mmuext(guest, (xen.MMUEXT_FLUSH_CACHE, 0, 0)) == -errno.EACCES
    assert mmuext(guest, (xen.MMUEXT_FLUSH_CACHE_GLOBAL, 0, 0)) == -errno.EINVAL

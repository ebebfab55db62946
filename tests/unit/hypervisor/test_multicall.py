"""HYPERVISOR_multicall: the results of each call in its entry, also when the list or a call in it is done in parts."""

from __future__ import annotations

import errno
import struct

import pytest

from pyxen.abi import memory as abi_memory
from pyxen.abi import xen
from pyxen.hypervisor import hypercall_table, mmu_ops
from pyxen.hypervisor.hypervisor import Hypervisor
from pyxen.hypervisor.page_tables import PRESENT, USER
from pyxen.hypervisor.preemption import BUDGET, Preempted
from tests.unit.hypervisor.machine import LEAF_FLAGS, MASK64, PAGE, SmallDomain

Call = tuple[int, ...]
LIST_PFN = 16


def entries(*calls: Call) -> bytes:
    return b"".join(struct.pack("<8Q", number, 0xAAAA, *arguments, *[0] * (6 - len(arguments))) for number, *arguments in calls)


def multicall(guest: SmallDomain, *calls: Call) -> int:
    return guest.call(xen.HYPERVISOR_multicall, guest.write(guest.at(LIST_PFN), entries(*calls)), len(calls))


def results(guest: SmallDomain, count: int) -> list[int]:
    data = guest.read(guest.at(LIST_PFN), 64 * count)
    return [struct.unpack_from("<q", data, 64 * index + 8)[0] for index in range(count)]


def test_each_has_its_result(guest: SmallDomain) -> None:
    calls: list[Call] = [
        (xen.HYPERVISOR_xen_version, 0, 0),
        (xen.HYPERVISOR_xen_version, 99, 0),
        (77, 1),
        (xen.HYPERVISOR_set_debugreg, 0, 0xFFFF_8000_0000_0000),
        (xen.HYPERVISOR_event_channel_op, 4, 0x8000),
        (xen.HYPERVISOR_multicall, guest.at(LIST_PFN), 1),
        (xen.HYPERVISOR_dm_op,),
        (xen.HYPERVISOR_domctl, 0),
        (xen.HYPERVISOR_xen_version, 0, 0),
    ]
    assert multicall(guest, *calls) == 0
    assert results(guest, len(calls)) == [
        0x40011,
        -errno.ENOSYS,
        -errno.ENOSYS,
        -errno.EPERM,
        -errno.EFAULT,
        -errno.EINVAL,
        -errno.ENOSYS,
        -errno.EFAULT,
        0x40011,
    ]


def test_a_list_that_can_not_be_read(guest: SmallDomain) -> None:
    assert guest.call(xen.HYPERVISOR_multicall, 0x8000, 1) == -errno.EFAULT
    assert guest.call(xen.HYPERVISOR_multicall, 0x8000, 0) == 0
    assert guest.call(xen.HYPERVISOR_multicall, guest.at(len(guest.mfns) - 1), 1) == -errno.EFAULT, "the result can't be written"
    assert guest.call(xen.HYPERVISOR_multicall, MASK64 - 7, 3) == -errno.EFAULT


def test_a_long_list(guest: SmallDomain) -> None:
    count = BUDGET + 20
    assert multicall(guest, *[(xen.HYPERVISOR_xen_version, 0, 0)] * count) == 0
    assert results(guest, count) == [0x40011] * count


def run(machine: Hypervisor, budget: int, monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...]:
    """The same work with another budget. -> everything that can be observed."""
    from pyxen.hypervisor import cpu_ops, memory_op, mmu_ops
    from pyxen.hypervisor import multicall as multicall_module

    for module in (mmu_ops, memory_op, multicall_module, cpu_ops):
        monkeypatch.setattr(module, "BUDGET", budget)
    guest = SmallDomain(machine, pages=128, max_pages=400)
    table = guest.free_page()
    guest.frames.pin(table, guest.domid, 1)
    updates = [((table << 12) + 8 * (n % 512), guest.mfns[n % 8] << 12 | PRESENT) for n in range(700)]
    updates.insert(650, (guest.l1 << 12, guest.l1 << 12 | LEAF_FLAGS))  # refused
    where = guest.write(guest.at(40), b"".join(struct.pack("<2Q", *update) for update in updates))
    operations = guest.write(guest.at(60), struct.pack("<IIQQ", xen.MMUEXT_CLEAR_PAGE, 0, guest.mfns[30], 0) * 90)
    extents = guest.write(guest.at(70), struct.pack("<200Q", *range(1000, 1200)))
    reservation = guest.put("QQIIHxxxxxx", extents, 200, 0, 0, 0x7FF0)
    traps = guest.write(guest.at(75), b"".join(struct.pack("<BBHIQ", n, 3, 0, 0, 0x1000 + n) for n in range(100)) + bytes(16))
    done = guest.at(80)
    calls: list[Call] = [
        (xen.HYPERVISOR_xen_version, 0, 0),
        (xen.HYPERVISOR_mmu_update, where, len(updates), done, 0x7FF0),
        (xen.HYPERVISOR_mmuext_op, operations, 90, done + 8, 0x7FF0),
        (xen.HYPERVISOR_memory_op, abi_memory.XENMEM_populate_physmap, reservation),
        (xen.HYPERVISOR_set_trap_table, traps),
        (xen.HYPERVISOR_xen_version, 0, 0),
    ]
    result = multicall(guest, *calls)
    got = guest.get("200Q", at=extents)
    table_entries = [guest.words[(table << 9) + n] & ~USER & ~PRESENT for n in range(512)]
    observed = (
        result,
        results(guest, len(calls)),
        guest.get("I", at=done) + guest.get("I", at=done + 8),
        [guest.mfns.index(entry >> 12) if entry else None for entry in table_entries],
        len(set(got)),
        [machine.m2p[mfn] for mfn in got],
        [(entry.address, entry.dpl) if entry else None for entry in (guest.vcpu.traps[n] for n in range(256))],
        guest.domain.total_pages,
    )
    guest.destroy()
    return observed


def test_preempted_everywhere_the_result_is_the_same(machine: Hypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = run(machine, 1 << 30, monkeypatch)
    assert reference[1] == [0x40011, -errno.EBUSY, 0, 200, 0, 0x40011] and reference[2] == (650, 90)
    for budget in (512, 100, 7, 1):
        assert run(machine, budget, monkeypatch) == reference, budget


def test_arguments_of_a_continuation_are_registers() -> None:
    """A list may end at the very top of the address space."""
    assert Preempted(1 << 64, -1, 5).arguments == (0, MASK64, 5)


def test_a_call_in_the_list_at_the_top_of_the_address_space(guest: SmallDomain) -> None:
    """1,024 updates in the last four pages: the address after them is 2**64."""
    tables = [guest.free_page() for _ in range(3)]
    l3, l2, l1 = tables
    updates = struct.pack("<2Q", (guest.l1 << 12) + 8 * 5, 0) * 1024
    with guest.hypervisor.lock:
        guest.words[l3 << 9 | 511] = l2 << 12 | 7
        guest.words[l2 << 9 | 511] = l1 << 12 | 7
        for page in range(4):
            guest.words[l1 << 9 | 508 + page] = guest.mfns[8 + page] << 12 | LEAF_FLAGS
        guest.hypervisor.page_tables.write_entry(guest.domain, (guest.l4 << 12) + 511 * 8, l3 << 12 | 7)
    top = (1 << 64) - 4 * PAGE
    guest.write(top, updates)
    guest.put("I", 0, at=guest.at(0))
    assert multicall(guest, (xen.HYPERVISOR_mmu_update, top, 1025, guest.at(0), 0x7FF0)) == 0
    assert results(guest, 1) == [-errno.EFAULT]
    assert guest.get("I") == (1024,)


def test_lists_in_lists_share_one_budget(guest: SmallDomain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a list of 512 lists of 512 would keep the lock for a second."""
    updates = guest.write(guest.at(8), struct.pack("<2Q", (guest.l1 << 12) + 8 * 5, 0) * BUDGET)
    done, most, real = [0], [0], mmu_ops._update_one

    def counted(*arguments: object) -> None:
        done[0] += 1
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(mmu_ops, "_update_one", counted)
    calls: list[Call] = [(xen.HYPERVISOR_mmu_update, updates, BUDGET, 0, 0x7FF0)] * 20
    registers = [guest.write(guest.at(LIST_PFN), entries(*calls)), len(calls)]
    executions = 0
    with guest.hypervisor.lock:
        while True:
            done[0] = 0
            executions += 1
            try:
                assert hypercall_table.call(guest.vcpu, xen.HYPERVISOR_multicall, tuple(registers)) == 0
                break
            except Preempted as continuation:
                registers = list(continuation.arguments)
            most[0] = max(most[0], done[0])
    assert results(guest, len(calls)) == [0] * len(calls)
    assert most[0] <= 2 * BUDGET and executions >= len(calls) // 2

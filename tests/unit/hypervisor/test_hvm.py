"""HVM domains: their physical memory, parameters, hypercalls, and what becomes of guests that misbehave."""

from __future__ import annotations

import errno
import struct

import pytest

from pyxen.abi import memory, xen
from pyxen.abi.hvm import hvm_op, params
from pyxen.engine.interface import CS, ExitReason
from pyxen.hypervisor import hypercall_table, preemption
from pyxen.hypervisor.dom0_interface import DOMID_SELF, HypercallError, ShutdownReason
from pyxen.hypervisor.guest_access import GuestFault
from pyxen.hypervisor.hvm import exits, interrupts, local_apic, msr, p2m, processor_reset
from pyxen.hypervisor.hypervisor import Hypervisor
from tests.unit.hypervisor import invariants
from tests.unit.hypervisor.hvm_guest import PAGE, SmallHvmDomain
from tests.unit.hypervisor.machine import SmallDomain

HOLE = 0x40000000
EMPTY = HOLE >> 12
APIC_VERSION = local_apic.BASE_ADDRESS + local_apic.VERSION


@pytest.fixture
def hvm(machine: Hypervisor) -> SmallHvmDomain:
    return SmallHvmDomain(machine)


def add(hvm: SmallHvmDomain, space: int, index: int, gfn: int, size: int = 0, domid: int = DOMID_SELF) -> int:
    argument = hvm.put("HHIQQ", domid, size, space, index, gfn)
    return hvm.call(xen.HYPERVISOR_memory_op, memory.XENMEM_add_to_physmap, argument)


def reservation(hvm: SmallHvmDomain, command: int, gfns: list[int], order: int = 0) -> int:
    where = hvm.put(f"{len(gfns)}Q", *gfns, at=0x800)
    return hvm.call(xen.HYPERVISOR_memory_op, command, hvm.put("QQIIH6x", where, len(gfns), order, 0, DOMID_SELF))


# -- physical memory ----------------------------------------------------------------------------------------------------------


def test_shared_info_replaces_what_was_there(hvm: SmallHvmDomain) -> None:
    owned = hvm.domain.total_pages
    assert add(hvm, memory.XENMAPSPACE_shared_info, 0, 5) == 0
    assert hvm.domain.total_pages == owned - 1
    assert hvm.container.physical_map.frame(5) == hvm.domain.shared_info >> 12
    invariants.check(hvm.hypervisor)
    # To another place: it goes from the first.
    assert add(hvm, memory.XENMAPSPACE_shared_info, 0, 0x50000) == 0
    with pytest.raises(GuestFault):
        hvm.read(5 * PAGE, 1)


def test_the_page_of_the_argument_may_go(hvm: SmallHvmDomain) -> None:
    assert add(hvm, memory.XENMAPSPACE_shared_info, 0, 0) == 0
    assert hvm.read(0, PAGE) == hvm.hypervisor.memory.page(hvm.domain.shared_info >> 12).tobytes()


def test_grant_frames_until_there_are_no_more(machine: Hypervisor) -> None:
    hvm = SmallHvmDomain(machine, max_grant_frames=4)
    assert [add(hvm, memory.XENMAPSPACE_grant_table, index, 0x60000 + index) for index in range(6)] == [0] * 4 + [-errno.EINVAL] * 2
    assert add(hvm, memory.XENMAPSPACE_grant_table, 1 << 31, 0x60010) == -errno.EINVAL


@pytest.mark.parametrize(
    ("space", "index", "gfn", "answer"),
    [
        (memory.XENMAPSPACE_gmfn, 3, 0x70000, 0),
        (memory.XENMAPSPACE_gmfn, 0x9999, 0x70000, -errno.EINVAL),
        (memory.XENMAPSPACE_gmfn, 3, 1 << 24, -errno.EINVAL),
        (memory.XENMAPSPACE_gmfn, 3, (1 << 64) - 1, -errno.EINVAL),
        (memory.XENMAPSPACE_gmfn_foreign, 0, 0x70000, -errno.ENOSYS),
        (memory.XENMAPSPACE_dev_mmio, 0, 0x70000, -errno.EACCES),
        (memory.XENMAPSPACE_shared_info, 1, 0x70000, -errno.EINVAL),
    ],
)
def test_places(hvm: SmallHvmDomain, space: int, index: int, gfn: int, answer: int) -> None:
    hvm.write(3 * PAGE, b"three")
    assert add(hvm, space, index, gfn) == answer
    if not answer:
        assert hvm.read(gfn * PAGE, 5) == b"three"
        with pytest.raises(GuestFault):
            hvm.read(3 * PAGE, 1)


def test_not_those_of_others(hvm: SmallHvmDomain) -> None:
    other = SmallHvmDomain(hvm.hypervisor)
    assert add(hvm, memory.XENMAPSPACE_gmfn, 0, 0x70000, domid=other.domid) == -errno.EPERM
    assert add(hvm, memory.XENMAPSPACE_gmfn, 0, 0x70000, domid=77) == -errno.ESRCH


def test_a_range(hvm: SmallHvmDomain) -> None:
    assert add(hvm, memory.XENMAPSPACE_gmfn_range, 8, 0x70000, size=8) == 0
    assert [hvm.container.physical_map.frame(0x70000 + index) for index in range(8)] == hvm.mfns[8:16]


def test_a_batch_says_what_became_of_each(hvm: SmallHvmDomain) -> None:
    indices, gfns, errors = hvm.put("3Q", 0, 70, 2, at=0x400), hvm.put("3Q", 0x70000, 0x70001, 0x70002, at=0x500), 0x600
    argument = hvm.put("HHHHQQQ", DOMID_SELF, memory.XENMAPSPACE_gmfn, 3, 0, indices, gfns, errors, at=0x1000)
    # Page 0, with the lists in it, moves away under the call.
    assert hvm.call(xen.HYPERVISOR_memory_op, memory.XENMEM_add_to_physmap_batch, argument) == -errno.EFAULT
    assert hvm.read(0x70000 * PAGE + 0x400, 8) == bytes(8)
    for at in (indices, gfns):
        hvm.put("3Q", *((9, 70, 11) if at == indices else (0x70005, 0x70006, 0x70007)), at=0x2000 + at)
    argument = hvm.put("HHHHQQQ", DOMID_SELF, memory.XENMAPSPACE_gmfn, 3, 0, 0x2000 + indices, 0x2000 + gfns, 0x2000 + errors, at=0x1000)
    assert hvm.call(xen.HYPERVISOR_memory_op, memory.XENMEM_add_to_physmap_batch, argument) == 0
    assert hvm.get("3i", at=0x2000 + errors) == (0, -errno.EINVAL, 0)


def test_remove_and_populate(hvm: SmallHvmDomain) -> None:
    argument = hvm.put("H6xQ", DOMID_SELF, 9)
    assert hvm.call(xen.HYPERVISOR_memory_op, memory.XENMEM_remove_from_physmap, argument) == 0
    assert hvm.call(xen.HYPERVISOR_memory_op, memory.XENMEM_remove_from_physmap, argument) == -errno.ENOENT
    assert reservation(hvm, memory.XENMEM_populate_physmap, [9, 0x80000, 10, 0x80001]) == 2, "there is memory at page 10"
    assert hvm.read(9 * PAGE, 8) == bytes(8)
    assert reservation(hvm, memory.XENMEM_populate_physmap, [0x80010], order=3) == 1
    assert hvm.read(0x80017 * PAGE, 8) == bytes(8)


def test_what_is_taken_back_is_free(hvm: SmallHvmDomain) -> None:
    free, owned = hvm.hypervisor.memory.free_frames, hvm.domain.total_pages
    assert reservation(hvm, memory.XENMEM_decrease_reservation, [20, 21, 22, 0x9999, 23]) == 3
    assert (hvm.hypervisor.memory.free_frames, hvm.domain.total_pages) == (free + 3, owned - 3)
    with pytest.raises(GuestFault):
        hvm.read(20 * PAGE, 1)


def test_a_page_is_taken_back_once(hvm: SmallHvmDomain) -> None:
    owned = hvm.domain.total_pages
    assert reservation(hvm, memory.XENMEM_decrease_reservation, [20, 20]) == 1
    assert hvm.domain.total_pages == owned - 1


def test_guests_see_no_machine_frames(hvm: SmallHvmDomain) -> None:
    """GNTTABOP_setup_table names frames as the guest does, and one that it has not mapped by no number at all."""
    hvm.call(xen.HYPERVISOR_grant_table_op, 2, hvm.put("H2xIh6xQ", DOMID_SELF, 1, 0, 0x800), 1)
    assert hvm.get("Q", at=0x800) == ((1 << 64) - 1,)
    add(hvm, memory.XENMAPSPACE_grant_table, 0, 0x60000)
    hvm.call(xen.HYPERVISOR_grant_table_op, 2, hvm.put("H2xIh6xQ", DOMID_SELF, 1, 0, 0x800), 1)
    assert hvm.get("Q", at=0x800) == (0x60000,)


def test_frames_in_use_are_not_freed(hvm: SmallHvmDomain) -> None:
    """vcpu_info stays where it is when its page leaves the guest's memory."""
    argument = hvm.put("QII", 30, 64, 0)
    assert hvm.call(xen.HYPERVISOR_vcpu_op, 10, 0, argument) == 0
    assert reservation(hvm, memory.XENMEM_decrease_reservation, [30]) == 1
    assert hvm.vcpu.info >> 12 == hvm.mfns[30]
    assert hvm.hypervisor.memory.owner[hvm.mfns[30]] == hvm.domid


def test_domain_0_can_not_put_two_frames_at_one_place(hvm: SmallHvmDomain) -> None:
    import numpy as np

    for gfns in ([200, 200], [5], [1 << 24]):
        with pytest.raises(HypercallError):
            hvm.dom0.populate_guest_frames(hvm.domid, np.array(gfns, dtype=np.uint64))


# -- grants of others -------------------------------------------------------------------------------------------------------------

WINDOW = 0x71000


def grant_pair(machine: Hypervisor) -> tuple[SmallHvmDomain, SmallHvmDomain]:
    """A granter, whose frame 5 is its grant 8, writable to the second domain, and its grant 9, only to be read."""
    granter, mapper = SmallHvmDomain(machine), SmallHvmDomain(machine)
    granter.write(5 * PAGE, b"granted")
    for reference, flags in ((8, 1), (9, 5)):
        machine.memory.words[(granter.domain.grant_table.frames[0] << 9) + reference] = 5 << 32 | mapper.domid << 16 | flags
    return granter, mapper


def map_grant(mapper: SmallHvmDomain, granter: SmallHvmDomain, reference: int, gfn: int, flags: int = 2) -> tuple[int, int]:
    """-> (status, handle)."""
    mapper.call(xen.HYPERVISOR_grant_table_op, 0, mapper.put("QIIHhIQ", gfn << 12, flags, reference, granter.domid, 0, 0, 0), 1)
    status, handle = mapper.get("hI", at=18)
    return status, handle


def unmap_grant(mapper: SmallHvmDomain, handle: int, gfn: int) -> int:
    mapper.call(xen.HYPERVISOR_grant_table_op, 1, mapper.put("QQIh2x", gfn << 12, 0, handle, 0), 1)
    return mapper.get("h", at=20)[0]


def test_a_grant_of_another_domain(machine: Hypervisor) -> None:
    granter, mapper = grant_pair(machine)
    status, handle = map_grant(mapper, granter, 8, WINDOW)
    assert (status, mapper.read(WINDOW * PAGE, 7)) == (0, b"granted")
    mapper.write(WINDOW * PAGE, b"written")
    assert granter.read(5 * PAGE, 7) == b"written"
    invariants.check(machine)
    # Rights are those of the mapping that goes: the one at the other address is not mistaken for it.
    status, reader = map_grant(mapper, granter, 9, WINDOW + 1, flags=6)
    assert status == 0
    assert unmap_grant(mapper, handle, WINDOW + 1) == -1
    with pytest.raises(GuestFault):
        mapper.write((WINDOW + 1) * PAGE, b"x")
    assert [unmap_grant(mapper, handle, WINDOW), unmap_grant(mapper, reader, WINDOW + 1)] == [0, 0]
    with pytest.raises(GuestFault):
        mapper.read(WINDOW * PAGE, 1)
    assert granter.domain.grant_table.foreign == {}
    invariants.check(machine)


def test_a_mapped_grant_stays_what_it_is(machine: Hypervisor) -> None:
    """The frame that the granter gives up stays the mapper's to see until it unmaps."""
    granter, mapper = grant_pair(machine)
    _, handle = map_grant(mapper, granter, 8, WINDOW)
    free = machine.memory.free_frames
    assert reservation(granter, memory.XENMEM_decrease_reservation, [5]) == 1
    assert mapper.read(WINDOW * PAGE, 7) == b"granted"
    assert machine.memory.free_frames == free
    assert unmap_grant(mapper, handle, WINDOW) == 0
    assert machine.memory.free_frames == free + 1
    invariants.check(machine)


@pytest.mark.parametrize("first", ["granter", "mapper"])
def test_when_either_dies_all_is_given_back(machine: Hypervisor, first: str) -> None:
    free = machine.memory.free_frames
    granter, mapper = grant_pair(machine)
    assert [map_grant(mapper, granter, reference, WINDOW + reference, flags)[0] for reference, flags in ((8, 2), (9, 6))] == [0, 0]
    dying, other = (granter, mapper) if first == "granter" else (mapper, granter)
    machine.dom0.destroy_domain(dying.domid)
    if first == "granter":
        assert mapper.read((WINDOW + 8) * PAGE, 7) == b"granted", "its frames are there as long as somebody has them mapped"
    invariants.check(machine)
    machine.dom0.destroy_domain(other.domid)
    assert machine.memory.free_frames == free
    invariants.check(machine)


def test_a_grant_over_a_grant_costs_the_domain(machine: Hypervisor) -> None:
    granter, mapper = grant_pair(machine)
    assert map_grant(mapper, granter, 8, WINDOW)[0] == 0
    assert map_grant(mapper, granter, 9, WINDOW, flags=6)[0] == -1
    assert "over another one" in machine.dom0.domain_info(mapper.domid).crash_cause
    invariants.check(machine)


# -- hypercalls ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 5, 8, 9, 10, 14, 22, 23, 25, 26, 28, 30])
def test_what_only_pv_guests_have(hvm: SmallHvmDomain, number: int) -> None:
    assert hvm.call(number) == -errno.ENOSYS


def test_pv_guests_have_no_hvm_op(guest: SmallDomain) -> None:
    assert guest.call(xen.HYPERVISOR_hvm_op, hvm_op.HVMOP_get_time, guest.at(0)) == -errno.ENOSYS


def parameter(hvm: SmallHvmDomain, command: int, index: int, value: int = 0, domid: int = DOMID_SELF) -> int:
    return hvm.call(xen.HYPERVISOR_hvm_op, command, hvm.put("H2xIQ", domid, index, value))


def test_parameters(hvm: SmallHvmDomain) -> None:
    hvm.dom0.set_hvm_parameter(hvm.domid, params.HVM_PARAM_STORE_PFN, 0xFEFFC)
    assert parameter(hvm, hvm_op.HVMOP_get_param, params.HVM_PARAM_STORE_PFN) == 0
    assert hvm.get("8xQ") == (0xFEFFC,)
    assert parameter(hvm, hvm_op.HVMOP_set_param, params.HVM_PARAM_STORE_PFN, 1) == -errno.EPERM
    assert parameter(hvm, hvm_op.HVMOP_set_param, params.HVM_NR_PARAMS) == -errno.EINVAL
    assert parameter(hvm, hvm_op.HVMOP_get_param, 0xFFFFFFFF) == -errno.EINVAL
    assert parameter(hvm, hvm_op.HVMOP_get_param, 0, domid=0) == -errno.EPERM
    assert hvm.call(xen.HYPERVISOR_hvm_op, 99, 0) == -errno.ENOSYS


@pytest.mark.parametrize(("via", "vector"), [(0xF3, 0xF3), (0xF, 0), (0, 0)])
def test_the_callback_vector(hvm: SmallHvmDomain, via: int, vector: int) -> None:
    assert parameter(hvm, hvm_op.HVMOP_set_param, params.HVM_PARAM_CALLBACK_IRQ, 2 << 56 | via) == 0
    with hvm.hypervisor.lock:
        hvm.vcpu.octets[hvm.vcpu.info] = 1
        assert interrupts.pending_vector(hvm.vcpu) == (vector or None)


def test_the_upcall_vector_is_no_exception(hvm: SmallHvmDomain) -> None:
    for vcpu, vector, answer in ((0, 15, -errno.EINVAL), (1, 0x40, -errno.ENOENT), (0, 0x40, 0)):
        assert hvm.call(xen.HYPERVISOR_hvm_op, hvm_op.HVMOP_set_evtchn_upcall_vector, hvm.put("IB", vcpu, vector)) == answer


# -- processors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("register", "value"),
    [
        (0x12345, 0),
        (msr.MSR_EFER, 1 << 12),
        (msr.MSR_LSTAR, 1 << 47),
        (msr.MSR_PAT, 2),
        (msr.MSR_APIC_BASE, 0x1000 | 1 << 11 | 1 << 8),
        (msr.MSR_HYPERCALL_PAGE, HOLE),
        (msr.MSR_HYPERCALL_PAGE, 0x1001),
        (0x80B, 0),  # x2APIC registers while it is no x2APIC
        (msr.MSR_SPEC_CTRL, 8),
    ],
)
def test_reserved_bits_and_registers_are_faults(hvm: SmallHvmDomain, register: int, value: int) -> None:
    with hvm.hypervisor.lock:
        assert not msr.write(hvm.vcpu, register, value)


def test_the_hypercall_page(hvm: SmallHvmDomain) -> None:
    with hvm.hypervisor.lock:
        assert msr.write(hvm.vcpu, msr.MSR_HYPERCALL_PAGE, 7 * PAGE)
    stub = hvm.read(7 * PAGE + 32 * 17, 9)
    assert stub[:5] == b"\xb8" + struct.pack("<I", 17) and stub[5:8] in (b"\x0f\x01\xc1", b"\x0f\x01\xd9") and stub[8] == 0xC3


def test_priorities_of_the_local_apic(machine: Hypervisor) -> None:
    vcpu = SmallHvmDomain(machine).vcpu
    apic = vcpu.local_apic
    with machine.lock:
        apic.request(0x40)
        assert apic.pending() is None, "it is off by software"
        apic.write(local_apic.SVR, 0x1FF)
        for vector in (0x40, 0x45, 0x62, 3):
            apic.request(vector)
        assert apic.read(local_apic.ESR) == 0
        apic.write(local_apic.ESR, 0)
        assert apic.read(local_apic.ESR) == local_apic.ESR_ILLEGAL_VECTOR
        assert apic.pending() == 0x62
        apic.acknowledge(0x62)
        assert apic.pending() is None, "of a lower class"
        apic.request(0x70)
        assert apic.pending() == 0x70
        apic.write(local_apic.TPR, 0x70)
        assert apic.pending() is None
        apic.write(local_apic.TPR, 0)
        apic.requests &= ~(1 << 0x70)
        apic.write(local_apic.EOI, 0)
        assert apic.pending() == 0x45


def test_interrupts_to_others(machine: Hypervisor) -> None:
    hvm = SmallHvmDomain(machine, vcpus=3)
    apics = [vcpu.local_apic for vcpu in hvm.vcpu.siblings()]
    with machine.lock:
        for apic in apics:
            apic.write(local_apic.SVR, 0x1FF)
        apics[0].write(local_apic.ICR_HIGH, 2 << 24)  # vCPU 1
        apics[0].write(local_apic.ICR, 0x50)
        apics[0].write(local_apic.ICR, 3 << 18 | 0x51)  # all but itself
        apics[0].write(local_apic.ICR, 1 << 18 | 0x52)  # itself
        assert [[vector for vector in (0x50, 0x51, 0x52) if apic.requests >> vector & 1] for apic in apics] == [
            [0x52],
            [0x50, 0x51],
            [0x51],
        ]
        apics[0].write(local_apic.ICR, 0x4500)  # INIT
        apics[0].write(local_apic.ICR, 0x4608)  # start at 0x8000
    target = hvm.vcpu.siblings()[1]
    assert target.online and not hvm.vcpu.siblings()[2].online
    assert (target.state.segs[1].base, target.state.segs[1].selector) == (0x8000, 0x800)


def reached(apics: list[local_apic.LocalApic], vector: int) -> list[int]:
    """Which of them have been asked for the vector, which is forgotten then."""
    numbers = [number for number, apic in enumerate(apics) if apic.requests >> vector & 1]
    for apic in apics:
        apic.requests = 0
    return numbers


def test_logical_destinations_of_a_cluster(machine: Hypervisor) -> None:
    """The cluster model of xAPICs: a number and four bits."""
    apics = [vcpu.local_apic for vcpu in SmallHvmDomain(machine, vcpus=6).vcpu.siblings()]
    with machine.lock:
        for number, apic in enumerate(apics):
            apic.write(local_apic.SVR, 0x1FF)
            apic.write(local_apic.DFR, 0)
            apic.write(local_apic.LDR, (number // 4 << 4 | 1 << number % 4) << 24)
        found = []
        for destination in (0x05, 0x0F, 0x13, 0x21, 0x00, 0xFF):
            apics[0].write(local_apic.ICR_HIGH, destination << 24)
            apics[0].write(local_apic.ICR, 1 << 11 | 0x50)
            found.append(reached(apics, 0x50))
    assert found == [[0, 2], [0, 1, 2, 3], [4, 5], [], [], [0, 1, 2, 3, 4, 5]]


def test_clusters_of_x2apics(machine: Hypervisor) -> None:
    """Sixteen ids a cluster: ids are even, so vCPU 8 is the first of the second one."""
    apics = [vcpu.local_apic for vcpu in SmallHvmDomain(machine, vcpus=10).vcpu.siblings()]
    with machine.lock:
        for apic in apics:
            assert apic.set_base(apic.base | local_apic.X2APIC)
            apic.write(local_apic.SVR, 0x1FF)
        assert [apics[number].read(local_apic.LDR) for number in (0, 7, 8, 9)] == [1, 1 << 14, 1 << 16 | 1, 1 << 16 | 4]
        found = []
        for destination in (0x4001, 0x10001, 0x10005, 0x20001, 0xFFFF, 0xFFFFFFFF):
            assert apics[3].write_msr(0x830, destination << 32 | 1 << 11 | 0x50)
            found.append(reached(apics, 0x50))
    assert found == [[0, 7], [8], [8, 9], [], [0, 1, 2, 3, 4, 5, 6, 7], list(range(10))]


# -- guests that misbehave ------------------------------------------------------------------------------------------------------

LOAD_HOLE = b"\xa1" + struct.pack("<I", HOLE)  # mov eax,[HOLE]
STORE = b"\xa3" + struct.pack("<I", 0x3000)  # mov [0x3000],eax
HALT = b"\xf4"


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        pytest.param(HALT, "HLT with interrupts off", id="halt"),
        pytest.param(b"\x0f\x0b", "triple fault", id="no handlers"),
        pytest.param(b"\xb8" + struct.pack("<I", HOLE) + b"\xff\xe0", "code is fetched from it", id="jump to no memory"),
        pytest.param(
            b"\xb8\x00\xb0\xad\xde\x0f\x22\xd8\x0f\x20\xc0\x0d\x00\x00\x00\x80\x0f\x22\xc0\x90\x90",
            "0xdeadb",
            id="page tables in no memory",
        ),
        pytest.param(b"\xb9\x45\x23\x01\x00\x0f\x30", "triple fault", id="wrmsr of nothing"),
        pytest.param(b"\x0f\xbc\x05" + struct.pack("<I", HOLE), "bsf eax, dword ptr [0x40000000] is not emulated", id="bsf of no memory"),
    ],
)
def test_it_crashes_alone(machine: Hypervisor, code: bytes, cause: str) -> None:
    other = SmallHvmDomain(machine)
    info = SmallHvmDomain(machine).run(code)
    assert info.shutdown_reason is ShutdownReason.CRASH
    assert cause in info.crash_cause
    assert not other.dom0.domain_info(other.domid).shutdown


@pytest.mark.parametrize(
    ("code", "value"),
    [
        pytest.param(LOAD_HOLE, 0xFFFFFFFF, id="no memory"),
        pytest.param(b"\xa1\x30\x00\xe0\xfe", local_apic.VERSION_VALUE, id="version of the local APIC"),
        pytest.param(b"\x0f\xb6\x05" + struct.pack("<I", HOLE), 0xFF, id="movzx"),
        pytest.param(b"\x31\xc0\x33\x05" + struct.pack("<I", HOLE), 0xFFFFFFFF, id="xor"),
        pytest.param(b"\x31\xc0\x66\xba\x42\x00\xec", 0xFF, id="in al,dx"),
        pytest.param(b"\xb8\xff\x01\x00\x00\xa3\xf0\x00\xe0\xfe\xa1\xf0\x00\xe0\xfe", 0x1FF, id="write to the local APIC"),
        pytest.param(b"\xb8\x01\x00\x00\x00\x0f\x01\xc1", -errno.ENOSYS & 0xFFFFFFFF, id="a hypercall of 32-bit code"),
    ],
)
def test_what_a_guest_reads(machine: Hypervisor, code: bytes, value: int) -> None:
    hvm = SmallHvmDomain(machine)
    hvm.run(code + STORE + HALT)
    assert hvm.get("I", at=0x3000) == (value,)


def test_interrupts_to_itself_without_end(machine: Hypervisor) -> None:
    """A guest that sends itself interrupts can be destroyed all the same."""
    hvm = SmallHvmDomain(machine)
    # mov dword [0xfee000f0],0x1ff; 1: mov dword [0xfee00300],0x40040; jmp 1b
    hvm.write(0x1000, bytes.fromhex("c705f000e0feff010000 c7050003e0fe40000400 ebf4"))
    hvm.dom0.set_hvm_context(hvm.domid, 0x1000, 0)
    hvm.dom0.unpause_domain(hvm.domid)
    hvm.dom0.pause_domain(hvm.domid)
    assert not hvm.dom0.domain_info(hvm.domid).shutdown


@pytest.mark.parametrize("sib", [0x00, 0x20, 0x60, 0xE0], ids=["[rax+rax]", "[rax]", "[rax] with a scale of 2", "[rax] with a scale of 8"])
def test_operands_in_the_local_apic(hvm: SmallHvmDomain, sib: int) -> None:
    """mov ecx, [SIB] in long mode: a SIB octet may have a scale and yet no index."""
    for table, entry in ((0x3000, 0x4003), *((0x4000 + 8 * index, index << 30 | 0x83) for index in range(4))):
        hvm.put("Q", entry, at=table)
    hvm.write(0x1000, bytes((0x8B, 0x0C, sib)))
    state = hvm.vcpu.state
    state.cr0, state.cr3, state.cr4, state.efer, state.rip = 0x80000011, 0x3000, 0x20, 0x500, 0x1000
    state.segs[CS].attributes = processor_reset.CODE64
    state.rax = APIC_VERSION // (1 if sib else 2)
    state.exit_reason, state.qualification, state.error_code = ExitReason.BAD_MEMORY, APIC_VERSION, 0
    with hvm.hypervisor.lock:
        exits.EXIT_HANDLERS[ExitReason.BAD_MEMORY](hvm.vcpu)
    assert (state.rip, state.rcx) == (0x1003, local_apic.VERSION_VALUE)
    assert not hvm.domain.is_shut_down


def test_a_longer_physical_map_is_made_in_pieces(hvm: SmallHvmDomain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two others may have the lock, and may make it longer, too."""
    breaths: list[int] = []

    def breathe(domid: int) -> None:
        breaths.append(domid)
        if len(breaths) == 20:
            hvm.container.physical_map.reach(p2m.MAX_FRAMES - 1)

    monkeypatch.setattr(hvm.hypervisor, "breathe", breathe)
    assert add(hvm, memory.XENMAPSPACE_gmfn, 3, 1 << 23) == 0
    assert breaths == [hvm.domid] * (2 * p2m.MAX_FRAMES // p2m.FRAMES_PER_BREATH)
    assert add(hvm, memory.XENMAPSPACE_gmfn, 4, p2m.MAX_FRAMES - 1) == 0
    invariants.check(hvm.hypervisor)


@pytest.mark.parametrize("space", [memory.XENMAPSPACE_gmfn, memory.XENMAPSPACE_gmfn_range])
def test_many_places_give_way_in_time(hvm: SmallHvmDomain, monkeypatch: pytest.MonkeyPatch, space: int) -> None:
    """With no time at all, after each."""
    monkeypatch.setattr(preemption, "SLICE_NS", 0)
    if space == memory.XENMAPSPACE_gmfn_range:
        number, argument = memory.XENMEM_add_to_physmap, hvm.put("HHIQQ", DOMID_SELF, 3, space, 20, EMPTY)
    else:
        hvm.put("6Q", 20, 21, 22, EMPTY, EMPTY + 1, EMPTY + 2, at=0x800)
        batch = memory.add_to_physmap_batch(domid=DOMID_SELF, space=space, size=3)
        batch.idxs, batch.gpfns, batch.errs = 0x800, 0x818, 0x900
        number, argument = memory.XENMEM_add_to_physmap_batch, hvm.write(0, bytes(batch))
    continued = 0
    with hvm.hypervisor.lock:
        while True:
            try:
                result = hypercall_table.call(hvm.vcpu, xen.HYPERVISOR_memory_op, (number, argument, 0, 0, 0, 0))
                break
            except preemption.Preempted:
                continued += 1
    assert (result, continued) == (0, 2)
    assert [hvm.container.physical_map.frame(EMPTY + index) for index in range(3)] == hvm.mfns[20:23]

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyxen.hypervisor.dom0_interface import HypercallError, TscMode
from pyxen.hypervisor.guest_counter import TimeScale
from pyxen.hypervisor.guest_time import TIME_OFFSET
from pyxen.hypervisor.hvm import msr
from pyxen.hypervisor.hypervisor import Hypervisor
from tests.unit.hypervisor.hvm_guest import SmallHvmDomain
from tests.unit.hypervisor.machine import SmallDomain
from tests.unit.hypervisor.test_guest_time import guest_reads

TIME_LEAF, POWER_LEAF = 0x40000003, 0x80000007
AnyDomain = SmallDomain | SmallHvmDomain
KINDS = pytest.mark.parametrize("kind", (SmallDomain, SmallHvmDomain))


@given(st.integers(1_000_000, 10**11), st.integers(0, 10**17))
def test_scales(hertz: int, ticks: int) -> None:
    scale = TimeScale.of_frequency(hertz)
    assert 1 << 31 <= scale.multiplier < 1 << 32
    wanted = ticks * 10**9 / hertz
    assert abs(scale.apply(ticks) - wanted) <= wanted * 1e-6 + 2
    back = scale.inverse().apply(scale.apply(ticks))
    assert abs(back - ticks) <= ticks * 1e-6 + 3 * hertz / 1e9 + 2
    assert scale.apply(-ticks) == -scale.apply(ticks)


def leaf(guest: AnyDomain, number: int, subleaf: int = 0) -> tuple[int, int, int, int]:
    with guest.hypervisor.lock:
        return guest.domain.cpuid.query(number, subleaf, guest.vcpu)


@KINDS
def test_native(machine: Hypervisor, kind: type[AnyDomain]) -> None:
    guest = kind(machine)
    start = machine.engine.tsc() + guest.vcpu.state.tsc_offset & (1 << 64) - 1
    counter = guest.domain.counter
    assert not guest.vcpu.state.rdtsc_exits and not counter.emulated
    assert start <= counter.read(guest.vcpu) < start + 10**12
    assert (start < 10**10) == (kind is SmallHvmDomain), "of an HVM domain it begins at 0"
    eax, mode, khz, incarnation = leaf(guest, TIME_LEAF)
    assert eax == 0b110 and mode == 0 and khz == int(machine.guest_time.tsc_hz / 1000) and incarnation == 1
    low, high, multiplier, _ = leaf(guest, TIME_LEAF, 1)
    assert 0 < high << 32 | low <= machine.now() and multiplier >> 31
    assert leaf(guest, TIME_LEAF, 3) == leaf(guest, POWER_LEAF) == (0, 0, 0, 0)


@KINDS
def test_emulated(machine: Hypervisor, kind: type[AnyDomain]) -> None:
    guest = kind(machine, vcpus=2)
    machine.dom0.set_tsc_info(guest.domid, TscMode.ALWAYS_EMULATE, invariant=True)
    counter, first, second = guest.domain.counter, *guest.domain.vcpus
    assert first.state.rdtsc_exits == second.state.rdtsc_exits == 1
    with machine.lock:
        readings = [counter.read(vcpu) for vcpu in (first, second) * 200]
        assert readings == sorted(set(readings)) and readings[-1] < counter.khz * 1000 * 10
        assert leaf(guest, TIME_LEAF)[:2] == (0b111, 1) and leaf(guest, TIME_LEAF, 1)[:2] == (0, 0)
        assert leaf(guest, POWER_LEAF) == (0, 0, 0, 1 << 8)
        later = counter.read(first) + counter.khz * 1000
        assert abs(counter.system_time(first, later) - machine.now() - 10**9) < 10**7


@KINDS
@pytest.mark.parametrize("mode", TscMode)
def test_the_guests_clock(machine: Hypervisor, kind: type[AnyDomain], mode: TscMode) -> None:
    """By what vcpu_info says and the counter reads, it is system time, also after corrections."""
    guest = kind(machine)
    machine.dom0.set_tsc_info(guest.domid, mode, invariant=False)
    vcpu = guest.vcpu
    for _ in range(3):
        with machine.lock:
            machine.guest_time.correct()
            machine.guest_time.before_entry(vcpu)
            where = vcpu.info + TIME_OFFSET
            image = bytes(machine.memory.octets[where : where + 32])
            before = machine.now()
            seen = guest_reads(image, guest.domain.counter.read(vcpu))
            assert before - 10 <= seen <= machine.now() + 10
            area = machine.guest_time.image(vcpu)
            assert guest_reads(area, 10**9) == guest_reads(image, 10**9)


def test_deadlines_of_a_counter_of_its_own(machine: Hypervisor) -> None:
    guest = SmallHvmDomain(machine)
    counter = guest.domain.counter
    with machine.lock:
        deadline = counter.read(guest.vcpu) + counter.khz * 1000
        assert abs(counter.system_time(guest.vcpu, deadline) - machine.now() - 10**9) < 10**7


@pytest.mark.parametrize("mode", (TscMode.NATIVE, TscMode.ALWAYS_EMULATE))
@pytest.mark.parametrize("value", (0, 5, 1 << 40, (1 << 64) - 10**12))
def test_written_counters(machine: Hypervisor, mode: TscMode, value: int) -> None:
    """It counts from there, for that vCPU alone; its clock and its deadlines know."""
    guest = SmallHvmDomain(machine, vcpus=2)
    machine.dom0.set_tsc_info(guest.domid, mode, invariant=False)
    counter, first, second = guest.domain.counter, *guest.domain.vcpus
    second_ticks = counter.khz * 1000
    with machine.lock:
        others = counter.read(second)
        assert msr.write(first, msr.MSR_TSC, value)
        reads = msr.read(first, msr.MSR_TSC)
        assert reads is not None and value <= reads < value + 10 * second_ticks
        assert others <= counter.read(second) < others + 10 * second_ticks
        machine.guest_time.before_entry(first)
        where = first.info + TIME_OFFSET
        image = bytes(machine.memory.octets[where : where + 32])
        assert abs(guest_reads(image, counter.read(first)) - machine.now()) < 10**7
        assert abs(counter.system_time(first, counter.read(first) + second_ticks) - machine.now() - 10**9) < 10**7
        assert counter.system_time(first, max(0, value - 1)) <= machine.now()
        counter.reset(second)
        assert counter.read(second) - counter.read(first) & (1 << 64) - 1 > (1 << 64) - 10 * second_ticks


def test_unreliable_hosts(machine: Hypervisor) -> None:
    machine.tsc_is_reliable = False
    for mode, emulated in ((TscMode.DEFAULT, True), (TscMode.ALWAYS_EMULATE, True), (TscMode.NATIVE, False)):
        guest = SmallDomain(machine)
        machine.dom0.set_tsc_info(guest.domid, mode, invariant=False)
        assert guest.domain.counter.emulated == emulated
        assert leaf(guest, TIME_LEAF)[:2] == (0b100 | emulated, mode)


def test_domain_0_has_none(machine: Hypervisor) -> None:
    with pytest.raises(HypercallError) as refusal:
        machine.dom0.set_tsc_info(0, TscMode.NATIVE, invariant=False)
    assert refusal.value.errno == errno.EINVAL

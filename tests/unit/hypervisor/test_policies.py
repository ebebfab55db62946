"""What a PV guest sees of the CPU: CPUID leaves and model-specific registers, and the interval timer."""

from __future__ import annotations

import struct

import pytest

from pyxen.hypervisor import msr
from pyxen.hypervisor.cpuid import (
    EMPTY_LEAVES,
    HIDDEN_1_ECX,
    HIDDEN_1_EDX,
    HIDDEN_7_EBX,
    HYPERVISOR_BIT,
    MAX_BASIC_LEAF,
    MAX_EXTENDED_LEAF,
    ZERO,
)
from pyxen.hypervisor.hypervisor import Hypervisor
from pyxen.hypervisor.interval_timer import CHANNEL_PORT, COMMAND_PORT, FREQUENCY_HZ, GATE_PORT, IntervalTimer
from tests.unit.hypervisor.machine import MASK64, SmallDomain


def cpuid(guest: SmallDomain, leaf: int, subleaf: int = 0, vcpu: int = 0) -> tuple[int, int, int, int]:
    return guest.domain.cpuid.query(leaf, subleaf, guest.domain.vcpus[vcpu])


def test_xens_leaves(guest: SmallDomain) -> None:
    last, *signature = cpuid(guest, 0x40000000)
    assert struct.pack("<3I", *signature) == b"XenVMMXenVMM" and last == 0x40000005
    assert cpuid(guest, 0x40000001) == (0x40011, 0, 0, 0)
    assert cpuid(guest, 0x40000002)[2] == 1, "MMU_PT_UPDATE_PRESERVE_AD"
    khz = guest.hypervisor.guest_time.tsc_hz / 1000
    assert abs(cpuid(guest, 0x40000003)[2] / khz - 1) < 1e-3
    assert cpuid(guest, 0x40000003, 2)[0] == cpuid(guest, 0x40000003)[2]
    assert cpuid(guest, 0x40000100) == ZERO


def test_hidden_features(guest: SmallDomain) -> None:
    _, _, ecx, edx = cpuid(guest, 1)
    assert not ecx & HIDDEN_1_ECX and not edx & HIDDEN_1_EDX and ecx & HYPERVISOR_BIT
    assert not cpuid(guest, 7)[1] & HIDDEN_7_EBX
    assert cpuid(guest, 7, 1) == ZERO
    assert cpuid(guest, 0)[0] <= MAX_BASIC_LEAF and cpuid(guest, 0x80000000)[0] <= MAX_EXTENDED_LEAF
    assert cpuid(guest, 0x80000001)[3] >> 20 & 1, "NX"
    for leaf in (*EMPTY_LEAVES, MAX_BASIC_LEAF + 1, 0x20000000, 0x7FFFFFFF, MAX_EXTENDED_LEAF + 1, 0xFFFFFFFF):
        assert cpuid(guest, leaf) == ZERO


def test_nothing_beyond_the_engine(guest: SmallDomain) -> None:
    engine = guest.hypervisor.engine
    assert cpuid(guest, 1)[2] & ~HYPERVISOR_BIT & ~engine.cpuid(1, 0)[2] == 0
    assert cpuid(guest, 1)[3] & ~engine.cpuid(1, 0)[3] == 0
    assert all(0 <= value < 1 << 32 for leaf in (0, 1, 2, 7, 0x80000001, 0x80000002, 0x80000008) for value in cpuid(guest, leaf))


def test_each_vcpu_has_its_apic_id(machine: Hypervisor) -> None:
    guest = SmallDomain(machine, vcpus=3)
    assert [cpuid(guest, 1, vcpu=number)[1] >> 24 for number in range(3)] == [0, 2, 4]


def test_asking_for_all_leaves_takes_no_memory(guest: SmallDomain) -> None:
    for leaf in range(0x50000000, 0x50000000 + 5000):
        cpuid(guest, leaf, leaf)
    for subleaf in range(1, 5000):
        cpuid(guest, 7, subleaf)
        cpuid(guest, 0x40000003, subleaf)
        cpuid(guest, 2, subleaf)
    assert len(guest.domain.cpuid._cache) < 64


@pytest.mark.parametrize("register", [msr.MSR_FS_BASE, msr.MSR_GS_BASE, msr.MSR_KERNEL_GS_BASE])
def test_segment_bases(guest: SmallDomain, register: int) -> None:
    for good in (0, 0x1234, (1 << 47) - 1, 0xFFFF_8800_0000_0000, MASK64):
        assert msr.write(guest.vcpu, register, good) and msr.read(guest.vcpu, register) == good
    for bad in (1 << 47, 0xFFFF_7FFF_FFFF_FFFF, 0xFFFF_8000_0000_0000, 0xFFFF_87FF_FFFF_FFFF):
        assert not msr.write(guest.vcpu, register, bad)
        assert msr.read(guest.vcpu, register) == MASK64


def test_registers(guest: SmallDomain) -> None:
    vcpu = guest.vcpu
    for register in range(0xC0000000, 0xC0000200):
        value = msr.read(vcpu, register)
        assert value is None or 0 <= value <= MASK64
    assert msr.read(vcpu, 0xDEAD) is None and not msr.write(vcpu, 0xDEAD, 0)
    assert msr.read(vcpu, msr.MSR_EFER) == 0xD01
    assert msr.write(vcpu, msr.MSR_EFER, 0xD01) and not msr.write(vcpu, msr.MSR_EFER, 0xD00)
    assert msr.write(vcpu, msr.MSR_TSC_AUX, 0xFFFFFFFF) and msr.read(vcpu, msr.MSR_TSC_AUX) == 0xFFFFFFFF
    assert not msr.write(vcpu, msr.MSR_TSC_AUX, 1 << 32)
    for star in range(0xC0000081, 0xC0000085):
        assert msr.read(vcpu, star) is None and not msr.write(vcpu, star, 0)


class Pit:
    def __init__(self) -> None:
        self.now = 0
        self.timer = IntervalTimer(lambda: self.now)

    def load(self, mode: int, count: int) -> None:
        self.timer.write(COMMAND_PORT, 0x80 | 0x30 | mode << 1)
        self.timer.write(CHANNEL_PORT, count & 0xFF)
        self.timer.write(CHANNEL_PORT, count >> 8)

    def latch(self) -> int:
        self.timer.write(COMMAND_PORT, 0x80)
        return self.timer.read(CHANNEL_PORT) | self.timer.read(CHANNEL_PORT) << 8

    def ticks(self, count: int) -> None:
        self.now += -(-count * 10**9 // FREQUENCY_HZ)


def test_interval_timer_counts_down() -> None:
    """As kernels calibrate: mode 0, wait for the output."""
    pit = Pit()
    pit.timer.write(GATE_PORT, 1)
    pit.load(0, 50_000)
    assert not pit.timer.read(GATE_PORT) & 0x20
    pit.ticks(20_000)
    assert pit.latch() == 30_000
    assert not pit.timer.read(GATE_PORT) & 0x20
    pit.ticks(30_000)
    assert pit.timer.read(GATE_PORT) & 0x20


def test_interval_timer_gate_and_wrap() -> None:
    pit = Pit()
    pit.load(2, 0)
    pit.ticks(1000)
    assert pit.latch() == 0, "65536, and the gate is closed"
    pit.timer.write(GATE_PORT, 1)
    pit.ticks(65_536 + 100)
    assert pit.latch() == 65_536 - 100
    for port in (CHANNEL_PORT, COMMAND_PORT, GATE_PORT):
        for value in range(256):
            pit.timer.write(port, value)
            assert 0 <= pit.timer.read(port) <= 255

"""The block shared with the native gate, and when the gate is in use."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest

from pyxen.hypervisor.gate import BLOCKS_SIZE, SEGMENTS, GateBlock, KnownSegments, TrapEntry, TrapTable
from pyxen.hypervisor.hypervisor import Hypervisor
from tests.unit.hypervisor.hvm_guest import SmallHvmDomain
from tests.unit.hypervisor.machine import SmallDomain, new_machine


@pytest.fixture
def machine() -> Iterator[Hypervisor]:
    hypervisor = new_machine()
    yield hypervisor
    hypervisor.close()


def test_a_block_of_another_layout_is_refused(machine: Hypervisor) -> None:
    cpu = machine.engine.create_cpu(exit_on_cpuid=True, deprivileged=True)
    block = GateBlock()
    assert not cpu.attach_gate(ctypes.addressof(block), BLOCKS_SIZE - 8)
    assert cpu.attach_gate(ctypes.addressof(block), BLOCKS_SIZE)
    cpu.close()


def test_the_gate_is_used_unless_the_environment_says_python(machine: Hypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYXEN_GATE", raising=False)
    assert SmallDomain(machine).domain.vcpus[0].gate.enabled
    monkeypatch.setenv("PYXEN_GATE", "python")
    assert not SmallDomain(machine).domain.vcpus[0].gate.enabled


@pytest.mark.parametrize("what", ["hypercalls", "events"])
def test_who_watches_sees_what_native_code_would_do(machine: Hypervisor, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.delenv("PYXEN_GATE", raising=False)
    gate = SmallDomain(machine).domain.vcpus[0].gate
    seen: list[object] = []
    hooks = machine.hooks
    stop = hooks.subscribe_hypercall(after=seen.append) if what == "hypercalls" else hooks.subscribe_event_sent(seen.append)
    assert not gate.enabled
    assert not SmallDomain(machine).domain.vcpus[0].gate.enabled, "a domain created meanwhile"
    assert not SmallHvmDomain(machine).vcpu.gate.enabled
    stop()
    assert gate.enabled


def test_trap_table_keeps_entries_and_holes() -> None:
    traps = TrapTable(GateBlock())
    entry = TrapEntry(0xFFFF_FFFF_8100_0000, 3, True)
    traps[14] = entry
    assert traps[14] == entry
    assert traps[13:15] == [None, entry]
    traps[14] = None
    assert traps[14] is None
    traps[3] = entry
    traps.clear()
    assert traps[:] == [None] * 256


def test_known_segments_replace_the_oldest_and_are_forgotten_together() -> None:
    block = GateBlock()
    known = KnownSegments(block)
    for number in range(SEGMENTS + 1):
        known.remember("code", 0x33 + 8 * number, (0, 0xFFFFFFFF, 0xAFFB00))
    known.remember("code", 0x33 + 8 * SEGMENTS, (1, 2, 3))
    selectors = [slot.selector for slot in block.code]
    assert len(set(selectors)) == SEGMENTS
    assert 0x33 not in selectors
    assert all(slot.limit == 0xFFFFFFFF for slot in block.code), "remembered once is enough"
    known.forget()
    assert not any(slot.selector for slot in block.code)

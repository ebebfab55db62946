"""The table of hypercalls and its dispatch: complete, consistent, and a failing handler costs only the domain that called it."""

from __future__ import annotations

import dataclasses
import errno
import inspect
import struct

import pytest

from pyxen.abi import xen
from pyxen.hypervisor import hypercall_table
from pyxen.hypervisor.dom0_interface import HypercallError, ShutdownReason
from pyxen.hypervisor.guest_access import GuestFault
from pyxen.hypervisor.hooks import HypercallEvent
from pyxen.hypervisor.hypercall_table import HYPERCALLS, TABLE
from pyxen.hypervisor.hypervisor import Hypervisor
from pyxen.hypervisor.vcpu import Vcpu
from tests.unit.hypervisor.machine import MASK64, SmallDomain

#: Hypercalls of xen.h that are not in the table, which answer -ENOSYS: of HVM, of other architectures, of extensions, obsolete.
ABSENT = {
    "acm_op",
    "arch_0",
    "arch_1",
    "arch_2",
    "arch_3",
    "arch_4",
    "arch_5",
    "arch_6",
    "arch_7",
    "argo_op",
    "dm_op",
    "event_channel_op_compat",
    "grant_table_op_compat",
    "hypfs_op",
    "kexec_op",
    "physdev_op_compat",
    "set_tasking",
    "tmem_op",
    "xc_reserved_op",
    "xenoprof_op",
    "xenpmu_op",
    "xsm_op",
}


def numbers_of_the_header() -> dict[str, int]:
    prefix = "HYPERVISOR_"
    return {name.removeprefix(prefix): value for name, value in vars(xen).items() if name.startswith(prefix) and isinstance(value, int)}


def test_numbers_are_the_headers() -> None:
    known = numbers_of_the_header()
    for entry in HYPERCALLS:
        assert known[entry.name] == entry.number
    assert len(TABLE) == len(HYPERCALLS)


def test_what_is_absent_is_known() -> None:
    numbers = {entry.number for entry in HYPERCALLS}
    missing = {name for name, number in numbers_of_the_header().items() if number not in numbers}
    assert missing <= ABSENT, "a new hypercall of the header: implement it, or say here that it is absent"


@pytest.mark.parametrize("entry", HYPERCALLS, ids=lambda entry: entry.name)
def test_argument_count(entry: hypercall_table.Hypercall) -> None:
    if entry.handler is None:
        assert entry.name == "iret"
        return
    kinds = [parameter.kind for parameter in inspect.signature(entry.handler).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        assert len(kinds) == 1 + entry.arguments
    assert 0 <= entry.arguments <= 6


@pytest.mark.parametrize("entry", HYPERCALLS, ids=lambda entry: entry.name)
def test_upper_halves_of_ints_mean_nothing(guest: SmallDomain, monkeypatch: pytest.MonkeyPatch, entry: hypercall_table.Hypercall) -> None:
    """What Xen declares as int or unsigned int arrives as 32 bits, from registers and from a multicall; pointers and longs are whole."""
    if entry.handler is None:
        return
    seen: list[tuple[int, ...]] = []

    def record(vcpu: Vcpu, *arguments: int) -> int:
        seen.append(arguments)
        return 0

    monkeypatch.setitem(TABLE, entry.number, dataclasses.replace(entry, handler=record, guests=hypercall_table.BOTH))
    given = [0x1234_5678_0000_0000 | index for index in range(6)]
    guest.call(entry.number, *given)
    if entry.name != "multicall":
        calls = guest.put("8Q", entry.number, 0, *given, at=guest.at(1))
        assert guest.call(xen.HYPERVISOR_multicall, calls, 1 | 7 << 32) == 0
        assert seen.pop() == seen[0]
    assert seen == [tuple(index if index in entry.narrow else given[index] for index in range(entry.arguments))]


def test_commands_with_garbage_above_them(guest: SmallDomain) -> None:
    assert guest.call(xen.HYPERVISOR_xen_version, 0xABCD << 32) == 4 << 16 | 17
    assert guest.call(xen.HYPERVISOR_sched_op, 1 << 63) == 0  # SCHEDOP_yield
    assert guest.call(xen.HYPERVISOR_vcpu_op, 3 | 5 << 40, 9 << 32) in (0, 1)  # VCPUOP_is_up
    assert guest.call(xen.HYPERVISOR_fpu_taskswitch, 1 << 32) == 0
    assert not guest.vcpu.cr0 & 8, "the int is 0"


def test_unknown_numbers(guest: SmallDomain) -> None:
    for number in (37, 40, 54, 56, 63, 64, 1 << 31, 1 << 32, MASK64):
        assert guest.call(number) == -errno.ENOSYS
    for number in range(1000, 3000):
        assert guest.call(number) == -errno.ENOSYS
    text = guest.dom0.read_console_ring()
    assert "hypercall 40 is not implemented" in text
    assert text.count("is not implemented") <= 100, "a guest can't fill the log with numbers"
    assert len(guest.domain.hypercalls) < 70, "nor the host's memory"


def with_handler(monkeypatch: pytest.MonkeyPatch, number: int, handler) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setitem(TABLE, number, dataclasses.replace(TABLE[number], handler=handler))


def test_refusals_become_numbers(guest: SmallDomain, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(vcpu: object, *arguments: int) -> int:
        raise HypercallError(errno.EXDEV, "no")

    def fault(vcpu: object, *arguments: int) -> int:
        raise GuestFault(5, write=False)

    with_handler(monkeypatch, xen.HYPERVISOR_stack_switch, refuse)
    assert guest.call(xen.HYPERVISOR_stack_switch) == -errno.EXDEV
    with_handler(monkeypatch, xen.HYPERVISOR_stack_switch, fault)
    assert guest.call(xen.HYPERVISOR_stack_switch) == -errno.EFAULT


def code_of(*calls: tuple[int, ...]) -> bytes:
    """Machine code: hypercalls with up to two arguments, the results to the guest's page 4; then SCHEDOP_shutdown (power off)."""
    code = b""
    for index, (number, *arguments) in enumerate(calls):
        for register, value in zip((b"\x48\xbf", b"\x48\xbe"), arguments, strict=False):
            code += register + struct.pack("<Q", value)
        code += b"\xb8" + struct.pack("<I", number) + b"\x0f\x05"
        code += b"\x48\xbb" + struct.pack("<Q", SmallDomain.at(4, 8 * index)) + b"\x48\x89\x03"  # mov [rbx], rax
    code += b"\xbf\x02\x00\x00\x00\x48\xbe" + struct.pack("<Q", SmallDomain.at(5)) + b"\xb8" + struct.pack("<I", xen.HYPERVISOR_sched_op)
    return code + b"\x0f\x05\xeb\xfe"


def test_a_guest_calls(guest: SmallDomain) -> None:
    guest.start(
        code_of(
            (xen.HYPERVISOR_xen_version, 0, 0),
            (xen.HYPERVISOR_xen_version, 99, 0),
            (1234, 0, 0),
            (xen.HYPERVISOR_set_debugreg, 0, 0x1234),
            (xen.HYPERVISOR_get_debugreg, 0),
        )
    )
    info = guest.wait_for_shutdown()
    assert info.shutdown_reason is ShutdownReason.POWEROFF
    assert guest.get("5q", at=guest.at(4)) == (0x40011, -errno.ENOSYS, -errno.ENOSYS, 0, 0x1234)
    assert guest.domain.hypercall_counts()[xen.HYPERVISOR_xen_version] == 2


def test_a_failing_handler_crashes_only_its_caller(machine: Hypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    guest, other = SmallDomain(machine), SmallDomain(machine)

    def broken(vcpu: object, *arguments: int) -> int:
        raise ZeroDivisionError("a defect of ours")

    with_handler(monkeypatch, xen.HYPERVISOR_set_debugreg, broken)
    heard = []
    machine.dom0.subscribe_domain_exceptions(lambda: heard.append(1))
    guest.start(code_of((xen.HYPERVISOR_set_debugreg, 3, 0x1234)))
    info = guest.wait_for_shutdown()
    assert "in set_debugreg(0x3, 0x1234) at rip" in info.crash_cause
    assert info.shutdown_reason is ShutdownReason.CRASH
    assert "internal error" in info.crash_cause and "a defect of ours" in info.crash_cause
    assert heard
    text = machine.dom0.read_console_ring()
    assert "ZeroDivisionError" in text and "in broken" in text, "the log has the place"
    other.start(code_of((xen.HYPERVISOR_xen_version, 0, 0)))
    assert other.wait_for_shutdown().shutdown_reason is ShutdownReason.POWEROFF
    assert other.get("q", at=other.at(4)) == (0x40011,)
    guest.destroy()


def test_hooks_see_each_hypercall(guest: SmallDomain) -> None:
    seen: list[HypercallEvent] = []
    unsubscribe = guest.hypervisor.hooks.subscribe_hypercall(before=seen.append, after=seen.append)
    guest.start(code_of((xen.HYPERVISOR_xen_version, 0, 0), (1234, 7, 8)))
    guest.wait_for_shutdown()
    unsubscribe()
    assert [(event.name, event.result) for event in seen[:4]] == [
        ("xen_version", None),
        ("xen_version", 0x40011),
        ("hypercall 1234", None),
        ("hypercall 1234", -errno.ENOSYS),
    ]
    assert seen[0].arguments == (0, 0) and seen[2].arguments[:2] == (7, 8) and seen[0].domid == guest.domid


def test_a_raising_hook_is_removed(guest: SmallDomain) -> None:
    calls = []

    def broken(event: HypercallEvent) -> None:
        calls.append(event)
        raise KeyError("hook")

    hooks = guest.hypervisor.hooks
    unsubscribe = hooks.subscribe_hypercall(before=broken)
    guest.start(code_of((xen.HYPERVISOR_xen_version, 0, 0), (xen.HYPERVISOR_xen_version, 0, 0)))
    assert guest.wait_for_shutdown().shutdown_reason is ShutdownReason.POWEROFF
    assert len(calls) == 1 and not hooks.before_hypercall
    assert not hooks.watches_native_work and (guest.vcpu.gate.enabled or not hypercall_table_is_native(guest))
    assert "was removed" in guest.dom0.read_console_ring()
    unsubscribe()


def hypercall_table_is_native(guest: SmallDomain) -> bool:
    """Whether the native gate is in use at all (``PYXEN_GATE``)."""
    fresh = SmallDomain(guest.hypervisor)
    return bool(fresh.vcpu.gate.enabled)


def test_nobody_watches(guest: SmallDomain, monkeypatch: pytest.MonkeyPatch) -> None:
    """No event is even made."""

    def forbidden(*arguments: object) -> None:
        raise AssertionError("an event was made for nobody")

    monkeypatch.setattr(hypercall_table, "HypercallEvent", forbidden)
    guest.start(code_of((xen.HYPERVISOR_xen_version, 0, 0)))
    assert guest.wait_for_shutdown().shutdown_reason is ShutdownReason.POWEROFF


def test_life_cycle_events(machine: Hypervisor) -> None:
    seen = []
    unsubscribe = machine.hooks.subscribe_lifecycle(lambda event: seen.append((event.domid, event.what)))
    guest = SmallDomain(machine)
    guest.dom0.pause_domain(guest.domid)
    guest.dom0.unpause_domain(guest.domid)
    guest.dom0.shutdown_domain(guest.domid, ShutdownReason.POWEROFF)
    guest.destroy()
    unsubscribe()
    SmallDomain(machine)
    assert seen == [(guest.domid, what) for what in ("created", "paused", "unpaused", "shutdown", "destroyed")]

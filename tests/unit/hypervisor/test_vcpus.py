"""sched_op and vcpu_op: blocking, polling, shutting down, watchdogs, timers, other vCPUs, and areas in guest memory."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable

import pytest

from pyxen.abi import sched, xen
from pyxen.abi import vcpu as abi
from pyxen.abi.arch_x86_64 import VGCF_in_kernel, vcpu_guest_context, xen_pfn_to_cr3
from pyxen.abi.vcpu import RUNSTATE_offline
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.dom0_interface import ShutdownReason
from pyxen.hypervisor.event_channel_delivery import ANY_PORT
from pyxen.hypervisor.hypervisor import Hypervisor
from pyxen.hypervisor.sched_op import FAR_AWAY_NS, WORKAROUND_NS
from pyxen.hypervisor.vcpu_op import LONGEST_PERIOD_NS, SHORTEST_PERIOD_NS
from tests.unit.hypervisor.machine import MASK64, SmallDomain


def op(guest: SmallDomain, command: int, form: str = "", *values: int) -> int:
    return guest.call(xen.HYPERVISOR_sched_op, command, guest.put(form, *values) if form else 0)


def vcpu_op(guest: SmallDomain, command: int, number: int = 0, form: str = "", *values: int) -> int:
    return guest.call(xen.HYPERVISOR_vcpu_op, command, number, guest.put(form, *values) if form else 0)


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def open_port(guest: SmallDomain) -> int:
    """A port of the guest whose other end is the guest's own."""
    with guest.hypervisor.lock:
        channels = guest.domain.event_channels
        return channels.bind_interdomain(0x7FF0, channels.alloc_unbound(0x7FF0))


# -- sched_op --------------------------------------------------------------------------------------------------------------
def test_block(guest: SmallDomain) -> None:
    vcpu, octets = guest.vcpu, guest.hypervisor.memory.octets
    octets[vcpu.info], octets[vcpu.info + 1] = 0, 1
    assert op(guest, sched.SCHEDOP_block) == 0
    assert vcpu.blocked and not vcpu.events_masked
    with guest.hypervisor.lock:
        vcpu.wake()
    octets[vcpu.info], octets[vcpu.info + 1] = 1, 1
    assert op(guest, sched.SCHEDOP_block) == 0
    assert not vcpu.blocked and not vcpu.events_masked, "an event is pending: no sleep"


def test_yield_and_unknown(guest: SmallDomain) -> None:
    assert op(guest, sched.SCHEDOP_yield) == 0
    assert op(guest, 99) == -errno.ENOSYS
    assert not guest.vcpu.blocked


def poll(guest: SmallDomain, *ports: int, timeout: int = 0, count: int | None = None) -> int:
    where = guest.put(f"{len(ports)}I", *ports, at=guest.at(1)) if ports else 0
    return op(guest, sched.SCHEDOP_poll, "QIxxxxQ", where, len(ports) if count is None else count, timeout)


def test_poll(guest: SmallDomain) -> None:
    vcpu, port = guest.vcpu, open_port(guest)
    octets, channels = guest.hypervisor.memory.octets, guest.domain.event_channels
    octets[vcpu.info + 1] = 1
    assert poll(guest, port) == 0 and not vcpu.blocked, "pending since it was bound"
    with guest.hypervisor.lock:
        for channel in channels.ports().values():
            channels._delivery.clear_pending(channel)
    octets[vcpu.info] = 0
    assert poll(guest, port) == 0
    assert vcpu.blocked and vcpu.events_masked, "delivery stays as it is"
    with guest.hypervisor.lock:
        channels.send(channels.ports()[port].remote_port)
    assert not vcpu.blocked and vcpu.polled_port is None


def test_poll_of_several_ports(guest: SmallDomain) -> None:
    """The first that is pending ends it, before those behind it are looked at; while it sleeps any port of the domain does."""
    vcpu, port, other = guest.vcpu, open_port(guest), open_port(guest)
    guest.hypervisor.memory.octets[vcpu.info + 1] = 1
    assert poll(guest, port, 1 << 31) == 0 and not vcpu.blocked
    clear(guest, port)
    assert poll(guest, port, 1 << 31) == -errno.EINVAL
    clear(guest, other)
    assert poll(guest, port, port) == 0 and vcpu.blocked and vcpu.polled_port == ANY_PORT
    with guest.hypervisor.lock:
        channels = guest.domain.event_channels
        channels.send(channels.ports()[other].remote_port)
    assert not vcpu.blocked
    assert poll(guest, port, timeout=MASK64) == 0 and not vcpu.blocked, "a negative timeout has passed"


def test_poll_with_an_upcall_due(guest: SmallDomain) -> None:
    octets, vcpu = guest.hypervisor.memory.octets, guest.vcpu
    octets[vcpu.info], octets[vcpu.info + 1] = 1, 0
    assert poll(guest) == 0 and not vcpu.blocked


def test_poll_timeout(guest: SmallDomain) -> None:
    vcpu = guest.vcpu
    assert poll(guest, timeout=1) == 0 and not vcpu.blocked, "in the past"
    assert poll(guest, timeout=guest.hypervisor.now() + 5_000_000) == 0 and vcpu.blocked
    eventually(lambda: not vcpu.blocked)
    assert poll(guest, timeout=MASK64 >> 1) == 0 and vcpu.blocked
    with guest.hypervisor.lock:
        vcpu.wake()
    assert vcpu.poll_timer is None


def test_bad_polls(guest: SmallDomain) -> None:
    assert poll(guest, count=129) == -errno.EINVAL
    assert poll(guest, count=1) == -errno.EFAULT
    open_port(guest)
    assert poll(guest, 1 << 31) == -errno.EINVAL
    assert poll(guest, 70_000) == -errno.EINVAL
    assert guest.call(xen.HYPERVISOR_sched_op, sched.SCHEDOP_poll, 0x8000) == -errno.EFAULT
    assert not guest.vcpu.blocked


@pytest.mark.parametrize("reason", list(ShutdownReason))
def test_shutdown(guest: SmallDomain, reason: ShutdownReason) -> None:
    assert op(guest, sched.SCHEDOP_shutdown, "I", reason) == 0
    info = guest.dom0.domain_info(guest.domid)
    assert info.shutdown and info.shutdown_reason is reason
    assert bool(info.crash_cause) == (reason is ShutdownReason.CRASH)
    assert op(guest, sched.SCHEDOP_shutdown, "I", 0) == 0
    assert guest.dom0.domain_info(guest.domid).shutdown_reason is reason, "the first one counts"


def test_bad_shutdowns(guest: SmallDomain) -> None:
    for reason in (6, 255, 1 << 31):
        assert op(guest, sched.SCHEDOP_shutdown, "I", reason) == -errno.EINVAL
        assert op(guest, sched.SCHEDOP_shutdown_code, "I", reason) == -errno.EINVAL
    assert guest.call(xen.HYPERVISOR_sched_op, sched.SCHEDOP_shutdown, 0x8000) == -errno.EFAULT
    assert op(guest, sched.SCHEDOP_remote_shutdown, "HxxI", 0, 0) == -errno.EPERM
    assert op(guest, sched.SCHEDOP_remote_shutdown, "HxxI", 77, 0) == -errno.ESRCH
    assert not guest.dom0.domain_info(guest.domid).shutdown


def test_shutdown_code_then_shutdown(guest: SmallDomain) -> None:
    assert op(guest, sched.SCHEDOP_shutdown_code, "I", ShutdownReason.CRASH) == 0
    assert not guest.dom0.domain_info(guest.domid).shutdown
    assert op(guest, sched.SCHEDOP_shutdown, "I", ShutdownReason.POWEROFF) == 0
    assert guest.dom0.domain_info(guest.domid).shutdown_reason is ShutdownReason.CRASH


def test_watchdogs(guest: SmallDomain) -> None:
    def watchdog(number: int, seconds: int) -> int:
        return op(guest, sched.SCHEDOP_watchdog, "II", number, seconds)

    assert watchdog(0, 0) == -errno.EINVAL
    assert watchdog(1, 5) == -errno.EINVAL
    assert watchdog(3, 5) == -errno.EINVAL and watchdog(0xFFFFFFFF, 5) == -errno.EINVAL
    assert [watchdog(0, 1000), watchdog(0, 1000), watchdog(0, 1000)] == [1, 2, -errno.ENOSPC]
    assert watchdog(1, 0xFFFFFFFF) == 0
    assert watchdog(1, 0) == 0
    assert watchdog(1, 5) == -errno.EINVAL, "stopped: it is free again"
    assert watchdog(0, 1) == 1
    assert not guest.dom0.domain_info(guest.domid).shutdown
    eventually(lambda: guest.dom0.domain_info(guest.domid).shutdown)
    assert guest.dom0.domain_info(guest.domid).shutdown_reason is ShutdownReason.WATCHDOG


def test_a_watchdog_ends_with_its_domain(machine: Hypervisor) -> None:
    guest = SmallDomain(machine)
    assert op(guest, sched.SCHEDOP_watchdog, "II", 0, 1) == 1
    timer = guest.domain.watchdogs[1]
    guest.destroy()
    assert timer.callback is None


# -- timers ----------------------------------------------------------------------------------------------------------------
def bind_timer(guest: SmallDomain) -> int:
    with guest.hypervisor.lock:
        return guest.domain.event_channels.bind_virq(xen.VIRQ_TIMER, 0)


def test_singleshot(guest: SmallDomain) -> None:
    port, channels = bind_timer(guest), guest.domain.event_channels
    past = guest.hypervisor.now() - 1
    assert vcpu_op(guest, abi.VCPUOP_set_singleshot_timer, 0, "QIxxxx", past, abi.VCPU_SSHOTTMR_future) == -errno.ETIME
    assert not channels.is_pending(port)
    assert vcpu_op(guest, abi.VCPUOP_set_singleshot_timer, 0, "QIxxxx", guest.hypervisor.now() + 3_000_000, 1) == 0
    eventually(lambda: channels.is_pending(port))
    assert guest.vcpu.one_shot_timer.deadline_ns is None
    far = guest.hypervisor.now() + 10**12
    for deadline in (far, far + 10**12, far - 10**9):  # in place of the one before it
        assert vcpu_op(guest, abi.VCPUOP_set_singleshot_timer, 0, "QIxxxx", deadline, 0) == 0
        assert guest.vcpu.one_shot_timer.deadline_ns == deadline
    assert vcpu_op(guest, abi.VCPUOP_stop_singleshot_timer) == 0
    assert guest.vcpu.one_shot_timer.deadline_ns is None
    assert vcpu_op(guest, abi.VCPUOP_set_singleshot_timer, 0, "QIxxxx", (1 << 63) - 1, 1) == 0
    assert guest.vcpu.one_shot_timer.deadline_ns is not None
    clear(guest, port)
    assert vcpu_op(guest, abi.VCPUOP_set_singleshot_timer, 0, "QIxxxx", MASK64, 1) == 0, "negative: it has passed, but not as ETIME says"
    eventually(lambda: channels.is_pending(port))


def test_a_deadline_that_moves(guest: SmallDomain) -> None:
    """To later: the timer of the hypervisor's that looks at it looks in vain. To earlier: it does not come too late."""
    port, channels = bind_timer(guest), guest.domain.event_channels
    now = guest.hypervisor.now()
    for deadline in (now + 2_000_000, now + 30_000_000):
        assert vcpu_op(guest, abi.VCPUOP_set_singleshot_timer, 0, "QIxxxx", deadline, 0) == 0
    eventually(lambda: channels.is_pending(port))
    assert guest.hypervisor.now() >= now + 30_000_000
    clear(guest, port)
    for deadline in (now + 10**13, guest.hypervisor.now() + 2_000_000):
        assert vcpu_op(guest, abi.VCPUOP_set_singleshot_timer, 0, "QIxxxx", deadline, 0) == 0
    eventually(lambda: channels.is_pending(port))
    assert guest.vcpu.one_shot_timer.deadline_ns is None


def clear(guest: SmallDomain, port: int) -> None:
    """The guest has handled the event."""
    with guest.hypervisor.lock:
        channels = guest.domain.event_channels
        channels._delivery.clear_pending(channels.ports()[port])
        guest.hypervisor.memory.octets[guest.vcpu.info] = 0


def set_timer(guest: SmallDomain, deadline: int) -> int:
    """-> nanoseconds from now to when it will fire."""
    before = guest.hypervisor.now()
    assert guest.call(xen.HYPERVISOR_set_timer_op, deadline) == 0
    armed = guest.vcpu.one_shot_timer.deadline_ns
    assert armed is not None
    return armed - before


def test_a_failing_timer_crashes_only_its_domain(machine: Hypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    guest, other = SmallDomain(machine), SmallDomain(machine)

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a defect of ours")

    monkeypatch.setattr(guest.domain.event_channels, "send_virq", broken)
    assert guest.call(xen.HYPERVISOR_set_timer_op, 1) == 0
    info = guest.wait_for_shutdown()
    assert info.shutdown_reason is ShutdownReason.CRASH and "a defect of ours" in info.crash_cause
    port, channels = bind_timer(other), other.domain.event_channels
    assert other.call(xen.HYPERVISOR_set_timer_op, 1) == 0
    eventually(lambda: channels.is_pending(port))


def test_deadlines_of_set_timer_op(guest: SmallDomain) -> None:
    port, channels, now = bind_timer(guest), guest.domain.event_channels, guest.hypervisor.now()
    for deadline in (1, now - 1):
        assert guest.call(xen.HYPERVISOR_set_timer_op, deadline) == 0
        eventually(lambda: channels.is_pending(port))
        clear(guest, port)
    for wrapped in (1 << 63, MASK64, now + FAR_AWAY_NS + 10**12, (1 << 63) - 1):
        assert WORKAROUND_NS <= set_timer(guest, wrapped) < 2 * FAR_AWAY_NS // 1000, "soon, neither at once nor never"
    assert set_timer(guest, now + FAR_AWAY_NS - 10**12) > FAR_AWAY_NS // 2
    assert guest.call(xen.HYPERVISOR_set_timer_op, 0) == 0
    assert guest.vcpu.one_shot_timer.deadline_ns is None


def test_singleshot_of_another(machine: Hypervisor) -> None:
    guest = SmallDomain(machine, vcpus=2)
    assert vcpu_op(guest, abi.VCPUOP_set_singleshot_timer, 1, "QIxxxx", 1 << 60, 0) == -errno.EINVAL
    assert vcpu_op(guest, abi.VCPUOP_stop_singleshot_timer, 1) == -errno.EINVAL


def test_periodic(guest: SmallDomain) -> None:
    port, channels = bind_timer(guest), guest.domain.event_channels
    for bad in (0, SHORTEST_PERIOD_NS - 1, LONGEST_PERIOD_NS + 1, MASK64):
        assert vcpu_op(guest, abi.VCPUOP_set_periodic_timer, 0, "Q", bad) == -errno.EINVAL
    assert vcpu_op(guest, abi.VCPUOP_set_periodic_timer, 0, "Q", SHORTEST_PERIOD_NS) == 0
    for _ in range(3):
        eventually(lambda: channels.is_pending(port))
        with guest.hypervisor.lock:
            channels._delivery.clear_pending(channels.ports()[port])
    assert vcpu_op(guest, abi.VCPUOP_stop_periodic_timer) == 0
    assert guest.vcpu.periodic_timer is None
    with guest.hypervisor.lock:
        channels._delivery.clear_pending(channels.ports()[port])
    time.sleep(0.02)
    assert not channels.is_pending(port)


def test_set_timer_op(guest: SmallDomain) -> None:
    port, channels = bind_timer(guest), guest.domain.event_channels
    assert guest.call(xen.HYPERVISOR_set_timer_op, guest.hypervisor.now() + 1_000_000) == 0
    eventually(lambda: channels.is_pending(port))
    assert guest.call(xen.HYPERVISOR_set_timer_op, guest.hypervisor.now() + 10**12) == 0
    assert guest.vcpu.one_shot_timer.deadline_ns is not None
    assert guest.call(xen.HYPERVISOR_set_timer_op, 0) == 0
    assert guest.vcpu.one_shot_timer.deadline_ns is None


# -- other vCPUs -----------------------------------------------------------------------------------------------------------
def context(guest: SmallDomain, **changes: int) -> bytes:
    made = vcpu_guest_context()
    made.flags = VGCF_in_kernel
    made.user_regs.rip = guest.at(1)
    made.user_regs.cs, made.user_regs.ss = 0xE033, 0xE02B
    made.ctrlreg[3] = xen_pfn_to_cr3(guest.l4)
    for name, value in changes.items():
        if name == "rip":
            made.user_regs.rip = value
        elif name == "cr3":
            made.ctrlreg[3] = value
        elif name == "cr1":
            made.ctrlreg[1] = value
        else:
            setattr(made, name, value)
    return bytes(made)


def initialise(guest: SmallDomain, number: int = 1, **changes: int) -> int:
    return guest.call(xen.HYPERVISOR_vcpu_op, abi.VCPUOP_initialise, number, guest.write(guest.at(1), context(guest, **changes)))


def test_no_such_vcpu(guest: SmallDomain) -> None:
    for command in (abi.VCPUOP_initialise, abi.VCPUOP_up, abi.VCPUOP_is_up, abi.VCPUOP_down, abi.VCPUOP_get_runstate_info):
        for number in (1, 16, 0xFFFFFFFF):
            assert vcpu_op(guest, command, number) == -errno.ENOENT
    assert vcpu_op(guest, 99) == -errno.ENOSYS


@pytest.mark.parametrize(
    "changes",
    [
        {"flags": 0},
        {"rip": 1 << 47},
        {"rip": 1 << 63},
        {"fs_base": 1 << 47},
        {"gs_base_kernel": 0xFFFF_8000_0000_0000},
        {"gs_base_user": 1 << 62},
        {"cr3": 0},
        {"cr3": 1 << 51},
        {"cr3": MASK64},
        {"gdt_ents": 7169},
        {"gdt_ents": MASK64},
        {"gdt_ents": 1},
        {"ldt_ents": 8193},
        {"ldt_base": 5, "ldt_ents": 1},
    ],
)
def test_bad_contexts(machine: Hypervisor, changes: dict[str, int]) -> None:
    guest = SmallDomain(machine, vcpus=2)
    assert initialise(guest, **changes) in (-errno.EINVAL, -errno.EPERM)
    assert vcpu_op(guest, abi.VCPUOP_up, 1) == -errno.EINVAL
    assert initialise(guest) == 0, "nothing is left that a second try does not replace"


def test_up_and_down(machine: Hypervisor) -> None:
    guest = SmallDomain(machine, vcpus=2)
    second = guest.domain.vcpus[1]
    guest.vcpu.online = True
    assert vcpu_op(guest, abi.VCPUOP_is_up, 1) == 0 and vcpu_op(guest, abi.VCPUOP_is_up, 0) == 1
    assert vcpu_op(guest, abi.VCPUOP_up, 1) == -errno.EINVAL
    assert initialise(guest, user_regs=vcpu_guest_context().user_regs, rip=guest.at(2)) == 0
    assert second.state.rip == guest.at(2) and second.kernel_root == guest.l4 << 12 and second.state.cpl == 1
    assert initialise(guest) == -errno.EEXIST
    assert vcpu_op(guest, abi.VCPUOP_up, 1) == 0
    assert vcpu_op(guest, abi.VCPUOP_up, 1) == 0
    assert vcpu_op(guest, abi.VCPUOP_is_up, 1) == 1
    assert vcpu_op(guest, abi.VCPUOP_down, 1) == 0
    assert vcpu_op(guest, abi.VCPUOP_is_up, 1) == 0
    assert not guest.dom0.domain_info(guest.domid).shutdown
    assert vcpu_op(guest, abi.VCPUOP_down, 0) == 0
    assert guest.dom0.domain_info(guest.domid).shutdown_reason is ShutdownReason.POWEROFF, "the last one"


def test_user_root_of_a_context(machine: Hypervisor) -> None:
    guest = SmallDomain(machine, vcpus=2)
    assert initialise(guest, cr1=xen_pfn_to_cr3(guest.l4)) == 0
    assert guest.domain.vcpus[1].user_root == guest.l4 << 12


# -- areas in guest memory -------------------------------------------------------------------------------------------------
def test_vcpu_info_moves(guest: SmallDomain) -> None:
    vcpu, octets = guest.vcpu, guest.hypervisor.memory.octets
    octets[vcpu.info + 1] = 1
    for mfn, offset in (
        (guest.mfns[5], 4096 - 63),
        (guest.mfns[5], 4),
        (guest.mfns[5], 0xFFFFFFFF),
        (guest.l1, 0),
        (1, 0),
        (1 << 52, 0),
        (MASK64, 64),
    ):
        assert vcpu_op(guest, abi.VCPUOP_register_vcpu_info, 0, "QII", mfn, offset, 0) in (-errno.EINVAL, -errno.EPERM)
    before = guest.count(guest.mfns[5])
    assert vcpu_op(guest, abi.VCPUOP_register_vcpu_info, 0, "QII", guest.mfns[5], 4096 - 64, 0) == 0
    assert guest.count(guest.mfns[5]) == (before[0] + 1, before[1] + 1)
    assert guest.read(guest.at(5, 4096 - 64), 16) == b"\x01\x01" + bytes(6) + b"\xff" * 8, "all pending, masked as before"
    assert vcpu_op(guest, abi.VCPUOP_register_vcpu_info, 0, "QII", guest.mfns[6], 0, 0) == -errno.EINVAL
    assert guest.call(xen.HYPERVISOR_mmuext_op, guest.put("IIQQ", xen.MMUEXT_PIN_L1_TABLE, 0, guest.mfns[5], 0), 1, 0, 0x7FF0) < 0


def test_vcpu_info_of_another(machine: Hypervisor) -> None:
    guest = SmallDomain(machine, vcpus=2)
    guest.domain.vcpus[1].online = True
    assert vcpu_op(guest, abi.VCPUOP_register_vcpu_info, 1, "QII", guest.mfns[5], 0, 0) == -errno.EINVAL
    guest.domain.vcpus[1].online = False
    assert vcpu_op(guest, abi.VCPUOP_register_vcpu_info, 1, "QII", guest.mfns[5], 0, 0) == 0


def test_runstate(guest: SmallDomain) -> None:
    where = guest.at(7, 16)
    assert vcpu_op(guest, abi.VCPUOP_get_runstate_info, 0, "Q", 0) == 0
    state, entered, *times = guest.get("ixxxxQ4Q")
    assert state == RUNSTATE_offline and entered <= guest.hypervisor.now()
    assert abs(entered + times[RUNSTATE_offline] - guest.hypervisor.now()) < 10**9
    assert vcpu_op(guest, abi.VCPUOP_register_runstate_memory_area, 0, "Q", 0x8000) == -errno.EFAULT
    assert vcpu_op(guest, abi.VCPUOP_register_runstate_memory_area, 0, "Q", where) == 0
    assert guest.get("i", at=where) == (RUNSTATE_offline,)
    with guest.hypervisor.lock:
        guest.vcpu.online = True
        guest.vcpu.blocked = True
        guest.domain.pause_count = 0
        guest.vcpu.update_runstate()
        guest.hypervisor.write_areas(guest.vcpu)
        guest.domain.pause_count = 1
    assert guest.get("i", at=where) == (abi.RUNSTATE_blocked,)
    assert vcpu_op(guest, abi.VCPUOP_register_runstate_memory_area, 0, "Q", 0) == 0
    assert guest.vcpu.runstate_area == 0


def test_runstate_is_marked_while_it_changes(guest: SmallDomain, monkeypatch: pytest.MonkeyPatch) -> None:
    """VMASST_TYPE_runstate_update_flag: what another vCPU can see at any moment is marked, or whole."""
    where, writes, real = guest.at(7), [], guest_access.write
    assert guest.call(xen.HYPERVISOR_vm_assist, xen.VMASST_CMD_enable, xen.VMASST_TYPE_runstate_update_flag) == 0
    assert vcpu_op(guest, abi.VCPUOP_register_runstate_memory_area, 0, "Q", where) == 0
    before = guest.read(where, 48)

    def seen(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        writes.append(guest.read(where, 48))

    with guest.hypervisor.lock:
        guest.vcpu.runstate.change(abi.RUNSTATE_blocked, guest.hypervisor.now())
        guest.vcpu.runstate_changed = True
        with monkeypatch.context() as patch:
            patch.setattr(guest_access, "write", seen)
            guest.hypervisor.write_areas(guest.vcpu)
    *middle, last = writes
    assert last != before and not last[15] & 0x80
    assert middle and all(image[15] & 0x80 for image in middle)
    assert middle[-1][:8] + middle[-1][16:] == last[:8] + last[16:]


def test_time_area(guest: SmallDomain) -> None:
    where = guest.at(7)
    assert vcpu_op(guest, abi.VCPUOP_register_vcpu_time_memory_area, 0, "Q", 0x8000) == -errno.EFAULT
    assert vcpu_op(guest, abi.VCPUOP_register_vcpu_time_memory_area, 0, "Q", where) == 0
    with guest.hypervisor.lock:
        guest.hypervisor.guest_time.correct()
        guest.hypervisor.write_areas(guest.vcpu)
        assert guest.read(where, 32) == guest.hypervisor.guest_time.image(guest.vcpu)
    with guest.hypervisor.lock:
        guest.hypervisor.page_tables.write_entry(guest.domain, (guest.l1 << 12) + 8 * 7, 0)
        guest.hypervisor.guest_time.correct()
        guest.hypervisor.write_areas(guest.vcpu)  # the guest's loss


def test_nmi(guest: SmallDomain) -> None:
    assert vcpu_op(guest, abi.VCPUOP_send_nmi, 0, "Q", 0) == -errno.EINVAL, "no argument is expected"
    assert vcpu_op(guest, abi.VCPUOP_send_nmi) == 0
    assert guest.vcpu.nmi_pending

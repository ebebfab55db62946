"""vcpu_op: bring vCPUs up and down, their timers, vcpu_info and runstate areas (vcpu.h, Xen's common/domain.c)."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyxen.abi import vcpu as abi
from pyxen.abi.arch_x86_64 import vcpu_guest_context
from pyxen.abi.hvm.hvm_vcpu import vcpu_hvm_context
from pyxen.abi.xen import VIRQ_TIMER, VMASST_TYPE_runstate_update_flag
from pyxen.hypervisor import guest_access, vcpu_context
from pyxen.hypervisor.dom0_interface import ShutdownReason
from pyxen.hypervisor.domain import VCPU_INFO_SIZE
from pyxen.hypervisor.frame_table import WRITABLE
from pyxen.hypervisor.hvm import processor_reset
from pyxen.hypervisor.hvm.vcpu import HvmVcpu
from pyxen.hypervisor.sched_op import SIGN

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

SHORTEST_PERIOD_NS = 1_000_000
LONGEST_PERIOD_NS = 1 << 62
ALL_WORDS = (1 << 64) - 1
#: vcpu_runstate_info of 64-bit and of 32-bit guests: state, state_entry_time, four times.
_RUNSTATE, _RUNSTATE_NARROW = struct.Struct("<i4xQ4Q"), struct.Struct("<iQ4Q")
_TIMES_SIZE = 5 * 8


def vcpu_op(vcpu: Vcpu, command: int, vcpu_id: int, argument: int) -> int:
    """``vcpu_id`` names a vCPU of the calling domain: -ENOENT when there is none."""
    operation = _OPERATIONS.get(command)
    if operation is None:
        vcpu.domain.note_unimplemented(f"vcpu_op {command}")
        return -errno.ENOSYS
    if vcpu_id >= len(vcpu.domain.vcpus):
        return -errno.ENOENT
    return operation(vcpu, vcpu.domain.vcpus[vcpu_id], argument)


def _initialise(caller: Vcpu, target: Vcpu, argument: int) -> int:
    if target.initialised:
        return -errno.EEXIST
    if isinstance(target, HvmVcpu):
        processor_reset.load_context(target, guest_access.read_structure(caller, argument, vcpu_hvm_context))
        return 0
    context = guest_access.read_structure(caller, argument, vcpu_guest_context)
    vcpu_context.load(target, context)
    return 0


def _up(caller: Vcpu, target: Vcpu, argument: int) -> int:
    if not target.initialised:
        return -errno.EINVAL
    target.hypervisor.bring_up(target)
    return 0


def _down(caller: Vcpu, target: Vcpu, argument: int) -> int:
    if all(not other.online or other is target for other in caller.domain.vcpus):
        caller.domain.shut_down(ShutdownReason.POWEROFF)
        return 0
    target.online = False
    target.settle()
    return 0


def _is_up(caller: Vcpu, target: Vcpu, argument: int) -> int:
    return int(target.online)


def runstate_image(vcpu: Vcpu, flag: int = 0) -> bytes:
    """struct vcpu_runstate_info as of its last change of state, with ``flag`` in state_entry_time, as its domain has it."""
    runstate = vcpu.runstate
    form = _RUNSTATE_NARROW if vcpu.domain.shared_layout.narrow else _RUNSTATE
    return form.pack(runstate.state, runstate.entered_ns | flag, *runstate.times_ns)


def write_runstate(vcpu: Vcpu) -> None:
    """Bring the vCPU's area up to date. If the guest wants it, XEN_RUNSTATE_UPDATE is set meanwhile, for vCPUs that read. GuestFault."""
    area, image = vcpu.runstate_area, runstate_image(vcpu)
    if vcpu.domain.vm_assist >> VMASST_TYPE_runstate_update_flag & 1:
        marked = runstate_image(vcpu, abi.XEN_RUNSTATE_UPDATE)
        start = len(image) - _TIMES_SIZE
        entry_time = slice(start, start + 8)
        guest_access.write_kernel(vcpu, area + start, marked[entry_time])
        guest_access.write_kernel(vcpu, area, marked)
        guest_access.write_kernel(vcpu, area + start, image[entry_time])
    else:
        guest_access.write_kernel(vcpu, area, image)


def _get_runstate(caller: Vcpu, target: Vcpu, argument: int) -> int:
    runstate = target.runstate
    times = runstate.snapshot(target.hypervisor.now())
    form = _RUNSTATE_NARROW if caller.narrow_caller else _RUNSTATE
    guest_access.write(caller, argument, form.pack(runstate.state, runstate.entered_ns, *times))
    return 0


def _register_runstate(caller: Vcpu, target: Vcpu, argument: int) -> int:
    address = guest_access.read_long(caller, argument)
    if address:
        guest_access.write(caller, address, runstate_image(target))
    target.runstate_area = address
    return 0


def _register_time(caller: Vcpu, target: Vcpu, argument: int) -> int:
    address = guest_access.read_long(caller, argument)
    if address:
        guest_access.write(caller, address, caller.hypervisor.guest_time.image(target))
    target.time_area = address
    return 0


def _set_periodic(caller: Vcpu, target: Vcpu, argument: int) -> int:
    period = guest_access.read_word(caller, argument)
    if not SHORTEST_PERIOD_NS <= period <= LONGEST_PERIOD_NS:
        return -errno.EINVAL
    _stop_periodic_timer(target)
    target.periodic_ns = period
    _arm_periodic(target, target.hypervisor.now() + period)
    return 0


def _arm_periodic(vcpu: Vcpu, deadline_ns: int) -> None:
    def tick() -> None:
        vcpu.domain.event_channels.send_virq(vcpu, VIRQ_TIMER)
        # Missed ticks are not made up for.
        _arm_periodic(vcpu, max(deadline_ns + vcpu.periodic_ns, vcpu.hypervisor.now()))

    vcpu.periodic_timer = vcpu.domain.add_timer(deadline_ns, tick)


def _stop_periodic_timer(vcpu: Vcpu) -> None:
    if vcpu.periodic_timer is not None:
        vcpu.periodic_timer.cancel()
        vcpu.periodic_timer = None


def _stop_periodic(caller: Vcpu, target: Vcpu, argument: int) -> int:
    _stop_periodic_timer(target)
    return 0


def _set_singleshot(caller: Vcpu, target: Vcpu, argument: int) -> int:
    if target is not caller:
        return -errno.EINVAL
    op = guest_access.read_structure(caller, argument, abi.vcpu_set_singleshot_timer)
    if op.flags & abi.VCPU_SSHOTTMR_future and op.timeout_abs_ns < caller.hypervisor.now():
        return -errno.ETIME
    # s_time_t is signed: what is negative has passed.
    caller.one_shot_timer.set(op.timeout_abs_ns if op.timeout_abs_ns < SIGN else 0)
    return 0


def _stop_singleshot(caller: Vcpu, target: Vcpu, argument: int) -> int:
    if target is not caller:
        return -errno.EINVAL
    caller.one_shot_timer.set(None)
    return 0


def _register_info(caller: Vcpu, target: Vcpu, argument: int) -> int:
    """Move vcpu_info into the guest's own memory. Once per vCPU; not across a page; only while it is not running elsewhere."""
    op = guest_access.read_structure(caller, argument, abi.vcpu_register_vcpu_info)
    if target.info_registered or op.offset > 4096 - VCPU_INFO_SIZE or op.offset & 7:
        return -errno.EINVAL
    if target is not caller and target.online:
        return -errno.EINVAL
    mfn = caller.domain.machine_frame(op.mfn)
    caller.hypervisor.frames.get_page_and_type(mfn, caller.domain.domid, WRITABLE)
    new = (mfn << 12) + op.offset
    octets, layout = caller.octets, caller.domain.shared_layout
    octets[new : new + VCPU_INFO_SIZE] = octets[target.info : target.info + VCPU_INFO_SIZE]
    target.info = new
    target.info_registered = True
    target.info_frame = mfn
    # Anything could have arrived while it moved: everything is looked at again.
    caller.hypervisor.engine.set_bits(new + layout.selector, layout.selector_bits(ALL_WORDS))
    octets[new] = 1
    target.kick()
    return 0


def _send_nmi(caller: Vcpu, target: Vcpu, argument: int) -> int:
    if argument:
        return -errno.EINVAL
    target.nmi_pending = True
    target.wake()
    return 0


def _get_physid(caller: Vcpu, target: Vcpu, argument: int) -> int:
    """Only for pinned vCPUs with hardware: -EINVAL."""
    return -errno.EINVAL


_OPERATIONS: dict[int, Callable[[Vcpu, Vcpu, int], int]] = {
    abi.VCPUOP_initialise: _initialise,
    abi.VCPUOP_up: _up,
    abi.VCPUOP_down: _down,
    abi.VCPUOP_is_up: _is_up,
    abi.VCPUOP_get_runstate_info: _get_runstate,
    abi.VCPUOP_register_runstate_memory_area: _register_runstate,
    abi.VCPUOP_set_periodic_timer: _set_periodic,
    abi.VCPUOP_stop_periodic_timer: _stop_periodic,
    abi.VCPUOP_set_singleshot_timer: _set_singleshot,
    abi.VCPUOP_stop_singleshot_timer: _stop_singleshot,
    abi.VCPUOP_register_vcpu_info: _register_info,
    abi.VCPUOP_send_nmi: _send_nmi,
    abi.VCPUOP_get_physid: _get_physid,
    abi.VCPUOP_register_vcpu_time_memory_area: _register_time,
}

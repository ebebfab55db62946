"""Operations on vCPUs of the calling domain (public header vcpu.h)."""

from __future__ import annotations

from ctypes import Structure, Union, c_int32, c_uint32, c_uint64

from pyxen.abi.arch_x86_64 import guest_handle_t

VCPUOP_initialise = 0  # vcpu_guest_context (PV) or vcpu_hvm_context (PVH, HVM)
VCPUOP_up = 1
VCPUOP_down = 2
VCPUOP_is_up = 3
VCPUOP_get_runstate_info = 4
VCPUOP_register_runstate_memory_area = 5
VCPUOP_set_periodic_timer = 6
VCPUOP_stop_periodic_timer = 7
VCPUOP_set_singleshot_timer = 8
VCPUOP_stop_singleshot_timer = 9
VCPUOP_register_vcpu_info = 10
VCPUOP_send_nmi = 11
VCPUOP_get_physid = 12
VCPUOP_register_vcpu_time_memory_area = 13

RUNSTATE_running = 0
RUNSTATE_runnable = 1  # waits for a physical CPU
RUNSTATE_blocked = 2  # idle
RUNSTATE_offline = 3  # neither runnable nor blocked: paused, not yet up

XEN_RUNSTATE_UPDATE = 1 << 63  # in state_entry_time: an update is in progress (VMASST_TYPE_runstate_update_flag)


class vcpu_runstate_info(Structure):
    """State of a vCPU and how long it has been in each; all times in ns."""

    _fields_ = [
        ("state", c_int32),  # RUNSTATE_*
        ("state_entry_time", c_uint64),  # system time
        ("time", c_uint64 * 4),  # total per RUNSTATE_*
    ]


class vcpu_register_runstate_memory_area_addr(Union):
    """Address of the area."""

    _fields_ = [("h", guest_handle_t), ("v", guest_handle_t), ("p", c_uint64)]


class vcpu_register_runstate_memory_area(Structure):
    """Have Xen keep a copy of vcpu_runstate_info in guest memory."""

    _fields_ = [("addr", vcpu_register_runstate_memory_area_addr)]


class vcpu_set_periodic_timer(Structure):
    """Period of the VIRQ_TIMER tick."""

    _fields_ = [("period_ns", c_uint64)]


VCPU_SSHOTTMR_future = 1 << 0  # answer -ETIME if the time has passed


class vcpu_set_singleshot_timer(Structure):
    """One VIRQ_TIMER at a given system time."""

    _fields_ = [
        ("timeout_abs_ns", c_uint64),
        ("flags", c_uint32),  # VCPU_SSHOTTMR_*
    ]


class vcpu_register_vcpu_info(Structure):
    """Move a vCPU's vcpu_info to the guest's own memory; once per vCPU, within one page."""

    _fields_ = [
        ("mfn", c_uint64),
        ("offset", c_uint32),  # bytes into the page
        ("rsvd", c_uint32),
    ]


class vcpu_get_physid(Structure):
    """APIC id (bits 31:0) and ACPI id (bits 63:32) of the CPU a pinned vCPU runs on."""

    _fields_ = [("phys_id", c_uint64)]


class vcpu_register_time_memory_area_addr(Union):
    """Address of the area."""

    _fields_ = [("h", guest_handle_t), ("v", guest_handle_t), ("p", c_uint64)]


class vcpu_register_time_memory_area(Structure):
    """Have Xen keep a second copy of vcpu_time_info, which the guest may show to its user space."""

    _fields_ = [("addr", vcpu_register_time_memory_area_addr)]

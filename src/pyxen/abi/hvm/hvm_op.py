"""Calls of HVM and PVH domains (public header hvm/hvm_op.h). Arguments of alternate p2m views are left out."""

from __future__ import annotations

from ctypes import Structure, c_uint8, c_uint16, c_uint32, c_uint64

from pyxen.abi.xen import domid_t

HVMOP_set_param = 0
HVMOP_get_param = 1
HVMOP_flush_tlbs = 5
HVMOP_pagetable_dying = 9
HVMOP_get_time = 10
HVMOP_xentrace = 11
HVMOP_set_mem_access = 12
HVMOP_get_mem_access = 13
HVMOP_get_mem_type = 15
HVMOP_set_evtchn_upcall_vector = 23
HVMOP_guest_request_vm_event = 24
HVMOP_altp2m = 25


class hvm_param(Structure):
    """Argument of HVMOP_set_param and HVMOP_get_param."""

    _fields_ = [
        ("domid", domid_t),
        ("pad", c_uint16),
        ("index", c_uint32),  # HVM_PARAM_* (params.h)
        ("value", c_uint64),
    ]


class hvm_pagetable_dying(Structure):
    """Hint: the guest is about to free a top-level page table."""

    _fields_ = [
        ("domid", domid_t),
        ("pad", c_uint16 * 3),
        ("gpa", c_uint64),
    ]


class hvm_get_time(Structure):
    """Time since the host booted, in ns."""

    _fields_ = [("now", c_uint64)]


class hvm_xentrace(Structure):
    """Trace record that a guest writes."""

    _fields_ = [
        ("event", c_uint16),
        ("extra_bytes", c_uint16),
        ("extra", c_uint8 * 28),
    ]


HVMMEM_ram_rw = 0
HVMMEM_ram_ro = 1
HVMMEM_mmio_dm = 2  # accesses go to the device model
HVMMEM_unused = 3
HVMMEM_ioreq_server = 4


class hvm_get_mem_type(Structure):
    """Ask for the type of a page."""

    _fields_ = [
        ("domid", domid_t),  # in
        ("mem_type", c_uint16),  # out: HVMMEM_*
        ("pad", c_uint16 * 2),
        ("pfn", c_uint64),  # in
    ]


HVM_IOREQSRV_BUFIOREQ_OFF = 0
HVM_IOREQSRV_BUFIOREQ_LEGACY = 1
HVM_IOREQSRV_BUFIOREQ_ATOMIC = 2


class hvm_evtchn_upcall_vector(Structure):
    """Vector for event upcalls on one vCPU."""

    _fields_ = [("vcpu", c_uint32), ("vector", c_uint8)]

"""Scheduler operations of a domain on itself (public header sched.h)."""

from __future__ import annotations

from ctypes import Structure, c_int32, c_uint32, c_uint64

from pyxen.abi.arch_x86_64 import guest_handle_t
from pyxen.abi.xen import domid_t

SCHEDOP_yield = 0
SCHEDOP_block = 1  # unmasks event upcalls and waits for one
SCHEDOP_shutdown = 2
SCHEDOP_poll = 3
SCHEDOP_remote_shutdown = 4
SCHEDOP_shutdown_code = 5  # only remembers the reason for a later shutdown
SCHEDOP_watchdog = 6
SCHEDOP_pin_override = 7

SHUTDOWN_poweroff = 0
SHUTDOWN_reboot = 1
SHUTDOWN_suspend = 2
SHUTDOWN_crash = 3
SHUTDOWN_watchdog = 4
SHUTDOWN_soft_reset = 5
SHUTDOWN_MAX = 5


class sched_shutdown(Structure):
    """Argument of SCHEDOP_shutdown and SCHEDOP_shutdown_code."""

    _fields_ = [("reason", c_uint32)]  # SHUTDOWN_*


class sched_poll(Structure):
    """Wait until one of the ports is pending."""

    _fields_ = [
        ("ports", guest_handle_t),  # array of evtchn_port_t
        ("nr_ports", c_uint32),
        ("timeout", c_uint64),  # absolute system time in ns; 0: none
    ]


class sched_remote_shutdown(Structure):
    """Shut another domain down on its behalf."""

    _fields_ = [
        ("domain_id", domid_t),
        ("reason", c_uint32),  # SHUTDOWN_*
    ]


class sched_watchdog(Structure):
    """Set up (id 0), poke or destroy (timeout 0) a watchdog timer."""

    _fields_ = [
        ("id", c_uint32),
        ("timeout", c_uint32),  # seconds
    ]


class sched_pin_override(Structure):
    """Pin the calling vCPU to a physical CPU; negative undoes it."""

    _fields_ = [("pcpu", c_int32)]

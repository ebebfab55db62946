"""Entry points that a PV guest registers with Xen (public header callback.h)."""

from __future__ import annotations

from ctypes import Structure, c_uint16

from pyxen.abi.arch_x86_64 import xen_callback_t

CALLBACKOP_register = 0
CALLBACKOP_unregister = 1

CALLBACKTYPE_event = 0
CALLBACKTYPE_failsafe = 1  # a segment could not be reloaded on the way back to the guest
CALLBACKTYPE_syscall = 2
CALLBACKTYPE_sysenter_deprecated = 3
CALLBACKTYPE_nmi = 4
CALLBACKTYPE_sysenter = 5
CALLBACKTYPE_syscall32 = 7

CALLBACKF_mask_events = 1 << 0  # enter with event upcalls masked; always so for event and NMI


class callback_register(Structure):
    """Argument of CALLBACKOP_register."""

    _fields_ = [
        ("type", c_uint16),  # CALLBACKTYPE_*
        ("flags", c_uint16),  # CALLBACKF_*
        ("address", xen_callback_t),
    ]


class callback_unregister(Structure):
    """Argument of CALLBACKOP_unregister."""

    _fields_ = [("type", c_uint16), ("_unused", c_uint16)]

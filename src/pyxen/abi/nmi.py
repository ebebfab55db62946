"""Non-maskable interrupts (public header nmi.h)."""

from __future__ import annotations

from ctypes import Structure

from pyxen.abi.arch_x86_64 import xen_ulong_t

# Bits of arch_shared_info.nmi_reason (Domain 0 only).
XEN_NMIREASON_io_error = 1 << 0
XEN_NMIREASON_pci_serr = 1 << 1
XEN_NMIREASON_unknown = 1 << 2

XENNMI_register_callback = 0
XENNMI_unregister_callback = 1


class xennmi_callback(Structure):
    """Argument of XENNMI_register_callback."""

    _fields_ = [("handler_address", xen_ulong_t), ("pad", xen_ulong_t)]

"""Non-maskable interrupts (public header nmi.h)."""

from __future__ import annotations

from ctypes import Structure, c_uint64

# Bits of arch_shared_info.nmi_reason (Domain 0 only).
XEN_NMIREASON_io_error = 1 << 0
XEN_NMIREASON_pci_serr = 1 << 1
XEN_NMIREASON_unknown = 1 << 2

XENNMI_register_callback = 0
XENNMI_unregister_callback = 1


class xennmi_callback(Structure):
    """Argument of XENNMI_register_callback."""

    _fields_ = [("handler_address", c_uint64), ("pad", c_uint64)]

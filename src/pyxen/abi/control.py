"""The heads of Domain 0's control interfaces (public headers domctl.h, sysctl.h, platform.h), as far as other domains see them: refused.

The embedded Domain 0 calls the hypervisor directly (``dom0_interface``), not by these.
"""

from __future__ import annotations

from ctypes import Structure, c_uint8, c_uint16, c_uint32

XEN_DOMCTL_INTERFACE_VERSION = 0x00000015
XEN_SYSCTL_INTERFACE_VERSION = 0x00000015
XENPF_INTERFACE_VERSION = 0x03000001

XEN_DOMCTL_createdomain = 1


class domctl(Structure):
    """Argument of HYPERVISOR_domctl; what follows depends on the command."""

    _fields_ = [
        ("cmd", c_uint32),  # XEN_DOMCTL_*
        ("interface_version", c_uint32),  # XEN_DOMCTL_INTERFACE_VERSION
        ("domain", c_uint16),
        ("_pad", c_uint16 * 3),
        ("u", c_uint8 * 128),
    ]


class sysctl(Structure):
    """Argument of HYPERVISOR_sysctl."""

    _fields_ = [
        ("cmd", c_uint32),
        ("interface_version", c_uint32),  # XEN_SYSCTL_INTERFACE_VERSION
        ("u", c_uint8 * 128),
    ]


class platform_op(Structure):
    """Argument of HYPERVISOR_platform_op."""

    _fields_ = [
        ("cmd", c_uint32),
        ("interface_version", c_uint32),  # XENPF_INTERFACE_VERSION
        ("u", c_uint8 * 128),
    ]

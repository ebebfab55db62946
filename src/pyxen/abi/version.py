"""What HYPERVISOR_xen_version tells (public header version.h)."""

from __future__ import annotations

from ctypes import Structure, c_char, c_uint8, c_uint32

from pyxen.abi.arch_x86_64 import xen_ulong_t

XENVER_version = 0  # returned value: major << 16 | minor
XENVER_extraversion = 1  # string of XEN_EXTRAVERSION_LEN
XENVER_compile_info = 2
XENVER_capabilities = 3  # string of XEN_CAPABILITIES_INFO_LEN
XENVER_changeset = 4  # string of XEN_CHANGESET_INFO_LEN
XENVER_platform_parameters = 5
XENVER_get_features = 6
XENVER_pagesize = 7  # returned value: bytes
XENVER_guest_handle = 8  # 16 bytes: UUID of the calling domain
XENVER_commandline = 9  # string of XEN_COMMANDLINE_LEN
XENVER_build_id = 10

XEN_EXTRAVERSION_LEN = 16
XEN_CAPABILITIES_INFO_LEN = 1024
XEN_CHANGESET_INFO_LEN = 64
XEN_COMMANDLINE_LEN = 1024  # size of xen_commandline_t


class compile_info(Structure):
    """Who built Xen, with what, when."""

    _fields_ = [
        ("compiler", c_char * 64),
        ("compile_by", c_char * 16),
        ("compile_domain", c_char * 32),
        ("compile_date", c_char * 32),
    ]


class platform_parameters(Structure):
    """Start of the virtual addresses that are reserved for Xen."""

    _fields_ = [("virt_start", xen_ulong_t)]


class feature_info(Structure):
    """32 feature bits (XENFEAT_*, features.h)."""

    _fields_ = [
        ("submap_idx", c_uint32),  # in: which 32
        ("submap", c_uint32),  # out
    ]


class build_id(Structure):
    """Header of the build id; ``len`` bytes follow."""

    _fields_ = [
        ("len", c_uint32),
        ("buf", c_uint8 * 0),
    ]

"""Linux's bzImage for x86: the payload in it, the packed vmlinux (Linux's Documentation, x86/boot.rst)."""

from __future__ import annotations

import struct

from pyxen.toolstack.builder.errors import KernelFormatError, KernelUnsupportedError

_SETUP_SECTS = 0x1F1
_SYSSIZE = 0x1F4
_MAGIC = 0x202
_VERSION = 0x206
_PAYLOAD = 0x248
_HEADER_END = 0x250
_SECTOR = 512
#: The first boot protocol that has payload_offset and payload_length (Linux 2.6.26).
_FIRST_VERSION = 0x208


def is_bz_image(data: memoryview) -> bool:
    """Whether the boot protocol's magic is where it should be."""
    return bytes(data[_MAGIC : _MAGIC + 4]) == b"HdrS"


def payload_of(data: memoryview) -> memoryview:
    """The payload. KernelFormatError when it is not all there, KernelUnsupportedError when the image is too old to have one."""
    if len(data) < _HEADER_END:
        raise KernelFormatError(f"truncated: a bzImage of only {len(data)} bytes")
    (version,) = struct.unpack_from("<H", data, _VERSION)
    if version < _FIRST_VERSION:
        raise KernelUnsupportedError(
            f"a bzImage of boot protocol {version >> 8}.{version & 0xFF:02}, which is too old; use Linux 2.6.26 or later, or its vmlinux"
        )
    setup_size = ((data[_SETUP_SECTS] or 4) + 1) * _SECTOR
    (protected_mode_paragraphs,) = struct.unpack_from("<I", data, _SYSSIZE)
    offset, size = struct.unpack_from("<II", data, _PAYLOAD)
    start, end = setup_size + offset, setup_size + offset + size
    needed = max(end, setup_size + protected_mode_paragraphs * 16 if protected_mode_paragraphs < 1 << 28 else 0)
    if needed > len(data):
        raise KernelFormatError(f"truncated: the bzImage says it has at least {needed} bytes, the file has {len(data)}")
    if size == 0:
        raise KernelFormatError("corrupt: a bzImage without a payload")
    return data[start:end]

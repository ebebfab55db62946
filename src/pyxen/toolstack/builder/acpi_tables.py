"""The ACPI tables of a PVH domain: no hardware but processors and their local APICs (ACPI specification 6.4; Xen's tools/libacpi).

RSDP, XSDT, FADT (hardware-reduced), MADT, and a DSDT with a device for each processor.
"""

from __future__ import annotations

import ctypes
from ctypes import Structure, c_char, c_uint8, c_uint16, c_uint32, c_uint64
from typing import ClassVar

_OEM, _OEM_TABLE, _CREATOR = b"Xen", b"HVM", b"HVML"
LOCAL_APIC_ADDRESS = 0xFEE00000
_ALIGNMENT = 16

FADT_REVISION, FADT_MINOR = 5, 1
#: IAPC_BOOT_ARCH: no VGA, no CMOS clock.
BOOT_NO_VGA, BOOT_NO_CMOS = 1 << 2, 1 << 5
#: WBINVD works; no fixed power and sleep buttons; hardware-reduced.
FADT_FLAGS = 1 << 0 | 1 << 4 | 1 << 5 | 1 << 20
PROCESSOR_ENABLED = 1


class _Packed(Structure):
    _pack_ = 1


class Rsdp(_Packed):
    """Section 5.2.5."""

    _fields_: ClassVar = [
        ("signature", c_char * 8),
        ("checksum", c_uint8),
        ("oem_id", c_char * 6),
        ("revision", c_uint8),
        ("rsdt_address", c_uint32),
        ("length", c_uint32),
        ("xsdt_address", c_uint64),
        ("extended_checksum", c_uint8),
        ("reserved", c_uint8 * 3),
    ]


class Header(_Packed):
    """Section 5.2.6."""

    _fields_: ClassVar = [
        ("signature", c_char * 4),
        ("length", c_uint32),
        ("revision", c_uint8),
        ("checksum", c_uint8),
        ("oem_id", c_char * 6),
        ("oem_table_id", c_char * 8),
        ("oem_revision", c_uint32),
        ("creator_id", c_char * 4),
        ("creator_revision", c_uint32),
    ]


class GenericAddress(_Packed):
    """Section 5.2.3.2."""

    _fields_: ClassVar = [("space", c_uint8), ("width", c_uint8), ("offset", c_uint8), ("access", c_uint8), ("address", c_uint64)]


class Fadt(_Packed):
    """Section 5.2.9, after the header. The registers of fixed hardware are all absent."""

    _fields_: ClassVar = [
        ("firmware_ctrl", c_uint32),
        ("dsdt", c_uint32),
        ("reserved0", c_uint8),
        ("preferred_pm_profile", c_uint8),
        ("sci_int", c_uint16),
        ("fixed_hardware", c_uint8 * 61),
        ("iapc_boot_arch", c_uint16),
        ("reserved1", c_uint8),
        ("flags", c_uint32),
        ("reset_reg", GenericAddress),
        ("reset_value", c_uint8),
        ("arm_boot_arch", c_uint16),
        ("minor_version", c_uint8),
        ("x_firmware_ctrl", c_uint64),
        ("x_dsdt", c_uint64),
        ("x_registers", GenericAddress * 8),
        ("sleep_control", GenericAddress),
        ("sleep_status", GenericAddress),
    ]


class Madt(_Packed):
    """Section 5.2.12, after the header; the processors follow."""

    _fields_: ClassVar = [("local_apic_address", c_uint32), ("flags", c_uint32)]


class ProcessorLocalApic(_Packed):
    """Section 5.2.12.2."""

    _fields_: ClassVar = [("type", c_uint8), ("length", c_uint8), ("processor_uid", c_uint8), ("apic_id", c_uint8), ("flags", c_uint32)]


def _checksum(data: bytes) -> int:
    return -sum(data) & 0xFF


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    header = Header(signature, ctypes.sizeof(Header) + len(body), revision, 0, _OEM, _OEM_TABLE, 0, _CREATOR, 0)
    header.checksum = _checksum(bytes(header) + body)
    return bytes(header) + body


# -- AML (section 20.2) -----------------------------------------------------------------------------------------------------


def _package(content: bytes) -> bytes:
    """PkgLength, which counts itself, and the content."""
    for octets in range(1, 5):
        length = len(content) + octets
        if octets == 1 and length < 1 << 6:
            return bytes((length,)) + content
        if octets > 1 and length < 1 << 4 + 8 * (octets - 1):
            return bytes((octets - 1 << 6 | length & 15,)) + (length >> 4).to_bytes(octets - 1, "little") + content
    raise ValueError("AML package too long")


def _name(segment: str, value: bytes) -> bytes:
    return b"\x08" + segment.encode() + value


def _integer(value: int) -> bytes:
    return b"\x0a" + bytes((value,)) if value < 256 else b"\x0b" + value.to_bytes(2, "little")


def _string(text: str) -> bytes:
    return b"\x0d" + text.encode() + b"\0"


def _device(segment: str, content: bytes) -> bytes:
    return b"\x5b\x82" + _package(segment.encode() + content)


def _scope(path: bytes, content: bytes) -> bytes:
    return b"\x10" + _package(path + content)


def _processors(count: int) -> bytes:
    """``Scope(\\_SB)`` with a device C000, C001, ... for each processor."""
    devices = (
        _device(f"C{number:03X}", _name("_HID", _string("ACPI0007")) + _name("_UID", _integer(number)) + _name("_STA", _integer(0xF)))
        for number in range(count)
    )
    return _scope(b"\\_SB_", b"".join(devices))


# -- all of them -------------------------------------------------------------------------------------------------------------


class AcpiTables:
    """``content`` is to be put at physical ``address``; the RSDP is at ``rsdp_address`` in it."""

    def __init__(self, address: int, processors: int) -> None:
        self.address = address
        self._content = bytearray()
        dsdt = self._add(_table(b"DSDT", 2, _processors(processors)))
        fadt = self._add(_table(b"FACP", FADT_REVISION, bytes(_fadt(dsdt))))
        madt = self._add(_table(b"APIC", 3, _madt(processors)))
        xsdt = self._add(_table(b"XSDT", 1, fadt.to_bytes(8, "little") + madt.to_bytes(8, "little")))
        self.rsdp_address = self._add(_rsdp(xsdt))

    @property
    def content(self) -> bytes:
        return bytes(self._content)

    def _add(self, table: bytes) -> int:
        """-> its physical address."""
        self._content += bytes(-len(self._content) % _ALIGNMENT)
        where = self.address + len(self._content)
        self._content += table
        return where


def _rsdp(xsdt: int) -> bytes:
    rsdp = Rsdp(b"RSD PTR ", 0, _OEM, 2, 0, ctypes.sizeof(Rsdp), xsdt)
    rsdp.checksum = _checksum(bytes(rsdp)[:20])
    rsdp.extended_checksum = _checksum(bytes(rsdp))
    return bytes(rsdp)


def _fadt(dsdt: int) -> Fadt:
    return Fadt(dsdt=dsdt, x_dsdt=dsdt, iapc_boot_arch=BOOT_NO_VGA | BOOT_NO_CMOS, flags=FADT_FLAGS, minor_version=FADT_MINOR)


def _madt(processors: int) -> bytes:
    """APIC ids are even, as Xen gives them."""
    entries = (
        ProcessorLocalApic(0, ctypes.sizeof(ProcessorLocalApic), number, 2 * number, PROCESSOR_ENABLED) for number in range(processors)
    )
    return bytes(Madt(LOCAL_APIC_ADDRESS, 0)) + b"".join(map(bytes, entries))

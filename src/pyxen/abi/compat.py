"""The layouts as 32-bit callers have them, made from those of 64-bit callers.

Xen's public headers, compiled for i386, differ in three things only: ``unsigned long`` and pointers (``guest_long``) have 32 bits; 64-bit
integers are aligned to 4 octets; and the parts of shared_info that are spelled out below. Xen makes its ``compat/*.h`` by the same rules.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from ctypes import Array, Structure, Union, c_uint32
from typing import Any, Generic, TypeVar

from pyxen.abi.arch_x86_64 import XEN_LEGACY_MAX_VCPUS, guest_long
from pyxen.abi.xen import vcpu_time_info

Layout = TypeVar("Layout", bound=Structure)

#: Octets of an ``unsigned long`` or a pointer.
LONG = 4


class Translation(Generic[Layout]):
    """Between a structure and its form for 32-bit callers, ``narrow``."""

    def __init__(self, layout: type[Layout]) -> None:
        self._layout = layout
        self.narrow: Any = narrow_type(layout)
        self.size = ctypes.sizeof(self.narrow)
        #: (offset, offset in the narrow form, octets). What a longer member has beyond is zero.
        self._runs = list(_merged(_runs(layout, self.narrow, 0, 0)))

    def widen(self, data: bytes) -> Layout:
        """The structure out of ``size`` octets of a 32-bit caller's."""
        wide = bytearray(ctypes.sizeof(self._layout))
        for at, narrow_at, count in self._runs:
            wide[at : at + count] = data[narrow_at : narrow_at + count]
        return self._layout.from_buffer(wide)

    def shorten(self, value: Structure) -> bytes:
        """The ``size`` octets that a 32-bit caller gets."""
        wide, narrow = bytes(value), bytearray(self.size)
        for at, narrow_at, count in self._runs:
            narrow[narrow_at : narrow_at + count] = wide[at : at + count]
        return bytes(narrow)


@functools.cache
def translation(layout: type[Layout]) -> Translation[Layout]:
    """That of a layout. TypeError for one that has none: a union of structures that differ."""
    return Translation(layout)


@functools.cache
def narrow_type(kind: Any) -> Any:
    """The ctypes type that a 32-bit caller has in place of ``kind``; ``kind`` itself if it is the same."""
    if kind is guest_long:
        return c_uint32
    if issubclass(kind, Array):
        return narrow_type(kind._type_) * kind._length_
    if not issubclass(kind, (Structure, Union)):
        return kind
    fields = [(name, narrow_type(member), *bits) for name, member, *bits in kind._fields_]
    base = Union if issubclass(kind, Union) else Structure
    narrow = type(kind.__name__, (base,), {"_pack_": min(LONG, getattr(kind, "_pack_", LONG)), "_fields_": fields})
    return kind if _identical(kind, narrow) else narrow


def _identical(kind: Any, narrow: Any) -> bool:
    """Whether a structure and what was made of it are laid out alike."""
    if ctypes.sizeof(kind) != ctypes.sizeof(narrow):
        return False
    pairs = zip(kind._fields_, narrow._fields_, strict=True)
    return all(mine[1] is its[1] and getattr(kind, mine[0]).offset == getattr(narrow, its[0]).offset for mine, its in pairs)


def _runs(kind: Any, narrow: Any, at: int, narrow_at: int) -> Iterator[tuple[int, int, int]]:
    """What is copied where, member by member."""
    if kind is narrow or kind is guest_long:
        yield at, narrow_at, ctypes.sizeof(narrow)
    elif issubclass(kind, Array):
        for index in range(kind._length_):
            element, narrow_element = index * ctypes.sizeof(kind._type_), index * ctypes.sizeof(narrow._type_)
            yield from _runs(kind._type_, narrow._type_, at + element, narrow_at + narrow_element)
    elif issubclass(kind, Union):
        # Integers of different widths: little-endian, so the wider one begins with the octets of the narrower one.
        if any(member is not narrow_type(member) and member is not guest_long for _, member, *_ in kind._fields_):
            raise TypeError(f"union {kind.__name__} can't be translated without knowing which member counts")
        yield at, narrow_at, ctypes.sizeof(narrow)
    else:
        for name, member, *_ in kind._fields_:
            yield from _runs(member, narrow_type(member), at + getattr(kind, name).offset, narrow_at + getattr(narrow, name).offset)


def _merged(runs: Iterator[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    """The same with neighbours joined."""
    current = next(runs)
    for run in runs:
        if run[0] == current[0] + current[2] and run[1] == current[1] + current[2]:
            current = (*current[:2], current[2] + run[2])
        else:
            yield current
            current = run
    yield current


# --- The shared info page of a 32-bit guest (arch-x86/xen.h, xen-x86_32.h): pads and places differ --------------------------------


class compat_arch_vcpu_info(Structure):
    """x86 part of compat_vcpu_info."""

    _fields_ = [("cr2", c_uint32), ("pad", c_uint32 * 5)]


class compat_vcpu_info(Structure):
    """64 octets, as for 64-bit guests."""

    _fields_ = [
        ("evtchn_upcall_pending", ctypes.c_uint8),
        ("evtchn_upcall_mask", ctypes.c_uint8),
        ("evtchn_pending_sel", c_uint32),
        ("arch", compat_arch_vcpu_info),
        ("time", vcpu_time_info),
    ]


class compat_arch_shared_info(Structure):
    """x86 part of compat_shared_info."""

    _fields_ = [
        ("max_pfn", c_uint32),
        ("pfn_to_mfn_frame_list_list", c_uint32),
        ("nmi_reason", c_uint32),
        ("p2m_cr3", c_uint32),
        ("p2m_vaddr", c_uint32),
        ("p2m_generation", c_uint32),
        ("wc_sec_hi", c_uint32),
    ]


class compat_shared_info(Structure):
    """1024 ports instead of 4096."""

    _fields_ = [
        ("vcpu_info", compat_vcpu_info * XEN_LEGACY_MAX_VCPUS),
        ("evtchn_pending", c_uint32 * 32),
        ("evtchn_mask", c_uint32 * 32),
        ("wc_version", c_uint32),
        ("wc_sec", c_uint32),
        ("wc_nsec", c_uint32),
        ("arch", compat_arch_shared_info),
    ]

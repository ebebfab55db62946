"""Request and response rings between a frontend and a backend (public header io/ring.h)."""

from __future__ import annotations

from ctypes import Structure, Union, c_uint8, c_uint32

RING_IDX = c_uint32

XEN_PAGE_SHIFT = 12


class sring_pvt_netif(Structure):
    """Private byte of netif."""

    _fields_ = [("smartpoll_active", c_uint8)]


class sring_pvt_tapif_user(Structure):
    """Private byte of tapif."""

    _fields_ = [("msg", c_uint8)]


class sring_pvt(Union):
    """Private bytes of some device classes."""

    _fields_ = [
        ("netif", sring_pvt_netif),
        ("tapif_user", sring_pvt_tapif_user),
        ("pvt_pad", c_uint8 * 4),
    ]


class sring(Structure):
    """Start of every shared ring: 64 bytes, then the slots. Indices run freely; a slot is index % slots."""

    _fields_ = [
        ("req_prod", RING_IDX),
        ("req_event", RING_IDX),  # the backend wants an event when req_prod reaches it
        ("rsp_prod", RING_IDX),
        ("rsp_event", RING_IDX),  # the frontend wants an event when rsp_prod reaches it
        ("pvt", sring_pvt),
        ("pad", c_uint8 * 44),
    ]


def CONST_RING_SIZE(slot_bytes: int, ring_bytes: int = 4096) -> int:
    """Slots in a ring of ``ring_bytes`` bytes: the largest power of two that fits behind the 64-byte header.

    Raises ValueError if not even one slot fits.
    """
    slots = (ring_bytes - 64) // slot_bytes
    if slots < 1:
        raise ValueError(f"a ring of {ring_bytes} bytes has no room for a slot of {slot_bytes}")
    return 1 << (slots.bit_length() - 1)


def XEN_FLEX_RING_SIZE(order: int) -> int:
    """Bytes of each direction of a flexible ring whose data area has 2 ** ``order`` pages."""
    return 1 << (order + XEN_PAGE_SHIFT - 1)

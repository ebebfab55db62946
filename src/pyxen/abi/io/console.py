"""Console ring (public header io/console.h)."""

from __future__ import annotations

from ctypes import Structure, c_uint8, c_uint32

XENCONS_RING_IDX = c_uint32


class xencons_interface(Structure):
    """Page shared between a domain and its console backend. Indices run freely; a ring's offset is index % size."""

    _fields_ = [
        ("in_", c_uint8 * 1024),  # to the domain
        ("out", c_uint8 * 2048),  # from the domain
        ("in_cons", XENCONS_RING_IDX),
        ("in_prod", XENCONS_RING_IDX),
        ("out_cons", XENCONS_RING_IDX),
        ("out_prod", XENCONS_RING_IDX),
    ]

"""Requests of 64-bit and of 32-bit frontends, made by the structures of the public header (see tests/abi)."""

from __future__ import annotations

from typing import Any

import pytest

from pyxen.abi.compat import narrow_type
from pyxen.abi.io import blkif
from pyxen.abi.io.protocols import XEN_IO_PROTO_ABI_X86_32, XEN_IO_PROTO_ABI_X86_64
from pyxen.backends.block_request import FORMS, BadRequest, BlockRequest, RequestForm, UnknownOperation

ID, SECTOR = 0x1122334455667788, 0x99AABBCCDD


@pytest.fixture(params=[XEN_IO_PROTO_ABI_X86_64, XEN_IO_PROTO_ABI_X86_32])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def form(protocol: str) -> RequestForm:
    return FORMS[protocol]


def layout(protocol: str, kind: Any) -> Any:
    return narrow_type(kind) if protocol == XEN_IO_PROTO_ABI_X86_32 else kind


def test_slots_are_as_long_as_the_headers_say() -> None:
    assert {name: form.slot_bytes for name, form in FORMS.items()} == {XEN_IO_PROTO_ABI_X86_64: 112, XEN_IO_PROTO_ABI_X86_32: 108}


def test_plain_request(protocol: str, form: RequestForm) -> None:
    request = layout(protocol, blkif.blkif_request)(blkif.BLKIF_OP_WRITE, 2, 0, ID, SECTOR)
    for index in range(2):
        request.seg[index].gref, request.seg[index].first_sect, request.seg[index].last_sect = 100 + index, 1, 6
    parsed = form.parse(bytes(request).ljust(form.slot_bytes, b"\0"))
    assert (parsed.operation, parsed.request_id, parsed.untrusted_sector, parsed.segment_count) == (blkif.BLKIF_OP_WRITE, ID, SECTOR, 2)
    assert parsed.untrusted_segments == bytes(request.seg[0]) + bytes(request.seg[1])


def test_discard(protocol: str, form: RequestForm) -> None:
    request = layout(protocol, blkif.blkif_request_discard)(blkif.BLKIF_OP_DISCARD, 0, 0, ID, SECTOR, 77)
    parsed = form.parse(bytes(request).ljust(form.slot_bytes, b"\0"))
    assert (parsed.operation, parsed.request_id, parsed.untrusted_sector, parsed.untrusted_sectors) == (5, ID, SECTOR, 77)


def test_indirect_request(protocol: str, form: RequestForm) -> None:
    request = layout(protocol, blkif.blkif_request_indirect)(blkif.BLKIF_OP_INDIRECT, blkif.BLKIF_OP_READ, 200, ID, SECTOR, 0, (5,))
    slot = bytes(request).ljust(form.slot_bytes, b"\0")
    parsed = form.parse(slot)
    assert (parsed.operation, parsed.request_id, parsed.untrusted_sector) == (blkif.BLKIF_OP_READ, ID, SECTOR)
    assert (parsed.segment_count, parsed.untrusted_indirect) == (200, (5,))
    assert form.identify(slot).operation == blkif.BLKIF_OP_READ


def test_response(protocol: str, form: RequestForm) -> None:
    kind = layout(protocol, blkif.blkif_response)
    response = kind.from_buffer_copy(form.response(BlockRequest(blkif.BLKIF_OP_WRITE, ID), blkif.BLKIF_RSP_ERROR))
    assert (response.id, response.operation, response.status) == (ID, blkif.BLKIF_OP_WRITE, blkif.BLKIF_RSP_ERROR)


def test_bad_requests(form: RequestForm) -> None:
    with pytest.raises(UnknownOperation):
        form.parse(bytes([9]).ljust(form.slot_bytes, b"\0"))
    for start in ((blkif.BLKIF_OP_READ, 0), (blkif.BLKIF_OP_READ, 12), (blkif.BLKIF_OP_INDIRECT, 5), (blkif.BLKIF_OP_INDIRECT, 0)):
        with pytest.raises(BadRequest):
            form.parse(bytes(start).ljust(form.slot_bytes, b"\0"))

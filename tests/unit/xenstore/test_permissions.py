from __future__ import annotations

import errno

import pytest

from pyxen.xenstore import permissions
from pyxen.xenstore.errors import StoreError
from pyxen.xenstore.permissions import EVERYTHING, NONE, READ, WRITE, Permission


def test_parse_and_print() -> None:
    texts = ["n0", "r5", "w6", "b32751"]
    parsed = permissions.parse(texts)
    assert parsed == ((0, NONE), (5, READ), (6, WRITE), (32751, READ | WRITE))
    assert [str(entry) for entry in parsed] == texts


@pytest.mark.parametrize("texts", [[], ["x0"], ["n"], ["n-1"], ["n 1"], ["n1x"], [""], ["n0", "r32752"], ["r99999"], ["rr5"], ["r\u0665"]])
def test_malformed(texts: list[str]) -> None:
    with pytest.raises(StoreError) as caught:
        permissions.parse(texts)
    assert caught.value.errno == errno.EINVAL


def test_access() -> None:
    entries = permissions.parse(["r1", "w2", "b3", "n4", "b4"])
    assert permissions.access(entries, 1) == EVERYTHING
    assert permissions.access(entries, 2) == WRITE
    assert permissions.access(entries, 3) == READ | WRITE
    assert permissions.access(entries, 4) == NONE  # the first entry of a domain counts
    assert permissions.access(entries, 9) == READ  # what the owner's entry says is for all others


def test_access_for_a_target() -> None:
    entries = permissions.parse(["n1", "r2"])
    assert permissions.access(entries, 7, 1) == EVERYTHING
    assert permissions.access(entries, 7, 2) == READ
    assert permissions.access(entries, 7, 3) == NONE


def test_inherited() -> None:
    parent = permissions.parse(["r0", "b5"])
    assert permissions.inherited(parent, None) == parent
    assert permissions.inherited(parent, 5) == permissions.parse(["r5", "b5"])


def test_without_domain() -> None:
    entries = permissions.parse(["n5", "r5", "r6"])
    assert permissions.without_domain(entries, 5) == (Permission(5, NONE), Permission(6, READ))
    assert permissions.without_domain(entries, 9) is entries
    assert permissions.names_any(entries, 6)
    assert not permissions.names_any(entries, 9)

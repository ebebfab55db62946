from __future__ import annotations

import errno

import pytest

from pyxen.xenstore import paths
from pyxen.xenstore.errors import StoreError


@pytest.mark.parametrize(
    ("text", "parts"),
    [("/", ()), ("/a", ("a",)), ("/local/domain/5", ("local", "domain", "5")), ("/A-z_0/@x", ("A-z_0", "@x"))],
)
def test_split_and_join(text: str, parts: tuple[str, ...]) -> None:
    assert paths.split(text) == parts
    assert paths.join(parts) == text


@pytest.mark.parametrize("text", ["", "a", "//", "/a/", "/a//b", "/a b", "/a.b", "/\xe9", "/a\n", "/a\0", "@x", "/a+b", "/" + "a" * 3072])
def test_malformed(text: str) -> None:
    with pytest.raises(StoreError) as caught:
        paths.split(text)
    assert caught.value.errno == errno.EINVAL


def test_longest() -> None:
    assert paths.split("/" + "a" * 3071) == ("a" * 3071,)


def test_relative() -> None:
    assert paths.absolute("x/y", "/local/domain/3") == "/local/domain/3/x/y"
    assert paths.absolute("/x", "/local/domain/3") == "/x"
    assert len(paths.absolute("r" * 2048, "/local/domain/3")) == 2048 + 16
    for bad in ("", "r" * 2049):
        with pytest.raises(StoreError):
            paths.absolute(bad, "/local/domain/3")


def test_length_under_domain() -> None:
    assert paths.length_under_domain("/local/domain/12/abc") == 3
    assert paths.length_under_domain("/vm/abc") == 7
    assert paths.length_under_domain("/local/domain/12") == 16


def test_special() -> None:
    assert paths.check_special("@releaseDomain/5") == "@releaseDomain/5"
    with pytest.raises(StoreError):
        paths.check_special("@x y")

"""The cache of unpacked kernels: a second boot does not unpack, and no state of the cache makes a boot fail."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from pyxen.toolstack.builder.kernel_cache import KernelCache, default_cache_directory


class Unpacker:
    def __init__(self, data: bytes = b"unpacked" * 1000) -> None:
        self.data = data
        self.calls = 0

    def __call__(self) -> bytearray:
        self.calls += 1
        return bytearray(self.data)


PACKED = memoryview(b"packed")


def test_second_time(tmp_path: Path) -> None:
    unpack = Unpacker()
    for _ in range(3):
        assert bytes(KernelCache(tmp_path).unpacked(PACKED, unpack)) == unpack.data
    assert unpack.calls == 1


def test_by_content(tmp_path: Path) -> None:
    cache, one, other = KernelCache(tmp_path), Unpacker(b"one"), Unpacker(b"other")
    assert bytes(cache.unpacked(memoryview(b"1"), one)) == b"one"
    assert bytes(cache.unpacked(memoryview(b"2"), other)) == b"other"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "directory"])
def test_damaged(tmp_path: Path, damage: str) -> None:
    unpack = Unpacker()
    KernelCache(tmp_path).unpacked(PACKED, unpack)
    (path,) = (tmp_path / "kernels").iterdir()
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[:-100])
    elif damage == "flipped":
        content[5000] ^= 1
        path.write_bytes(content)
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
        path.mkdir()
    assert bytes(KernelCache(tmp_path).unpacked(PACKED, unpack)) == unpack.data
    assert unpack.calls == 2


def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "kernels").write_text("in the way")
    unpack = Unpacker()
    assert bytes(KernelCache(tmp_path).unpacked(PACKED, unpack)) == unpack.data
    assert [path.name for path in tmp_path.iterdir()] == ["kernels"]


def test_errors_of_the_unpacking_pass(tmp_path: Path) -> None:
    def unpack() -> bytearray:
        raise KeyError("corrupt")

    with pytest.raises(KeyError):
        KernelCache(tmp_path).unpacked(PACKED, unpack)
    assert not (tmp_path / "kernels").exists()


def test_only_the_last_used_are_kept(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    for number in range(12):
        cache.unpacked(memoryview(bytes([number])), Unpacker())
        for path in (tmp_path / "kernels").iterdir():
            os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**9))
    assert len(list((tmp_path / "kernels").iterdir())) == 8
    oldest, newest = Unpacker(), Unpacker()
    cache.unpacked(memoryview(bytes([11])), newest)
    cache.unpacked(memoryview(bytes([0])), oldest)
    assert (newest.calls, oldest.calls) == (0, 1)


def test_many_at_once_unpack_once(tmp_path: Path) -> None:
    unpack = Unpacker()
    threads = [threading.Thread(target=KernelCache(tmp_path).unpacked, args=(PACKED, unpack)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert unpack.calls == 1


def test_default_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYXEN_CACHE_DIR", "/somewhere")
    assert default_cache_directory() == Path("/somewhere")
    monkeypatch.delenv("PYXEN_CACHE_DIR")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_cache_directory() == Path("/home/me/.cache/pyxen")

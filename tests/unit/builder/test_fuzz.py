"""Kernel files of an enemy: any truncation and any flipped bits give a kernel or a BuilderError, nothing else."""

from __future__ import annotations

import gzip
import lzma
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyxen.toolstack.builder import BuilderError, build_pv_domain, open_kernel, plan_pv_domain
from pyxen.toolstack.builder.decompression import compression_of, decompress
from tests.unit.builder.elf_maker import ALLOC, EXEC, LINUX_BASE, Elf, Load, Sect, bz_image, number, small_kernel, standard_notes, text
from tests.unit.builder.fake_machine import FakeMachine
from tests.unit.builder.test_kernel_image import PACKERS

CODE = LINUX_BASE + 0x1000000


def elf_with_everything() -> bytes:
    loads = [Load(b"\xf4" * 300, 0x1000000, vaddr=CODE), Load(b"d" * 100, 0x1000200, memsz=0x2000, vaddr=CODE + 0x200)]
    extra = (
        number(2, CODE + 0x1000) + number(15, 0x8000000000) + number(16, 1, 4) + number(17, 0x8801, 4) + text(10, "!writable_page_tables")
    )
    legacy = f"LOADER=generic,VIRT_BASE={LINUX_BASE:#x},ELF_PADDR_OFFSET=0".encode()
    sections = [Sect(".text", 1, ALLOC | EXEC, address=CODE, inside=(0, 0, 300)), Sect("__xen_guest", 1, 0, legacy)]
    return Elf(loads, standard_notes(entry=CODE, extra=extra), sections).build()


SEEDS = {
    "elf": elf_with_everything(),
    "gzip": bz_image(gzip.compress(small_kernel())),
    "xz": bz_image(lzma.compress(small_kernel()) + len(small_kernel()).to_bytes(4, "little")),
}


def load(content: bytes) -> None:
    """Through all that looks at the content: the parsers, the layout, the loading."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel"
        path.write_bytes(content)
        try:
            plan = plan_pv_domain(open_kernel(path, cache_directory=Path(folder)), None, "", 48 << 10)
        except BuilderError as error:
            assert "\n" not in str(error)
            return
        machine = FakeMachine(frames=13000)
        build_pv_domain(machine, machine.domid, plan)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SEEDS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_flipped_bits(name: str, data: st.DataObject) -> None:
    content = bytearray(SEEDS[name])
    # Headers are at the beginning and at the end; random positions alone would hardly ever meet one.
    position = st.one_of(st.integers(0, min(700, len(content) - 1)), st.integers(0, len(content) - 1))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(position)] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    load(bytes(content))


@pytest.mark.parametrize("name", SEEDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_truncations(name: str, data: st.DataObject) -> None:
    load(SEEDS[name][: data.draw(st.integers(0, len(SEEDS[name]) - 1))])


@settings(max_examples=100, deadline=None)
@given(field=st.integers(0, 40), value=st.sampled_from([0, 1, 0xFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 47, (1 << 63) - 1, (1 << 64) - 1]))
def test_extreme_headers(field: int, value: int) -> None:
    content = bytearray(SEEDS["elf"])
    content[field * 8 : field * 8 + 8] = value.to_bytes(8, "little")
    load(bytes(content))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=5000))
def test_noise(content: bytes) -> None:
    load(content)
    load(b"\x7fELF\x02\x01\x01" + content)


@pytest.mark.parametrize("name", PACKERS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_corrupt_streams(name: str, data: st.DataObject) -> None:
    packed = bytearray(PACKERS[name](b"some text to pack " * 300 + bytes(9000)))
    for _ in range(data.draw(st.integers(1, 5))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    view = memoryview(packed)[: data.draw(st.integers(0, len(packed)))]
    if compression_of(view) is None:
        return
    try:
        assert len(decompress(view, 1 << 20)) <= 1 << 20
    except BuilderError:
        pass

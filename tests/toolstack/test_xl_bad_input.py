"""What is wrong with a configuration or its files is one clear line, the exit status is not 0, and nothing is left behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pyxen
from pyxen.guests.packages import GuestPackages
from tests.toolstack.tiny_kernels import IDLE, write_kernel
from tests.toolstack.xl_command import listed, run, xl

pytestmark = pytest.mark.timeout(120)

HOST_MEMORY_MIB = 512


@pytest.fixture(scope="module")
def host(shared_runtime_directory: Path) -> Iterator[pyxen.Host]:
    """One host for all mistakes: after each it is as it was before."""
    with pyxen.Host(shared_runtime_directory, memory=HOST_MEMORY_MIB) as host:
        yield host


@pytest.fixture
def refused(host: pyxen.Host, tmp_path: Path) -> Callable[..., str]:
    """Give ``xl create`` a configuration that it refuses; the line that it says."""
    write_kernel(tmp_path, IDLE, "kernel")

    def create(text: str, *overrides: str) -> str:
        (tmp_path / "g.cfg").write_text(text)
        before = host.status
        result = run("xl", "create", "-q", "g.cfg", *overrides, cwd=tmp_path)
        assert result.returncode == 1
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) == 1, result.stderr
        assert "Traceback" not in result.stderr
        assert listed() == {}
        assert host.status.free_bytes == before.free_bytes
        assert os.listdir(host.client.runtime.console_links) == []
        return result.stderr.strip()

    return create


GOOD = 'name = "g"\nkernel = "kernel"\nmemory = 32\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('name = "g"\nkernel = nowhere\n', ["g.cfg:2: config parsing error near `nowhere'"]),
        ('name = "g"\nmemory = [ 1\n', ["g.cfg:3: config parsing error near the end of the file", "line 2"]),
        (GOOD + 'type = "vm"\n', ["g.cfg:4: `type'", "pv, pvh, hvm"]),
        (GOOD + 'type = "hvm"\n', ["g.cfg:4: ", "not supported yet"]),
        (GOOD + "disk = [ '/a,qcow2,xvda' ]\n", ["disk image /a does not exist"]),
        (GOOD + "vif = [ 'mac=nonsense' ]\n", ["g.cfg:4: `vif'", "nonsense"]),
        (GOOD + "vcpus = 0\n", ["g.cfg:4: `vcpus'", "minimum"]),
        (GOOD + "vcpus = 8000\n", ["vCPUs"]),
        (GOOD + 'memory = "lots"\n', ["g.cfg:4: `memory'", "not a number"]),
        ('kernel = "kernel"\n', ["g.cfg: the domain must have a name"]),
        ('name = "g"\n', ["g.cfg: neither kernel nor bootloader is given"]),
        (GOOD + f"memory = {HOST_MEMORY_MIB * 2}\n", ["memory"]),
        (GOOD + "memory = 1\n", ["memory"]),
        (GOOD + 'ramdisk = "nowhere"\n', ["nowhere"]),
        (GOOD + 'kernel = "nowhere"\n', ["nowhere"]),
        (GOOD + 'kernel = "/"\n', ["/"]),
        (GOOD + 'kernel = "g.cfg"\n', ["g.cfg"]),
    ],
)
def test_configurations(refused: Callable[..., str], text: str, words: list[str]) -> None:
    line = refused(text)
    assert [word for word in words if word not in line] == [], line


def test_the_command_line_is_a_source_of_its_own(refused: Callable[..., str]) -> None:
    assert refused(GOOD, "vcpus=x").startswith("command line:1: config parsing error near `x'")


def test_a_name_in_use(host: pyxen.Host, tmp_path: Path) -> None:
    write_kernel(tmp_path, IDLE, "kernel")
    (tmp_path / "g.cfg").write_text(GOOD)
    xl("create", "g.cfg", cwd=tmp_path)
    free = host.status.free_bytes
    result = run("xl", "create", "-q", "g.cfg", cwd=tmp_path)
    assert result.returncode == 1
    assert "g" in result.stderr and len(result.stderr.splitlines()) == 1
    assert host.status.free_bytes == free
    xl("destroy", "g")
    assert listed() == {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["empty"]),
        (b"\x7fELF\x02\x01\x01" + bytes(20), ["kernel"]),
        (b"#!/bin/sh\n", ["kernel"]),
    ],
    ids=["empty", "half a header", "a script"],
)
def test_files_that_are_no_kernel(refused: Callable[..., str], tmp_path: Path, content: bytes, words: list[str]) -> None:
    (tmp_path / "broken").write_bytes(content)
    line = refused(GOOD + 'kernel = "broken"\n')
    assert "broken" in line
    assert [word for word in words if word not in line] == [], line


def test_an_elf_file_without_xen_notes(refused: Callable[..., str]) -> None:
    line = refused(GOOD + f'kernel = "{shutil.which("true")}"\n')
    assert "Xen" in line or "note" in line, line


def test_a_ramdisk_larger_than_the_memory(refused: Callable[..., str], tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as ramdisk:
        ramdisk.truncate(40 << 20)
    assert "ramdisk" in refused(GOOD + 'ramdisk = "huge"\n')


@pytest.mark.guest
@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_linux_kernel(refused: Callable[..., str], tmp_path: Path, guest_packages: GuestPackages, damage: str) -> None:
    image = bytearray(guest_packages.kernel.read_bytes())
    middle = len(image) // 2
    if damage == "truncated":
        del image[middle:]
    else:
        image[middle : middle + 64] = bytes(byte ^ 0xFF for byte in image[middle : middle + 64])
    (tmp_path / "damaged").write_bytes(image)
    assert "damaged" in refused(GOOD + 'kernel = "damaged"\n')


@pytest.mark.guest
def test_memory_too_small_for_linux(refused: Callable[..., str], guest_packages: GuestPackages) -> None:
    line = refused(GOOD + f'kernel = "{guest_packages.kernel}"\n')
    assert "memory" in line


@pytest.mark.parametrize(
    "arguments", [["run", "/nowhere"], ["run", "/"], ["run", "/dev/null"], ["trace", "nobody"], ["run", "/nowhere", "--type", "vm"]]
)
def test_pyxen(host: pyxen.Host, arguments: list[str]) -> None:
    result = run("pyxen", *arguments)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("pyxen: ")
    assert listed() == {}

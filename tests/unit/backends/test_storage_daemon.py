"""Disks in other formats than raw: the block backend on QEMU's storage daemon, with the real daemon."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pyxen.abi.io.blkif import BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_RSP_OKAY
from pyxen.backends.block import BlockDevice
from pyxen.backends.nbd_image import NbdImage
from pyxen.backends.storage_daemon import PROGRAM
from pyxen.guests.packages import PackageError, fetch_tool
from pyxen.host.helper_programs import HostHelperPrograms
from pyxen.hypervisor.hypervisor import Hypervisor
from pyxen.toolstack.errors import ToolstackError
from tests.unit.backends.block_guest import DATA_PFN, DEVID, World, block_world, data_segments, discard, plain, until

MIB = 1 << 20
PAGE = 4096
Scenario = Callable[[World], Awaitable[None]]


@pytest.fixture(scope="module")
def qemu_img() -> Callable[..., str]:
    """Runs qemu-img, and there is a storage daemon too."""
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"no {PROGRAM}")
    program = shutil.which("qemu-img")
    try:
        program = program or str(fetch_tool("qemu-utils") / "usr/bin/qemu-img")
    except PackageError as error:
        pytest.skip(str(error))

    def run(*arguments: str | Path) -> str:
        return subprocess.run([program, *map(str, arguments)], check=True, capture_output=True, text=True).stdout

    return run


@pytest.fixture
def play(hypervisor: Hypervisor, tmp_path: Path) -> Callable[[Scenario], None]:
    async def main(scenario: Scenario) -> None:
        helpers = HostHelperPrograms()
        helpers.serve()
        try:
            async with block_world(hypervisor, tmp_path, helpers) as world:
                await scenario(world)
        finally:
            await helpers.close()

    return lambda scenario: asyncio.run(asyncio.wait_for(main(scenario), 90))


def image_of(world: World) -> NbdImage:
    device = world.bus.find(world.guest.domid, DEVID)
    assert isinstance(device, BlockDevice)
    image = device._image
    assert isinstance(image, NbdImage)
    return image


def content(qemu_img: Callable[..., str], path: Path) -> bytes:
    raw = path.with_suffix(".raw")
    qemu_img("convert", "-O", "raw", path, raw)
    return raw.read_bytes()


@pytest.mark.parametrize(("image_format", "driver"), [("qcow2", "qcow2"), ("vhd", "vpc"), ("vhdx", "vhdx"), ("vmdk", "vmdk")])
def test_formats(play: Callable[[Scenario], None], qemu_img: Callable[..., str], tmp_path: Path, image_format: str, driver: str) -> None:
    path = tmp_path / f"disk.{image_format}"
    qemu_img("create", "-q", "-f", driver, path, "8M")

    async def scenario(world: World) -> None:
        await world.attach(path, image_format=image_format)
        frontend = world.frontend
        await frontend.connect()
        assert int(world.store.read(f"{frontend.backend}/sectors")) >= 8 * MIB // 512
        data = os.urandom(3 * PAGE)
        for page in range(3):
            frontend.poke(DATA_PFN + page, 0, data[page * PAGE : page * PAGE + PAGE])
        assert await frontend.request(plain(BLKIF_OP_WRITE, 4001, data_segments(3))) == BLKIF_RSP_OKAY
        assert await frontend.request(plain(BLKIF_OP_FLUSH_DISKCACHE, 0, [])) == BLKIF_RSP_OKAY
        for page in range(4):
            frontend.poke(DATA_PFN + page, 0, bytes(PAGE))
        assert await frontend.request(plain(BLKIF_OP_READ, 4001, data_segments(4))) == BLKIF_RSP_OKAY
        assert frontend.peek(DATA_PFN, 0, PAGE) + frontend.peek(DATA_PFN + 1, 0, PAGE) == data[: 2 * PAGE]
        assert frontend.peek(DATA_PFN + 3, 0, PAGE) == bytes(PAGE)
        with pytest.raises(ToolstackError, match="in use by another domain"):
            await world.attach(path, vdev="xvdb", image_format=image_format)
        pid = image_of(world).daemon.pid
        await world.disks.detach(world.guest.domid, "xvda", force=True)
        assert not Path(f"/proc/{pid}").exists()
        assert content(qemu_img, path)[4001 * 512 : 4001 * 512 + 3 * PAGE] == data

    play(scenario)


def test_daemon_killed_again_and_again(play: Callable[[Scenario], None], qemu_img: Callable[..., str], tmp_path: Path) -> None:
    """No request fails, and what was answered is there, flushed or not."""
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "64M")
    chance = random.Random(7)
    expected = bytearray(64 * MIB)

    async def scenario(world: World) -> None:
        await world.attach(path, image_format="qcow2")
        frontend = world.frontend
        await frontend.connect()
        daemon = image_of(world).daemon
        for kill in range(12):
            for step in range(24):
                offset = chance.randrange(16384 - 4)
                data = chance.randbytes(4 * PAGE)
                for page in range(4):
                    frontend.poke(DATA_PFN + page, 0, data[page * PAGE : page * PAGE + PAGE])
                frontend.put(plain(BLKIF_OP_WRITE, 8 * offset, data_segments(4)))
                frontend.kick()
                if step == 12:
                    os.kill(daemon.pid, signal.SIGKILL)
                [(_, _, status)] = await frontend.responses(1)
                assert status == BLKIF_RSP_OKAY
                expected[offset * PAGE : offset * PAGE + len(data)] = data
                if step == 6:
                    assert await frontend.request(plain(BLKIF_OP_FLUSH_DISKCACHE, 0, [])) == BLKIF_RSP_OKAY
            await until(lambda kill=kill: daemon.generation == kill + 1)  # type: ignore[misc]
        assert await frontend.request(discard(0, 128)) == BLKIF_RSP_OKAY
        expected[: 128 * 512] = bytes(128 * 512)
        await world.bus.restart(world.guest.domid, DEVID)
        assert await frontend.request(plain(BLKIF_OP_READ, 0, data_segments(1))) == BLKIF_RSP_OKAY
        await world.disks.detach(world.guest.domid, "xvda", force=True)
        assert content(qemu_img, path) == expected
        assert "no errors" in qemu_img("check", path).lower()

    play(scenario)


def test_images_that_are_not_what_they_are_said_to_be(
    play: Callable[[Scenario], None], qemu_img: Callable[..., str], tmp_path: Path
) -> None:
    async def scenario(world: World) -> None:
        raw = world.image()
        with pytest.raises(ToolstackError, match="can't be used as qcow2: .*not in qcow2 format") as refusal:
            await world.attach(raw, image_format="qcow2")
        assert "\n" not in str(refusal.value)
        with pytest.raises(ToolstackError, match="does not exist"):
            await world.attach(tmp_path / "missing", image_format="qcow2")
        with pytest.raises(ToolstackError, match="needs a raw image"):
            await world.attach(raw, access="w!", image_format="qcow2")
        assert world.disks.attached(world.guest.domid) == []

    play(scenario)


def test_missing_daemon_is_named(hypervisor: Hypervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYXEN_CACHE_DIR", str(tmp_path))

    async def main() -> None:
        helpers = HostHelperPrograms()
        helpers.serve()
        try:
            async with block_world(hypervisor, tmp_path, helpers) as world:
                with pytest.raises(ToolstackError, match="qemu-storage-daemon not found: install the package qemu-system-common"):
                    await world.attach(world.image(), image_format="qcow2")
        finally:
            await helpers.close()

    asyncio.run(main())


def test_daemon_that_cannot_be_started_again(play: Callable[[Scenario], None], qemu_img: Callable[..., str], tmp_path: Path) -> None:
    """The guest gets errors, and does not wait for ever."""
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "8M")

    async def scenario(world: World) -> None:
        await world.attach(path, image_format="qcow2")
        await world.frontend.connect()
        assert await world.frontend.request(plain(BLKIF_OP_READ, 0, data_segments(1))) == BLKIF_RSP_OKAY
        path.write_bytes(json.dumps("no longer an image").encode() + bytes(PAGE))
        os.kill(image_of(world).daemon.pid, signal.SIGKILL)
        assert await world.frontend.request(plain(BLKIF_OP_WRITE, 0, data_segments(1))) != BLKIF_RSP_OKAY

    play(scenario)

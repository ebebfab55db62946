"""What can be behind a virtual disk, and what can't."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pyxen.abi.io.blkif import (
    BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
)
from pyxen.toolstack.configuration.disk import DiskSpecification
from pyxen.toolstack.errors import ToolstackError
from tests.unit.backends.block_guest import (
    DATA_PFN,
    ERROR,
    OKAY,
    Play,
    World,
    connected,
    data_segments,
    plain,
    until,
)


def test_images_that_cannot_be_used(play: Play) -> None:
    async def scenario(world: World) -> None:
        folder = world.folder
        (folder / "odd").write_bytes(bytes(1000))
        (folder / "empty").write_bytes(b"")
        os.mkfifo(folder / "fifo")
        for name, reason in (
            ("missing", "does not exist"),
            ("odd", "1000 bytes, is no multiple of 512"),
            ("empty", "is empty"),
            ("fifo", "neither a file nor a block device"),
            (".", "can't be written: Is a directory"),
        ):
            with pytest.raises(ToolstackError, match=reason) as refused:
                await world.attach(folder / name)
            assert "\n" not in str(refused.value)
            assert str(folder) in str(refused.value)
            assert world.disks.attached(world.guest.domid) == []
            assert not world.store.exists(f"/local/domain/0/backend/vbd/{world.guest.domid}")

    play(scenario)


def test_images_are_locked(play: Play) -> None:
    async def scenario(world: World) -> None:
        image = world.image()
        await world.attach(image, "w", "xvda")
        for access in ("w", "r"):
            with pytest.raises(ToolstackError, match="in use by another"):
                await world.attach(image, access, "xvdb")
        await world.attach(image, "w!", "xvdb")
        await world.disks.remove_all(world.guest.domid)
        await world.attach(image, "r", "xvda")
        await world.attach(image, "r", "xvdb")
        with pytest.raises(ToolstackError, match="w!"):
            await world.attach(image, "w", "xvdc")
        with pytest.raises(ToolstackError, match="has a disk xvdb already"):
            await world.attach(image, "r", "xvdb")

    play(scenario)


def test_image_that_shrinks_and_grows(play: Play) -> None:
    async def scenario(world: World) -> None:
        image = world.folder / "disk.img"
        os.truncate(image, 4096)
        assert await world.frontend.request(plain(BLKIF_OP_READ, 8, data_segments(1))) == ERROR
        await until(lambda: world.store.get(f"{world.frontend.backend}/sectors") == "8")
        os.truncate(image, 2 << 20)
        await until(lambda: world.store.get(f"{world.frontend.backend}/sectors") == "4096")
        assert await world.frontend.request(plain(BLKIF_OP_READ, 4088, data_segments(1))) == OKAY

    play(connected(scenario))


def test_a_file_of_the_host_that_may_not_grow(play: Play) -> None:
    """RLIMIT_FSIZE, a quota's like: EFBIG is an error for the guest and nothing worse for the host."""

    async def scenario(world: World) -> None:
        image = world.folder / "sparse.img"
        image.touch()
        os.truncate(image, 8 << 20)
        await world.attach(image)
        await world.frontend.connect()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, limits[1]))
        try:
            assert await world.frontend.request(plain(BLKIF_OP_WRITE, (4 << 20) // 512, data_segments(1))) == ERROR
            assert await world.frontend.request(plain(BLKIF_OP_WRITE, 0, data_segments(1))) == OKAY
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert await world.frontend.request(plain(BLKIF_OP_WRITE, (4 << 20) // 512, data_segments(1))) == OKAY

    play(scenario)


def test_host_disk_that_is_full(tmp_path: Path) -> None:
    """A file system of 1 MiB, in a mount name space of its own."""
    enter = ["unshare", "--mount", *(() if os.geteuid() == 0 else ("--user", "--map-root-user"))]
    inside = 'mount -t tmpfs -o size=1m full "$1" && exec "$2" -m tests.unit.backends.full_file_system "$1"'
    command = [*enter, "sh", "-c", inside, "sh", str(tmp_path), sys.executable]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "unshare" in ran.stderr or "mount:" in ran.stderr:
        pytest.skip(f"no file system of its own: {ran.stderr.strip()}")
    assert ran.returncode == 0, ran.stderr
    log, written, read, again = ran.stdout.splitlines()
    assert "sparse.img: No space left on device; the guest gets an I/O error" in log
    words = written.split()
    assert 10 <= int(words[1]) <= 24 and int(words[3]) == 64 - int(words[1])
    assert (read, again) == (f"read {OKAY}", f"with room again {OKAY}")


def test_media_of_a_cd_drive(play: Play) -> None:
    async def scenario(world: World) -> None:
        domid, frontend = world.guest.domid, world.frontend

        def medium(name: str) -> DiskSpecification:
            return DiskSpecification(target=str(world.folder / name), vdev="xvda", writable=False, cdrom=True)

        first, second = world.image(name="first.iso"), world.image(2 << 20, "second.iso")
        await world.disks.attach(domid, DiskSpecification.parse("devtype=cdrom,vdev=xvda,target="))
        await frontend.connect()
        assert world.store.read(f"{frontend.backend}/sectors") == "0"
        assert world.store.read(f"{frontend.backend}/info") == "5"
        assert await frontend.request(plain(BLKIF_OP_READ, 0, data_segments(1))) == ERROR
        for image in (first, second):
            assert await world.disks.change_medium(domid, "xvda", medium(image.name)) == "xvda"
            await until(lambda image=image: world.store.read(f"{frontend.backend}/sectors") == str(image.stat().st_size // 512))  # type: ignore[misc]
            assert await frontend.request(plain(BLKIF_OP_READ, 0, data_segments(1))) == OKAY
            assert await frontend.request(plain(BLKIF_OP_WRITE, 0, data_segments(1))) == ERROR
        with pytest.raises(ToolstackError, match="missing does not exist; the drive is empty now"):
            await world.disks.change_medium(domid, "xvda", medium("missing"))
        assert await frontend.request(plain(BLKIF_OP_READ, 0, data_segments(1))) == ERROR
        await world.disks.change_medium(domid, "xvda", medium("first.iso"))
        await world.disks.change_medium(domid, "xvda", None)
        await world.disks.change_medium(domid, "xvda", None)
        await until(lambda: world.store.read(f"{frontend.backend}/sectors") == "0")
        assert frontend.backend_state() == "4"
        await world.disks.detach(domid, "xvda", force=True)
        await world.attach(first)
        with pytest.raises(ToolstackError, match="no CD drive xvda"):
            await world.disks.change_medium(domid, "xvda", medium("second.iso"))

    play(scenario)


def test_block_device_of_the_host(play: Play, tmp_path: Path) -> None:
    file = tmp_path / "behind.img"
    file.write_bytes(os.urandom(1 << 20))
    try:
        attached = subprocess.run(["losetup", "--find", "--show", str(file)], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("loop devices need root")
    device = Path(attached.stdout.strip())

    async def scenario(world: World) -> None:
        await world.attach(device)
        frontend = world.frontend
        await frontend.connect()
        number = device.stat().st_rdev
        assert world.store.read(f"{frontend.backend}/physical-device") == f"{os.major(number):x}:{os.minor(number):x}"
        assert await frontend.request(plain(BLKIF_OP_READ, 16, data_segments(2))) == OKAY
        assert frontend.peek(DATA_PFN + 1, 0, 4096) == file.read_bytes()[3 * 4096 : 4 * 4096]
        frontend.poke(DATA_PFN, 0, b"\x5a" * 4096)
        assert await frontend.request(plain(BLKIF_OP_WRITE, 2040, data_segments(1))) == OKAY
        assert await frontend.request(plain(BLKIF_OP_FLUSH_DISKCACHE, 0, [])) == OKAY
        assert await frontend.request(plain(BLKIF_OP_WRITE, 2041, data_segments(1))) == ERROR
        with pytest.raises(ToolstackError, match="in use by another domain"):
            await world.attach(device, vdev="xvdb")

    try:
        play(scenario)
        assert file.read_bytes()[-4096:] == b"\x5a" * 4096
    finally:
        subprocess.run(["losetup", "--detach", str(device)], check=True)

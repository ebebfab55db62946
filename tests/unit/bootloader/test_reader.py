"""Kernel and ramdisk from disks of all sorts: file systems and partition tables of e2fsprogs and sfdisk, and damaged ones."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyxen.guests.disk_files import find_program
from pyxen.toolstack.bootloader import pygrub
from pyxen.toolstack.bootloader.errors import BootError
from pyxen.toolstack.bootloader.reader import DiskReader, Found, ReaderOptions
from pyxen.toolstack.configuration import DomainConfig
from pyxen.toolstack.errors import ToolstackError

MIB = 1 << 20
KERNEL = random.Random(1).randbytes(3 * MIB + 12345)
RAMDISK = random.Random(2).randbytes(MIB // 2 + 7)
MENU = "menuentry 'a' {\n linux /vmlinuz root=/dev/xvda1 ro\n initrd /boot/first /boot/initrd\n}\n"


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system: links, a kernel with a hole, a folder with many files, and two ramdisks."""
    root = tmp_path_factory.mktemp("tree")
    (root / "boot/grub").mkdir(parents=True)
    (root / "boot/grub/grub.cfg").write_text(MENU)
    (root / "boot/initrd").write_bytes(RAMDISK)
    (root / "boot/first").write_bytes(b"first")
    with (root / "boot/vmlinuz-1").open("wb") as kernel:
        kernel.write(KERNEL)
        kernel.seek(6 * MIB)
        kernel.write(b"end")
    deep = root / "boot" / ("a-folder-whose-name-makes-the-link-longer-than-sixty-bytes" * 2)
    deep.mkdir()
    (deep / "link").symlink_to("../vmlinuz-1")
    (root / "vmlinuz").symlink_to(f"/boot/../boot/{deep.name}/link")
    for number in range(400):
        (root / "boot" / f"file-{number}").touch()
    return root


def make_file_system(tree: Path, image: Path, *options: str, size: int = 24 * MIB) -> None:
    command = [find_program("mke2fs", "e2fsprogs"), "-q", "-F", *options, "-d", str(tree), str(image), f"{size >> 10}k"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def outputs() -> Iterator[tuple[int, int]]:
    kernel, ramdisk = os.memfd_create("kernel"), os.memfd_create("ramdisk")
    yield kernel, ramdisk
    os.close(kernel)
    os.close(ramdisk)


def read(image: Path, outputs: tuple[int, int], options: ReaderOptions | None = None) -> Found:
    descriptor = os.open(image, os.O_RDONLY)
    try:
        return DiskReader(descriptor, *outputs).copy(options or ReaderOptions())
    finally:
        os.close(descriptor)


def content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def check(image: Path, outputs: tuple[int, int], options: ReaderOptions | None = None) -> None:
    assert read(image, outputs, options) == Found("/vmlinuz", "/boot/first /boot/initrd", "root=/dev/xvda1 ro")
    assert content(outputs[0]) == KERNEL + bytes(6 * MIB - len(KERNEL)) + b"end"
    assert content(outputs[1]) == b"first\0\0\0" + RAMDISK


@pytest.mark.parametrize(
    "options",
    [
        ("-t", "ext2", "-b", "1024"),
        ("-t", "ext2", "-b", "4096", "-I", "128"),
        ("-t", "ext3", "-b", "2048"),
        ("-t", "ext4", "-b", "1024"),
        ("-t", "ext4", "-b", "4096", "-O", "64bit,metadata_csum"),
        ("-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode"),
        ("-t", "ext4", "-O", "^64bit,^flex_bg,^dir_index"),
        ("-r", "0", "-b", "1024"),
    ],
    ids=" ".join,
)
def test_file_systems(tree: Path, tmp_path: Path, outputs: tuple[int, int], options: tuple[str, ...]) -> None:
    image = tmp_path / "disk.img"
    make_file_system(tree, image, *options)
    check(image, outputs)


def table(*entries: tuple[int, int, int, int]) -> bytes:
    """A partition table: flag, type, first sector, sectors."""
    packed = b"".join(struct.pack("<B3xB3xII", *entry) for entry in entries)
    return bytes(446) + packed.ljust(64, b"\0") + b"\x55\xaa"


def gpt(*partitions: tuple[int, int]) -> bytes:
    """The first sectors of a disk with GPT, whose entries begin at sector 2: first and last sector of each."""
    header = struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, 1, 65535, 34, 65000, bytes(16), 2, 128, 128, 0)
    entries = b"".join(struct.pack("<16s16sQQ80x", uuid.uuid4().bytes, uuid.uuid4().bytes, *place) for place in partitions)
    return table((0, 0xEE, 1, 65535)) + header.ljust(512, b"\0") + entries


@pytest.mark.parametrize(
    "tables",
    [
        {0: table((0, 0x82, 2048, 2048), (0x80, 0x83, 8192, 49152))},
        {0: table((0, 5, 2048, 60000)), 2048: table((0, 0x83, 64, 64), (0, 5, 4096, 52000)), 6144: table((0, 0x83, 2048, 49152))},
        {0: gpt((2048, 4095), (8192, 57343))},
    ],
    ids=["primary", "logical", "gpt"],
)
def test_partitions(tree: Path, tmp_path: Path, outputs: tuple[int, int], tables: dict[int, bytes]) -> None:
    file_system = tmp_path / "part.img"
    make_file_system(tree, file_system, "-t", "ext4")
    image = tmp_path / "disk.img"
    with image.open("wb") as disk:
        disk.truncate(32 * MIB)
        for sector, written in {**tables, 8192: file_system.read_bytes()}.items():
            disk.seek(sector * 512)
            disk.write(written)
    check(image, outputs)
    check(image, outputs, ReaderOptions(offset=8192 * 512))
    with pytest.raises(BootError, match="no ext2"):
        read(image, outputs, ReaderOptions(offset=2048 * 512))


def test_extended_partitions_in_a_circle(tmp_path: Path, outputs: tuple[int, int]) -> None:
    image = tmp_path / "disk.img"
    with image.open("wb") as disk:
        disk.write(table((0, 5, 8, 100)))
        disk.seek(8 * 512)
        disk.write(table((0, 5, 0, 100)))
        disk.truncate(MIB)
    with pytest.raises(BootError, match="no ext2"):
        read(image, outputs)


def test_named_files(tree: Path, tmp_path: Path, outputs: tuple[int, int]) -> None:
    image = tmp_path / "disk.img"
    make_file_system(tree, image, "-t", "ext4")
    found = read(image, outputs, ReaderOptions(kernel="/boot/first", ramdisk="/boot/initrd"))
    assert (found.kernel, found.arguments) == ("/boot/first", "")
    assert (content(outputs[0]), content(outputs[1])) == (b"first", RAMDISK)
    for path, words in (("/boot/none", "is not there"), ("/boot", "is no file"), ("/boot/first/x", "is not there")):
        with pytest.raises(BootError, match=words):
            read(image, outputs, ReaderOptions(kernel=path))


def test_links_in_a_circle(tmp_path: Path, outputs: tuple[int, int]) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "vmlinuz").symlink_to("a/vmlinuz")
    (root / "a").symlink_to(".")
    make_file_system(root, tmp_path / "disk.img", "-t", "ext4", size=8 * MIB)
    with pytest.raises(BootError, match="too many symbolic links"):
        read(tmp_path / "disk.img", outputs, ReaderOptions(kernel="/vmlinuz"))


@pytest.mark.parametrize("options", [("-t", "ext2", "-b", "1024"), ("-t", "ext4", "-b", "1024")], ids=["ext2", "ext4"])
def test_damaged_disks_are_errors_of_one_line(tree: Path, tmp_path: Path, outputs: tuple[int, int], options: tuple[str, ...]) -> None:
    """Bits turned over, where file systems keep what they know about themselves: an answer or an error, at once."""
    image = tmp_path / "disk.img"
    make_file_system(tree, image, *options)
    sound = image.read_bytes()
    used = [block for block in range(len(sound) // 1024) if any(sound[block * 1024 : block * 1024 + 1024])]
    chance = random.Random(3)
    failures = 0
    descriptor = os.open(image, os.O_RDWR)
    for _ in range(100):
        damaged = [chance.choice(used[:400]) * 1024 + chance.randrange(1024) for _ in range(chance.choice((1, 20, 200)))]
        for place in damaged:
            os.pwrite(descriptor, bytes([chance.choice((0, 0xFF, chance.randrange(256)))]), place)
        try:
            DiskReader(descriptor, *outputs).copy(ReaderOptions())
        except BootError as error:
            failures += 1
            assert "\n" not in str(error)
        for place in damaged:
            os.pwrite(descriptor, sound[place : place + 1], place)
    os.close(descriptor)
    assert failures > 5
    check(image, outputs)


def config(image: Path, *arguments: str, **settings: object) -> DomainConfig:
    mapping = {"name": "x", "bootloader": "pygrub", "disk": [f"{image},raw,xvda,w"], "bootloader_args": list(arguments)}
    return DomainConfig.from_mapping(mapping | settings)[0]


def test_through_the_process_of_its_own(tree: Path, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    make_file_system(tree, image, "-t", "ext4")
    before = len(os.listdir("/proc/self/fd"))
    with pygrub.boot_files(config(image, "--args=single", "-q")) as found:
        assert Path(found.ramdisk_path).read_bytes() == b"first\0\0\0" + RAMDISK
        assert Path(found.kernel_path).read_bytes()[: len(KERNEL)] == KERNEL
        assert (found.kernel_name, found.arguments) == ("/vmlinuz", "root=/dev/xvda1 ro single")
    with pygrub.boot_files(config(image, kernel="/boot/first", cmdline="root=me")) as found:
        assert Path(found.kernel_path).read_bytes() == b"first"
        assert (found.ramdisk_path, found.arguments) == ("", "root=me")
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_the_user_is_told(tmp_path: Path) -> None:
    empty = tmp_path / "empty.img"
    empty.write_bytes(bytes(MIB))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for made, words in (
        (config(empty), f"bootloader: disk {empty}: no ext2, ext3 or ext4 file system"),
        (config(tmp_path / "none.img"), "No such file"),
        (config(fifo), "neither a file nor a block device"),
        (config(empty, "--frobnicate"), "bootloader_args: unrecognized arguments: --frobnicate"),
        (config(empty, "--offset=-1"), "must not be negative"),
        (config(empty, disk=[]), "has no disk"),
        (config(empty, disk=[f"{empty},qcow2,xvda,w"]), "raw disks only"),
    ):
        with pytest.raises(ToolstackError) as caught, pygrub.boot_files(made):
            pass
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_answer_of_a_reader_under_foreign_control() -> None:
    for output in (b"", b"[]", b"{}", b"\xff", b'{"kernel": 3}', b'{"error": "a\\u001b[2Jb"}'):
        with pytest.raises(BootError) as caught:
            pygrub._answer(0, output)
        assert str(caught.value).isprintable()


def test_the_reader_has_nothing_but_its_files(tmp_path: Path) -> None:
    """What a hostile disk could make the reader do is refused by the kernel."""
    program = (
        "import os, socket, sys, errno\n"
        "from pyxen.toolstack.bootloader import sandbox\n"
        "sandbox.enter(4096)\n"
        "done = []\n"
        "for name, call in {'open': lambda: os.open('/etc/passwd', 0), 'socket': socket.socket, 'fork': os.fork,\n"
        "                   'kill': lambda: os.kill(os.getppid(), 0), 'unlink': lambda: os.unlink(sys.argv[1])}.items():\n"
        "    try:\n        call()\n        done.append(name)\n"
        "    except OSError as error:\n        assert error.errno == errno.EPERM, error\n"
        "os.write(1, repr(done).encode())\nos._exit(0)\n"
    )
    target = tmp_path / "precious"
    target.touch()
    source = str(Path(pygrub.__file__).parents[3])
    finished = subprocess.run(
        [sys.executable, "-c", program, str(target)],
        env=os.environ | {"PYTHONPATH": source},
        capture_output=True,
        check=False,
    )
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, b"[]", b"")
    assert target.exists()

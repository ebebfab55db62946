"""A Debian image for tests, built once into the cache, and a Debian that has booted from a copy of it."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
from pathlib import Path

import pyxen
from pyxen.guests import debian_files, debian_image, disk_files
from pyxen.guests.debian_image import DebianImage
from pyxen.guests.disk_files import find_program
from pyxen.guests.packages import cache_directory
from tests.linux.linux_guest import PROMPT, LinuxGuest

PASSWORD = "geheim"
SIZE = 2 << 30
INCLUDE = ("fio", "iperf3")
#: Debian's boot on a busy machine, in seconds.
BOOT_LIMIT = 300


def built_image() -> Path:
    """The image, in the cache; made if what makes it has changed. Several processes may call this: one builds, the others wait."""
    sources = b"".join(Path(str(module.__file__)).read_bytes() for module in (debian_files, debian_image, disk_files))
    sources += repr(INCLUDE).encode()
    folder = cache_directory() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"test-debian-{hashlib.sha256(sources).hexdigest()[:16]}.img"
    with (folder / "test-debian.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            for old in folder.glob("test-debian-*.img"):
                old.unlink()
            DebianImage(path, PASSWORD, SIZE, include=INCLUDE).build()
    return path


def copied(image: Path, path: Path) -> Path:
    """A copy that may be written, with the holes of the image."""
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", image, path], check=True)
    return path


def fsck(image: Path, *options: str) -> int:
    """e2fsck's status: 0 clean, 1 repaired, 4 and above errors."""
    return subprocess.run([find_program("e2fsck", "e2fsprogs"), *options, image], check=False).returncode


def content(image: Path, path: str) -> bytes:
    """A file of the image's file system, as e2fsprogs read it."""
    command = [find_program("debugfs", "e2fsprogs"), "-R", f"cat {path}", str(image)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout


def logged_in(domain: pyxen.Domain) -> LinuxGuest:
    """Debian has booted to its login prompt, and root's shell answers on the console."""
    console = domain.console
    console.expect("login: ", BOOT_LIMIT)
    console.send("root\n")
    console.expect("assword: ", BOOT_LIMIT)
    console.send(f"{PASSWORD}\n")
    console.expect(r"root@\S+# ", BOOT_LIMIT)
    # A shell that echoes what is typed and nothing else, for what reads the console.
    console.send(f"exec env TERM=dumb PS1='{PROMPT}' bash --norc --noprofile --noediting\n")
    guest = LinuxGuest(domain)
    guest.wait_for_prompt()
    guest.wait_for_prompt()  # the first was in the echo
    guest.run("stty columns 500; dmesg -n 1")
    return guest


def power_off(guest: LinuxGuest) -> None:
    guest.domain.console.send("sync; poweroff\n")
    guest.domain.wait("destroyed", BOOT_LIMIT)

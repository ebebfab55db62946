"""A disk image with a Debian that boots in a domain: bootstrapped by mmdebstrap, without mounting anything and without root.

The image is one ext4 file system over the whole disk, with a kernel, a ramdisk and GRUB's menu in /boot. mmdebstrap writes an archive
of the root file system; it is unpacked and put into the image by programs that believe to be root (fakeroot), if we are not.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from pyxen.guests.debian_files import WORK_FOLDER, GuestSettings, early_files, late_files
from pyxen.guests.disk_files import FileSystemMaker, ImageError, convert, find_program, find_qemu_img
from pyxen.guests.packages import PackageError, fetch_tool

PACKAGES = ("linux-image-amd64", "initramfs-tools", "systemd-sysv", "systemd-resolved", "udev", "dbus", "kmod", "iproute2", "e2fsprogs")
FORMATS = ("raw", "qcow2")
DEFAULT_SIZE = 4 << 30
#: What the packages above need, with room for one upgrade of the kernel.
LEAST_SIZE = 1 << 30
MOST_SIZE = 16 << 40

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_STAGE = re.compile(r"I: (running apt-get update|downloading|extracting|installing|cleaning|making)([^:/]*)\.\.\.$")
_SUITE = re.compile(r"[a-z][a-z0-9-]{0,63}")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.:~-]+")
_HOSTNAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_GRACE = 10.0

Report = Callable[[str], None]


@dataclass(frozen=True)
class DebianImage:
    """What image is wanted."""

    path: Path
    root_password: str
    size: int = DEFAULT_SIZE  #: of the disk, in bytes
    image_format: str = "raw"
    suite: str = "bookworm"
    include: tuple[str, ...] = ()  #: packages beside ``PACKAGES``
    hostname: str = "debian"
    ssh_key: str = ""  #: lines of an authorized_keys file for root
    mirror: str = ""  #: of the Debian archive; empty: deb.debian.org with updates and security
    kernel_arguments: str = "quiet"
    packages: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Raises ImageError for what can't be."""
        for value, pattern, what in (
            (self.suite, _SUITE, "name of a Debian release"),
            (self.hostname, _HOSTNAME, "host name"),
            *((name, _PACKAGE, "name of a package") for name in self.include),
        ):
            if not pattern.fullmatch(value):
                raise ImageError(f"{value!r} is no {what}")
        if self.image_format not in FORMATS:
            raise ImageError(f"unknown format {self.image_format!r}; it must be one of: {', '.join(FORMATS)}")
        if not LEAST_SIZE <= self.size <= MOST_SIZE:
            raise ImageError(f"a size of {self.size} bytes; it must be {LEAST_SIZE >> 20} MiB to {MOST_SIZE >> 40} TiB")
        for text, what in (
            (self.root_password, "the password"),
            (self.kernel_arguments, "the kernel's arguments"),
            (self.mirror, "the mirror"),
        ):
            if any(character < " " for character in text):
                raise ImageError(f"{what} must be one line")
        if not self.root_password:
            raise ImageError("the password must not be empty")
        if self.mirror and not self.mirror.startswith(("http://", "https://", "file:///")):
            raise ImageError(f"the mirror {self.mirror!r} is no http, https or file URL")
        server = ("openssh-server",) if self.ssh_key else ()
        object.__setattr__(self, "packages", (*PACKAGES, *server, *self.include))

    def build(self, report: Report = lambda line: None) -> None:
        """Make it; ``report`` gets a line about each step. Takes a minute or more. Raises ImageError, and then leaves nothing behind."""
        if self.path.exists():
            raise ImageError(f"{self.path} is there already; remove it, or choose another name")
        try:
            with _scratch_folder(self.path) as scratch:
                _Build(self, scratch, report).run()
        except PackageError as error:
            raise ImageError(str(error)) from error
        except OSError as error:
            raise ImageError(f"{self.path} can't be made: {error.strerror or error}") from error


@contextlib.contextmanager
def _scratch_folder(image: Path) -> Iterator[Path]:
    """Beside the image, so that the image can be renamed to its place."""
    folder = Path(tempfile.mkdtemp(prefix=f".{image.name}.", dir=image.parent))
    try:
        folder.chmod(0o755)  # mmdebstrap's apt may work as a user of its own
        yield folder
    finally:
        shutil.rmtree(folder, onerror=_make_removable)


def _make_removable(function: Callable[..., Any], path: str, _: object) -> None:
    """An unpacked folder may refuse its owner."""
    with contextlib.suppress(OSError):
        os.chmod(os.path.dirname(path), stat.S_IRWXU)
        os.chmod(path, stat.S_IRWXU)
        function(path)


class _Build:
    """One build in ``scratch``."""

    def __init__(self, image: DebianImage, scratch: Path, report: Report) -> None:
        self._image = image
        self._scratch = scratch
        self._report = report
        self._uuid = _file_system_uuid(image)
        self._file_system = FileSystemMaker(scratch)
        # Missing, it had better be said before the long part.
        self._qemu_img = find_qemu_img(report) if image.image_format != "raw" else ""

    def run(self) -> None:
        root = self._scratch / "root"
        root.mkdir()
        raw = self._scratch / "disk.raw"
        self._bootstrap(root, raw)
        finished = raw
        if self._image.image_format != "raw":
            self._report(f"converting to {self._image.image_format}")
            finished = self._scratch / "disk"
            convert(self._qemu_img, raw, finished, self._image.image_format)
        try:
            os.link(finished, self._image.path)  # unlike a rename, it never replaces a file that has come meanwhile
        except FileExistsError:
            raise ImageError(f"{self._image.path} is there already; remove it, or choose another name") from None

    def _bootstrap(self, root: Path, raw: Path) -> None:
        """mmdebstrap's archive is unpacked as it comes; then the file system is made of it."""
        mode = _mode()
        environment = os.environ | self._file_system.environment() | {"LC_ALL": "C"}
        if mode != "unshare":  # its root is another user, who may not see our folder; and it removes its own
            environment["TMPDIR"] = str(self._scratch)
        make = self._file_system.command(root, raw, self._image.size, self._uuid, "root")
        unpack = ["tar", "-x", "-p", "--numeric-owner", "--exclude=./dev/*", "-C", str(root)]
        script = f"{shlex.join(unpack)} && echo 'I: making the file system...' >&2 && {shlex.join(make)}"
        with self._process(self._mmdebstrap(mode), environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as bootstrap:
            with self._process(
                [*self._as_root(), "sh", "-c", script], environment, stdin=bootstrap.stdout, stdout=subprocess.DEVNULL
            ) as maker:
                assert bootstrap.stdout is not None
                bootstrap.stdout.close()
                bootstrap_error = self._follow(bootstrap)
                if bootstrap.wait():
                    raise ImageError(f"mmdebstrap failed: {bootstrap_error}")
                maker_error = self._follow(maker)
                if maker.wait():
                    raise ImageError(f"the file system of {self._image.size >> 20} MiB can't be made: {maker_error}")

    @contextlib.contextmanager
    def _process(self, command: list[str], environment: dict[str, str], **files: Any) -> Iterator[subprocess.Popen[str]]:
        """A program that is gone with all its children when this ends."""
        process = subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True, **files
        )
        try:
            yield process
        finally:
            # mmdebstrap cleans up when it is asked to end; what then still stands is killed.
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_GRACE)
            if process.stderr is not None:
                process.stderr.close()

    def _follow(self, process: subprocess.Popen[str]) -> str:
        """Report its steps, until it closes its standard error. -> its first error: those after it only follow from that."""
        output: IO[str] | None = process.stderr
        assert output is not None
        error, last = "", "no message"
        for line in output:
            line = line.strip()
            stage = _STAGE.match(line)
            if stage:
                self._report(stage[1] + stage[2])
            elif line.startswith("E: "):
                error = error or line.removeprefix("E: ")
            elif line and not line.startswith(("I: ", "W: ")):
                last = line
        return error or last

    def _mmdebstrap(self, mode: str) -> list[str]:
        image = self._image
        settings = GuestSettings(self._uuid, image.hostname, image.root_password, image.ssh_key, image.kernel_arguments)
        early, late = self._scratch / "early.tar", self._scratch / "late.tar"
        for path, content in ((early, early_files(settings)), (late, late_files(settings))):
            path.touch(mode=0o600)
            path.write_bytes(content)
        options = [
            f"--mode={mode}",
            "--variant=minbase",
            "--format=tar",
            f"--include={','.join(image.packages)}",
            "--dpkgopt=force-unsafe-io",  # a build that is interrupted is thrown away
            f"--essential-hook=tar-in {shlex.quote(str(early))} /",
            f"--customize-hook=tar-in {shlex.quote(str(late))} /",
            f'--customize-hook=chroot "$1" sh -c "cd /{WORK_FOLDER} && sh ./finish"',
            f'--customize-hook=rm -r "$1/{WORK_FOLDER}"',
        ]
        if not _KEYRING.exists():
            options.append(f"--keyring={fetch_tool('debian-archive-keyring', self._report) / str(_KEYRING).lstrip('/')}")
        return [*_own_mounts(), *self._program(), *options, image.suite, "-", *([image.mirror] if image.mirror else [])]

    def _program(self) -> list[str]:
        """mmdebstrap of the machine, or unpacked for us alone: it is one script."""
        find_program("apt-get", "apt")
        installed = shutil.which("mmdebstrap")
        if installed:
            return [installed]
        return [find_program("perl", "perl"), str(fetch_tool("mmdebstrap", self._report) / "usr/bin/mmdebstrap")]

    def _as_root(self) -> list[str]:
        """Prefix of a command that must see the owners of files as they will be."""
        if os.geteuid() == 0:
            return []
        if shutil.which("fakeroot"):
            return ["fakeroot", "--"]
        program = fetch_tool("fakeroot", self._report) / "usr/bin"
        [library] = (fetch_tool("libfakeroot", self._report) / "usr/lib").glob("*/libfakeroot/libfakeroot-sysv.so")
        return ["sh", str(program / "fakeroot-sysv"), "--lib", str(library), "--faked", str(program / "faked-sysv"), "--"]


def _file_system_uuid(image: DebianImage) -> str:
    """Random; but when a build is asked to be reproducible (SOURCE_DATE_EPOCH), made of what is asked for."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        return str(uuid.uuid4())
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"pyxen:{epoch}:{image.suite}:{image.hostname}:{','.join(image.packages)}"))


def _mode() -> str:
    """How mmdebstrap may run maintainer scripts "as root" here. Raises ImageError."""
    if os.geteuid() == 0:
        return "root"
    if shutil.which("newuidmap") and _has_subordinate_ids():
        return "unshare"
    if shutil.which("fakechroot") and shutil.which("fakeroot"):
        return "fakechroot"
    raise ImageError(
        "as an ordinary user, installing packages needs the package uidmap and a line for you in /etc/subuid and /etc/subgid,"
        " or the packages fakechroot and fakeroot"
    )


def _has_subordinate_ids() -> bool:
    names = (getpass.getuser(), str(os.getuid()))
    for path in (Path("/etc/subuid"), Path("/etc/subgid")):
        try:
            lines = path.read_text().splitlines()
        except OSError:
            return False
        if not any(line.split(":")[0] in names for line in lines):
            return False
    return True


def _own_mounts() -> list[str]:
    """Root may mount /proc for maintainer scripts: in a name space of its own, so that nothing stays mounted if it is killed."""
    command = ["unshare", "--mount", "--"]
    if os.geteuid() or subprocess.run([*command, "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode:
        return []
    return command

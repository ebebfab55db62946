"""The distribution's guest packages, unpacked in a cache directory: nothing is installed and root is not needed.

apt does the work, because it knows the machine's mirrors and proxies and checks the archive's signatures; but its state and
its cache live under the cache directory of pyxen, and packages are unpacked there instead of being installed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import lzma
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

#: The kernel's meta-packages of Debian and Ubuntu; the first one that the machine's sources have is taken.
KERNEL_META_PACKAGES = ("linux-image-amd64", "linux-image-generic")
#: The same of Debian's 32-bit kernel, for PVH domains, and what is unpacked beside it.
I386_KERNEL_META_PACKAGES = ("linux-image-686-pae",)
I386_PACKAGES = ("busybox-static",)
#: What else is unpacked: a static busybox for ramdisks; GRUB's PV images; the tools and headers that pyxen is compared with.
PLAIN_PACKAGES = ("busybox-static", "grub-xen-bin", "grub-xen-host", "libxen-dev", "xenstore-utils", "libxenstore4", "libxentoolcore1")
#: Unpacked where the machine's sources have it: Xen's own test programs, of the version that pyxen presents.
OPTIONAL_PACKAGES = ("xen-utils-4.17",)
#: Package lists younger than this (seconds) are not fetched again.
LISTS_LIFETIME = 24 * 3600
#: Bump when what is unpacked from the same packages changes.
LAYOUT = 3
#: What is unpacked of a kernel package. Of its modules only the PV drivers: the rest is nine tenths of its size. Some kernels have them
#: built in.
KERNEL_FILES = ("./boot/*", "*/kernel/drivers/block/xen-blkfront.ko*", "*/kernel/drivers/net/xen-netfront.ko*")

Report = Callable[[str], None]


@dataclass(frozen=True)
class _Selection:
    """What is fetched for guests of an architecture. ``suffix``: of the names of its folders in the cache."""

    architecture: str
    suffix: str
    kernel_meta_packages: tuple[str, ...]
    packages: tuple[str, ...]
    optional_packages: tuple[str, ...]


def _selection(architecture: str) -> _Selection:
    if architecture == "i386":
        return _Selection("i386", "-i386", I386_KERNEL_META_PACKAGES, I386_PACKAGES, ())
    return _Selection("amd64", "", KERNEL_META_PACKAGES, PLAIN_PACKAGES, OPTIONAL_PACKAGES)


class PackageError(Exception):
    """Guest packages could not be fetched. The message is one line for the user: what failed and what to do about it."""


@dataclass(frozen=True)
class GuestPackages:
    """The unpacked packages.."""

    root: Path  #: as ``/`` of a machine on which the packages were installed
    kernel: Path  #: the distribution's bzImage
    kernel_release: str  #: as ``uname -r`` in the guest says it

    @property
    def busybox(self) -> Path:
        """A statically linked busybox."""
        return next(path for path in (self.root / "bin/busybox", self.root / "usr/bin/busybox") if path.exists())

    def module(self, name: str) -> bytes | None:
        """A PV driver of the kernel ("xen-blkfront"), for insmod; None if it is built in."""
        for path in sorted(self.root.glob(f"**/lib/modules/{self.kernel_release}/kernel/drivers/*/{name}.ko*")):
            content = path.read_bytes()
            return lzma.decompress(content) if path.suffix == ".xz" else content
        return None

    @property
    def grub_x86_64_xen(self) -> Path:
        """GRUB as a 64-bit PV kernel (package grub-xen-host; its prefix is the first disk, and it falls back to a prompt)."""
        return self.root / "usr/lib/grub-xen/grub-x86_64-xen.bin"

    @property
    def grub_i386_xen_pvh(self) -> Path:
        """GRUB as a 32-bit PVH kernel (package grub-xen-host, as the other)."""
        return self.root / "usr/lib/grub-xen/grub-i386-xen_pvh.bin"

    @property
    def xen_headers(self) -> Path:
        """The directory that has ``xen/xen.h``: Xen's public headers."""
        return self.root / "usr/include"

    @property
    def xenstore_utils(self) -> Path:
        """The directory of xenstore-ls, xenstore-read and the others. They need ``library_path``."""
        return self.root / "usr/bin"

    @property
    def library_path(self) -> Path:
        """For ``LD_LIBRARY_PATH`` of the programs in ``xenstore_utils``."""
        return self.root / "usr/lib/x86_64-linux-gnu"


def cache_directory() -> Path:
    """Where pyxen caches: ``$PYXEN_CACHE_DIR``, else ``~/.cache/pyxen``. It need not exist yet."""
    override = os.environ.get("PYXEN_CACHE_DIR")
    return Path(override) if override else Path.home() / ".cache" / "pyxen"


def fetch(report: Report = lambda line: None, *, renew: bool = False, architecture: str = "amd64") -> GuestPackages:
    """Return the guest packages; download and unpack them first if the cache has none, or if ``renew`` is set.

    ``architecture``: "amd64", or "i386" for Debian's 32-bit kernel and busybox alone. The machine's dpkg need not know it.
    Needs no network once the cache is filled. May be called by several processes at once: one fetches, the others wait.
    ``report`` gets a line about each long step. Raises PackageError.
    """
    cache = cache_directory()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / "packages.lock"):
            selection = _selection(architecture)
            packages = None if renew else _cached(cache, selection)
            return packages or _fill(cache, selection, report)
    except OSError as error:
        raise PackageError(f"cannot use the cache directory {cache}: {error.strerror} (set PYXEN_CACHE_DIR to another one)") from error


def tool_directory(package: str) -> Path:
    """Where ``fetch_tool`` unpacks a package, as ``/`` of a machine that has it installed. It need not exist yet."""
    return cache_directory() / "tools" / package


def fetch_tool(package: str, report: Report = lambda line: None, files: Sequence[str] = ()) -> Path:
    """Return ``tool_directory`` of a package; download and unpack it if it is not there, without what it depends on.

    ``files``: only what matches one of these patterns of tar's ("*/virtio*.ko*"). Raises PackageError."""
    directory = tool_directory(package)
    if files:  # another selection of the same package is another folder
        directory = directory.with_name(f"{package}.{hashlib.sha256(repr(tuple(files)).encode()).hexdigest()[:12]}")
    cache = cache_directory()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / "packages.lock"):
            if not directory.exists():
                apt = _Apt(cache / "apt")
                apt.update()
                with tempfile.TemporaryDirectory(prefix="unpack.", dir=cache) as scratch_name:
                    scratch = Path(scratch_name)
                    report(f"downloading {package}")
                    root = scratch / "root"
                    root.mkdir()
                    for archive in apt.download((package,), scratch):
                        _unpack(archive, root, files)
                    directory.parent.mkdir(exist_ok=True)
                    root.rename(directory)
        return directory
    except OSError as error:
        raise PackageError(f"cannot use the cache directory {cache}: {error.strerror} (set PYXEN_CACHE_DIR to another one)") from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _manifest(root: Path) -> Path:
    return root / ".pyxen-packages.json"


def _cached(cache: Path, selection: _Selection) -> GuestPackages | None:
    """What an earlier ``_fill`` left, if it is complete and of this layout. The manifest is written last."""
    root = cache / f"root{selection.suffix}"
    try:
        manifest = json.loads(_manifest(root).read_text())
        if manifest["layout"] != LAYOUT or not set(selection.packages) <= set(manifest["packages"]):
            return None
        release = str(manifest["kernel_release"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    kernel = root / "boot" / f"vmlinuz-{release}"
    return GuestPackages(root, kernel, release) if kernel.is_file() else None


def _fill(cache: Path, selection: _Selection, report: Report) -> GuestPackages:
    apt = _Apt(cache / f"apt{selection.suffix}", selection.architecture)
    report("reading the package lists")
    apt.update()
    kernel_package = _kernel_package(apt, selection.kernel_meta_packages)
    names = (kernel_package, *selection.packages, *(name for name in selection.optional_packages if apt.show(name)))
    # On the same file system as its destination, so that the rename at the end is atomic.
    with tempfile.TemporaryDirectory(prefix="unpack.", dir=cache) as scratch_name:
        scratch = Path(scratch_name)
        report(f"downloading {', '.join(names)}")
        archives = apt.download(names, scratch)
        report("unpacking")
        root = scratch / "root"
        root.mkdir()
        for archive in archives:
            _unpack(archive, root, KERNEL_FILES if archive.name.startswith("linux-image-") else ())
        kernels = sorted(root.glob("boot/vmlinuz-*"))
        if len(kernels) != 1:
            raise PackageError(f"the package {kernel_package} holds {len(kernels)} kernels in /boot; one was expected")
        release = kernels[0].name.removeprefix("vmlinuz-")
        manifest = {"layout": LAYOUT, "kernel_release": release, "packages": dict(_name_and_version(archive) for archive in archives)}
        _manifest(root).write_text(json.dumps(manifest, indent=1))
        destination = cache / f"root{selection.suffix}"
        if destination.exists():
            destination.rename(scratch / "replaced")
        root.rename(destination)
    packages = _cached(cache, selection)
    if packages is None:
        raise PackageError(f"the packages unpacked in {cache} are not complete")
    return packages


def _kernel_package(apt: _Apt, meta_packages: tuple[str, ...]) -> str:
    """The package that holds the kernel itself, which the meta-package depends on."""
    for meta in meta_packages:
        for dependency in re.findall(r"^Depends:(.*)$", apt.show(meta), re.MULTILINE):
            found = re.search(r"\blinux-image-[0-9][a-z0-9.+-]*", dependency)
            if found:
                return found.group()
    raise PackageError(f"the machine's package sources have no kernel package ({' or '.join(meta_packages)})")


def _name_and_version(archive: Path) -> tuple[str, str]:
    fields = archive.stem.split("_")
    return fields[0], fields[1].replace("%3a", ":")


def _unpack(archive: Path, root: Path, files: Sequence[str]) -> None:
    """Unpack a .deb: ``files``, or all of it if there are none."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as payload:
        command = ["tar", "-x", "--no-same-owner", "-C", str(root), *(["--wildcards", *files] if files else [])]
        unpacked = subprocess.run(command, stdin=payload.stdout, stderr=subprocess.PIPE, text=True, check=False)
    # A pattern that matches nothing is a failure for tar. That there is a kernel is checked by the caller.
    if (unpacked.returncode and not files) or payload.returncode:
        raise PackageError(f"cannot unpack {archive.name}: {_last_line(unpacked.stderr)}")


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no message"


class _Apt:
    """apt with state and cache of its own under ``directory``, and the machine's configuration and sources.

    ``architecture`` is that of all packages; dpkg is never asked, so it need not know it."""

    def __init__(self, directory: Path, architecture: str = "amd64") -> None:
        for program in ("apt-get", "apt-cache", "dpkg-deb"):
            if shutil.which(program) is None:
                raise PackageError(f"{program} not found: guest packages can only be fetched on Debian, Ubuntu and their like")
        self._lists = directory / "state" / "lists"
        self._updated = directory / "updated"
        self._configuration = directory / "apt.conf"
        for needed in (self._lists / "partial", directory / "cache" / "archives" / "partial"):
            needed.mkdir(parents=True, exist_ok=True)
        # The machine's hooks are meant for its own package database; with a private one they have nothing to do.
        self._configuration.write_text(
            "#clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n"
            f'Dir::State "{directory}/state";\nDir::State::lists "{self._lists}";\nDir::State::status "/dev/null";\n'
            f'Dir::Cache "{directory}/cache";\nDir::Cache::archives "{directory}/cache/archives";\nDebug::NoLocking "true";\n'
            f'APT::Sandbox::User "root";\nAPT::Architecture "{architecture}";\nAPT::Architectures {{ "{architecture}"; }};\n'
            'Acquire::Languages "none";\nAcquire::Retries "3";\nAPT::Get::List-Cleanup "true";\n'
        )

    def update(self) -> None:
        """Fetch the package lists, unless young ones are there. Raises PackageError when there are none at all in the end: with some, it
        turns out when packages are asked for whether they are enough."""
        with contextlib.suppress(FileNotFoundError):
            if time.time() - self._updated.stat().st_mtime < LISTS_LIFETIME:
                return
        try:
            self._run("apt-get", "update", "--error-on=any", failure="cannot fetch the package lists")
        except PackageError:
            if not any(self._lists.glob("*_Packages*")):
                raise
        else:
            self._updated.touch()

    def show(self, name: str) -> str:
        """The control record of the newest version of a package, or an empty string."""
        return self._call("apt-cache", "show", "--no-all-versions", name).stdout

    def download(self, names: tuple[str, ...], directory: Path) -> list[Path]:
        """Download packages into ``directory``. Lists may be older than the mirror: a miss is tried once more with new ones."""
        if self._call("apt-get", "download", *names, directory=directory).returncode:
            self._updated.unlink(missing_ok=True)
            self.update()
            self._run("apt-get", "download", *names, directory=directory, failure="cannot download the guest packages")
        return sorted(directory.glob("*.deb"))

    def _run(self, *command: str, failure: str, directory: Path | None = None) -> None:
        finished = self._call(*command, directory=directory)
        if finished.returncode:
            errors = [line.removeprefix("E: ") for line in finished.stderr.splitlines() if line.startswith("E: ")]
            reason = errors[0] if errors else _last_line(finished.stderr)
            raise PackageError(f"{failure}: {reason} (is the network there? the sources are the machine's, in /etc/apt)")

    def _call(self, program: str, *arguments: str, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = [program, "-q", "-c", str(self._configuration), *arguments]
        environment = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        return subprocess.run(
            command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
        )

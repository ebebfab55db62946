"""The small ramdisk of demos, tests and benchmarks: a static busybox and a shell on the console."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from pyxen.guests.cpio import Archive
from pyxen.guests.packages import cache_directory

#: Links beside those in /bin: the kernel calls the first two by these paths when it is asked from outside to shut down or reboot.
_STOP_COMMANDS = ("sbin/poweroff", "sbin/reboot", "sbin/halt")


class Ramdisk:
    """Contents of an initial ramdisk. ``busybox`` is a statically linked one, ``programs`` maps names in /bin to executables."""

    def __init__(self, busybox: Path, programs: Mapping[str, bytes] | None = None) -> None:
        self._busybox = busybox
        self._programs = dict(programs or {})

    def content(self) -> bytes:
        """The cpio archive. Not compressed: the guest would spend longer on that than the host does on copying it."""
        archive = Archive()
        for directory in ("bin", "sbin", "proc", "sys", "dev", "tmp", "root", "etc"):
            archive.add_directory(directory)
        archive.add_character_device("dev/console", 5, 1)
        archive.add_character_device("dev/null", 1, 3, 0o666)
        archive.add_file("init", (resources.files("pyxen.guests") / "init.sh").read_bytes(), 0o755)
        archive.add_file("bin/busybox", self._busybox.read_bytes(), 0o755)
        for applet in self._applets():
            archive.add_link(f"bin/{applet}", "busybox")
        for command in _STOP_COMMANDS:
            archive.add_link(command, "../bin/busybox")
        for name, program in self._programs.items():
            archive.add_file(f"bin/{name}", program, 0o755)
        return archive.finish()

    def cached(self) -> Path:
        """A file in the cache directory with ``content``; written if it is not there."""
        content = self.content()
        path = cache_directory() / "ramdisk" / f"{hashlib.sha256(content).hexdigest()[:20]}.cpio"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Renamed when complete, so that another process never sees half of it.
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as partial:
                partial.write(content)
            os.chmod(partial.name, 0o644)
            os.rename(partial.name, path)
        return path

    def _applets(self) -> list[str]:
        listed = subprocess.run([self._busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
        return [applet for applet in listed if applet != "busybox" and applet not in self._programs]

"""A Linux guest at its shell's prompt, and what drives it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pyxen
from pyxen.guests.packages import GuestPackages

#: PYXEN_LONG=1: as often and as long as the promises say. Without: often enough to see that it works at all.
LONG = os.environ.get("PYXEN_LONG") == "1"
BOOT_TIMEOUT = 90.0
PROMPT = "guest# "


class LinuxGuest:
    """A domain whose kernel is Linux and whose console is the demo ramdisk's shell."""

    def __init__(self, domain: pyxen.Domain) -> None:
        self.domain = domain

    def wait_for_prompt(self, timeout: float = BOOT_TIMEOUT) -> None:
        """Return when the shell asks for a command."""
        self.domain.console.expect(re.escape(PROMPT), timeout)

    def run(self, command: str, timeout: float = 30.0) -> str:
        """Run a command that fits on the terminal's line, and return what it prints. It must succeed."""
        status, output = self.attempt(command, timeout)
        assert status == 0, f"{command!r} ended with status {status}: {output}"
        return output

    def attempt(self, command: str, timeout: float = 30.0) -> tuple[int, str]:
        """Run a command; its exit status, and what it prints."""
        # In the echo of the line "$?" stands where the number is in its output.
        self.domain.console.send(f"{command}; echo =$?=\n")
        match = self.domain.console.expect(r"\$\?=\r*\n(?P<output>(?s:.*?))=(?P<status>\d+)=\r*\n", timeout)
        self.wait_for_prompt(timeout)
        return int(match["status"]), match["output"].replace("\r", "")


BootLinux = Callable[..., LinuxGuest]


@contextlib.contextmanager
def linux_host(packages: GuestPackages, ramdisk: Path) -> Iterator[BootLinux]:
    """A host of the current run-time folder, as a function that boots a guest to its prompt: ``boot(name, wait=True, **settings)``."""
    with pyxen.Host() as host:

        def boot(name: str = "linux", *, wait: bool = True, **settings: object) -> LinuxGuest:
            defaults: dict[str, object] = {
                "kernel": str(packages.kernel),
                "ramdisk": str(ramdisk),
                "memory": 256,
                "cmdline": "console=hvc0",
            }
            guest = LinuxGuest(host.create(name=name, **(defaults | settings)))
            if wait:
                guest.wait_for_prompt()
                # Neither a late message of the kernel nor the wrapping of a line may come between what a test reads.
                guest.run("dmesg -n 1; stty columns 250")
            return guest

        yield boot

"""``pyxen demo``: Debian's kernel as a paravirtualised domain."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from pyxen.cli.console_session import ConsoleEnd
from pyxen.cli.failures import CommandFailed
from pyxen.cli.guest_files import guest_files
from pyxen.cli.guest_run import GuestRun, created_guest
from pyxen.guests.packages import PackageError, fetch
from pyxen.host.client import Client, Stream
from pyxen.host.protocol import (
    CONSOLE_ATTACH,
    CONSOLE_WRITE,
    DOMAIN_SHUTDOWN,
    ConsoleAttachRequest,
    ConsoleInput,
    ConsoleOutput,
    Nothing,
    ShutdownRequest,
)

PROMPT = b"guest# "
COMMANDS = (
    "uname -a",
    "cat /sys/hypervisor/type",
    "cat /sys/hypervisor/version/*",
    "dmesg | grep -i xen",
)
#: Seconds from one sign of life on the console to the next, and for the whole boot. Generous: machines of CI are slow and shared.
SILENCE_LIMIT = 120.0
BOOT_LIMIT = 300.0
SHUTDOWN_LIMIT = 60.0
MEMORY_MIB = 256


def run_demo(client: Client) -> int:
    """Interactive on a terminal; elsewhere a few commands, shown with their output. Returns the exit status."""
    with created_guest(client, _config(), "/") as guest:
        if sys.stdin.isatty() and sys.stdout.isatty():
            return _interactive(client, guest)
        return _Script(client, guest).run()


def _config() -> dict[str, Any]:
    try:
        files = guest_files(fetch(lambda line: print(f"pyxen: {line}", file=sys.stderr)))
    except PackageError as error:
        raise CommandFailed(str(error)) from None
    return {
        "name": f"demo-{os.getpid()}",
        "kernel": str(files.kernel),
        "ramdisk": str(files.ramdisk),
        "memory": MEMORY_MIB,
        "cmdline": "console=hvc0",
        "on_reboot": "destroy",
    }


def _interactive(client: Client, guest: GuestRun) -> int:
    print(f"pyxen: booting Debian's kernel as the domain {guest.name}; Ctrl-] leaves and shuts it down", file=sys.stderr)
    if guest.attach() is ConsoleEnd.LEFT:
        print(f"\npyxen: shutting down {guest.name}", file=sys.stderr)
        _shut_down(client, guest)
        return 0
    return guest.ending(SHUTDOWN_LIMIT).status


def _shut_down(client: Client, guest: GuestRun) -> None:
    client.call(DOMAIN_SHUTDOWN, ShutdownRequest(guest.domid), timeout=SHUTDOWN_LIMIT)
    ending = guest.ending(SHUTDOWN_LIMIT)
    if ending.status:
        raise CommandFailed(f"the guest did not shut down in order: {ending.crash_cause or ending.shutdown_reason or 'destroyed'}")


class _Script:
    """Types the commands at the guest's prompt and copies its console to the standard output."""

    def __init__(self, client: Client, guest: GuestRun) -> None:
        self._client = client
        self._guest = guest
        self._unseen = b""

    def run(self) -> int:
        with self._client.stream(CONSOLE_ATTACH, ConsoleAttachRequest(self._guest.domid)) as console:
            console.read(SILENCE_LIMIT)  # the host's word that it is attached
            self._guest.start()
            self._until_prompt(console, BOOT_LIMIT)
            for command in COMMANDS:
                self._type(command)
                self._until_prompt(console, SILENCE_LIMIT)
            _shut_down(self._client, self._guest)
            for output in console:
                self._show(output.data)
        print(flush=True)
        return 0

    def _type(self, command: str) -> None:
        data = command.encode() + b"\n"
        accepted = self._client.call(CONSOLE_WRITE, ConsoleInput(self._guest.domid, data)).accepted
        if accepted != len(data):
            raise CommandFailed(f"the guest does not read its console: it took {accepted} of {len(data)} bytes")

    def _until_prompt(self, console: Stream[ConsoleOutput, Nothing], limit: float) -> None:
        deadline = time.monotonic() + limit
        while PROMPT not in self._unseen:
            try:
                output = console.read(min(SILENCE_LIMIT, max(0.0, deadline - time.monotonic())))
            except TimeoutError:
                raise CommandFailed(f"the guest's prompt did not come within {limit:g} s") from None
            if output is None:
                ending = self._guest.ending(SHUTDOWN_LIMIT)
                raise CommandFailed(f"the guest ended before its prompt: {ending.crash_cause or ending.shutdown_reason or 'destroyed'}")
            self._show(output.data)
            self._unseen += output.data
        self._unseen = self._unseen.partition(PROMPT)[2]

    def _show(self, data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

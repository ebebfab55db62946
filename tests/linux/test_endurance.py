"""Guests under load and under constant interruption: a fault that comes once in a million must come here."""

from __future__ import annotations

import threading
import time

import pytest

from tests.linux.linux_guest import LONG, BootLinux, LinuxGuest

BOOTS = 20 if LONG else 2
COMPRESS_SECONDS = 600 if LONG else 20
#: Interruptions of one boot, at least; a free machine makes some thousands.
MOST_SELDOM = 200


class Interruptor:
    """Pauses and unpauses a domain as fast as the host answers: each time its vCPU stops wherever it happens to be."""

    def __init__(self, guest: LinuxGuest) -> None:
        self._domain = guest.domain
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.count = 0

    def __enter__(self) -> Interruptor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._domain.pause()
            self._domain.unpause()
            self.count += 1


@pytest.mark.long
@pytest.mark.timeout(120 + 60 * BOOTS)
def test_boots_under_constant_preemption(boot_linux: BootLinux) -> None:
    for number in range(BOOTS):
        guest = boot_linux(name=f"boot{number}", wait=False)
        with Interruptor(guest) as interruptor:
            guest.wait_for_prompt()
            assert guest.run("echo $((6*7))") == "42\n"
        assert interruptor.count > MOST_SELDOM
        assert guest.run("dmesg | grep -cE 'BUG:|WARNING:|Call Trace' || true") == "0\n"
        guest.domain.destroy()


@pytest.mark.long
@pytest.mark.timeout(180 + 2 * COMPRESS_SECONDS)
def test_compressing_without_a_fault(boot_linux: BootLinux) -> None:
    """Each round must give back what went in; a wrong bit anywhere in the machine shows as another checksum."""
    guest = boot_linux()
    guest.run("dd if=/bin/busybox of=/tmp/a bs=64k 2>/dev/null")
    expected = guest.run("sha256sum </tmp/a")
    deadline = time.monotonic() + COMPRESS_SECONDS
    rounds = 0
    while time.monotonic() < deadline:
        assert guest.run("gzip -c /tmp/a | gunzip | sha256sum", 120) == expected
        assert guest.run("bzip2 -c /tmp/a | bunzip2 | sha256sum", 120) == expected
        rounds += 1
    assert rounds > 0
    assert guest.run("dmesg | grep -cE 'BUG:|WARNING:|Call Trace' || true") == "0\n"

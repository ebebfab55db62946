"""A hostile domain beside a Linux one: whatever the first does, the second's memory stays what it is, and it is never stalled.

Every micro-guest is started again and again, most of which attack the hypervisor or die horribly, with others that act at random.
``PYXEN_LONG=1`` does that for half an hour.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyxen
from pyxen.guests.packages import GuestPackages
from tests.guests.build import Builder, Program, all_programs
from tests.linux.linux_guest import BootLinux, LinuxGuest, linux_host

LONG = os.environ.get("PYXEN_LONG") == "1"
ATTACK_SECONDS = 1800 if LONG else 20
QUIET_SECONDS = 20 if LONG else 5
#: What an attack may add to the longest gap between two heartbeats that there is without any.
ALLOWED_STALL = 1.0
#: CPU time of the work that says how busy the machine is with other things.
WORK_SECONDS = 0.02
#: No attacker lives longer.
ATTACK_LIMIT = 2.0

#: A file of random octets and one of a known pattern, both in the page cache, summed for ever; and a line every 100 ms with the guest's
#: clock. Typed in pieces, because a terminal's line has its limits.
VICTIM_SCRIPT = (
    "dd if=/dev/urandom of=/tmp/r bs=64k count=128 2>/dev/null",
    "yes known-pattern | head -c 8388608 >/tmp/k",
    "m() { md5sum </tmp/$1 | cut -c1-32; }",
    "s() { while :; do echo SUM $(m r) $(m k); done; }",
    "b() { while :; do read a c </proc/uptime; echo BEAT $a; sleep 0.1; done; }",
)


class Victim:
    """The Linux domain: reads what it says, in a thread, until ``stop``."""

    def __init__(self, guest: LinuxGuest) -> None:
        for line in VICTIM_SCRIPT:
            guest.run(line, timeout=60)
        self._guest = guest
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._listen, name="victim"), threading.Thread(target=self._measure, name="machine")]
        self.sums: list[str] = []
        self.beats: list[tuple[float, float]] = []  #: (the guest's clock, ours) of each heartbeat
        self.work: list[tuple[float, float]] = []  #: (when, seconds that a fixed piece of work took in this process)
        self.error: Exception | None = None

    def __enter__(self) -> Victim:
        self._guest.domain.console.send("s & b &\n")
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _measure(self) -> None:
        """What the machine gives to others at the same time."""
        while not self._stop.wait(0.1):
            before, used = time.monotonic(), time.thread_time()
            while time.thread_time() - used < WORK_SECONDS:
                pass
            self.work.append((time.monotonic(), time.monotonic() - before))

    def slowest_work(self, begin: float, end: float) -> float:
        """The longest that the fixed piece of work took from ``begin`` to ``end``."""
        return max(took for when, took in self.work if begin <= when <= end)

    def _listen(self) -> None:
        console = self._guest.domain.console
        try:
            while not self._stop.is_set():
                match = console.expect(r"BEAT (\d+\.\d+)\r|SUM ([0-9a-f]{32} [0-9a-f]{32})\r", 30)
                if match[1]:
                    self.beats.append((float(match[1]), time.monotonic()))
                else:
                    self.sums.append(match[2])
        except Exception as error:
            self.error = error

    def longest_gap(self, first: int, last: int | None = None) -> tuple[float, float]:
        """(seconds between two heartbeats, by the guest's clock or by ours, whichever says more; when it ended by our clock)."""
        return max((max(b[0] - a[0], b[1] - a[1]), b[1]) for a, b in itertools.pairwise(self.beats[first:last]))


def attacks() -> Iterator[tuple[Program, str]]:
    """Programs and command lines without end. Between two there is one that acts at random."""
    programs = [program for program in all_programs() if not program.bench and program.name != "hostile_random"]
    chance = next(program for program in all_programs() if program.name == "hostile_random")
    for seed in itertools.count(int(os.environ.get("PYXEN_SEED", "1"))):
        yield programs[seed * 7 % len(programs)], ""
        yield chance, f"seed={seed}"


def attack(host: pyxen.Host, program: Program, kernel: Path, cmdline: str) -> str:
    """One attack in a domain of its own. -> how it ended."""
    settings = {
        "on_crash": "destroy",
        "on_reboot": "destroy",
        "on_poweroff": "destroy",
        "on_watchdog": "destroy",
        "on_soft_reset": "destroy",
    }
    with host.create(kernel=str(kernel), memory=program.memory_mib, vcpus=program.vcpus, cmdline=cmdline, **settings) as domain:
        try:
            return domain.wait(("shutdown", "crashed", "destroyed"), ATTACK_LIMIT).state.value
        except TimeoutError:
            return "still running"


@pytest.fixture
def boot_linux(runtime_directory: Path, guest_packages: GuestPackages, demo_ramdisk: Path) -> Iterator[BootLinux]:
    """Boots guests on a host of the test's own."""
    with linux_host(guest_packages, demo_ramdisk) as boot:
        yield boot


@pytest.mark.guest
@pytest.mark.long
@pytest.mark.timeout(300 + 2 * ATTACK_SECONDS)
def test_hostile_domain_beside_linux(boot_linux: BootLinux, capsys: pytest.CaptureFixture[str]) -> None:
    kernels = Builder().build(all_programs())
    guest = boot_linux(name="victim", memory=128)
    ends: dict[str, int] = {}
    with pyxen.Host(start=False) as host, Victim(guest) as victim:
        time.sleep(QUIET_SECONDS)
        quiet_beats, quiet_sums = len(victim.beats), len(victim.sums)
        assert quiet_beats > 5 and quiet_sums > 0, f"{quiet_beats} heartbeats and {quiet_sums} sums in {QUIET_SECONDS} s: {victim.error}"
        free = host.info.free_kib
        deadline = time.monotonic() + ATTACK_SECONDS
        started: list[tuple[float, str]] = []
        for count, (program, cmdline) in enumerate(attacks(), 1):
            started.append((time.monotonic(), f"{program.name} {cmdline}".strip()))
            end = attack(host, program, kernels[program.name], cmdline)
            ends[end] = ends.get(end, 0) + 1
            assert victim.error is None, f"after attack {count} ({program.name} {cmdline}): {victim.error}"
            if time.monotonic() > deadline:
                break
        time.sleep(1)
        log = host.dmesg()
        assert [domain.name for domain in host.domains()] == ["victim"]
        assert host.info.free_kib == free, "the attackers' memory is not free again"
    (baseline, _), (longest, ended) = victim.longest_gap(0, quiet_beats), victim.longest_gap(quiet_beats - 1)
    spans = itertools.pairwise([*started, (ended, "")])
    meanwhile = [name for (begin, name), (end, _) in spans if begin <= ended and end >= ended - longest]
    quiet_end = started[0][0]
    busier = max(1.0, victim.slowest_work(quiet_end, ended) / victim.slowest_work(0, quiet_end))
    with capsys.disabled():
        print(
            f"\n{count} attacks ({', '.join(f'{number} {end}' for end, number in sorted(ends.items()))}), {len(victim.sums)} checksums, "
            f"{len(victim.beats)} heartbeats; longest gap {longest:.2f} s ({', '.join(meanwhile)}), without attacks {baseline:.2f} s; "
            f"the machine was {busier:.1f} times slower at its worst"
        )
    assert victim.error is None
    assert len(set(victim.sums)) == 1, f"the victim's memory changed: {set(victim.sums)}"
    assert len(victim.sums) > quiet_sums, "no checksum was made during the attacks"
    assert longest <= baseline * busier + ALLOWED_STALL
    assert "internal error" not in log, "\n".join(re.findall(".*internal error.*(?:\n.*){6}", log))
    with contextlib.suppress(TimeoutError):
        guest.domain.console.send("\x03\n")

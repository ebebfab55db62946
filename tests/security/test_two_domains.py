"""A hostile domain beside a Linux one: whatever the first does, the second's memory and disk cache stay what they are, and it is never
stalled.

Every micro-guest is started again and again, most of which attack the hypervisor or die horribly, with others that act at random: a new
domain for each, at once when the one before has ended or been crashed. ``PYXEN_LONG=1`` does that for half an hour.

The victim (victim/victim.c) measures its own stalls, by its kernel's clock and by the processor's time-stamp counter: nothing that this
process or the console's way does can hide one. That neither is faked is seen from outside: over the run both agree with the host's clock.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import pyxen
from pyxen.guests.packages import GuestPackages
from pyxen.guests.ramdisk import Ramdisk
from tests.guests.build import Builder, Program, all_programs, pvh_programs
from tests.linux.linux_guest import BootLinux, LinuxGuest, linux_host

LONG = os.environ.get("PYXEN_LONG") == "1"
ATTACK_SECONDS = 1800 if LONG else 12
QUIET_SECONDS = 20 if LONG else 3
#: The longest that the victim may be away, in seconds, on a machine that does nothing else.
ALLOWED_STALL = 1.0
#: By how much the victim's clocks may differ from the host's over the run, of its length.
CLOCK_ERROR = 0.002
#: CPU time of the work that says how busy the machine is with other things.
WORK_SECONDS = 0.02
#: No attacker lives longer.
ATTACK_LIMIT = 2.0
DISK_BYTES = 16 << 20
VICTIM = Path(__file__).parent / "victim" / "victim.c"


@dataclass(frozen=True)
class Beat:
    """What the victim says of its last half second. The clock in seconds, the counter in ticks; ``heard`` is our clock."""

    heard: float
    clock: float
    ticks: int
    longest_gap: float
    longest_gap_ticks: int


class Victim:
    """The Linux domain: reads what its process says, in a thread, until ``stop``."""

    def __init__(self, guest: LinuxGuest) -> None:
        self._guest = guest
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._listen, name="victim"), threading.Thread(target=self._measure, name="machine")]
        self.sums: Counter[tuple[str, str]] = Counter()  #: (memory, disk)
        self.disk_reads = 0
        self.beats: list[Beat] = []
        self.work: list[tuple[float, float]] = []  #: (when, seconds that a fixed piece of work took in this process)
        self.error: Exception | None = None

    def __enter__(self) -> Victim:
        self._guest.domain.console.send("victim /dev/xvda\n")
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
        pattern = r"BEAT (\d+) (\d+) (\d+) (\d+)\r|SUM ([0-9a-f]{16}) ([0-9a-f]{16}) (\d+)\r"
        try:
            while not self._stop.is_set():
                match = console.expect(pattern, 30)
                if match[1]:
                    self.beats.append(Beat(time.monotonic(), int(match[1]) / 1e9, int(match[2]), int(match[3]) / 1e9, int(match[4])))
                else:
                    self.sums[match[5], match[6]] += 1
                    self.disk_reads = int(match[7])
        except Exception as error:
            self.error = error

    def tick(self) -> float:
        """Seconds of the host's clock for one tick of the victim's counter, over the whole run."""
        first, last = self.beats[0], self.beats[-1]
        return (last.heard - first.heard) / (last.ticks - first.ticks)

    def clock_error(self) -> float:
        """By how much its clock and the host's differ over the run, of its length. A line may come a little late."""
        first, last = self.beats[0], self.beats[-1]
        return abs((last.clock - first.clock) / (last.heard - first.heard) - 1)

    def longest_gap(self, first: int, last: int | None = None) -> tuple[float, float]:
        """(seconds that it was away, by its clock or the counter, whichever says more; when we heard of that)."""
        tick = self.tick()
        return max((max(beat.longest_gap, beat.longest_gap_ticks * tick), beat.heard) for beat in self.beats[first:last])


def attacks() -> Iterator[tuple[Program, str]]:
    """Programs and command lines without end, of PV and PVH domains in turn. Between two there is one that acts at random."""
    chance = next(program for program in all_programs() if program.name == "hostile_random")
    first = int(os.environ.get("PYXEN_SEED", "1"))
    kinds = [[program for program in programs if not program.bench and program != chance] for programs in (all_programs(), pvh_programs())]
    for programs in kinds:
        random.Random(first).shuffle(programs)
    for seed in itertools.count(first):
        programs = kinds[seed % 2]
        yield programs[seed // 2 % len(programs)], ""
        yield chance, f"seed={seed}"


def attack(host: pyxen.Host, program: Program, kernel: Path, cmdline: str) -> str:
    """One attack in a domain of its own. -> how it ended."""
    settings = {
        "type": program.platform.kind,
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


def disk_sum(image: Path) -> str:
    """As victim.c sums it."""
    words = np.frombuffer(image.read_bytes(), dtype="<u8")
    with np.errstate(over="ignore"):
        return f"{int((words * (2 * np.arange(len(words), dtype=np.uint64) + 1)).sum()):016x}"


@pytest.fixture
def boot_victim(runtime_directory: Path, guest_packages: GuestPackages, tmp_path: Path) -> Iterator[BootLinux]:
    """Boots guests with the victim's program and the block frontend, on a host of the test's own."""
    subprocess.run(["gcc", "-O2", "-Wall", "-static", "-s", "-o", tmp_path / "victim", VICTIM], check=True)
    programs = {"victim": (tmp_path / "victim").read_bytes()}
    module = guest_packages.module("xen-blkfront")
    if module:
        programs["xen-blkfront.ko"] = module
    with linux_host(guest_packages, Ramdisk(guest_packages.busybox, programs).cached()) as boot:

        def boot_and_load(**settings: object) -> LinuxGuest:
            guest = boot(**settings)
            if module:
                guest.run("insmod /bin/xen-blkfront.ko 2>/dev/null")
            guest.run("for i in $(seq 100); do [ -b /dev/xvda ] && break; sleep 0.1; done; [ -b /dev/xvda ]")
            return guest

        yield boot_and_load


@pytest.mark.guest
@pytest.mark.long
@pytest.mark.timeout(300 + 2 * ATTACK_SECONDS)
def test_hostile_domain_beside_linux(boot_victim: BootLinux, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kernels = Builder().build([*all_programs(), *pvh_programs()])
    image = tmp_path / "disk.img"
    image.write_bytes(os.urandom(DISK_BYTES))
    guest = boot_victim(name="victim", memory=128, disk=[f"{image},raw,xvda,r"])
    ends: Counter[str] = Counter()
    with pyxen.Host(start=False) as host, Victim(guest) as victim:
        time.sleep(QUIET_SECONDS)
        quiet_beats, quiet_sums = len(victim.beats), victim.sums.total()
        assert quiet_beats >= QUIET_SECONDS and quiet_sums, f"{quiet_beats} beats, {quiet_sums} sums in {QUIET_SECONDS} s: {victim.error}"
        free = host.info.free_kib
        deadline = time.monotonic() + ATTACK_SECONDS
        started: list[tuple[float, str]] = []
        for count, (program, cmdline) in enumerate(attacks(), 1):
            started.append((time.monotonic(), f"{program.name} {cmdline}".strip()))
            ends[attack(host, program, kernels[program.name], cmdline)] += 1
            assert victim.error is None, f"after attack {count} ({program.name} {cmdline}): {victim.error}"
            if time.monotonic() > deadline:
                break
        time.sleep(1)
        log = host.dmesg()
        assert [domain.name for domain in host.domains()] == ["victim"]
        assert host.info.free_kib == free, "the attackers' memory is not free again"
    (baseline, _), (longest, ended) = victim.longest_gap(0, quiet_beats), victim.longest_gap(quiet_beats)
    spans = itertools.pairwise([*started, (ended, "")])
    meanwhile = [name for (begin, name), (end, _) in spans if begin <= ended and end >= ended - longest - 0.5]
    quiet_end = started[0][0]
    busier = max(1.0, victim.slowest_work(quiet_end, ended) / (WORK_SECONDS if LONG else victim.slowest_work(0, quiet_end)))
    with capsys.disabled():
        print(
            f"\n{count} attacks of {len({name.split()[0] for _, name in started})} programs in {time.monotonic() - quiet_end:.0f} s "
            f"({', '.join(f'{number} {end}' for end, number in ends.most_common())}); {victim.sums.total()} sums of memory and disk cache, "
            f"{victim.disk_reads} of them from the disk, {len(victim.sums)} different; longest stall {longest * 1000:.0f} ms "
            f"({', '.join(meanwhile)}), without attacks {baseline * 1000:.0f} ms; the victim's clock is off by {victim.clock_error():.2e}; "
            f"a fixed piece of work took {busier:.1f} times as long at its worst"
        )
    assert victim.error is None
    assert len(victim.sums) == 1, f"the victim's memory or disk changed: {victim.sums}"
    assert {disk for _, disk in victim.sums} == {disk_sum(image)}
    assert victim.sums.total() > quiet_sums, "no sum was made during the attacks"
    assert victim.clock_error() < CLOCK_ERROR + 1 / ATTACK_SECONDS, "the victim's clock does not go as ours"
    assert longest <= ALLOWED_STALL * busier
    assert "internal error" not in log, "\n".join(re.findall(".*internal error.*(?:\n.*){6}", log))
    with contextlib.suppress(TimeoutError):
        guest.domain.console.send("\x03\n")

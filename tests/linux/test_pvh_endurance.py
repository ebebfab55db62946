"""PVH guests as often and as long as is promised: boots with disk, network and two vCPUs; hours of load with an eye on the clock."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyxen.guests.packages import GuestPackages, fetch_tool
from pyxen.hypervisor import gate
from tests.linux.disk_and_network import disk_and_file
from tests.linux.linux_guest import LONG, BootLinux, LinuxGuest
from tests.linux.network_guest import network_host, network_ramdisk

BOOTS = 20 if LONG else 1
LOAD_SECONDS = 1800 if LONG else 15
SAMPLE_EVERY_S = 5.0
#: How much the guest's clock may go ahead of the host's or fall behind. What a look at it takes is no part of that.
CLOCK_LIMIT_S = 0.05
#: A guest that does not answer for so long, though under load on a shared machine, has stalled.
STALL_S = 20.0
LOOKS = 5
#: Bounds so near to each other say what is asked; and how long that is tried for while nothing else is done, on a machine that may be busy.
TIGHT_S, PATIENCE_S = CLOCK_LIMIT_S / 2, 20.0
#: What the last look may take. It is a process of the guest's, whose start takes several times as long without the native gate.
LOOK_LIMIT_S = CLOCK_LIMIT_S if gate.is_wanted() else 4 * CLOCK_LIMIT_S
TROUBLE = re.compile(r"(?im)^.*(?:\bWARNING:|\bBUG:|Call Trace|\bstall|lockup|blocked for more|clocksource: .*unstable).*$")


@pytest.fixture
def boot(runtime_directory: Path, guest_packages: GuestPackages) -> Iterator[BootLinux]:
    """Boots guests that have the frontends of disks and networks."""
    fetch_tool("passt")
    disk = guest_packages.module("xen-blkfront")
    ramdisk = network_ramdisk(guest_packages, **({"xen-blkfront.ko": disk} if disk else {}))
    with network_host(guest_packages, ramdisk) as boot:
        yield boot


@pytest.mark.long
@pytest.mark.timeout(180 + 90 * BOOTS)
def test_boots_with_disk_network_and_two_vcpus(boot: BootLinux, tmp_path: Path) -> None:
    """Each boot reads the disk, writes to it, and gets a file from the host; what it wrote is in the image."""
    with disk_and_file(tmp_path) as outside:
        for number in range(BOOTS):
            guest = boot(name=f"boot{number}", type="pvh", vcpus=2, disk=outside.disk)
            outside.use(guest, f"boot{number}")
            assert guest.run("nproc") == "2\n"
            assert TROUBLE.findall(guest.run("dmesg")) == []
            outside.power_off(guest, f"boot{number}")


class GuestClock:
    """The wall clock of a guest, looked at from the host.

    Where it starts is no matter of Xen's: until Linux has chosen its clock source, which takes a second or more here, it counts ticks, and
    loses those that come while it has interrupts off.
    """

    def __init__(self, guest: LinuxGuest) -> None:
        self._guest = guest
        self.worst_s = self.widest_s = self.last_width_s = 0.0
        self._first_least, self._first_most = self.look(PATIENCE_S)

    def look(self, patience_s: float = 0) -> tuple[float, float]:
        """Bounds of how far it is ahead of the host's: the tightest of some looks, or of as many as it takes to have a tight one."""
        looks: list[tuple[float, float]] = []
        end = time.monotonic() + patience_s
        while len(looks) < LOOKS or (time.monotonic() < end and min(most - least for least, most in looks) > TIGHT_S):
            before = time.time()
            shown = self._guest.run("adjtimex", STALL_S)
            seconds, microseconds = (int(value) for value in re.findall(r"time\.tv_u?sec: +(\d+)", shown))
            seen = seconds + microseconds / 1e6
            looks.append((seen - time.time(), seen - before))
        return min(looks, key=lambda look: look[1] - look[0])

    def check(self, patience_s: float = 0) -> None:
        """It has gone as the host's has."""
        least, most = self.look(patience_s)
        self.last_width_s = most - least
        self.widest_s = max(self.widest_s, self.last_width_s)
        off = max(least - self._first_most, self._first_least - most, 0.0)
        self.worst_s = max(self.worst_s, off)
        first = f"{self._first_least:.3f} to {self._first_most:.3f} s"
        assert off < CLOCK_LIMIT_S, f"the guest's clock, at first {first} ahead of the host's, is {least:.3f} to {most:.3f} s"


@pytest.mark.long
@pytest.mark.timeout(300 + 2 * LOAD_SECONDS)
def test_load_without_stall_or_jump(boot_linux: BootLinux) -> None:
    """A PV and a PVH domain side by side, each with a load on both vCPUs."""
    guests = {kind: boot_linux(name=kind, type=kind, vcpus=2) for kind in ("pv", "pvh")}
    clocks = {kind: GuestClock(guest) for kind, guest in guests.items()}
    for guest in guests.values():
        guest.run("dd if=/bin/busybox of=/tmp/a bs=64k 2>/dev/null")
        for number in range(2):
            guest.run(f"{{ while :; do gzip -c /tmp/a | gunzip | md5sum; done >/tmp/{number} & }}")
    deadline = time.monotonic() + LOAD_SECONDS
    while time.monotonic() < deadline:
        for clock in clocks.values():
            clock.check()
        time.sleep(SAMPLE_EVERY_S)
    for kind, guest in guests.items():
        guest.run("kill %1 %2 2>/dev/null; sleep 1", 60)
        clocks[kind].check(PATIENCE_S)
        # Whatever was torn by being stopped is at the end of the file.
        sums = guest.run("sort -u /tmp/0 /tmp/1 | grep -c -E '^[0-9a-f]{32}  -$'", 60)
        assert sums == "1\n", f"{kind}: {sums} different checksums of one file"
        assert int(guest.run("cat /tmp/0 /tmp/1 | wc -l")) > 2
        assert TROUBLE.findall(guest.run("dmesg")) == []
        # A clock that has jumped stays where it is: a look that is tight, at the end, is one at the whole run.
        assert clocks[kind].last_width_s < LOOK_LIMIT_S, f"{kind}: could not be looked at within {LOOK_LIMIT_S} s"
        print(f"{kind}: clock at most {1000 * clocks[kind].worst_s:.1f} ms off, looked at within {1000 * clocks[kind].widest_s:.0f} ms")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("vcpus", [4, 8] if LONG else [4])
def test_more_processors(boot_linux: BootLinux, vcpus: int) -> None:
    """All of them come up, and each does work."""
    guest = boot_linux(type="pvh", vcpus=vcpus)
    assert guest.run("nproc") == f"{vcpus}\n"
    for number in range(vcpus):
        assert guest.run(f"taskset {1 << number:x} sh -c 'i=0; while [ $i -lt 500 ]; do i=$((i+1)); done; echo $i'", 60) == "500\n"
    timers = re.findall(r"(?m)^.*virq +timer\d$", guest.run("cat /proc/interrupts"))
    assert len(timers) == vcpus
    assert all(vcpu.cpu_time_s > 0 for vcpu in guest.domain.vcpus)
    assert TROUBLE.findall(guest.run("dmesg")) == []

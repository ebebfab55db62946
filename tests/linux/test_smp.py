"""Linux with several vCPUs: all of them work, come and go, and agree; its kernel patches its own code under them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyxen.guests.packages import GuestPackages
from tests.linux.engine_counters import counters, needs_the_gate
from tests.linux.linux_guest import LONG, LinuxGuest, linux_host

#: In a short run two; the machine that tests has two cores.
VCPUS = [2, 4, 8] if LONG else [2]
HOTPLUGS = 100 if LONG else 5
ROUNDS = 5 if LONG else 1
#: A loaded host may keep a vCPU from running for seconds.
TIMEOUT_S = 240.0 if LONG else 60.0
pytestmark = pytest.mark.timeout(1800 if LONG else 120)
COMPLAINT = r"(?im)^.*(?:\bWARNING:|\bBUG:|Call Trace|general protection|segfault|\bstalls? |soft lockup|hard lockup).*$"


@pytest.fixture(scope="module", params=VCPUS, ids=lambda vcpus: f"{vcpus}vcpus")
def smp(
    request: pytest.FixtureRequest, shared_runtime_directory: Path, guest_packages: GuestPackages, demo_ramdisk: Path
) -> Iterator[tuple[LinuxGuest, int]]:
    """A guest, and how many vCPUs it has."""
    with linux_host(guest_packages, demo_ramdisk) as boot:
        guest = boot(name=f"smp{request.param}", vcpus=request.param)
        guest.run("cat /bin/busybox >/tmp/data")
        yield guest, request.param
        complaints = re.findall(COMPLAINT, guest.run("dmesg", TIMEOUT_S))
        guest.domain.destroy()
        assert complaints == []


def test_every_vcpu_runs_processes(smp: tuple[LinuxGuest, int]) -> None:
    guest, vcpus = smp
    assert guest.run("nproc") == f"{vcpus}\n"
    for cpu in range(vcpus):
        before, after = (
            int(guest.run(f"{work}grep '^cpu{cpu} ' /proc/stat | cut -d' ' -f2", TIMEOUT_S))
            for work in ("", f"taskset -c {cpu} sha256sum /tmp/data /tmp/data /tmp/data >/dev/null; ")
        )
        assert after > before


def test_parallel_compression_gives_back_what_went_in(smp: tuple[LinuxGuest, int]) -> None:
    guest, vcpus = smp
    expected = guest.run("sha256sum </tmp/data", TIMEOUT_S)
    guest.run("echo 'gzip -1 -c /tmp/data | gunzip | sha256sum' >/tmp/round")
    for _ in range(ROUNDS):
        jobs = "& ".join(["sh /tmp/round"] * vcpus)
        assert guest.run(f"sh -c '{jobs} & wait'", TIMEOUT_S * 2) == expected * vcpus


def test_a_storm_of_processes(smp: tuple[LinuxGuest, int]) -> None:
    """fork, exec and exit on all vCPUs at once: page tables, TLB flushes and wake-ups between vCPUs."""
    guest, vcpus = smp
    guest.run("echo 'for i in $(seq 25); do /bin/true && echo y; done' >/tmp/storm")
    for _ in range(ROUNDS):
        jobs = " ".join(["sh /tmp/storm &"] * vcpus * 2)
        assert guest.run(f"sh -c '{jobs} wait' | grep -c y", TIMEOUT_S * 2) == f"{50 * vcpus}\n"


def test_the_kernel_patches_its_code_while_it_runs(smp: tuple[LinuxGuest, int]) -> None:
    """Each write turns jump labels of the scheduler on or off by INT3 patching, with an interrupt to every vCPU at each step."""
    guest, vcpus = smp
    toggle = "for i in $(seq 10); do echo 1 >$f; echo 0 >$f; done"
    guest.run(f"f=/proc/sys/kernel/sched_schedstats; sh /tmp/storm >/dev/null & {toggle}; wait", TIMEOUT_S * 2)
    assert guest.run("cat /proc/sys/kernel/sched_schedstats") == "0\n"


@needs_the_gate
def test_page_tables_of_several_vcpus_are_the_engines(smp: tuple[LinuxGuest, int]) -> None:
    """Also where another vCPU's TLB has to be flushed. One that waits for a core of the host's is Python's business."""
    guest, vcpus = smp
    before = counters(guest)
    guest.run(f"sh -c '{'& '.join(['sh /tmp/storm >/dev/null'] * vcpus)} & wait'", TIMEOUT_S * 2)
    after = counters(guest)
    native, python = (after[kind]["mmuext_op"] - before[kind]["mmuext_op"] for kind in ("native_hypercalls", "hypercalls"))
    assert native > 1000 and python < native / 4


def test_vcpus_come_and_go(smp: tuple[LinuxGuest, int]) -> None:
    """By VCPUOP_down and VCPUOP_up, while there is work for them."""
    guest, vcpus = smp
    for cpu in range(1, vcpus):
        online = f"/sys/devices/system/cpu/cpu{cpu}/online"
        turns = max(1, HOTPLUGS // (vcpus - 1))
        guest.run(f"for i in $(seq {turns}); do echo 0 >{online} && echo 1 >{online} || break; done; test $i = {turns}", TIMEOUT_S * 2)
        guest.run(f"echo 0 >{online}", TIMEOUT_S)
        assert guest.run("nproc") == f"{vcpus - 1}\n"
        guest.run(f"echo 1 >{online}", TIMEOUT_S)
    assert guest.run("nproc") == f"{vcpus}\n"


def test_pauses_do_not_disturb_it(smp: tuple[LinuxGuest, int]) -> None:
    guest, vcpus = smp
    guest.domain.console.send("sh /tmp/storm | grep -c y; echo done\n")
    for _ in range(50):
        guest.domain.pause()
        guest.domain.unpause()
    guest.domain.console.expect(r"25\r*\ndone\r*\n", TIMEOUT_S)
    guest.wait_for_prompt()


def test_each_vcpus_timer_interrupts_it_alone(smp: tuple[LinuxGuest, int]) -> None:
    guest, vcpus = smp
    for cpu in range(vcpus):
        counts = guest.run(f"grep -w timer{cpu} /proc/interrupts").split()[1 : 1 + vcpus]
        assert [int(count) > 0 for count in counts] == [other == cpu for other in range(vcpus)]


def test_vcpus_interrupt_each_other(smp: tuple[LinuxGuest, int]) -> None:
    guest, vcpus = smp
    for cpu in range(vcpus):
        assert sum(map(int, guest.run(f"grep -w callfuncsingle{cpu} /proc/interrupts").split()[1 : 1 + vcpus])) > 0

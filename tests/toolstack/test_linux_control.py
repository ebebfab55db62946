"""What the toolstack asks of a real kernel: shut down, reboot, balloon, SysRq, NMI, console, trace."""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyxen
from pyxen.guests.packages import GuestPackages
from pyxen.host import protocol as p
from tests.linux.linux_guest import LinuxGuest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(150)]

BOOT_TIMEOUT = 120
#: Seconds for what takes a fraction of one on an idle machine.
TIMEOUT = 30
PROMPT = "guest# "


@pytest.fixture(scope="module")
def host(shared_runtime_directory: Path) -> Iterator[pyxen.Host]:
    with pyxen.Host(shared_runtime_directory) as host:
        yield host


def boot(host: pyxen.Host, packages: GuestPackages, ramdisk: Path, **settings: object) -> pyxen.Domain:
    domain = host.create(kernel=packages.kernel, ramdisk=ramdisk, memory=128, extra="console=hvc0", **settings)
    domain.console.expect(PROMPT, BOOT_TIMEOUT)
    return domain


@pytest.fixture(scope="module")
def guest(host: pyxen.Host, guest_packages: GuestPackages, demo_ramdisk: Path) -> Iterator[pyxen.Domain]:
    """A running Linux for the tests that leave it running."""
    with boot(host, guest_packages, demo_ramdisk, name="linux", maxmem=160) as domain:
        yield domain


def run(domain: pyxen.Domain, command: str, timeout: float = TIMEOUT) -> str:
    """The output of a shell command."""
    return LinuxGuest(domain).run(command, timeout)


def wait_until(condition: object, timeout: float = TIMEOUT) -> None:
    assert callable(condition)
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


def test_the_guest_sees_itself_in_the_store(guest: pyxen.Domain) -> None:
    assert run(guest, "cat /sys/hypervisor/uuid").strip() == guest.uuid
    assert run(guest, "cat /sys/hypervisor/type").strip() == "xen"


def test_idle_guest_is_blocked(guest: pyxen.Domain) -> None:
    wait_until(lambda: guest.info.state_letters == "-b----")


def test_balloon_follows_mem_set(guest: pyxen.Domain) -> None:
    for mebibytes in (96, 128):
        guest.set_memory(mebibytes)
        wait_until(lambda size=mebibytes: abs(guest.info.memory_kib - (size << 10)) <= 64)


def test_sysrq(guest: pyxen.Domain) -> None:
    guest.sysrq("h")
    guest.console.expect("sysrq: HELP", TIMEOUT)


def test_nmi(host: pyxen.Host, guest: pyxen.Domain) -> None:
    host.client.call(p.DOMAIN_TRIGGER, p.TriggerRequest(guest.domid, "nmi"))
    guest.console.expect("NMI received", TIMEOUT)
    guest.console.send("\n")
    guest.console.expect(PROMPT, TIMEOUT)


def test_pause_stops_the_clock_of_the_guest(guest: pyxen.Domain) -> None:
    # Only what the shell has begun can be interrupted: it takes Control-C for text while it edits a line.
    guest.console.send("echo looping-$((1+1)); while :; do :; done\n")
    guest.console.expect("looping-2", TIMEOUT)
    guest.pause()
    try:
        used = guest.info.cpu_time_s
        time.sleep(0.3)
        assert guest.info.cpu_time_s == used
    finally:
        guest.unpause()  # the other tests of the module have the same guest
    wait_until(lambda: guest.info.cpu_time_s > used)
    guest.console.send("\x03")
    guest.console.expect(PROMPT, TIMEOUT)


def test_pseudo_terminal(host: pyxen.Host, guest: pyxen.Domain, shared_runtime_directory: Path) -> None:
    path = host.client.call(p.CONSOLE_PATH, p.DomainId(guest.domid)).path
    assert path == guest.info.console_tty == str((shared_runtime_directory / "console" / str(guest.domid)).readlink())
    terminal = os.open(path, os.O_RDWR | os.O_NOCTTY)
    try:
        os.write(terminal, b"echo terminal-$((40+2))\n")
        seen = b""
        deadline = time.monotonic() + TIMEOUT
        while b"terminal-42" not in seen:
            ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, seen
            seen += os.read(terminal, 4096)
    finally:
        os.close(terminal)
    guest.console.expect("terminal-42", TIMEOUT)


def test_long_input_arrives_whole(guest: pyxen.Domain) -> None:
    """More than the ring, the backend and the guest's terminal hold together: all of them push back."""
    data = bytes(33 + number * 7 % 90 for number in range(12_000))
    guest.console.send(f"stty raw -echo; echo rea''dy; sleep 1; head -c {len(data)} | md5sum; stty sane\n")
    guest.console.expect("\nready", TIMEOUT)
    guest.console.send(data)
    digest = guest.console.expect("[0-9a-f]{32}", TIMEOUT).group()
    assert digest == hashlib.md5(data).hexdigest()
    guest.console.expect(PROMPT, TIMEOUT)


def test_several_readers_see_the_same(host: pyxen.Host, guest: pyxen.Domain) -> None:
    readers = [host.domain("linux").console for _ in range(3)]
    marker = f"marker-{time.monotonic_ns()}"
    guest.console.send(f"echo {marker}-$((1+1))\n")
    for reader in (*readers, guest.console):
        reader.expect(f"{marker}-2", TIMEOUT)
    for reader in readers:
        reader.close()


def test_flooding_guest_leaves_the_host_responsive(host: pyxen.Host, guest: pyxen.Domain, shared_runtime_directory: Path) -> None:
    guest.console.send("yes 0123456789012345678901234567890123456789\n")
    guest.console.expect("0123456789\r?\n0123", TIMEOUT)
    worst = 0.0
    for _ in range(20):
        start = time.monotonic()
        assert host.status.domains == 1
        worst = max(worst, time.monotonic() - start)
        time.sleep(0.02)
    assert worst < 2
    for log in (shared_runtime_directory / "log").iterdir():
        assert log.stat().st_size <= 5 << 20
    guest.console.send("\x03")
    time.sleep(0.2)
    guest.console.send("echo survived-$((1+1))\n")
    guest.console.expect("survived-2", 2 * TIMEOUT)


def test_trace_tells_names_arguments_and_results(host: pyxen.Host, guest: pyxen.Domain) -> None:
    events = host.trace(guest, kinds=["hypercall", "event"])
    guest.console.send("echo traced\n")
    seen: dict[str, pyxen.TraceEvent] = {}
    deadline = time.monotonic() + TIMEOUT
    for event in events:
        assert event.domid == guest.domid or event.kind == "event"
        key = f"{event.name}:{event.arguments.get('cmd', '')}"
        seen.setdefault(key, event)
        if {"event_channel_op:EVTCHNOP_send", "sched_op:SCHEDOP_block", "event:"} <= set(seen):
            break
        assert time.monotonic() < deadline, sorted(seen)
    assert seen["event_channel_op:EVTCHNOP_send"].result == 0
    with contextlib.closing(events):  # type: ignore[type-var]
        pass
    guest.console.expect("traced", TIMEOUT)


def test_shutdown_is_acknowledged_and_done(host: pyxen.Host, guest_packages: GuestPackages, demo_ramdisk: Path) -> None:
    domain = boot(host, guest_packages, demo_ramdisk, name="ending")
    tracing = host.trace(domain, kinds=["lifecycle"])
    domain.shutdown()
    assert domain.wait("shutdown", TIMEOUT).shutdown_reason == "poweroff"
    domain.wait("destroyed", TIMEOUT)
    assert [event.name for event in tracing][-1] == "destroyed"
    with pytest.raises(pyxen.HostError, match="ended"):
        domain.console.expect("never printed", TIMEOUT)
    assert "Power down" in domain.console.text or "System halted" in domain.console.text


def test_reboot_makes_a_new_domain_of_the_same_name(host: pyxen.Host, guest_packages: GuestPackages, demo_ramdisk: Path) -> None:
    first = boot(host, guest_packages, demo_ramdisk, name="again", vcpus=2)
    first.reboot()
    assert first.wait("shutdown", TIMEOUT).shutdown_reason == "reboot"
    first.wait("destroyed", TIMEOUT)
    with host.domain("again", timeout=TIMEOUT) as second:
        assert second.domid != first.domid
        second.console.expect(PROMPT, BOOT_TIMEOUT)
        assert run(second, "nproc").strip() == "2"


def test_panic_is_a_crash(host: pyxen.Host, guest_packages: GuestPackages, demo_ramdisk: Path) -> None:
    with boot(host, guest_packages, demo_ramdisk, name="panicking", on_crash="preserve") as domain:
        domain.console.send("echo c > /proc/sysrq-trigger\n")
        assert domain.wait("crashed", TIMEOUT).shutdown_reason == "crash"
        assert "sysrq triggered crash" in domain.console.text

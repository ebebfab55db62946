"""Debian's own kernel as a PV domain: what it finds, and how it ends."""

from __future__ import annotations

import re
import time

import pyxen
from pyxen.guests.packages import GuestPackages
from tests.linux.engine_counters import check_that_ticks_stay_in_the_engine, needs_the_gate
from tests.linux.linux_guest import BootLinux, LinuxGuest


def test_it_is_the_distributions_kernel(linux: LinuxGuest, guest_packages: GuestPackages) -> None:
    assert linux.run("uname -r").strip() == guest_packages.kernel_release


def test_the_hypervisor_says_what_it_is(linux: LinuxGuest) -> None:
    assert linux.run("cat /sys/hypervisor/type") == "xen\n"
    assert linux.run("cat /sys/hypervisor/version/major") == "4\n"
    assert linux.run("cat /sys/hypervisor/version/minor") == "17\n"


def test_linux_runs_paravirtualised(linux: LinuxGuest) -> None:
    log = linux.run("dmesg | grep -i xen")
    assert "Hypervisor detected: Xen PV" in log
    assert "Booting kernel on Xen" in log
    assert linux.run("cat /sys/hypervisor/guest_type") == "PV\n"


def test_no_complaint_in_the_kernels_log(linux: LinuxGuest) -> None:
    log = linux.run("dmesg")
    assert re.findall(r"(?im)^.*(?:\bWARNING:|\bBUG:|Call Trace|general protection|segfault|\bstall|lockup).*$", log) == []


def test_time_comes_from_xen_and_goes_on(linux: LinuxGuest) -> None:
    assert linux.run("cat /sys/devices/system/clocksource/*/current_clocksource") == "xen\n"
    before, after = (float(linux.run("cut -d' ' -f1 /proc/uptime")) for _ in range(2))
    assert after > before


def test_memory_is_what_was_asked_for(linux: LinuxGuest) -> None:
    match = re.search(r"MemTotal: +(\d+) kB", linux.run("cat /proc/meminfo"))
    assert match is not None
    # The kernel keeps its own image and the page array out of the total.
    assert 190 * 1024 < int(match[1]) <= 256 * 1024


def test_floating_point_survives_switches(linux: LinuxGuest) -> None:
    """Two processes that compute with the FPU at the same time get what each gets alone."""
    command = 'awk "BEGIN{for(i=1;i<20000;i++)s+=1/i;print s}"'
    alone = linux.run(command)
    # In a shell of its own, which does not report its jobs.
    linux.run(f"echo '{command}' >/tmp/sum")
    linux.run("sh -c 'sh /tmp/sum >/tmp/1 & sh /tmp/sum >/tmp/2; wait'")
    assert linux.run("cat /tmp/1 /tmp/2") == alone * 2


@needs_the_gate
def test_ticks_of_a_busy_guest_do_not_leave_the_engine(linux: LinuxGuest) -> None:
    check_that_ticks_stay_in_the_engine(linux)


def test_job_control_on_the_console(linux: LinuxGuest) -> None:
    # What is typed before the shell has let go of the terminal is the shell's, so wait for the child to speak.
    linux.domain.console.send("sh -c 'echo started; exec cat'\n")
    linux.domain.console.expect(r"started\r*\n", 10)
    linux.domain.console.send("answer\n")
    linux.domain.console.expect(r"answer\r*\nanswer\r*\n", 10)
    linux.domain.console.send("\x03")
    linux.wait_for_prompt(10)
    assert "job control turned off" not in linux.run("true")


def test_power_off_in_the_guest_ends_the_domain(boot_linux: BootLinux) -> None:
    guest = boot_linux()
    guest.domain.console.send("poweroff\n")
    guest.domain.wait("destroyed", 30)


def test_shutdown_from_outside_is_obeyed(boot_linux: BootLinux) -> None:
    guest = boot_linux(on_poweroff="preserve")
    guest.domain.shutdown()
    guest.domain.wait("shutdown", 30)
    guest.domain.destroy()


def test_reboot_in_the_guest_starts_it_again(boot_linux: BootLinux) -> None:
    guest = boot_linux(name="again")
    guest.domain.console.send("reboot\n")
    guest.domain.wait("destroyed", 30)
    with pyxen.Host() as host:
        restarted = LinuxGuest(next_domain(host, "again"))
        assert restarted.domain.domid > guest.domain.domid
        restarted.wait_for_prompt()


def next_domain(host: pyxen.Host, name: str) -> pyxen.Domain:
    """The domain of that name as soon as there is one: between the end of the old and the start of the new there is none."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return host.domain(name)
        except pyxen.HostError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def test_a_kernel_panic_is_a_crash(boot_linux: BootLinux) -> None:
    guest = boot_linux(on_crash="preserve")
    guest.domain.console.send("echo c >/proc/sysrq-trigger\n")
    guest.domain.wait("crashed", 30)

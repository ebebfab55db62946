"""xl with a Linux guest, as a person at a terminal uses it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

import pyxen
from pyxen.guests.packages import GuestPackages
from tests.toolstack.xl_command import exit_status, listed, run, spawn, xl

pytestmark = [pytest.mark.guest, pytest.mark.timeout(240)]

PROMPT = "guest# "


@pytest.fixture
def host(runtime_directory: Path) -> Iterator[pyxen.Host]:
    with pyxen.Host(runtime_directory, memory=1024) as host:
        yield host


@pytest.fixture
def config(tmp_path: Path, guest_packages: GuestPackages, demo_ramdisk: Path) -> Path:
    path = tmp_path / "debian.cfg"
    path.write_text(
        f'name = "debian"\nkernel = "{guest_packages.kernel}"\nramdisk = "{demo_ramdisk}"\nextra = "console=hvc0"\nmemory = 256\n'
    )
    return path


def at_prompt(config: Path, *arguments: str) -> pexpect.spawn:
    child = spawn("xl", "create", "-c", str(config), *arguments)
    child.expect_exact("Parsing config from")
    child.expect_exact("Linux version")  # from the first byte: this is the kernel's first line
    child.expect_exact(PROMPT)
    return child


def test_a_session(host: pyxen.Host, config: Path) -> None:
    free = host.status.free_bytes
    child = at_prompt(config)
    child.sendline("cat /sys/hypervisor/type; echo $((6*7))")
    child.expect_exact("xen\r\n42\r\n")
    child.expect_exact(PROMPT)
    child.sendline("sleep 100")
    child.expect_exact("sleep 100\r\n")
    child.send("\x03")  # for the guest, not for xl
    child.expect_exact(PROMPT)
    child.send("\x1d")
    assert exit_status(child) == 0

    assert re.search(r"^debian +\d+ +256 +1 +[r-][b-]---- +\d+\.\d\n", xl("list"), re.MULTILINE)
    again = spawn("xl", "console", "debian")
    again.expect_exact("Linux version")  # what nobody has seen yet would be lost otherwise
    again.expect_exact("42\r\n")
    again.send("\r")
    again.expect_exact(PROMPT)
    result = run("xl", "shutdown", "-w", "debian")
    assert result.returncode == 0
    assert result.stderr.splitlines()[:2] == ["Shutting down domain 1", "Waiting for 1 domains"]
    assert exit_status(again) == 0
    _until(lambda: listed() == {})
    assert host.status.free_bytes == free


def test_memory_pause_sysrq_and_reboot(host: pyxen.Host, config: Path) -> None:
    child = at_prompt(config)
    xl("mem-set", "debian", "200m")
    _until(lambda: re.search(r"^debian +\d+ +200 ", xl("list"), re.MULTILINE) is not None)
    xl("sysrq", "debian", "h")
    child.expect("sysrq: HELP")
    xl("pause", "debian")
    child.send("echo awa''ke\r")
    with pytest.raises(pexpect.TIMEOUT):
        child.expect_exact("awake\r\n", timeout=1)
    xl("unpause", "debian")
    child.expect_exact("awake\r\n")
    first = xl("domid", "debian")
    assert run("xl", "reboot", "debian").returncode == 0
    assert exit_status(child) == 0
    _until(lambda: listed().get("debian") is not None and xl("domid", "debian") != first)
    console = spawn("xl", "console", "debian")
    console.expect_exact(PROMPT)
    assert run("xl", "shutdown", "-a", "-ww").returncode == 0
    assert listed() == {}


def test_the_end_of_the_guest_ends_the_console(host: pyxen.Host, config: Path) -> None:
    child = at_prompt(config)
    child.sendline("poweroff -f")
    child.expect_exact("reboot: System halted")
    assert exit_status(child) == 0
    _until(lambda: listed() == {})


def test_without_a_terminal_the_console_is_copied(host: pyxen.Host, config: Path) -> None:
    result = run("xl", "create", "-c", str(config), 'extra="console=hvc0 halt=1"')
    assert result.returncode == 0
    assert result.stdout.startswith("Parsing config from ")
    assert "Linux version" in result.stdout
    assert "reboot: System halted" in result.stdout
    assert listed() == {}


def test_demo_without_a_terminal(host: pyxen.Host) -> None:
    result = run("pyxen", "demo")
    assert result.returncode == 0, result.stderr
    shown = result.stdout.replace("\r", "")
    assert re.search(r"uname -a\nLinux .* x86_64 GNU/Linux\n", shown)
    assert "cat /sys/hypervisor/type\nxen\n" in shown
    assert re.search(r"cat /sys/hypervisor/version/\*\n\S+\n4\n17\n", shown)
    assert "Hypervisor detected: Xen PV\n" in shown.split("dmesg | grep -i xen\n")[1]
    assert listed() == {}


def test_demo_on_a_terminal(host: pyxen.Host) -> None:
    child = spawn("pyxen", "demo")
    child.expect_exact(PROMPT)
    child.sendline("echo he''llo")
    child.expect_exact("hello\r\n")
    child.send("\x1d")
    child.expect_exact("shutting down demo-")
    assert exit_status(child) == 0
    assert listed() == {}


def test_trace_of_a_boot(host: pyxen.Host, config: Path) -> None:
    xl("create", "-p", "-q", str(config))
    trace = spawn("pyxen", "trace", "debian", "--call", "mmu_update", "--call", "sched_op")
    time.sleep(1.0)  # the subscription has no sign of its own
    xl("unpause", "debian")
    trace.expect(r"d1v0 mmu_update\(ureqs=0x[0-9a-f]+, count=\d+")
    xl("destroy", "debian")
    assert exit_status(trace) == 0


def _until(condition: object, timeout: float = 30.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.2)

"""The commands of xl on a real host, with guests of a few instructions."""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyxen
from tests.toolstack.tiny_kernels import CRASH, IDLE, LOOP, shutdown, write_kernel
from tests.toolstack.xl_command import exit_status, listed, run, spawn, xl

pytestmark = pytest.mark.timeout(120)

UUID = "59e1cf6c-6ab9-4879-90e7-adc8d1c63bf5"


@pytest.fixture
def host(runtime_directory: Path) -> Iterator[pyxen.Host]:
    """A small host of the test's own: to see that nothing is left in it."""
    with pyxen.Host(runtime_directory, memory=512) as host:
        yield host


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A guest that idles; its kernel's path is relative."""
    write_kernel(tmp_path, IDLE, "idle")
    path = tmp_path / "idle.cfg"
    path.write_text('name = "idle"\nkernel = "idle"\nmemory = 32\n')
    return path


def test_from_create_to_destroy(host: pyxen.Host, config: Path) -> None:
    free = host.status.free_bytes
    assert xl("create", "idle.cfg", f'uuid="{UUID}"', cwd=config.parent) == "Parsing config from idle.cfg\n"
    assert listed() == {"idle": "-b----"}
    domid = xl("domid", "idle").strip()
    assert xl("domname", domid) == "idle\n"
    assert f"{UUID}  {domid}    idle" in xl("vm-list")
    assert re.search(rf"^idle {{29}}{domid:>5} {0:5d}", xl("vcpu-list", "idle"), re.MULTILINE)
    xl("pause", "idle")
    assert listed()["idle"][2] == "p"
    xl("unpause", domid)
    assert listed() == {"idle": "-b----"}
    xl("rename", "idle", "busy")
    assert listed() == {"busy": "-b----"}
    details = json.loads(xl("list", "-l", "busy"))[0]
    assert (details["domid"], details["config"]["c_info"]["name"], details["config"]["c_info"]["uuid"]) == (int(domid), "busy", UUID)
    xl("destroy", "busy")
    assert listed() == {}
    assert host.status.free_bytes == free


def test_create_paused_and_overridden_from_stdin(host: pyxen.Host, config: Path) -> None:
    xl("create", "-q", "-p", "-", 'name="other"; memory=48', cwd=config.parent, text=config.read_text())
    assert listed() == {"other": "--p---"}
    assert re.search(r"^other +\d+ +48 +1 ", xl("list"), re.MULTILINE)


def test_dry_run_needs_no_kernel_and_creates_nothing(host: pyxen.Host, config: Path) -> None:
    document = json.loads(xl("-N", "create", "-q", str(config)))
    assert document["domid"] is None
    assert document["config"]["b_info"]["target_memkb"] == 32 << 10
    assert listed() == {}


def test_a_looping_guest_is_listed_and_destroyed_at_once(host: pyxen.Host, config: Path) -> None:
    write_kernel(config.parent, LOOP, "idle")
    xl("create", str(config), cwd=config.parent)
    assert listed() == {"idle": "r-----"}
    began = time.monotonic()
    xl("destroy", "idle")
    assert time.monotonic() - began < 10
    assert listed() == {}


@pytest.mark.parametrize(
    ("code", "action", "letters"),
    [
        (shutdown(0), "on_poweroff", "---s--"),
        (shutdown(1), "on_reboot", "---sr-"),
        (CRASH, "on_crash", "---sc-"),
        (shutdown(4), "on_watchdog", "---sw-"),
    ],
)
def test_letters_of_the_dead(host: pyxen.Host, config: Path, code: bytes, action: str, letters: str) -> None:
    write_kernel(config.parent, code, "idle")
    xl("create", str(config), f'{action}="preserve"', cwd=config.parent)
    host.domain("idle").wait("shutdown" if letters != "---sc-" else "crashed", 10)
    assert listed() == {"idle": letters}


@pytest.mark.parametrize(
    ("code", "status", "reason"), [(shutdown(0), 0, "0 (poweroff)"), (CRASH, 1, "3 (crash)")], ids=["poweroff", "crash"]
)
def test_foreground(host: pyxen.Host, config: Path, code: bytes, status: int, reason: str) -> None:
    write_kernel(config.parent, code, "idle")
    result = run("xl", "create", "-F", str(config), cwd=config.parent)
    assert result.returncode == status
    assert f"has shut down, reason code {reason}\n" in result.stderr
    assert listed() == {}


@pytest.mark.parametrize(
    ("code", "status"), [(shutdown(0), 0), (shutdown(1), 0), (CRASH, 3), (shutdown(4), 4)], ids=["poweroff", "reboot", "crash", "watchdog"]
)
def test_pyxen_run_ends_with_the_guest(host: pyxen.Host, tmp_path: Path, code: bytes, status: int) -> None:
    kernel = write_kernel(tmp_path, code)
    result = run("pyxen", "run", str(kernel), "--memory", "32")
    assert result.returncode == status, result.stderr
    assert len(result.stderr.splitlines()) == (1 if status else 0)
    assert listed() == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_pyxen_run_takes_its_guest_along(host: pyxen.Host, tmp_path: Path, number: signal.Signals) -> None:
    child = spawn("pyxen", "run", str(write_kernel(tmp_path, LOOP)), "--memory", "32", "--name", "loop")
    _until(lambda: listed() == {"loop": "r-----"})
    child.kill(number)
    assert exit_status(child) == 128 + number
    assert listed() == {}


def test_pyxen_run_is_left_by_the_escape_key(host: pyxen.Host, tmp_path: Path) -> None:
    child = spawn("pyxen", "run", str(write_kernel(tmp_path, IDLE)), "--memory", "32", "--name", "idle")
    _until(lambda: listed() == {"idle": "-b----"})
    child.send("\x1d")
    assert exit_status(child) == 0
    assert listed() == {"idle": "-b----"}


def test_eight_creations_at_once(host: pyxen.Host, config: Path) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda number: run("xl", "create", "idle.cfg", f'name="g{number}"', cwd=config.parent), range(8)))
    assert [result.stderr for result in results if result.returncode] == []
    assert sorted(listed()) == [f"g{number}" for number in range(8)]


def test_eight_first_commands_at_once_start_one_host(runtime_directory: Path) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: run("pyxen", "host", "start"), range(8)))
    assert [result.stderr for result in results if result.returncode] == []
    assert len({result.stdout.split()[-1] for result in results}) == 1


def test_a_killed_host_is_a_line_for_the_console_and_the_next_command_starts_clean(host: pyxen.Host, config: Path) -> None:
    pid = host.status.pid
    child = spawn("xl", "create", "-c", str(config), cwd=config.parent)
    _until(lambda: listed() == {"idle": "-b----"})
    os.kill(pid, signal.SIGKILL)
    child.expect("the host process went away")
    assert exit_status(child) == 1
    assert listed() == {}
    xl("create", str(config), cwd=config.parent)
    assert listed() == {"idle": "-b----"}


def test_host_commands(runtime_directory: Path) -> None:
    assert run("pyxen", "host", "status").returncode == 3
    assert xl("list").count("\n") == 2
    status = run("pyxen", "host", "status")
    assert (status.returncode, "guests           0\n" in status.stdout) == (0, True)
    assert "ready" in run("pyxen", "host", "logs").stdout
    assert run("pyxen", "host", "stop").stdout == "stopped\n"
    assert run("pyxen", "host", "status").stdout == "not running\n"
    assert "ready" in run("pyxen", "host", "logs").stdout


def test_trace_shows_a_guest_s_hypercalls(host: pyxen.Host, config: Path) -> None:
    write_kernel(config.parent, shutdown(0), "idle")
    xl("create", "-p", str(config), cwd=config.parent)
    child = spawn("pyxen", "trace", "idle")
    time.sleep(1.0)  # the subscription has no sign of its own
    xl("unpause", "idle")
    child.expect(r"d\d+v0 sched_op\(cmd=SCHEDOP_shutdown")
    assert exit_status(child) == 0


def _until(condition: object, timeout: float = 20.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.1)

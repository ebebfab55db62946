"""Domains from creation to their end, driven by the Python API; the guests are kernels of a few instructions."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyxen
from pyxen import DomainState, ErrorKind, HostError
from tests.toolstack.tiny_kernels import CRASH, IDLE, LOOP, shutdown, write_kernel

pytestmark = pytest.mark.timeout(60)

POWEROFF, REBOOT, SUSPEND, WATCHDOG, SOFT_RESET = 0, 1, 2, 4, 5
MEMORY = 32


@pytest.fixture
def host(runtime_directory: Path) -> Iterator[pyxen.Host]:
    with pyxen.Host(runtime_directory, memory=512) as host:
        yield host


def idle_kernel(folder: Path) -> Path:
    return write_kernel(folder, IDLE, "idle")


def wait_until(condition: object, timeout: float = 10.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def test_idle_domain_from_creation_to_destruction(host: pyxen.Host, tmp_path: Path) -> None:
    domain = host.create(kernel=idle_kernel(tmp_path), memory=MEMORY, name="idle")
    info = domain.info
    assert (info.name, info.kind, info.vcpus, info.memory_kib) == ("idle", "pv", 1, MEMORY << 10)
    wait_until(lambda: domain.info.state_letters == "-b----")
    assert [one.domid for one in host.domains()] == [domain.domid]
    assert host.domain("idle").domid == host.domain(domain.domid).domid == domain.domid
    domain.destroy()
    assert domain.state is DomainState.DESTROYED
    assert host.domains() == []
    domain.destroy()


def test_paused_domain_waits_for_unpause(host: pyxen.Host, tmp_path: Path) -> None:
    with host.create(kernel=write_kernel(tmp_path, shutdown(POWEROFF)), memory=MEMORY, on_poweroff="preserve", paused=True) as domain:
        assert domain.state is DomainState.PAUSED
        time.sleep(0.1)
        assert domain.info.cpu_time_s == 0
        domain.unpause()
        domain.wait("shutdown", 10)


def test_looping_domain_is_paused_and_destroyed_at_once(host: pyxen.Host, tmp_path: Path) -> None:
    domain = host.create(kernel=write_kernel(tmp_path, LOOP), memory=MEMORY)
    wait_until(lambda: domain.info.cpu_time_s > 0.05)
    domain.pause()
    assert domain.wait("paused", 5).state is DomainState.PAUSED
    used = domain.info.cpu_time_s
    time.sleep(0.1)
    assert domain.info.cpu_time_s == used
    domain.unpause()
    wait_until(lambda: domain.info.cpu_time_s > used)
    start = time.monotonic()
    domain.destroy()
    assert time.monotonic() - start < 3
    assert host.domains() == []


def test_crash_in_the_first_instruction(host: pyxen.Host, tmp_path: Path) -> None:
    domain = host.create(kernel=write_kernel(tmp_path, CRASH), memory=MEMORY)
    crashed = domain.wait("crashed", 10)
    assert crashed.shutdown_reason == "crash"
    assert crashed.crash_cause
    assert domain.wait("destroyed", 10).state is DomainState.DESTROYED
    assert f"d{domain.domid} crashed" in host.dmesg()


@pytest.mark.parametrize(
    ("reason", "setting", "word"),
    [
        (POWEROFF, "on_poweroff", "poweroff"),
        (REBOOT, "on_reboot", "reboot"),
        (WATCHDOG, "on_watchdog", "watchdog"),
        (SOFT_RESET, "on_soft_reset", "soft-reset"),
    ],
)
def test_preserve_keeps_the_dead_domain(host: pyxen.Host, tmp_path: Path, reason: int, setting: str, word: str) -> None:
    domain = host.create(kernel=write_kernel(tmp_path, shutdown(reason)), memory=MEMORY, **{setting: "preserve"})
    assert domain.wait("shutdown", 10).shutdown_reason == word
    wait_until(lambda: "preserved" in host.dmesg())
    info = domain.info
    assert info.state_letters == "---s--"
    assert info.shutdown_reason == word
    domain.destroy()
    assert host.domains() == []


def test_preserved_crash_shows_its_letters(host: pyxen.Host, tmp_path: Path) -> None:
    with host.create(kernel=write_kernel(tmp_path, CRASH), memory=MEMORY, on_crash="preserve") as domain:
        domain.wait("crashed", 10)
        assert domain.info.state_letters == "---sc-"


@pytest.mark.parametrize("reason", [POWEROFF, SOFT_RESET])
def test_default_actions_that_destroy(host: pyxen.Host, tmp_path: Path, reason: int) -> None:
    domain = host.create(kernel=write_kernel(tmp_path, shutdown(reason)), memory=MEMORY)
    assert domain.wait("shutdown", 10).state is DomainState.SHUTDOWN
    assert domain.wait("destroyed", 10).state is DomainState.DESTROYED
    # the end of a destroyed domain can still be asked for
    assert domain.wait("shutdown", 10).state is DomainState.SHUTDOWN


def test_suspended_domain_is_left_alone(host: pyxen.Host, tmp_path: Path) -> None:
    with host.create(kernel=write_kernel(tmp_path, shutdown(SUSPEND)), memory=MEMORY) as domain:
        assert domain.wait("shutdown", 10).shutdown_reason == "suspend"
        time.sleep(0.1)
        assert domain.state is DomainState.SHUTDOWN


def test_reboot_restarts_under_the_same_name(host: pyxen.Host, tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path, shutdown(REBOOT))
    first = host.create(kernel=kernel, memory=MEMORY, name="phoenix")
    first.wait("shutdown", 10)
    write_kernel(tmp_path, IDLE)
    first.wait("destroyed", 10)
    wait_until(lambda: [domain.name for domain in host.domains()] == ["phoenix"])
    second = host.domain("phoenix")
    assert second.domid != first.domid
    wait_until(lambda: second.info.state_letters == "-b----")


def test_restart_goes_by_the_updated_configuration(host: pyxen.Host, tmp_path: Path) -> None:
    from pyxen.host import protocol as p

    domain = host.create(kernel=write_kernel(tmp_path, shutdown(REBOOT)), memory=MEMORY, name="updated", paused=True)
    config = {"name": "updated", "kernel": str(idle_kernel(tmp_path)), "memory": 48}
    host.client.call(p.DOMAIN_CONFIG_UPDATE, p.ConfigUpdateRequest(domain.domid, config=config))
    domain.unpause()
    domain.wait("destroyed", 10)
    wait_until(lambda: [one.info.memory_kib for one in host.domains()] == [48 << 10])


def test_failed_restart_leaves_nothing(host: pyxen.Host, tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path, shutdown(REBOOT))
    free = host.status.free_bytes
    domain = host.create(kernel=kernel, memory=MEMORY, name="once", paused=True)
    kernel.unlink()
    domain.unpause()
    domain.wait("destroyed", 10)
    wait_until(lambda: "restart failed" in host.dmesg())
    assert host.domains() == []
    assert host.status.free_bytes == free
    host.create(kernel=idle_kernel(tmp_path), memory=MEMORY, name="once").destroy()


def test_rename_restart_keeps_the_old_one(host: pyxen.Host, tmp_path: Path) -> None:
    domain = host.create(kernel=write_kernel(tmp_path, CRASH), memory=MEMORY, name="twin", on_crash="rename-restart")
    domain.wait("crashed", 10)
    write_kernel(tmp_path, IDLE)
    wait_until(lambda: len(host.domains()) == 2)
    old, new = host.domains()
    assert re.fullmatch(r"twin-\d{8}T\d{4}Z", old.name)
    assert new.name == "twin"
    assert old.uuid != new.uuid
    assert old.info.state_letters == "---sc-"


@pytest.mark.parametrize(("action", "left"), [("coredump-destroy", 0), ("coredump-restart", 1)])
def test_core_dump(host: pyxen.Host, runtime_directory: Path, tmp_path: Path, action: str, left: int) -> None:
    domain = host.create(kernel=write_kernel(tmp_path, CRASH), memory=MEMORY, name="dumped", on_crash=action)
    domain.wait("crashed", 10)
    write_kernel(tmp_path, IDLE)
    domain.wait("destroyed", 20)
    (core,) = (runtime_directory / "dump").iterdir()
    assert core.name.endswith(f"dumped.{domain.domid}.core")
    assert core.stat().st_mode & 0o777 == 0o600
    assert core.stat().st_size >= MEMORY << 20
    content = core.read_bytes()
    assert content.startswith(b"\x7fELF\x02\x01\x01")
    assert b"xen-3.0-x86_64" in content  # of the start_info page
    wait_until(lambda: len(host.domains()) == left)


def test_rename(host: pyxen.Host, tmp_path: Path) -> None:
    kernel = idle_kernel(tmp_path)
    with host.create(kernel=kernel, memory=MEMORY, name="before") as domain, host.create(kernel=kernel, memory=MEMORY, name="other"):
        domain.rename("after")
        assert host.domain("after").domid == domain.domid
        with pytest.raises(HostError, match="no such domain") as unknown:
            host.domain("before")
        assert unknown.value.kind is ErrorKind.NOT_FOUND
        for taken in ("other", "Domain-0"):
            with pytest.raises(HostError, match="exists already"):
                domain.rename(taken)
        for bad in ("", "a/b", "a\nb", "x" * 200):
            with pytest.raises(HostError):
                domain.rename(bad)
        assert domain.info.name == "after"
        host.create(kernel=kernel, memory=MEMORY, name="before").destroy()


def test_name_and_uuid_are_unique(host: pyxen.Host, tmp_path: Path) -> None:
    kernel = idle_kernel(tmp_path)
    uuid = "0b5a4a64-9a71-4f7e-b0b9-0d5b1f2a3c4d"
    with host.create(kernel=kernel, memory=MEMORY, name="one", uuid=uuid) as domain:
        assert domain.uuid == domain.info.uuid == uuid
        with pytest.raises(HostError, match="name") as same_name:
            host.create(kernel=kernel, memory=MEMORY, name="one")
        assert same_name.value.kind is ErrorKind.EXISTS
        with pytest.raises(HostError, match="UUID"):
            host.create(kernel=kernel, memory=MEMORY, name="two", uuid=uuid)


def test_guest_without_control_driver_can_not_be_shut_down(host: pyxen.Host, tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path, shutdown(POWEROFF))
    with host.create(kernel=kernel, memory=MEMORY, on_poweroff="preserve") as domain:
        domain.wait("shutdown", 10)
        with pytest.raises(HostError, match="shut down already") as refused:
            domain.shutdown()
        assert refused.value.kind is ErrorKind.STATE


def test_memory_limits(host: pyxen.Host, tmp_path: Path) -> None:
    from pyxen.host import protocol as p

    with host.create(kernel=idle_kernel(tmp_path), memory=MEMORY, maxmem=64) as domain:
        domain.set_memory(48)
        assert domain.info.memory_target_kib == 48 << 10
        assert domain.info.memory_max_kib == (48 << 10) + 1024
        with pytest.raises(HostError, match="memory_static_max"):
            domain.set_memory(65)
        with pytest.raises(HostError):
            domain.set_memory(0)
        host.client.call(p.DOMAIN_MEM_MAX, p.MemoryRequest(domain.domid, 56 << 10))
        assert domain.info.memory_max_kib == (56 << 10) + 1024
        with pytest.raises(HostError, match="memory_dynamic_max"):
            host.client.call(p.DOMAIN_MEM_MAX, p.MemoryRequest(domain.domid, 32 << 10))


def test_what_is_not_for_domain_0_or_unknown_domains(host: pyxen.Host) -> None:
    zero = host.domain("Domain-0")
    assert zero.domid == 0
    unknown = pyxen.Domain(host.client, 77, "unknown", "")
    for domain, kind in ((zero, ErrorKind.INVALID), (unknown, ErrorKind.NOT_FOUND)):
        calls = (
            domain.pause,
            domain.unpause,
            domain.shutdown,
            domain.reboot,
            lambda d=domain: d.rename("x"),
            lambda d=domain: d.sysrq("h"),
        )
        for call in calls:
            with pytest.raises(HostError) as refused:
                call()
            assert refused.value.kind is kind
    assert unknown.state is DomainState.DESTROYED
    assert host.domain("0").info.state is DomainState.RUNNING


def test_triggers_and_sysrq(host: pyxen.Host, tmp_path: Path) -> None:
    from pyxen.host import protocol as p

    with host.create(kernel=idle_kernel(tmp_path), memory=MEMORY) as domain:
        for trigger, kind in (("power", ErrorKind.UNSUPPORTED), ("nonsense", ErrorKind.INVALID)):
            with pytest.raises(HostError) as refused:
                host.client.call(p.DOMAIN_TRIGGER, p.TriggerRequest(domain.domid, trigger))
            assert refused.value.kind is kind
        domain.sysrq("h")
        for key in ("", "hh", "\n", "é"):
            with pytest.raises(HostError):
                domain.sysrq(key)


def test_wait_tells_when_the_state_can_not_come_any_more(host: pyxen.Host, tmp_path: Path) -> None:
    domain = host.create(kernel=idle_kernel(tmp_path), memory=MEMORY)
    with pytest.raises(TimeoutError):
        domain.wait("crashed", 0.2)
    domain.destroy()
    with pytest.raises(HostError, match="destroyed without"):
        domain.wait("crashed", 10)


def test_nothing_is_left_of_a_hundred_lives(host: pyxen.Host, runtime_directory: Path, tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path, CRASH)
    host.create(kernel=kernel, memory=MEMORY).wait("destroyed", 10)
    pid = host.status.pid

    def held() -> tuple[int, int, int]:
        return host.status.free_bytes, len(os.listdir(f"/proc/{pid}/task")), len(os.listdir(f"/proc/{pid}/fd"))

    before = held()
    for _ in range(100):
        host.create(kernel=kernel, memory=MEMORY).wait("destroyed", 10)
    assert list((runtime_directory / "console").iterdir()) == []
    # Worker threads of the host's pool may have been started meanwhile; they are bounded and not the domains'.
    after = held()
    assert after[0] == before[0]
    assert after[1] <= before[1] + 8
    assert after[2] <= before[2]

"""What the host does for itself while guests run: no rights that it does not need, sockets for its user alone, and no path out of the store
that a guest wrote."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from pathlib import Path

import pytest

import pyxen
from tests.toolstack.tiny_kernels import LOOP, write_kernel
from tests.unit.backends import block_guest, network_guest
from tests.unit.hypervisor.machine import new_machine
from tests.unit.xenstore.simulated_guest import World

#: Names under which backends, hotplug scripts and consoles of Xen have, or had, paths of the host or programs.
PATH_NAMES = (
    *("params", "physical-device", "physical-device-path", "dev", "node", "filename", "tdtype", "type", "script", "vifname", "bridge"),
    *("backend", "backend-id", "output", "tty", "hotplug-status", "image", "discard-enable", "direct-io-safe", "mode", "device-type"),
)
_opened: list[str] = []
_watching = False


def _note_opened(event: str, arguments: tuple[object, ...]) -> None:
    if _watching and event in ("open", "os.listdir", "os.scandir", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect"):
        _opened.append(repr(arguments))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every file that this process opens from now on, by whatever way Python has, and every program that it starts."""
    if not _opened:  # a hook stays for the life of the process
        sys.addaudithook(_note_opened)
    _opened[:] = [""]
    monkeypatch.setattr(sys.modules[__name__], "_watching", True)
    return _opened


@pytest.mark.timeout(120)
def test_every_thread_of_the_host_has_given_up_its_rights(runtime_directory: Path, tmp_path: Path) -> None:
    with pyxen.Host(runtime_directory, memory=256) as host:
        host.create(kernel=write_kernel(tmp_path, LOOP), memory=32, vcpus=2)
        pid = host.status.pid
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        assert len(threads) >= 4
        for thread in threads:
            status = dict(line.split(":\t", 1) for line in (thread / "status").read_text().splitlines() if ":\t" in line)
            assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2"), f"thread {status['Name']}"
        if not os.geteuid():
            assert "CapBnd:\t0000000000000000" in Path(f"/proc/{pid}/status").read_text()
        sockets = [path for path in runtime_directory.rglob("*") if path.is_socket()]
        assert len(sockets) == 2
        assert {stat.S_IMODE(path.stat().st_mode) for path in sockets} == {0o600}
        listening = [line.split() for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines() if str(runtime_directory) in line]
        assert {line[-1] for line in listening} == {str(path) for path in sockets}


def _own_area(domid: int, secret: Path) -> dict[str, str]:
    """What a guest may write, all of it paths."""
    device = f"/local/domain/{domid}/device"
    folders = [f"{device}/vbd/{block_guest.DEVID}", f"{device}/vif/0", f"/local/domain/{domid}/console", f"/local/domain/{domid}/data"]
    return {f"{folder}/{name}": str(secret) for folder in folders for name in PATH_NAMES}


def test_a_disk_s_frontend_names_no_file(tmp_path: Path, opened: list[str]) -> None:
    secret = tmp_path / "secret.img"
    secret.write_bytes(b"secret".ljust(1 << 20, b"s"))
    machine = new_machine()

    async def main() -> None:
        async with block_guest.block_world(machine, tmp_path) as world:
            frontend = world.frontend
            await world.attach(world.image())
            for path, value in _own_area(world.guest.domid, secret).items():
                world.store.write(path, value)
            await frontend.connect()
            assert await frontend.request(block_guest.plain(0, 0, block_guest.data_segments(1))) == block_guest.OKAY
            assert b"secret" not in frontend.peek(block_guest.DATA_PFN, 0, 4096)
            readers = world.store.get_perms(frontend.backend)
            assert readers[0] == "n0" and set(readers[1:]) <= {f"r{world.guest.domid}"}, "the guest may write what the backend trusts"

    try:
        asyncio.run(main())
        assert any("disk.img" in text for text in opened), "the audit hook sees nothing"
        assert not [text for text in opened if "secret" in text and "'w" not in text]
    finally:
        machine.close()


def test_a_network_frontend_names_no_file_and_no_program(tmp_path: Path, opened: list[str]) -> None:
    machine = new_machine()

    async def main() -> None:
        async with network_guest.network_world(machine) as world:
            await world.attach()
            for path, value in _own_area(world.first.guest.domid, tmp_path / "secret").items():
                world.store.write(path, value)
            await world.first.connect()

    try:
        asyncio.run(main())
        assert not [text for text in opened if "secret" in text]
    finally:
        machine.close()


@pytest.mark.parametrize(
    "path", ["/local/domain/0/backend/vbd/1/51712/params", "/vm/1/name", "/libxl/1/type", "/tool/xenstored", "/local/domain/2/x"]
)
def test_a_guest_writes_no_node_that_domain_0_trusts(path: str) -> None:
    world = World()
    guest = world.guest(1)
    assert guest.write(path, "/etc/passwd") == "EACCES"
    assert guest.read(path) in ("EACCES", "ENOENT")

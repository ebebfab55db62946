"""A creation in which any one step fails leaves nothing: the real toolstack, store and hypervisor, with one refusal at a time."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from pyxen.backends.block import block_backend
from pyxen.backends.console import ConsoleBackend
from pyxen.backends.device import Surroundings
from pyxen.engine.unicorn_engine import make_engine
from pyxen.hypervisor.dom0_interface import Dom0Hypercalls, HypercallError
from pyxen.hypervisor.hypervisor import Hypervisor
from pyxen.toolstack.configuration import DomainConfig
from pyxen.toolstack.configuration.disk import DiskSpecification
from pyxen.toolstack.cpu_pools import CpuPools
from pyxen.toolstack.devices.disks import DomainDisks
from pyxen.toolstack.devices.interfaces import DomainInterfaces
from pyxen.toolstack.domain_store import DomainStore
from pyxen.toolstack.errors import Fault, ToolstackError
from pyxen.toolstack.lifecycle import Toolstack
from pyxen.xenstore.daemon import Daemon
from pyxen.xenstore.errors import StoreError
from pyxen.xenstore.guest_link import HypercallConnector
from pyxen.xenstore.store import Store
from tests.toolstack.tiny_kernels import IDLE, write_kernel

pytestmark = pytest.mark.timeout(120)

#: Calls that undo or only look: a refusal there is no failed creation.
_EXEMPT = {"destroy_domain", "unmap_foreign", "close_port", "domain_info", "list_domains", "notify", "log", "subscribe_domain_exceptions"}


class Refusing:
    """Passes calls on until the ``nth`` that counts, which it refuses."""

    def __init__(self, target: object, error: Exception, exempt: set[str]) -> None:
        self._target = target
        self._error = error
        self._exempt = exempt
        self.calls = 0
        self.nth = 0
        self.refused = ""

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)
        if name in self._exempt or not callable(method):
            return method

        def call(*arguments: Any, **keywords: Any) -> Any:
            self.calls += 1
            if self.calls == self.nth:
                self.refused = name
                raise self._error
            return method(*arguments, **keywords)

        return call


class Machine:
    """A whole Domain 0 in this process."""

    def __init__(self, hypervisor: Hypervisor, folder: Path) -> None:
        loop = asyncio.get_running_loop()
        self.hypervisor = hypervisor
        self.folder = folder
        self.dom0 = Refusing(hypervisor.dom0, HypercallError(errno.ENOMEM, "refused"), _EXEMPT)
        dom0 = cast(Dom0Hypercalls, self.dom0)
        self.daemon = Daemon(loop, HypercallConnector(dom0, loop.call_soon_threadsafe))
        self.real_store = Store(self.daemon)
        exempt = {"rm", "release_domain", "check_domains", "get", "watch"}
        self.store = Refusing(self.real_store, StoreError(errno.ENOSPC, "refused"), exempt)
        for name in ("console", "log", "dump"):
            (folder / name).mkdir(exist_ok=True)
        self.consoles = ConsoleBackend(dom0, loop, folder / "console", folder / "log")
        self.disks = block_backend(Surroundings(dom0, self.real_store, loop))
        self.toolstack = Toolstack(
            dom0,
            DomainStore(cast(Store, self.store)),
            self.consoles,
            DomainDisks(cast(Store, self.store)),
            DomainInterfaces(cast(Store, self.store)),
            CpuPools(hypervisor.dom0, self.real_store),
            folder / "dump",
        )
        self.toolstack.start()

    def holdings(self) -> dict[str, object]:
        return {
            "free": self.hypervisor.memory.free_frames,
            "domains": [info.domid for info in self.hypervisor.dom0.list_domains()],
            "ports": len(self.hypervisor.domain(0).event_channels._ports),
            "files": len(os.listdir("/proc/self/fd")),
            "threads": sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("pyxen-d")),
            "consoles": sorted((self.folder / "console").iterdir()),
            "store": self._tree("/"),
            "guests": sorted(self.daemon.guests),
            "records": len(self.toolstack.registry),
        }

    def _tree(self, path: str) -> list[str]:
        names = self.real_store.ls(path)
        return [path] + [line for name in names for line in self._tree(f"{path.rstrip('/')}/{name}")]


@pytest.fixture(scope="module")
def hypervisor() -> Iterator[Hypervisor]:
    hypervisor = Hypervisor(make_engine, memory_bytes=256 << 20, self_test=False)
    yield hypervisor
    hypervisor.close()


def test_every_hypercall_of_a_creation_may_be_refused(hypervisor: Hypervisor, tmp_path: Path) -> None:
    asyncio.run(refuse_each(hypervisor, tmp_path, "dom0"))


def test_every_store_request_of_a_creation_may_be_refused(hypervisor: Hypervisor, tmp_path: Path) -> None:
    asyncio.run(refuse_each(hypervisor, tmp_path, "store"))


async def refuse_each(hypervisor: Hypervisor, folder: Path, part: str) -> None:
    disk = DiskSpecification(str(folder / "disk.img"), "xvda")
    Path(disk.target).write_bytes(bytes(4096))
    config = DomainConfig(name="unlucky", kernel=str(write_kernel(folder, IDLE)), memory=32, cpus=("0",), disk=(disk,))
    machine = Machine(hypervisor, folder)
    await await_destroyed(machine, config)  # what is made once is made now: the folders of the store, the threads of the pool
    gc.collect()  # descriptors that earlier tests left to the collector do not count
    before = machine.holdings()
    refusing: Refusing = getattr(machine, part)
    refused: list[str] = []
    while True:
        refusing.calls, refusing.nth, refusing.refused = 0, len(refused) + 1, ""
        try:
            record = await machine.toolstack.create(config)
        except ToolstackError as error:
            assert refusing.refused, error
            assert error.fault is Fault.RESOURCE
            refused.append(refusing.refused)
            assert machine.holdings() == before, refused
            continue
        break
    refusing.nth = 0
    await machine.toolstack.destroy(record.domid)
    assert machine.holdings() == before
    await machine.toolstack.close()
    await machine.disks.close()
    machine.consoles.close()
    machine.daemon.close()
    expected = {"dom0": {"create_domain", "populate_physmap", "set_vcpu_context", "map_foreign", "bind_interdomain", "unpause_domain"}}
    assert expected.get(part, {"write", "introduce"}) <= set(refused)
    assert len(refused) > 10


async def await_destroyed(machine: Machine, config: DomainConfig) -> None:
    record = await machine.toolstack.create(config)
    await machine.toolstack.destroy(record.domid)


def test_pseudo_terminals_and_files_that_run_out(hypervisor: Hypervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        config = DomainConfig(name="unlucky", kernel=str(write_kernel(tmp_path, IDLE)), memory=32)
        machine = Machine(hypervisor, tmp_path)
        await await_destroyed(machine, config)
        before = machine.holdings()

        def no_terminal() -> tuple[int, int]:
            raise OSError(errno.ENOSPC, "out of pseudo-terminals")

        with monkeypatch.context() as patch:
            patch.setattr(os, "openpty", no_terminal)
            with pytest.raises(ToolstackError, match="pseudo-terminals") as refused:
                await machine.toolstack.create(config)
        assert refused.value.fault is Fault.RESOURCE
        assert machine.holdings() == before
        await machine.toolstack.close()
        machine.daemon.close()

    asyncio.run(scenario())


def test_cancelled_creation_is_undone(hypervisor: Hypervisor, tmp_path: Path) -> None:
    async def scenario() -> None:
        config = DomainConfig(name="unlucky", kernel=str(write_kernel(tmp_path, IDLE)), memory=32)
        machine = Machine(hypervisor, tmp_path)
        await await_destroyed(machine, config)
        before = machine.holdings()
        for turns in range(6):
            creation = asyncio.create_task(machine.toolstack.create(config))
            for _ in range(turns):
                await asyncio.sleep(0)
            creation.cancel()
            with pytest.raises(asyncio.CancelledError):
                await creation
            assert machine.holdings() == before
        await machine.toolstack.close()
        machine.daemon.close()

    asyncio.run(scenario())


def test_domain_that_dies_behind_the_toolstack_is_cleaned_up(hypervisor: Hypervisor, tmp_path: Path) -> None:
    async def scenario() -> None:
        config = DomainConfig(name="gone", kernel=str(write_kernel(tmp_path, IDLE)), memory=32)
        machine = Machine(hypervisor, tmp_path)
        await await_destroyed(machine, config)
        before = machine.holdings()
        record = await machine.toolstack.create(config)
        await asyncio.to_thread(hypervisor.dom0.destroy_domain, record.domid)
        machine.toolstack.check_domains()
        async with asyncio.timeout(10):
            while len(machine.toolstack.registry):
                await asyncio.sleep(0.01)
        assert machine.holdings() == before
        await machine.toolstack.close()
        machine.daemon.close()

    asyncio.run(scenario())

"""Requests through the control node: what happens when the guest answers, does not, or dies over it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from pyxen.engine.unicorn_engine import make_engine
from pyxen.hypervisor.dom0_interface import ShutdownReason
from pyxen.hypervisor.hypervisor import Hypervisor
from pyxen.toolstack import guest_control
from pyxen.toolstack.configuration import DomainConfig
from pyxen.toolstack.domain_record import DomainRecord
from pyxen.toolstack.domain_store import DomainStore
from pyxen.toolstack.errors import Fault, ToolstackError
from tests.toolstack.test_rollback import Machine
from tests.toolstack.tiny_kernels import IDLE, write_kernel

pytestmark = pytest.mark.timeout(30)

Scenario = Callable[[Machine, DomainRecord, DomainStore], Awaitable[None]]


@pytest.fixture(scope="module")
def hypervisor() -> Iterator[Hypervisor]:
    hypervisor = Hypervisor(make_engine, memory_bytes=128 << 20, self_test=False)
    yield hypervisor
    hypervisor.close()


def run(hypervisor: Hypervisor, folder: Path, scenario: Scenario) -> None:
    async def main() -> None:
        machine = Machine(hypervisor, folder)
        config = DomainConfig(name="guest", kernel=str(write_kernel(folder, IDLE)), memory=32, on_poweroff="preserve")
        record = await machine.toolstack.create(config)
        try:
            await scenario(machine, record, DomainStore(machine.real_store))
        finally:
            await machine.toolstack.close()
            machine.daemon.close()

    asyncio.run(main())


def node(record: DomainRecord) -> str:
    return f"/local/domain/{record.domid}/control/shutdown"


def test_acknowledged_request(hypervisor: Hypervisor, tmp_path: Path) -> None:
    async def scenario(machine: Machine, record: DomainRecord, store: DomainStore) -> None:
        request = asyncio.create_task(guest_control.request_shutdown(hypervisor.dom0, store, record, "reboot", 10))
        while machine.real_store.get(node(record)) != "reboot":
            await asyncio.sleep(0.001)
        assert not request.done()
        machine.real_store.write(node(record), "")
        await asyncio.wait_for(request, 5)

    run(hypervisor, tmp_path, scenario)


def test_unacknowledged_request_is_withdrawn(hypervisor: Hypervisor, tmp_path: Path) -> None:
    async def scenario(machine: Machine, record: DomainRecord, store: DomainStore) -> None:
        with pytest.raises(ToolstackError, match="did not acknowledge") as refused:
            await guest_control.request_shutdown(hypervisor.dom0, store, record, "poweroff", 0.1)
        assert refused.value.fault is Fault.TIMEOUT
        assert machine.real_store.get(node(record)) == ""

    run(hypervisor, tmp_path, scenario)


def test_guest_that_shuts_down_without_an_answer_has_obeyed(hypervisor: Hypervisor, tmp_path: Path) -> None:
    async def scenario(machine: Machine, record: DomainRecord, store: DomainStore) -> None:
        request = asyncio.create_task(guest_control.request_shutdown(hypervisor.dom0, store, record, "poweroff", 0.3))
        await asyncio.sleep(0.05)
        hypervisor.dom0.shutdown_domain(record.domid, ShutdownReason.POWEROFF)
        await asyncio.wait_for(request, 5)

    run(hypervisor, tmp_path, scenario)


def test_guest_destroyed_meanwhile_has_obeyed(hypervisor: Hypervisor, tmp_path: Path) -> None:
    async def scenario(machine: Machine, record: DomainRecord, store: DomainStore) -> None:
        request = asyncio.create_task(machine.toolstack.shutdown(record.domid, "poweroff"))
        await asyncio.sleep(0.05)
        await machine.toolstack.destroy(record.domid)
        await asyncio.wait_for(request, 5)

    run(hypervisor, tmp_path, scenario)

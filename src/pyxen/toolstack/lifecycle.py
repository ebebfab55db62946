"""The life of the domains on this host: create, pause, shut down, restart, rename, destroy.

Everything belongs to the event loop's thread. Methods take domain ids that ``resolve`` gave; those of Domain 0 and of unknown
domains are refused with a ``ToolstackError``.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from pathlib import Path
from typing import Any

from pyxen.backends.console import ConsoleBackend, GuestConsole
from pyxen.hypervisor.dom0_interface import Dom0Hypercalls, HypercallError
from pyxen.toolstack import guest_control, memory_limits, names, vcpu_settings
from pyxen.toolstack.configuration import DomainConfig
from pyxen.toolstack.configuration.disk import DiskSpecification
from pyxen.toolstack.configuration.vif import VifSpecification
from pyxen.toolstack.cpu_pools import CpuPools
from pyxen.toolstack.creation import DomainCreator, StageReport
from pyxen.toolstack.death_actions import DeathActions
from pyxen.toolstack.devices.disks import AttachedDisk, DomainDisks
from pyxen.toolstack.devices.interfaces import AttachedInterface, DomainInterfaces
from pyxen.toolstack.domain_record import DomainRecord, DomainRegistry, LifeState, StateReached, reason_name, state_of
from pyxen.toolstack.domain_store import DomainStore
from pyxen.toolstack.errors import Fault, ToolstackError
from pyxen.toolstack.timeline import Stage, Timeline

_logger = logging.getLogger(__name__)


class Toolstack:
    """All domains of one host. ``start`` it before use, ``close`` it in the end."""

    def __init__(
        self,
        dom0: Dom0Hypercalls,
        store: DomainStore,
        consoles: ConsoleBackend,
        disks: DomainDisks,
        interfaces: DomainInterfaces,
        pools: CpuPools,
        dumps: Path,
    ) -> None:
        self.registry = DomainRegistry()
        self._dom0 = dom0
        self._store = store
        self._consoles = consoles
        self._disks = disks
        self._interfaces = interfaces
        self.pools = pools
        self._creator = DomainCreator(dom0, self.registry, store, consoles, disks, interfaces, pools)
        self._actions = DeathActions(dom0, self, dumps)
        self._tasks: set[asyncio.Task[None]] = set()
        self._creations = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False
        self._unsubscribe: Callable[[], None] | None = None

    def start(self) -> None:
        """Begin to watch for domains that shut down."""
        loop = asyncio.get_running_loop()

        def exception() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the host is going down
                loop.call_soon_threadsafe(self.check_domains)

        self._unsubscribe = self._dom0.subscribe_domain_exceptions(exception)

    async def close(self) -> None:
        """Destroy every domain and forget everything. New ones are refused from now on."""
        self._closing = True
        await self._idle.wait()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(self.destroy(record.domid) for record in self.registry), return_exceptions=True)
        if self._unsubscribe is not None:
            self._unsubscribe()
        self._creator.close()

    # -- creation and destruction -------------------------------------------------------------------------------------
    async def create(
        self, config: DomainConfig, *, paused: bool = False, report: StageReport = lambda _: None, timeline: Timeline | None = None
    ) -> DomainRecord:
        """Make a domain; its start-up goes to ``timeline``. Raises ``ToolstackError``, and then nothing of it is left."""
        if self._closing:
            raise ToolstackError("the host is stopping", Fault.STATE)
        self._creations += 1
        self._idle.clear()
        try:
            return await self._creator.create(config, paused=paused, report=report, timeline=timeline or Timeline())
        finally:
            self._creations -= 1
            if not self._creations:
                self._idle.set()

    async def destroy(self, domid: int) -> None:
        """Stop the domain at once, whatever it does, and free all that it had."""
        record = self._guest(domid)
        if record.destruction is None:
            record.destruction = asyncio.create_task(self._destroy(record))
        # Shielded: several may wait for the one destruction.
        await asyncio.shield(record.destruction)

    async def _destroy(self, record: DomainRecord) -> None:
        domid = record.domid
        with contextlib.suppress(HypercallError):
            self._dom0.pause_domain(domid)
        if record.observer is not None:
            record.observer.stop()
        self._consoles.disconnect(domid)
        await asyncio.gather(self._disks.remove_all(domid), self._interfaces.remove_all(domid))
        self._store.release(domid)
        try:
            await asyncio.to_thread(self._dom0.destroy_domain, domid)
        except HypercallError as error:
            if error.errno != errno.ESRCH:
                raise
        finally:
            self._store.remove_domain(domid, record.uuid)
            record.reach(LifeState.DESTROYED)
            self.registry.remove(record)

    async def restart(self, record: DomainRecord) -> None:
        """Destroy the domain and make it anew, under another id, with the configuration for its next start."""
        uuid = record.next_config.uuid
        with self.registry.reserved(record.name, record.uuid):
            await self.destroy(record.domid)
        await self.create(dataclasses.replace(record.next_config, name=record.name, uuid=uuid))

    async def restart_renamed(self, record: DomainRecord, old_name: str) -> None:
        """Keep the dead domain under ``old_name`` and make a new one under its name."""
        name = record.name
        names.check_name(old_name)
        self.registry.check_free(old_name, None)
        self._set_name(record, old_name)
        await self.create(dataclasses.replace(record.next_config, name=name, uuid=None))

    # -- running domains ------------------------------------------------------------------------------------------------
    def pause(self, domid: int) -> None:
        record = self._guest(domid)
        self._dom0.pause_domain(domid)
        record.reach(LifeState.PAUSED)

    def unpause(self, domid: int) -> None:
        record = self._guest(domid)
        record.timeline.reach(Stage.UNPAUSED)
        self._dom0.unpause_domain(domid)
        record.reach(state_of(self._dom0.domain_info(domid)))

    async def shutdown(self, domid: int, request: str) -> None:
        """Ask the guest's kernel for "poweroff" or "reboot"; returns when it took note. Raises ``ToolstackError``."""
        await guest_control.request_shutdown(self._dom0, self._store, self._guest(domid), request)

    def sysrq(self, domid: int, key: str) -> None:
        guest_control.request_sysrq(self._store, self._guest(domid), key)

    def trigger(self, domid: int, trigger: str, vcpu: int) -> None:
        """An event of ``xl trigger``. All but "nmi" are ACPI's, which PV domains do not have."""
        record = self._guest(domid)
        if trigger == "nmi":
            self._dom0.send_nmi(domid, vcpu)
        elif trigger in ("reset", "init", "power", "sleep", "s3resume"):
            raise ToolstackError(f"trigger {trigger} is for fully virtualised domains; {record.name} is a PV domain", Fault.UNSUPPORTED)
        else:
            raise ToolstackError(f"{trigger!a} is no trigger; it is one of nmi, reset, init, power, sleep, s3resume", Fault.INVALID)

    def rename(self, domid: int, untrusted_name: str) -> None:
        record = self._guest(domid)
        name = names.check_name(untrusted_name)
        if name != record.name:
            self.registry.check_free(name, None)
            self._set_name(record, name)

    def _set_name(self, record: DomainRecord, name: str) -> None:
        self._store.rename(record, name)
        record.name = name

    def set_memory_target(self, domid: int, kib: int) -> None:
        memory_limits.set_target(self._dom0, self._store, self._guest(domid), kib)

    def set_memory_maximum(self, domid: int, kib: int) -> None:
        memory_limits.set_maximum(self._dom0, self._store, self._guest(domid), kib)

    def set_vcpus(self, domid: int, count: int) -> None:
        """Hot plug: the guest's kernel is asked to use so many vCPUs. Raises ``ToolstackError`` above its maximum."""
        vcpu_settings.set_online(self._store, self._guest(domid), count)

    def pin_vcpu(self, domid: int, vcpu: int | None, hard: str | None, soft: str | None) -> None:
        """Affinities of one vCPU or all (None), as CPU lists; None leaves one as it is. Raises ``ToolstackError``."""
        self._guest(domid)
        vcpu_settings.pin(self._dom0, domid, vcpu, hard, soft)

    def set_scheduling(self, domid: int, weight: int | None, cap: int | None) -> None:
        """Weight and cap; None leaves one as it is. Raises ``ToolstackError``, ``HypercallError``."""
        vcpu_settings.set_parameters(self._dom0, self._guest(domid), weight, cap)

    def move_to_pool(self, domid: int, pool: str) -> None:
        """Raises ``ToolstackError``, ``HypercallError``."""
        record = self._guest(domid)
        name = self.pools.move_domain(domid, pool)
        record.config = dataclasses.replace(record.config, pool=name)
        record.next_config = dataclasses.replace(record.next_config, pool=name)

    def set_next_config(self, domid: int, config: DomainConfig) -> None:
        """The configuration for the domain's next start (``xl config-update``)."""
        self._guest(domid).next_config = config

    async def attach_disk(self, domid: int, disk: DiskSpecification) -> None:
        """Hot plug. The domain has the disk when it is started anew, too. Raises ``ToolstackError``."""
        record = self._guest(domid)
        await self._disks.attach(domid, disk)
        record.config = dataclasses.replace(record.config, disk=(*record.config.disk, disk))
        record.next_config = dataclasses.replace(record.next_config, disk=(*record.next_config.disk, disk))

    async def detach_disk(self, domid: int, untrusted_vdev: str, *, force: bool) -> None:
        """Hot unplug; ``force``: whatever the guest does with it. Raises ``ToolstackError``."""
        record = self._guest(domid)
        vdev = await self._disks.detach(domid, untrusted_vdev, force=force)
        record.config = _without_disk(record.config, vdev)
        record.next_config = _without_disk(record.next_config, vdev)

    async def change_medium(self, domid: int, untrusted_vdev: str, medium: DiskSpecification | None) -> None:
        """Another image in a CD drive, or None. Raises ``ToolstackError``."""
        record = self._guest(domid)
        vdev = await self._disks.change_medium(domid, untrusted_vdev, medium)
        record.config = _with_medium(record.config, vdev, medium)
        record.next_config = _with_medium(record.next_config, vdev, medium)

    def disks(self, domid: int) -> list[AttachedDisk]:
        self._guest(domid)
        return self._disks.attached(domid)

    async def attach_interface(self, domid: int, vif: VifSpecification) -> None:
        """Hot plug. The domain has the interface when it is started anew, too. Raises ``ToolstackError``."""
        record = self._guest(domid)
        vif = await self._interfaces.attach(domid, vif)
        record.config = dataclasses.replace(record.config, vif=(*record.config.vif, vif))
        record.next_config = dataclasses.replace(record.next_config, vif=(*record.next_config.vif, vif))

    async def detach_interface(self, domid: int, untrusted_name: str, *, force: bool) -> None:
        """Hot unplug, by number or MAC address; ``force``: whatever the guest does with it. Raises ``ToolstackError``."""
        record = self._guest(domid)
        devid = await self._interfaces.detach(domid, untrusted_name, force=force)
        record.config = _without_interface(record.config, devid)
        record.next_config = _without_interface(record.next_config, devid)

    def interfaces(self, domid: int) -> list[AttachedInterface]:
        self._guest(domid)
        return self._interfaces.attached(domid)

    def console(self, domid: int) -> GuestConsole:
        record = self._guest(domid)
        console = self._consoles.find(domid)
        if console is None:
            raise ToolstackError(f"domain {record.name} has no console any more", Fault.STATE)
        return console

    async def states(self, domid: int) -> AsyncGenerator[StateReached, None]:
        """The states that the domain goes through, from now to its end. See ``DomainRegistry.states``."""
        # A shutdown whose event is still on its way to us is told with its reason, not only as the state that the hypervisor reports.
        self.check_domains()
        current = None
        with contextlib.suppress(HypercallError):
            current = state_of(self._dom0.domain_info(domid))
        async for reached in self.registry.states(domid, current):
            yield reached

    # -- death -----------------------------------------------------------------------------------------------------------
    def check_domains(self) -> None:
        """Find the domains that shut down since the last time, and do what their configurations say."""
        self._store.check_domains()
        for record in self.registry:
            if not record.shutdown_seen and record.destruction is None:
                self._check(record)

    def _check(self, record: DomainRecord) -> None:
        try:
            info = self._dom0.domain_info(record.domid)
        except HypercallError:
            info = None
        if info is None or info.dying:
            # Not by us. It may live on only because we have pages of it mapped.
            self._spawn(self.destroy(record.domid))
            return
        if not info.shutdown or info.shutdown_reason is None:
            return
        record.shutdown_seen = True
        record.shutdown_reason = reason_name(info.shutdown_reason)
        record.crash_cause = info.crash_cause
        record.reach(state_of(info))
        self._spawn(self._actions.perform(record, info.shutdown_reason))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _guest(self, domid: int) -> DomainRecord:
        if domid == 0:
            raise ToolstackError("not possible for Domain-0", Fault.INVALID)
        return self.registry.get(domid)


def _with_medium(config: DomainConfig, vdev: str, medium: DiskSpecification | None) -> DomainConfig:
    target, image_format = (medium.target, medium.format) if medium is not None else ("", "empty")
    return dataclasses.replace(
        config,
        disk=tuple(dataclasses.replace(disk, target=target, format=image_format) if disk.vdev == vdev else disk for disk in config.disk),
    )


def _without_disk(config: DomainConfig, vdev: str) -> DomainConfig:
    return dataclasses.replace(config, disk=tuple(disk for disk in config.disk if disk.vdev != vdev))


def _without_interface(config: DomainConfig, devid: int) -> DomainConfig:
    return dataclasses.replace(config, vif=tuple(vif for vif in config.vif if vif.devid != devid))

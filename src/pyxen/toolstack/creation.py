"""Making a domain, step by step, and undoing every step when a later one fails."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
from collections.abc import Callable
from pathlib import Path

from pyxen.backends.console import ConsoleBackend, GuestConsole
from pyxen.hypervisor.dom0_interface import Dom0Hypercalls, HypercallError, TscMode
from pyxen.toolstack import names, vcpu_settings
from pyxen.toolstack.bootloader.pygrub import boot_files
from pyxen.toolstack.builder import (
    BuilderError,
    Connections,
    HostMemoryError,
    Ramdisk,
    build_pv_domain,
    build_pvh_domain,
    open_kernel,
    open_pvh_kernel,
    open_ramdisk,
    plan_pv_domain,
    plan_pvh_domain,
)
from pyxen.toolstack.builder.recent_kernels import RecentKernels
from pyxen.toolstack.configuration import DomainConfig
from pyxen.toolstack.cpu_pools import CpuPools
from pyxen.toolstack.devices.disks import DomainDisks
from pyxen.toolstack.devices.interfaces import DomainInterfaces, with_addresses
from pyxen.toolstack.domain_record import DomainRecord, DomainRegistry, LifeState
from pyxen.toolstack.domain_store import DomainStore, RingAddress
from pyxen.toolstack.errors import Fault, ToolstackError
from pyxen.toolstack.file_paths import absolute_path, image_path
from pyxen.toolstack.firmware import firmware_image
from pyxen.toolstack.start_observer import StartObserver
from pyxen.toolstack.timeline import Stage, Timeline
from pyxen.xenstore.errors import StoreError

#: Called with what is being done, on any thread.
StageReport = Callable[[str], None]


def with_absolute_paths(config: DomainConfig, working_directory: str) -> DomainConfig:
    """The configuration with its file names made absolute. Raises ``ToolstackError`` for a relative one without a folder."""
    return dataclasses.replace(
        config,
        # With a boot loader these are files of the guest's disk.
        kernel=config.kernel if config.bootloader else absolute_path(config.kernel, working_directory),
        ramdisk=config.ramdisk if config.bootloader else absolute_path(config.ramdisk, working_directory),
        disk=tuple(dataclasses.replace(disk, target=image_path(disk.target, working_directory)) for disk in config.disk),
    )


class DomainCreator:
    """Creates domains. Belongs to the event loop's thread; what takes long runs in worker threads."""

    def __init__(
        self,
        dom0: Dom0Hypercalls,
        registry: DomainRegistry,
        store: DomainStore,
        consoles: ConsoleBackend,
        disks: DomainDisks,
        interfaces: DomainInterfaces,
        pools: CpuPools,
    ) -> None:
        self._dom0 = dom0
        self._registry = registry
        self._store = store
        self._consoles = consoles
        self._disks = disks
        self._interfaces = interfaces
        self._pools = pools
        self._kernels = RecentKernels()

    def close(self) -> None:
        """No more domains will be made."""
        self._kernels.close()

    async def create(self, config: DomainConfig, *, paused: bool, report: StageReport, timeline: Timeline) -> DomainRecord:
        """Make a domain, and let it run unless ``paused``. Raises ``ToolstackError``, and then nothing of it is left."""
        config.require_supported()
        names.check_name(config.name)
        config = dataclasses.replace(config, vif=with_addresses(config.vif))
        uuid = names.uuid_bytes(config.uuid) if config.uuid is not None else names.random_uuid()
        self._registry.check_free(config.name, uuid)
        try:
            with self._registry.reserved(config.name, uuid):
                return await self._create(config, uuid, paused, report, timeline)
        except HostMemoryError as error:
            raise ToolstackError(str(error), Fault.RESOURCE) from error
        except BuilderError as error:
            raise ToolstackError(str(error), Fault.INVALID) from error
        except HypercallError as error:
            fault = Fault.RESOURCE if error.errno in (errno.ENOMEM, errno.ENOSPC) else Fault.INVALID
            raise ToolstackError(f"domain {config.name} can't be created: {error}", fault) from error
        except StoreError as error:
            raise ToolstackError(f"domain {config.name} can't be created: store: {error}", Fault.RESOURCE) from error
        except OSError as error:
            raise ToolstackError(f"domain {config.name} can't be created: {error}", Fault.RESOURCE) from error

    async def _create(self, config: DomainConfig, uuid: bytes, paused: bool, report: StageReport, timeline: Timeline) -> DomainRecord:
        async with contextlib.AsyncExitStack() as undo:
            domid, built = await self._build(config, uuid, report, timeline, undo)
            record = DomainRecord(domid, config.name, uuid, config, next_config=config, timeline=timeline)
            console = self._connect(record, built, undo)
            timeline.reach(Stage.CONSOLE)
            undo.push_async_callback(self._disks.remove_all, domid)
            await self._disks.attach_all(domid, config.disk)
            undo.push_async_callback(self._interfaces.remove_all, domid)
            await self._interfaces.attach_all(domid, config.vif)
            timeline.reach(Stage.DEVICES)
            record.observer = StartObserver(self._dom0, self._store, domid, timeline)
            undo.callback(record.observer.stop)
            record.observer.start(console)
            if not paused:
                timeline.reach(Stage.UNPAUSED)
                self._dom0.unpause_domain(domid)
            # From here to the return nothing may fail: it is complete.
            self._registry.add(record)
            record.reach(LifeState.PAUSED if paused else LifeState.RUNNING)
            undo.pop_all()
            return record

    async def _build(
        self, config: DomainConfig, uuid: bytes, report: StageReport, timeline: Timeline, undo: contextlib.AsyncExitStack
    ) -> tuple[int, Connections]:
        """Everything that needs no store. In a worker thread: unpacking a kernel takes a second or more."""
        loop = asyncio.get_running_loop()

        def created(domid: int) -> None:
            loop.call_soon_threadsafe(self._registry.begin, domid, config.name)

        builder = _DomainBuilder(self._dom0, config, uuid, self._pools.find(config.pool), self._kernels, report, timeline, created)
        undo.callback(lambda: self._registry.abandon(builder.domid))
        undo.push_async_callback(asyncio.to_thread, builder.undo)
        # Cancelled or not, the thread goes on to its end: only then may its work be undone.
        work = asyncio.create_task(asyncio.to_thread(builder.build))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise

    def _connect(self, record: DomainRecord, built: Connections, undo: contextlib.AsyncExitStack) -> GuestConsole:
        console = RingAddress(built.console_mfn, built.console_port)
        store = RingAddress(built.store_mfn, built.store_port)
        undo.callback(self._store.remove_domain, record.domid, record.uuid)
        self._store.write_domain(record, console, store)
        record.timeline.reach(Stage.STORE)
        undo.callback(self._consoles.disconnect, record.domid)
        guest_console = self._consoles.connect(record.domid, record.name, console.mfn, console.port)
        self._store.set_console_terminal(record.domid, str(guest_console.terminal_path))
        undo.callback(self._store.release, record.domid)
        self._store.introduce(record.domid, store)
        return guest_console


class _DomainBuilder:
    """The part of a creation that runs in a worker thread."""

    def __init__(
        self,
        dom0: Dom0Hypercalls,
        config: DomainConfig,
        uuid: bytes,
        cpupool: int,
        kernels: RecentKernels,
        report: StageReport,
        timeline: Timeline,
        created: Callable[[int], None],
    ) -> None:
        self._dom0 = dom0
        self._config = config
        self._uuid = uuid
        self._cpupool = cpupool
        self._kernels = kernels
        self._report = report
        self._timeline = timeline
        self._created = created
        self.domid: int | None = None

    def build(self) -> tuple[int, Connections]:
        config = self._config
        if not config.bootloader:
            kernel = firmware_image(config.type, config.firmware) if config.firmware else config.kernel
            return self._build(kernel, config.ramdisk, config.command_line)
        self._report("reading the disk")
        with boot_files(config) as found:
            try:
                return self._build(found.kernel_path, found.ramdisk_path, found.arguments)
            except BuilderError as error:
                message = str(error).replace(found.kernel_path, found.kernel_name)
                if found.ramdisk_path:
                    message = message.replace(found.ramdisk_path, found.ramdisk_name)
                raise type(error)(f"{message} (on the disk {found.disk})") from error

    def _build(self, kernel_path: str, ramdisk_path: str, command_line: str) -> tuple[int, Connections]:
        config, dom0 = self._config, self._dom0
        self._report("reading the kernel")
        plan = self._plan_pvh if config.type == "pvh" else self._plan_pv
        fill = plan(Path(kernel_path), open_ramdisk(Path(ramdisk_path)) if ramdisk_path else None, command_line)
        self._timeline.reach(Stage.KERNEL)
        self._report("building the domain")
        domid = self.domid = dom0.create_domain(
            kind=config.type,
            handle=self._uuid,
            max_vcpus=config.max_vcpus,
            max_evtchn_port=config.max_event_channels,
            max_grant_frames=config.max_grant_frames,
            max_maptrack_frames=config.max_maptrack_frames,
            max_grant_version=config.max_grant_version,
            cpupool=self._cpupool,
        )
        self._created(domid)
        vcpu_settings.apply(dom0, domid, config)
        always_emulated = config.tsc_mode == "always_emulate"
        dom0.set_tsc_info(domid, TscMode[config.tsc_mode.upper()], invariant=config.nomigrate or always_emulated)
        self._timeline.reach(Stage.DOMAIN)
        return domid, fill(domid)

    def _plan_pv(self, kernel: Path, ramdisk: Ramdisk | None, command_line: str) -> Callable[[int], Connections]:
        """Read and lay out without a hypercall. -> what builds the domain with the given id."""
        config, dom0 = self._config, self._dom0
        plan = plan_pv_domain(self._kernels.open(kernel, open_kernel), ramdisk, command_line, config.memory_mib << 10)
        return lambda domid: build_pv_domain(dom0, domid, plan, max_memory_kib=config.maxmem_mib << 10, reached=self._timeline.reach)

    def _plan_pvh(self, kernel: Path, ramdisk: Ramdisk | None, command_line: str) -> Callable[[int], Connections]:
        config, dom0 = self._config, self._dom0
        plan = plan_pvh_domain(
            self._kernels.open(kernel, open_pvh_kernel), ramdisk, command_line, config.memory_mib << 10, config.max_vcpus
        )
        return lambda domid: build_pvh_domain(dom0, domid, plan, max_memory_kib=config.maxmem_mib << 10, reached=self._timeline.reach)

    def undo(self) -> None:
        if self.domid is not None:
            with contextlib.suppress(HypercallError):
                self._dom0.destroy_domain(self.domid)

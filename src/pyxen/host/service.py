"""What the methods of the control protocol do: the protocol on one side, the toolstack and the hypervisor on the other."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pyxen.abi.vcpu import RUNSTATE_blocked, RUNSTATE_offline, RUNSTATE_runnable
from pyxen.backends.xenbus import BackendBus
from pyxen.host import protocol as p
from pyxen.host.control_server import MethodTable, ProgressReport
from pyxen.host.trace_stream import TraceStreams
from pyxen.hypervisor.dom0_interface import Dom0Hypercalls, HypercallError
from pyxen.toolstack import libxl_json, names
from pyxen.toolstack.configuration import ConfigError, ConfigWarning, DomainConfig, Settings, parse
from pyxen.toolstack.configuration.disk import DiskSpecification
from pyxen.toolstack.creation import with_absolute_paths
from pyxen.toolstack.devices.device_names import class_and_number
from pyxen.toolstack.domain_record import DomainRecord, LifeState
from pyxen.toolstack.errors import ToolstackError
from pyxen.toolstack.file_paths import image_path
from pyxen.toolstack.inventory import DomainEntry, Inventory
from pyxen.toolstack.lifecycle import Toolstack
from pyxen.toolstack.timeline import Stage, Timeline

_logger = logging.getLogger(__name__)

_PAGE_KIB = 4
#: Console output in one event, in bytes.
_CONSOLE_CHUNK = 16 << 10

_KIND_BY_ERRNO = {
    errno.ESRCH: p.ErrorKind.NOT_FOUND,
    errno.ENOENT: p.ErrorKind.NOT_FOUND,
    errno.ENOMEM: p.ErrorKind.RESOURCE,
    errno.ENOSPC: p.ErrorKind.RESOURCE,
    errno.ENOSYS: p.ErrorKind.UNSUPPORTED,
    errno.EOPNOTSUPP: p.ErrorKind.UNSUPPORTED,
    errno.EBUSY: p.ErrorKind.STATE,
    errno.EEXIST: p.ErrorKind.EXISTS,
}


def describe_fault(error: Exception) -> p.HostError:
    """What the client is told of an exception. One that nobody foresaw is ours, and goes to the log."""
    if isinstance(error, p.HostError):
        return error
    if isinstance(error, ConfigError):
        return p.HostError(str(error), p.ErrorKind.INVALID)
    if isinstance(error, ToolstackError):
        return p.HostError(str(error), p.ErrorKind(error.fault.value))
    if isinstance(error, HypercallError):
        return p.HostError(str(error), _KIND_BY_ERRNO.get(error.errno, p.ErrorKind.INVALID), error.errno)
    _logger.error("a request failed unexpectedly", exc_info=error)
    return p.HostError(f"internal error: {type(error).__name__}: {error}; details are in the host's log", p.ErrorKind.INTERNAL)


class HostService:
    """Serves all methods but ``host.*``, which the process itself serves."""

    def __init__(
        self,
        dom0: Dom0Hypercalls,
        toolstack: Toolstack,
        inventory: Inventory,
        backends: Mapping[str, BackendBus],
        traces: TraceStreams,
        engine: str,
    ) -> None:
        """``backends``: those of the embedded Domain 0, by the class of their devices ("vbd")."""
        self._dom0 = dom0
        self._backends = backends
        self._toolstack = toolstack
        self._inventory = inventory
        self._traces = traces
        self._engine = engine

    def register(self, table: MethodTable) -> None:
        """Enter every method into the table."""
        self._register_domains(table)
        table.call(p.PHYSINFO, self._physinfo)
        table.call(p.VERSION, self._version)
        table.call(p.DMESG, self._dmesg)
        table.call(p.DEBUG_KEYS, self._debug_keys)
        table.call(p.CONSOLE_PATH, self._console_path)
        table.stream(p.CONSOLE_ATTACH, self._console_attach)
        table.call(p.CONSOLE_WRITE, self._console_write)
        table.call(p.BLOCK_ATTACH, self._block_attach)
        table.call(p.BLOCK_CHECK, self._block_check)
        table.call(p.BLOCK_DETACH, self._block_detach)
        table.call(p.BLOCK_MEDIUM, self._block_medium)
        table.call(p.BLOCK_LIST, self._block_list)
        table.call(p.BACKEND_RESTART, self._backend_restart)
        table.stream(p.TRACE_SUBSCRIBE, self._traces.follow)

    def _register_domains(self, table: MethodTable) -> None:
        table.call(p.CONFIG_CHECK, self._config_check)
        table.long_call(p.DOMAIN_CREATE, self._create)
        table.call(p.DOMAIN_DESTROY, self._destroy)
        table.call(p.DOMAIN_PAUSE, self._pause)
        table.call(p.DOMAIN_UNPAUSE, self._unpause)
        table.call(p.DOMAIN_SHUTDOWN, self._shutdown)
        table.call(p.DOMAIN_REBOOT, self._reboot)
        table.call(p.DOMAIN_RENAME, self._rename)
        table.call(p.DOMAIN_RESOLVE, self._resolve)
        table.call(p.DOMAIN_INFO, self._info)
        table.call(p.DOMAIN_LIST, self._list)
        table.call(p.DOMAIN_VCPUS, self._vcpus)
        table.call(p.DOMAIN_MEM_SET, self._mem_set)
        table.call(p.DOMAIN_MEM_MAX, self._mem_max)
        table.call(p.DOMAIN_SYSRQ, self._sysrq)
        table.call(p.DOMAIN_TRIGGER, self._trigger)
        table.call(p.DOMAIN_CONFIG, self._config)
        table.call(p.DOMAIN_CONFIG_UPDATE, self._config_update)
        table.stream(p.DOMAIN_WAIT, self._wait)
        table.call(p.DOMAIN_UPTIME, self._uptime)

    # -- creation ---------------------------------------------------------------------------------------------------------
    async def _config_check(self, request: p.CreateRequest) -> p.CheckedConfig:
        config, warnings = _read_config(request.texts, request.config, request.working_directory)
        libxl = libxl_json.domain_configuration(config, config.uuid or names.uuid_text(names.random_uuid()))
        return p.CheckedConfig(libxl, config.to_mapping(), [str(warning) for warning in warnings])

    async def _create(self, request: p.CreateRequest, report: ProgressReport) -> p.CreatedDomain:
        timeline = Timeline()
        timeline.reach(Stage.REQUEST)
        config, warnings = _read_config(request.texts, request.config, request.working_directory)
        timeline.reach(Stage.CONFIGURATION)
        loop = asyncio.get_running_loop()

        def stage(text: str) -> None:
            loop.call_soon_threadsafe(report, p.Progress(text))

        record = await self._toolstack.create(config, paused=request.paused, report=stage, timeline=timeline)
        return p.CreatedDomain(record.domid, record.name, names.uuid_text(record.uuid), [str(warning) for warning in warnings])

    async def _config_update(self, request: p.ConfigUpdateRequest) -> p.Nothing:
        config, _ = _read_config(request.texts, request.config, request.working_directory)
        self._toolstack.set_next_config(request.domid, config)
        return p.Nothing()

    async def _config(self, request: p.DomainId) -> p.DomainConfiguration:
        if request.domid == 0:
            libxl = {"c_info": {"type": "pv", "name": "Domain-0"}, "b_info": {"type.pv": {}}}
            return p.DomainConfiguration(0, libxl, {})
        record = self._toolstack.registry.get(request.domid)
        current = dataclasses.replace(record.config, name=record.name)
        libxl = libxl_json.domain_configuration(current, names.uuid_text(record.uuid))
        return p.DomainConfiguration(record.domid, libxl, current.to_mapping())

    # -- life cycle ---------------------------------------------------------------------------------------------------------
    async def _destroy(self, request: p.DomainId) -> p.Nothing:
        await self._toolstack.destroy(request.domid)
        return p.Nothing()

    async def _pause(self, request: p.DomainId) -> p.Nothing:
        self._toolstack.pause(request.domid)
        return p.Nothing()

    async def _unpause(self, request: p.DomainId) -> p.Nothing:
        self._toolstack.unpause(request.domid)
        return p.Nothing()

    async def _shutdown(self, request: p.ShutdownRequest) -> p.Nothing:
        await self._toolstack.shutdown(request.domid, "poweroff")
        return p.Nothing()

    async def _reboot(self, request: p.ShutdownRequest) -> p.Nothing:
        await self._toolstack.shutdown(request.domid, "reboot")
        return p.Nothing()

    async def _rename(self, request: p.RenameRequest) -> p.Nothing:
        self._toolstack.rename(request.domid, request.name)
        return p.Nothing()

    async def _mem_set(self, request: p.MemoryRequest) -> p.Nothing:
        self._toolstack.set_memory_target(request.domid, request.kib)
        return p.Nothing()

    async def _mem_max(self, request: p.MemoryRequest) -> p.Nothing:
        self._toolstack.set_memory_maximum(request.domid, request.kib)
        return p.Nothing()

    async def _sysrq(self, request: p.SysrqRequest) -> p.Nothing:
        self._toolstack.sysrq(request.domid, request.key)
        return p.Nothing()

    async def _trigger(self, request: p.TriggerRequest) -> p.Nothing:
        self._toolstack.trigger(request.domid, request.trigger, request.vcpu)
        return p.Nothing()

    async def _wait(self, request: p.WaitRequest, send: Callable[[p.StateChange], Awaitable[None]]) -> p.StateChange:
        wanted = {LifeState(state.value) for state in request.states} | {LifeState.DESTROYED}
        # Closed here and now: a generator left to the garbage collector would keep its queue in the record.
        async with contextlib.aclosing(self._toolstack.states(request.domid)) as states:
            async for reached in states:
                change = p.StateChange(reached.domid, p.DomainState(reached.state.value), reached.shutdown_reason, reached.crash_cause)
                await send(change)
                if reached.state in wanted:
                    return change
        raise p.HostError(f"domain {request.domid} went away", p.ErrorKind.STATE)

    # -- looking ----------------------------------------------------------------------------------------------------------
    async def _resolve(self, request: p.Identifier) -> p.ResolvedDomain:
        domid = names.resolve(self._dom0, self._toolstack.registry, request.identifier)
        entry = self._inventory.domain(domid)
        return p.ResolvedDomain(domid, entry.name, entry.uuid)

    async def _info(self, request: p.DomainId) -> p.DomainDetail:
        return self._detail(self._inventory.domain(request.domid))

    async def _list(self, _: p.Nothing) -> p.DomainList:
        return p.DomainList([self._detail(entry) for entry in self._inventory.domains()])

    def _detail(self, entry: DomainEntry) -> p.DomainDetail:
        info, scheduling = entry.info, entry.scheduling
        return p.DomainDetail(
            domid=info.domid,
            name=entry.name,
            uuid=entry.uuid,
            kind=info.kind,
            state=p.DomainState(entry.state.value),
            state_letters=entry.state_letters,
            shutdown_reason=entry.shutdown_reason,
            crash_cause=info.crash_cause,
            memory_kib=entry.memory_kib,
            memory_max_kib=entry.memory_max_kib,
            memory_target_kib=entry.memory_target_kib,
            vcpus=info.online_vcpus,
            vcpus_max=info.max_vcpu_id + 1,
            cpu_time_s=info.cpu_time_ns / 1e9,
            uptime_s=entry.uptime_s,
            console_tty=self._console_tty(self._toolstack.registry.find(info.domid)),
            ssidref=info.ssidref,
            cpupool=self._toolstack.pools.name(info.cpupool),
            cpu_weight=None if scheduling is None else scheduling.weight,
            cpu_cap=None if scheduling is None else scheduling.cap,
            under_construction=info.domid != 0 and not info.dying and self._toolstack.registry.find(info.domid) is None,
        )

    def _console_tty(self, record: DomainRecord | None) -> str:
        if record is None or record.destruction is not None:
            return ""
        return str(self._toolstack.console(record.domid).terminal_path)

    async def _vcpus(self, request: p.OptionalDomainId) -> p.VcpuList:
        return p.VcpuList(
            [
                p.Vcpu(
                    domid=entry.domid,
                    name=entry.name,
                    vcpu=entry.info.vcpu,
                    cpu=entry.info.cpu,
                    online=entry.info.online,
                    blocked=entry.info.blocked,
                    running=entry.info.running,
                    cpu_time_s=entry.info.cpu_time_ns / 1e9,
                    hard_affinity=_sorted(entry.info.hard_affinity),
                    soft_affinity=_sorted(entry.info.soft_affinity),
                    runnable_s=entry.info.runstate_ns[RUNSTATE_runnable] / 1e9,
                    blocked_s=entry.info.runstate_ns[RUNSTATE_blocked] / 1e9,
                    offline_s=entry.info.runstate_ns[RUNSTATE_offline] / 1e9,
                )
                for entry in self._inventory.vcpus(request.domid)
            ]
        )

    async def _uptime(self, request: p.OptionalDomainId) -> p.UptimeList:
        domids = [request.domid] if request.domid is not None else [0, *sorted(record.domid for record in self._toolstack.registry)]
        return p.UptimeList([p.Uptime(domid, self._inventory.name(domid), self._inventory.uptime(domid)) for domid in domids])

    async def _physinfo(self, _: p.Nothing) -> p.PhysInfo:
        info = self._dom0.physical_info()
        return p.PhysInfo(
            nr_cpus=info.nr_cpus,
            cpu_khz=info.cpu_khz,
            total_kib=info.total_pages * _PAGE_KIB,
            free_kib=info.free_pages * _PAGE_KIB,
            scrub_kib=info.scrub_pages * _PAGE_KIB,
            outstanding_kib=0,
            max_mfn=info.max_mfn,
            hw_caps=list(info.hw_caps),
            version=self._xen_version(),
            engine=self._engine,
            scheduler=self._dom0.scheduling.cpupools()[0].scheduler,
            free_cpus=len(self._dom0.scheduling.free_cpus()),
        )

    async def _version(self, _: p.Nothing) -> p.Version:
        return self._xen_version()

    def _xen_version(self) -> p.Version:
        return p.Version(**dataclasses.asdict(self._dom0.version()))

    async def _dmesg(self, request: p.DmesgRequest) -> p.Text:
        return p.Text(self._dom0.read_console_ring(clear=request.clear))

    async def _debug_keys(self, request: p.DebugKeysRequest) -> p.Nothing:
        self._dom0.debug_keys(request.keys)
        return p.Nothing()

    # -- disks --------------------------------------------------------------------------------------------------------------
    @staticmethod
    def _disk(request: p.BlockAttachRequest) -> DiskSpecification:
        try:
            disk = DiskSpecification.parse(request.specification)
        except ValueError as error:
            raise p.HostError(f"disk {request.specification!a}: {error}", p.ErrorKind.INVALID) from None
        return dataclasses.replace(disk, target=image_path(disk.target, request.working_directory))

    async def _block_attach(self, request: p.BlockAttachRequest) -> p.Nothing:
        await self._toolstack.attach_disk(request.domid, self._disk(request))
        return p.Nothing()

    async def _block_check(self, request: p.BlockAttachRequest) -> p.CheckedDevice:
        disk = self._disk(request)
        if disk.unsupported():
            raise p.HostError(f"disk {disk.vdev}: {disk.unsupported()}", p.ErrorKind.INVALID)
        return p.CheckedDevice(libxl_json.disk_configuration(disk))

    async def _block_detach(self, request: p.BlockDetachRequest) -> p.Nothing:
        await self._toolstack.detach_disk(request.domid, request.vdev, force=request.force)
        return p.Nothing()

    async def _block_medium(self, request: p.MediumRequest) -> p.Nothing:
        medium = None
        if request.target:
            target = image_path(request.target, request.working_directory)
            medium = DiskSpecification(target=target, vdev=request.vdev, writable=False, cdrom=True)
        await self._toolstack.change_medium(request.domid, request.vdev, medium)
        return p.Nothing()

    async def _block_list(self, request: p.DomainId) -> p.BlockDeviceList:
        return p.BlockDeviceList([p.BlockDevice(**dataclasses.asdict(disk)) for disk in self._toolstack.disks(request.domid)])

    async def _backend_restart(self, request: p.BackendRestartRequest) -> p.Nothing:
        self._toolstack.registry.get(request.domid)
        try:
            kind, devid = class_and_number(request.device)
            await self._backends[kind].restart(request.domid, devid)
        except ValueError as error:
            raise p.HostError(str(error), p.ErrorKind.INVALID) from None
        except KeyError:
            raise p.HostError(f"domain {request.domid} has no device {request.device}", p.ErrorKind.NOT_FOUND) from None
        return p.Nothing()

    # -- console ------------------------------------------------------------------------------------------------------------
    async def _console_path(self, request: p.DomainId) -> p.ConsolePath:
        return p.ConsolePath(str(self._toolstack.console(request.domid).terminal_path))

    async def _console_attach(self, request: p.ConsoleAttachRequest, send: Callable[[p.ConsoleOutput], Awaitable[None]]) -> p.Nothing:
        history = self._toolstack.console(request.domid).history
        attached_at = history.end
        position = history.start if request.replay else attached_at
        await send(p.ConsoleOutput(b""))
        while True:
            replayed = position < attached_at
            first, data = await history.read(position, min(_CONSOLE_CHUNK, attached_at - position) if replayed else _CONSOLE_CHUNK)
            if not data:
                return p.Nothing()
            await send(p.ConsoleOutput(data, lost=first - position, replayed=replayed))
            position = first + len(data)

    async def _console_write(self, request: p.ConsoleInput) -> p.ConsoleAccepted:
        return p.ConsoleAccepted(self._toolstack.console(request.domid).write(request.data))


def _read_config(
    texts: list[p.ConfigText], untrusted_mapping: dict[str, Any], working_directory: str
) -> tuple[DomainConfig, list[ConfigWarning]]:
    """Raises ``ConfigError`` with the place of the mistake, ``ToolstackError``, ``HostError``."""
    if bool(texts) == bool(untrusted_mapping):
        raise p.HostError("a configuration is either text or a mapping", p.ErrorKind.INVALID)
    settings: Settings | None = None
    if texts:
        settings = Settings(texts[0].source)
        for text in texts:
            parse(text.text, text.source, settings)
        config, warnings = DomainConfig.read(settings)
    else:
        config, warnings = DomainConfig.from_mapping(untrusted_mapping)
    config.require_supported(settings)
    return with_absolute_paths(config, working_directory), warnings


def _sorted(cpus: frozenset[int] | None) -> list[int] | None:
    return None if cpus is None else sorted(cpus)

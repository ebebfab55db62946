"""The host process: one machine with its hypervisor, Domain 0 around it, and the control server in front."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import logging
import logging.handlers
import os
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from pyxen.backends.block import block_backend
from pyxen.backends.console import ConsoleBackend
from pyxen.backends.device import Surroundings
from pyxen.backends.network import network_backend
from pyxen.engine.interface import EngineFactory
from pyxen.host import protocol
from pyxen.host.confinement import ConfinementError, confine
from pyxen.host.control_server import ControlServer, MethodTable
from pyxen.host.helper_programs import HostHelperPrograms
from pyxen.host.hypervisor_log import HypervisorLog
from pyxen.host.log_limit import LogLimit
from pyxen.host.network_service import NetworkService
from pyxen.host.package_version import package_version
from pyxen.host.process_age import process_start
from pyxen.host.processor import has_reliable_counter
from pyxen.host.runtime_directory import RuntimeDirectory
from pyxen.host.scheduling_service import SchedulingService
from pyxen.host.service import HostService, describe_fault
from pyxen.host.statistics import StatisticsService
from pyxen.host.timeline_service import TimelineService
from pyxen.host.trace_stream import TraceStreams
from pyxen.hypervisor.hypervisor import Hypervisor
from pyxen.toolstack.cpu_pools import CpuPools
from pyxen.toolstack.devices.disks import DomainDisks
from pyxen.toolstack.devices.interfaces import DomainInterfaces
from pyxen.toolstack.domain_store import DomainStore
from pyxen.toolstack.inventory import Inventory
from pyxen.toolstack.lifecycle import Toolstack
from pyxen.toolstack.timeline import StageReached
from pyxen.xenstore.daemon import Daemon
from pyxen.xenstore.guest_link import HypercallConnector
from pyxen.xenstore.socket_server import SocketServer
from pyxen.xenstore.store import Store

_logger = logging.getLogger(__name__)

_PAGE_KIB = 4
_LOG_BYTES = 2 << 20
_LOG_TAIL_BYTES = 4 << 20
#: How long a new host waits for one that is just stopping, in seconds.
_PREDECESSOR_TIMEOUT = 20.0


class HostStartError(Exception):
    """The host can't start; ``str()`` is one line for the user."""


class HostLock:
    """The lock of a run-time folder: whoever holds it is its host. The kernel drops it when the process dies."""

    def __init__(self, runtime: RuntimeDirectory) -> None:
        self._descriptor = os.open(runtime.host_pid, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + _PREDECESSOR_TIMEOUT
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(self._descriptor)
                    raise HostStartError(f"a host process runs already for {runtime.path}") from None
                time.sleep(0.05)
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._descriptor)


class HostProcess:
    """Everything that lives as long as the process. ``run`` returns after a clean stop."""

    def __init__(
        self,
        runtime: RuntimeDirectory,
        engine_factory: EngineFactory,
        memory_bytes: int,
        processors: int | None = None,
        metrics_address: tuple[str, int] | None = None,
    ) -> None:
        self._runtime = runtime
        self._engine_factory = engine_factory
        self._memory_bytes = memory_bytes
        self._processors = processors
        self._metrics_address = metrics_address
        self._started_at = time.time()
        self._stages = [StageReached("host: process started", process_start())]
        self._reached("modules loaded")
        self._stopping = asyncio.Event()

    def _reached(self, what: str) -> None:
        self._stages.append(StageReached(f"host: {what}", time.monotonic()))

    async def run(self, ready: Callable[[], None]) -> None:
        """Start everything, call ``ready``, serve until ``host.stop`` or a signal, and take everything down again.

        Raises ``HostStartError``, ``EngineError`` and ``OSError`` when it can't start; then nothing is left either.
        """
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as undo:
            helpers = HostHelperPrograms()
            undo.push_async_callback(helpers.close)
            helpers.serve()
            self._helpers = helpers
            _confine()
            self._reached("helpers started, privileges given up")
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.add_signal_handler(number, self._stopping.set)
            hypervisor = Hypervisor(
                self._engine_factory,
                memory_bytes=self._memory_bytes,
                processors=self._processors,
                tsc_is_reliable=has_reliable_counter(),
            )
            undo.callback(hypervisor.close)
            self._hypervisor = hypervisor
            self._reached("engine tested, machine memory ready")
            log = HypervisorLog(self._runtime.hypervisor_log)
            undo.callback(log.close)
            log.write(hypervisor.console.read().rstrip())
            hypervisor.console.sink = log.write
            toolstack, inventory = await self._start_domain_0(loop, undo)
            statistics = StatisticsService(hypervisor.dom0, toolstack, inventory, self._backends)
            if self._metrics_address is not None:
                self._serve_metrics(self._metrics_address, loop, statistics, undo)
            server = self._control_server(toolstack, inventory, statistics)
            undo.push_async_callback(server.close)
            undo.callback(self._runtime.host_socket.unlink, missing_ok=True)
            await server.listen(self._runtime.host_socket)
            # What is there now stays: to look at all of it again and again for what is not used took a tenth of a domain's life.
            gc.collect()
            gc.freeze()
            self._reached("Domain 0 ready")
            _logger.info("ready; process %d, machine memory %d MiB", os.getpid(), self._memory_bytes >> 20)
            ready()
            await self._stopping.wait()
            _logger.info("stopping")
            await toolstack.close()

    async def _start_domain_0(self, loop: asyncio.AbstractEventLoop, undo: AsyncExitStack) -> tuple[Toolstack, Inventory]:
        """The store, the console backend and the toolstack."""
        dom0 = self._hypervisor.dom0
        daemon = Daemon(loop, HypercallConnector(dom0, loop.call_soon_threadsafe))
        undo.callback(daemon.close)
        local_store = Store(daemon)
        store = DomainStore(local_store)
        store.write_domain_0(dom0.domain_info(0).total_pages * _PAGE_KIB, dom0.physical_info().nr_cpus)
        socket_server = SocketServer(daemon, self._runtime.store_socket)
        await socket_server.start()
        undo.push_async_callback(socket_server.stop)
        consoles = ConsoleBackend(dom0, loop, self._runtime.console_links, self._runtime.logs)
        undo.callback(consoles.close)
        surroundings = Surroundings(dom0, local_store, loop, self._helpers)
        disks = block_backend(surroundings)
        undo.push_async_callback(disks.close)
        networks = network_backend(surroundings)
        undo.push_async_callback(networks.close)
        self._backends = {"vbd": disks, "vif": networks}
        pools = CpuPools(dom0, local_store)
        toolstack = Toolstack(dom0, store, consoles, DomainDisks(local_store), DomainInterfaces(local_store), pools, self._runtime.dumps)
        toolstack.start()
        return toolstack, Inventory(dom0, toolstack.registry, store)

    @staticmethod
    def _serve_metrics(
        address: tuple[str, int], loop: asyncio.AbstractEventLoop, statistics: StatisticsService, undo: AsyncExitStack
    ) -> None:
        from pyxen.host import metrics  # who asks for none does not wait for its libraries

        try:
            stop = metrics.serve(address, loop, statistics.collect)
        except OSError as error:
            raise HostStartError(f"metrics can't be served at {address[0]}:{address[1]}: {error.strerror}") from None
        # Not on the loop: a scrape that runs now waits for the loop.
        undo.push_async_callback(asyncio.to_thread, stop)

    def _control_server(self, toolstack: Toolstack, inventory: Inventory, statistics: StatisticsService) -> ControlServer:
        hypervisor = self._hypervisor
        table = MethodTable()
        traces = TraceStreams(hypervisor.hooks)
        SchedulingService(toolstack).register(table)
        statistics.register(table)
        TimelineService(toolstack, self._stages).register(table)
        HostService(hypervisor.dom0, toolstack, inventory, self._backends, traces, hypervisor.engine.name).register(table)
        NetworkService(toolstack, self._backends["vif"]).register(table)
        table.call(protocol.HOST_STATUS, self._status)
        table.call(protocol.HOST_STOP, self._stop)
        table.call(protocol.HOST_LOGS, self._logs)
        self._toolstack = toolstack
        return ControlServer(table, describe_fault)

    async def _status(self, _: protocol.Nothing) -> protocol.HostStatus:
        physical = self._hypervisor.dom0.physical_info()
        return protocol.HostStatus(
            pid=os.getpid(),
            version=package_version(),
            started_at=self._started_at,
            runtime_directory=str(self._runtime.path),
            engine=self._hypervisor.engine.name,
            memory_bytes=self._memory_bytes,
            free_bytes=physical.free_pages * _PAGE_KIB << 10,
            domains=len(self._toolstack.registry),
            processors=physical.nr_cpus,
        )

    async def _stop(self, _: protocol.Nothing) -> protocol.Nothing:
        # From here on new clients find no socket, and start a host of their own, which waits for our lock.
        self._runtime.host_socket.unlink(missing_ok=True)
        await self._toolstack.close()
        self._stopping.set()
        return protocol.Nothing()

    async def _logs(self, request: protocol.LogRequest) -> protocol.Text:
        return protocol.Text(await asyncio.to_thread(_last_lines, self._runtime.host_log, request.lines))


def _confine() -> None:
    try:
        filtered = confine()
    except ConfinementError as error:
        raise HostStartError(str(error)) from None
    if not filtered:
        _logger.warning("this kernel has no seccomp: system calls are not filtered")


def _last_lines(path: Path, count: int) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    lines = text.splitlines(keepends=True)
    return "".join(lines[-count:] if count > 0 else lines)


def configure_logging(runtime: RuntimeDirectory) -> None:
    """To the host's log file, of bounded size; the file before it is kept. What guests can cause is limited."""
    handler = logging.handlers.RotatingFileHandler(runtime.host_log, maxBytes=_LOG_BYTES, backupCount=1, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(LogLimit())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)

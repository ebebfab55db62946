"""A control socket that answers with recorded data: the real server and the real client, and no hypervisor behind them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyxen.host import protocol as p
from pyxen.host.control_server import ControlServer, MethodTable, ProgressReport
from pyxen.host.runtime_directory import RuntimeDirectory

DOM0_UUID = "00000000-0000-0000-0000-000000000000"
WIN_UUID = "59e1cf6c-6ab9-4879-90e7-adc8d1c63bf5"
LINUX_UUID = "50bc8f75-81d0-4d53-b2e6-95cb44e2682e"


def detail(domid: int, name: str, uuid: str, letters: str, **other: Any) -> p.DomainDetail:
    values: dict[str, Any] = {
        "domid": domid,
        "name": name,
        "uuid": uuid,
        "kind": "pv",
        "state": p.DomainState.RUNNING,
        "state_letters": letters,
        "shutdown_reason": "",
        "crash_cause": "",
        "memory_kib": 1019 << 10,
        "memory_max_kib": 1024 << 10,
        "memory_target_kib": 1019 << 10,
        "vcpus": 1,
        "vcpus_max": 1,
        "cpu_time_s": 0.25,
        "uptime_s": 90061.5,
    }
    return p.DomainDetail(**(values | other))


DOMAINS = [
    detail(0, "Domain-0", DOM0_UUID, "r-----", memory_kib=750 << 10, vcpus=4, cpu_time_s=11794.34),
    detail(1, "win", WIN_UUID, "-b----"),
    detail(2, "linux", LINUX_UUID, "---sc-", shutdown_reason="crash", memory_kib=2048 << 10, vcpus=2, cpu_time_s=5624.16),
]
VCPUS = [
    p.Vcpu(0, "Domain-0", 0, 0, True, False, True, 11794.34),
    p.Vcpu(2, "linux", 0, 3, True, True, False, 12.0, [0, 1, 2, 3], [2, 3]),
    p.Vcpu(2, "linux", 1, 0, False, False, False, 0.0, [0, 1, 3], []),
]
VERSION = p.Version(
    4, 17, ".7", "xen-3.0-x86_64", "2445b30a44", "cc", "by", "domain", "date", "dom0_mem=750M", 0xFFFF800000000000, 4096, "abcd"
)
PHYSINFO = p.PhysInfo(4, 2266746, 6141 << 10, 4274 << 10, 0, 0, 0xFFFFFF, [0xBFEBFBFF, 1, 2, 3, 4, 5, 6, 7], VERSION, "unicorn")


@dataclass
class RecordedHost:
    """What was asked, and what is answered. ``faults``: method name -> the error it answers."""

    calls: list[tuple[str, Any]] = field(default_factory=list)
    faults: dict[str, p.HostError] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    replayed_output: list[bytes] = field(default_factory=list)
    console_output: list[bytes] = field(default_factory=list)
    states: list[p.StateChange] = field(default_factory=list)
    trace: list[p.TraceEvent] = field(default_factory=list)
    typed: bytearray = field(default_factory=bytearray)
    accepts: int = 3  #: bytes of input taken at once: a guest's ring is small
    floods: bool = False  #: output without an end
    creation_seconds: float = 0.0
    #: The guest's console ends when these bytes were typed (empty: at once after the output).
    ends_after: bytes = b""

    def asked(self, method: p.Method[Any, Any] | p.StreamMethod[Any, Any, Any]) -> list[Any]:
        return [parameters for name, parameters in self.calls if name == method.name]

    @contextlib.contextmanager
    def listening(self, folder: Path) -> Iterator[None]:
        """Serve the control socket of a run-time folder, from a thread."""
        runtime = RuntimeDirectory(folder)
        runtime.prepare()
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        server = ControlServer(self._table(), lambda error: error if isinstance(error, p.HostError) else p.HostError(repr(error)))
        asyncio.run_coroutine_threadsafe(server.listen(runtime.host_socket), loop).result(5)
        try:
            yield
        finally:
            asyncio.run_coroutine_threadsafe(server.close(), loop).result(5)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(5)
            loop.close()

    def _table(self) -> MethodTable:
        table = MethodTable()
        answers: dict[p.Method[Any, Any], Callable[[Any], Any]] = {
            p.DOMAIN_LIST: lambda _: p.DomainList(DOMAINS),
            p.DOMAIN_INFO: lambda request: next(domain for domain in DOMAINS if domain.domid == request.domid),
            p.DOMAIN_RESOLVE: self._resolve,
            p.DOMAIN_VCPUS: lambda request: p.VcpuList([v for v in VCPUS if request.domid in (None, v.domid)]),
            p.DOMAIN_UPTIME: lambda request: p.UptimeList(
                [p.Uptime(d.domid, d.name, d.uptime_s) for d in DOMAINS if request.domid in (None, d.domid)]
            ),
            p.DOMAIN_CONFIG: lambda request: p.DomainConfiguration(request.domid, {"c_info": {"type": "pv"}}, {}),
            p.PHYSINFO: lambda _: PHYSINFO,
            p.DMESG: lambda request: p.Text("(XEN) one\n(XEN) two\n"),
            p.CONFIG_CHECK: lambda request: p.CheckedConfig({"c_info": {"name": "g"}}, {}, self.warnings),
            p.CONSOLE_WRITE: self._typed,
        }
        nothing = (p.DOMAIN_DESTROY, p.DOMAIN_PAUSE, p.DOMAIN_UNPAUSE, p.DOMAIN_SHUTDOWN, p.DOMAIN_REBOOT, p.DOMAIN_RENAME)
        nothing += (p.DOMAIN_MEM_SET, p.DOMAIN_MEM_MAX, p.DOMAIN_SYSRQ, p.DOMAIN_TRIGGER, p.DOMAIN_CONFIG_UPDATE, p.DEBUG_KEYS)
        for method, answer in answers.items() | {(method, lambda _: p.Nothing()) for method in nothing}:
            table.call(method, self._recorded(method, answer))
        table.long_call(p.DOMAIN_CREATE, self._create)
        table.stream(p.CONSOLE_ATTACH, self._console)
        table.stream(p.DOMAIN_WAIT, self._wait)
        table.stream(p.TRACE_SUBSCRIBE, self._trace)
        return table

    def _recorded(self, method: p.Method[Any, Any], answer: Callable[[Any], Any]) -> Callable[[Any], Awaitable[Any]]:
        async def handler(parameters: Any) -> Any:
            self.calls.append((method.name, parameters))
            if method.name in self.faults:
                raise self.faults[method.name]
            return answer(parameters)

        return handler

    async def _create(self, request: p.CreateRequest, report: ProgressReport) -> p.CreatedDomain:
        self.calls.append((p.DOMAIN_CREATE.name, request))
        if p.DOMAIN_CREATE.name in self.faults:
            raise self.faults[p.DOMAIN_CREATE.name]
        report(p.Progress("laying the first stone"))
        await asyncio.sleep(self.creation_seconds)
        return p.CreatedDomain(7, "g", WIN_UUID, self.warnings)

    def _resolve(self, request: p.Identifier) -> p.ResolvedDomain:
        for domain in DOMAINS:
            if request.identifier in (domain.name, str(domain.domid)):
                return p.ResolvedDomain(domain.domid, domain.name, domain.uuid)
        raise p.HostError("no such domain", p.ErrorKind.NOT_FOUND, 3)

    def _typed(self, request: p.ConsoleInput) -> p.ConsoleAccepted:
        taken = request.data[: self.accepts]
        self.typed += taken
        return p.ConsoleAccepted(len(taken))

    async def _console(self, request: p.ConsoleAttachRequest, send: Callable[[p.ConsoleOutput], Awaitable[None]]) -> p.Nothing:
        self.calls.append((p.CONSOLE_ATTACH.name, request))
        await send(p.ConsoleOutput(b""))
        for data in self.replayed_output:
            await send(p.ConsoleOutput(data, replayed=True))
        for data in self.console_output:
            await send(p.ConsoleOutput(data))
        while self.floods:
            await send(p.ConsoleOutput(b"flood " * 1000))
        while self.ends_after not in self.typed:
            await asyncio.sleep(0.01)
        return p.Nothing()

    async def _wait(self, request: p.WaitRequest, send: Callable[[p.StateChange], Awaitable[None]]) -> p.StateChange:
        self.calls.append((p.DOMAIN_WAIT.name, request))
        for change in self.states:
            await send(p.StateChange(request.domid, change.state, change.shutdown_reason, change.crash_cause))
            if change.state in request.states or change.state is p.DomainState.DESTROYED:
                return p.StateChange(request.domid, change.state, change.shutdown_reason, change.crash_cause)
        raise p.HostError("no more states are recorded")

    async def _trace(self, request: p.TraceRequest, send: Callable[[p.TraceEvent], Awaitable[None]]) -> p.Nothing:
        self.calls.append((p.TRACE_SUBSCRIBE.name, request))
        for event in self.trace:
            await send(event)
        return p.Nothing()

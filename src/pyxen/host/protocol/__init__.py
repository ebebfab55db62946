"""The control protocol between the host process and its clients (``xl``, ``pyxen``, the Python API).

A Unix stream socket, ``<run-time folder>/host.sock``; one JSON object a line, UTF-8::

    -> {"id": 1, "method": "domain.create", "params": {...}}
    <- {"id": 1, "progress": {"stage": "unpacking the kernel", "done": 3, "total": 8}}     any number, for long calls
    <- {"id": 1, "event": {...}}                                                           any number, for streams
    <- {"id": 1, "result": {...}}    or    {"id": 1, "error": {"message": "...", "kind": "not-found", "errno": 3}}

Requests of one connection run side by side and are answered as they end. A client ends a stream by closing the connection or by
``{"cancel": 1}``. ``METHODS`` is the whole protocol: the table that the host serves and that clients use.

The names are found in the modules of this package when they are first used: making all these classes takes longer than most commands run.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyxen.host.protocol.common import *  # noqa: F403
    from pyxen.host.protocol.console import *  # noqa: F403
    from pyxen.host.protocol.devices import *  # noqa: F403
    from pyxen.host.protocol.domains import *  # noqa: F403
    from pyxen.host.protocol.host_process import *  # noqa: F403
    from pyxen.host.protocol.methods import *  # noqa: F403
    from pyxen.host.protocol.scheduling import *  # noqa: F403
    from pyxen.host.protocol.statistics import *  # noqa: F403
    from pyxen.host.protocol.timeline import *  # noqa: F403
    from pyxen.host.protocol.tracing import *  # noqa: F403

#: Module -> what is taken from it.
_NAMES = {
    "common": "DomainId ErrorKind HostError MAX_LINE_BYTES Method Nothing OptionalDomainId Progress StreamMethod Text",
    "console": "CONSOLE_ATTACH CONSOLE_PATH CONSOLE_WRITE ConsoleAccepted ConsoleAttachRequest ConsoleInput ConsoleOutput ConsolePath",
    "devices": (
        "BACKEND_RESTART BLOCK_ATTACH BLOCK_CHECK BLOCK_DETACH BLOCK_LIST BLOCK_MEDIUM BackendRestartRequest BlockAttachRequest "
        "BlockDetachRequest BlockDevice BlockDeviceList CapturedData CheckedDevice MediumRequest NETWORK_ATTACH NETWORK_CAPTURE "
        "NETWORK_CHECK NETWORK_DETACH NETWORK_LIST NetworkAttachRequest NetworkCaptureRequest NetworkDetachRequest NetworkInterface "
        "NetworkInterfaceList"
    ),
    "domains": (
        "CONFIG_CHECK CheckedConfig ConfigText ConfigUpdateRequest CreateRequest CreatedDomain DOMAIN_CONFIG DOMAIN_CONFIG_UPDATE "
        "DOMAIN_CREATE DOMAIN_DESTROY DOMAIN_INFO DOMAIN_LIST DOMAIN_MEM_MAX DOMAIN_MEM_SET DOMAIN_PAUSE DOMAIN_REBOOT "
        "DOMAIN_RENAME DOMAIN_RESOLVE DOMAIN_SHUTDOWN DOMAIN_SYSRQ DOMAIN_TRIGGER DOMAIN_UNPAUSE DOMAIN_UPTIME DOMAIN_WAIT "
        "DomainConfig DomainConfiguration DomainDetail DomainList DomainState Identifier MemoryRequest RenameRequest "
        "ResolvedDomain ShutdownRequest StateChange SysrqRequest TriggerRequest Uptime UptimeList WaitRequest"
    ),
    "host_process": (
        "DEBUG_KEYS DMESG DebugKeysRequest DmesgRequest HOST_LOGS HOST_STATUS HOST_STOP HostStatus LogRequest PHYSINFO PhysInfo "
        "VERSION Version"
    ),
    "methods": "METHODS",
    "scheduling": (
        "CPUPOOL_CHECK CPUPOOL_CPU_ADD CPUPOOL_CPU_REMOVE CPUPOOL_CREATE CPUPOOL_DESTROY CPUPOOL_LIST CPUPOOL_MIGRATE "
        "CPUPOOL_NUMA_SPLIT CPUPOOL_RATELIMIT CPUPOOL_RENAME CpuPool CpuPoolCpusRequest CpuPoolCreateRequest CpuPoolList "
        "CpuPoolMigrateRequest CpuPoolName CpuPoolRenameRequest CpuPoolTexts DOMAIN_SCHEDULING_SET DOMAIN_VCPUS DOMAIN_VCPU_PIN "
        "DOMAIN_VCPU_SET RatelimitRequest Refusals SchedulingRequest Vcpu VcpuList VcpuPinRequest VcpuSetRequest"
    ),
    "statistics": "DiskStatistics DomainStatistics ExitCounters NetworkStatistics STATISTICS Statistics VcpuStatistics",
    "timeline": "DOMAIN_TIMELINE HOST_TIMELINE StageTime StageTimes",
    "tracing": "TRACE_SUBSCRIBE TraceEvent TraceRequest",
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(_MODULE_OF)

"""Calls about the host process and the hypervisor: status, versions, logs."""

from __future__ import annotations

from dataclasses import dataclass

from pyxen.host.protocol.common import Method, Nothing, Text


@dataclass(frozen=True)
class HostStatus:
    """The host process and its machine memory."""

    pid: int
    version: str
    started_at: float  #: seconds since 1970
    runtime_directory: str
    engine: str
    memory_bytes: int
    free_bytes: int
    domains: int  #: without Domain 0
    processors: int = 0  #: physical CPUs that the machine shows


@dataclass(frozen=True)
class LogRequest:
    """Which part of the host's own log."""

    lines: int = 200  #: the last so many; 0: all


@dataclass(frozen=True)
class Version:
    """XENVER_* as ``xl info`` prints them."""

    major: int
    minor: int
    extra: str
    capabilities: str
    changeset: str
    compiler: str
    compile_by: str
    compile_domain: str
    compile_date: str
    command_line: str
    virt_start: int
    page_size: int
    build_id: str


@dataclass(frozen=True)
class PhysInfo:
    """What ``xl info`` prints of the machine."""

    nr_cpus: int
    cpu_khz: int
    total_kib: int
    free_kib: int
    scrub_kib: int
    outstanding_kib: int
    max_mfn: int
    hw_caps: list[int]
    version: Version
    engine: str
    scheduler: str = ""  #: of Pool-0
    free_cpus: int = 0  #: in no CPU pool


@dataclass(frozen=True)
class DmesgRequest:
    """The hypervisor's log."""

    clear: bool = False


@dataclass(frozen=True)
class DebugKeysRequest:
    """Keys for the hypervisor's debug handlers; the answer is in the hypervisor's log."""

    keys: str


HOST_STATUS = Method("host.status", Nothing, HostStatus)


HOST_STOP = Method("host.stop", Nothing, Nothing)


HOST_LOGS = Method("host.logs", LogRequest, Text)


PHYSINFO = Method("physinfo", Nothing, PhysInfo)


VERSION = Method("version", Nothing, Version)


DMESG = Method("dmesg", DmesgRequest, Text)


DEBUG_KEYS = Method("debug_keys", DebugKeysRequest, Nothing)

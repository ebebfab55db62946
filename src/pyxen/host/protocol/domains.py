"""Calls about domains: configuration, life cycle, memory, waiting."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from pyxen.host.protocol.common import DomainId, Method, Nothing, OptionalDomainId, StreamMethod

#: An xl.cfg(5) file as a mapping of its own keys ("name", "kernel", "memory", "disk", ...) to text, numbers and lists of those.
DomainConfig = dict[str, Any]


class DomainState(enum.StrEnum):
    """What one waits for. A domain that runs or sleeps is ``RUNNING``."""

    RUNNING = "running"
    PAUSED = "paused"
    SHUTDOWN = "shutdown"
    CRASHED = "crashed"
    DESTROYED = "destroyed"


@dataclass(frozen=True)
class ConfigText:
    """A piece of xl.cfg(5) text. ``source`` names it in messages: "guest.cfg", "<stdin>", "command line"."""

    text: str
    source: str


@dataclass(frozen=True)
class CreateRequest:
    """A domain to create: from texts that are parsed one after another (a file, then overrides), or from a mapping."""

    texts: list[ConfigText] = field(default_factory=list)
    config: DomainConfig = field(default_factory=dict)  #: instead of texts
    paused: bool = False
    working_directory: str = ""  #: for relative paths in the configuration; empty: they are refused


@dataclass(frozen=True)
class CheckedConfig:
    """What a configuration means: ``xl create -n``."""

    libxl: dict[str, Any]  #: as ``xl create -n`` prints it
    config: DomainConfig
    warnings: list[str] = field(default_factory=list)  #: one line each, with file and line number


@dataclass(frozen=True)
class CreatedDomain:
    """The new domain."""

    domid: int
    name: str
    uuid: str
    warnings: list[str] = field(default_factory=list)  #: one line each, with file and line number


@dataclass(frozen=True)
class ShutdownRequest:
    """A domain to shut down or reboot by its own kernel."""

    domid: int
    fallback: bool = False  #: xl's -F: an ACPI event when the guest has no PV control. PV guests have none: refused, as by xl


@dataclass(frozen=True)
class Identifier:
    """A domain as the user named it."""

    identifier: str  #: a name, or a number


@dataclass(frozen=True)
class ResolvedDomain:
    """The domain that an identifier means."""

    domid: int
    name: str
    uuid: str


@dataclass(frozen=True)
class RenameRequest:
    """A new name."""

    domid: int
    name: str


@dataclass(frozen=True)
class DomainDetail:
    """A line of ``xl list``, and more. State letters are r, b, p, s, c, d in xl's order."""

    domid: int
    name: str
    uuid: str
    kind: str  #: "pv", "pvh", "hvm", "dom0"
    state: DomainState
    state_letters: str  #: six places, "-" where not set: "r-----", "-b----", "---s--"
    shutdown_reason: str  #: "", "poweroff", "reboot", "suspend", "crash", "watchdog", "soft-reset"
    crash_cause: str
    memory_kib: int  #: what it has now
    memory_max_kib: int
    memory_target_kib: int
    vcpus: int  #: online
    vcpus_max: int
    cpu_time_s: float
    uptime_s: float
    security_label: str = "-"
    cpupool: str = "Pool-0"
    cpu_weight: int | None = None  #: None: the pool's scheduler has no weights
    cpu_cap: int | None = None  #: percent of one CPU, 0: none
    console_tty: str = ""
    ssidref: int = 0
    under_construction: bool = False  #: it is being created; nothing can be done with it yet


@dataclass(frozen=True)
class DomainList:
    """All domains by id, Domain 0 first."""

    domains: list[DomainDetail]


@dataclass(frozen=True)
class MemoryRequest:
    """An amount of memory for a domain."""

    domid: int
    kib: int


@dataclass(frozen=True)
class SysrqRequest:
    """A Linux magic SysRq key."""

    domid: int
    key: str  #: one character


@dataclass(frozen=True)
class TriggerRequest:
    """An event of ``xl trigger``."""

    domid: int
    trigger: str  #: "nmi", "reset", "init", "power", "sleep", "s3resume"
    vcpu: int = 0


@dataclass(frozen=True)
class ConfigUpdateRequest:
    """A configuration for the next start of the domain; as in ``CreateRequest``."""

    domid: int
    texts: list[ConfigText] = field(default_factory=list)
    config: DomainConfig = field(default_factory=dict)
    working_directory: str = ""


@dataclass(frozen=True)
class WaitRequest:
    """States to wait for, any of them."""

    domid: int
    states: list[DomainState]


@dataclass(frozen=True)
class StateChange:
    """One state of the domain. ``shutdown_reason`` and ``crash_cause`` as in ``DomainDetail``."""

    domid: int
    state: DomainState
    shutdown_reason: str = ""
    crash_cause: str = ""


@dataclass(frozen=True)
class DomainConfiguration:
    """What ``xl list -l`` prints: libxl's JSON of the configuration, and the file's own keys for ``pyxen``."""

    domid: int
    libxl: dict[str, Any]
    config: DomainConfig


@dataclass(frozen=True)
class Uptime:
    """Seconds since the domain was created."""

    domid: int
    name: str
    seconds: float


@dataclass(frozen=True)
class UptimeList:
    """A line each of ``xl uptime``."""

    uptimes: list[Uptime]


#: Check a configuration and do nothing.
CONFIG_CHECK = Method("config.check", CreateRequest, CheckedConfig)


DOMAIN_CREATE = Method("domain.create", CreateRequest, CreatedDomain)


DOMAIN_DESTROY = Method("domain.destroy", DomainId, Nothing)


DOMAIN_PAUSE = Method("domain.pause", DomainId, Nothing)


DOMAIN_UNPAUSE = Method("domain.unpause", DomainId, Nothing)


#: Answers when the guest acknowledged the request (not when it is down: ``DOMAIN_WAIT``).
DOMAIN_SHUTDOWN = Method("domain.shutdown", ShutdownRequest, Nothing)


DOMAIN_REBOOT = Method("domain.reboot", ShutdownRequest, Nothing)


DOMAIN_RENAME = Method("domain.rename", RenameRequest, Nothing)


DOMAIN_RESOLVE = Method("domain.resolve", Identifier, ResolvedDomain)


DOMAIN_INFO = Method("domain.info", DomainId, DomainDetail)


DOMAIN_LIST = Method("domain.list", Nothing, DomainList)


DOMAIN_MEM_SET = Method("domain.mem_set", MemoryRequest, Nothing)


DOMAIN_MEM_MAX = Method("domain.mem_max", MemoryRequest, Nothing)


DOMAIN_SYSRQ = Method("domain.sysrq", SysrqRequest, Nothing)


DOMAIN_TRIGGER = Method("domain.trigger", TriggerRequest, Nothing)


DOMAIN_CONFIG = Method("domain.config", DomainId, DomainConfiguration)


DOMAIN_CONFIG_UPDATE = Method("domain.config_update", ConfigUpdateRequest, Nothing)


#: An event for each change of state; ends with the first state that is one of those asked for, or DESTROYED.
DOMAIN_WAIT = StreamMethod("domain.wait", WaitRequest, StateChange, StateChange)


DOMAIN_UPTIME = Method("domain.uptime", OptionalDomainId, UptimeList)

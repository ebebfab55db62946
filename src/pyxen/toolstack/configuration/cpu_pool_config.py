"""A CPU pool's configuration: xlcpupool.cfg(5), which has the syntax of xl.cfg(5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from pyxen.toolstack.configuration.errors import ConfigError, ConfigWarning, Place
from pyxen.toolstack.configuration.syntax import ListValue, Settings
from pyxen.toolstack.configuration.values import Cpus, Integer, Name, Text, ValueType

T = TypeVar("T")

_KEYS = ("name", "sched", "nodes", "cpus")


@dataclass(frozen=True)
class CpuPoolConfig:
    """``cpus``: a CPU list, None for none given. ``all_free``: every free CPU of the machine's one NUMA node (``nodes = 0``)."""

    name: str
    scheduler: str
    cpus: str | None
    all_free: bool

    @classmethod
    def read(cls, settings: Settings, default_name: str) -> tuple[CpuPoolConfig, list[ConfigWarning]]:
        """``default_name``: of a file that has none, as xl takes it of the file's own name. Raises ``ConfigError``."""
        name = _read(settings, "name", Name()) or default_name
        if not name:
            raise ConfigError(Place(settings.source), 'the pool must have a name: name = "..."')
        nodes, cpus = settings.value("nodes"), _read(settings, "cpus", Cpus())
        if nodes is not None and cpus is not None:
            raise ConfigError(settings.place("nodes"), '"nodes" and "cpus" can\'t both be given')
        for node in nodes.items if isinstance(nodes, ListValue) else (nodes,) if nodes is not None else ():
            try:
                Integer(0, 0).read(node)
            except ValueError as error:
                raise ConfigError(settings.place("nodes"), f"`nodes': {error}: the machine has node 0 only") from None
        warnings = [ConfigWarning(settings.place(key), f"unknown key `{key}' is ignored") for key in settings if key not in _KEYS]
        text = cpus if cpus is None or isinstance(cpus, str) else ",".join(cpus)
        return cls(name, _read(settings, "sched", Text(32)) or "", text, nodes is not None), warnings


def _read(settings: Settings, key: str, kind: ValueType[T]) -> T | None:
    value = settings.value(key)
    if value is None:
        return None
    try:
        return kind.read(value)
    except ValueError as error:
        raise ConfigError(settings.place(key), f"`{key}': {error}") from None

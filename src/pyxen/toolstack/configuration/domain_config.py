"""A domain's configuration: the keys of xl.cfg(5) that pyxen acts on, typed and checked.

Each field is the key of the same name; one line says its type, range and default.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from pyxen.toolstack.configuration.disk import DiskSpecification
from pyxen.toolstack.configuration.errors import ConfigError, ConfigWarning, Place, UnsupportedError
from pyxen.toolstack.configuration.other_keys import DEPRECATED_KEYS, FULLY_VIRTUALISED_KEYS, IGNORED_KEYS, UNSUPPORTED_KEYS
from pyxen.toolstack.configuration.syntax import KEY, Atom, ListValue, Settings, Value
from pyxen.toolstack.configuration.values import Choice, Cpus, Flag, Integer, Name, Specifications, Text, Texts, Uuid, ValueType
from pyxen.toolstack.configuration.vif import VifSpecification

T = TypeVar("T")

#: xl's default when neither memory= nor maxmem= is given, in MiB.
DEFAULT_MEMORY = 32
#: 16 TiB in MiB: what a 64-bit PV domain can address.
MAX_MEMORY = 16 << 20
#: Xen's MAX_VIRT_CPUS of a PV domain. What a host allows is less, and is checked when the domain is made.
MAX_VCPUS = 8192

#: Checked and kept, for the tools that show them; but nothing in pyxen acts on them yet.
WITHOUT_EFFECT = ("driver_domain",)

FIRMWARES = ("pvgrub32", "pvgrub64")
ACTIONS = ("destroy", "restart", "rename-restart", "preserve", "coredump-destroy", "coredump-restart", "soft-reset")


#: By number; the last one is not in Xen any more.
TSC_MODES = ("default", "always_emulate", "native", "native_paravirt")


def setting(kind: ValueType[T], default: T) -> T:
    """A field that is a key of xl.cfg(5)."""
    return field(default=default, metadata={"kind": kind})


@dataclass(frozen=True)
class DomainConfig:
    """One domain. Amounts of memory are in MiB; None means that the key is not given and its default depends on other keys."""

    name: str = setting(Name(), "")
    type: str = setting(Choice(("pv", "pvh", "hvm")), "pv")
    uuid: str | None = setting(Uuid(), None)
    kernel: str = setting(Text(), "")
    ramdisk: str = setting(Text(), "")
    cmdline: str | None = setting(Text(), None)
    root: str | None = setting(Text(), None)
    extra: str | None = setting(Text(), None)
    firmware: str = setting(Text(), "")
    bootloader: str = setting(Text(), "")
    memory: int | None = setting(Integer(1, MAX_MEMORY), None)
    maxmem: int | None = setting(Integer(1, MAX_MEMORY), None)
    vcpus: int = setting(Integer(1, MAX_VCPUS), 1)
    maxvcpus: int | None = setting(Integer(1, MAX_VCPUS), None)
    cpus: str | tuple[str, ...] = setting(Cpus(), "all")
    cpus_soft: str | tuple[str, ...] = setting(Cpus(), "all")
    cpu_weight: int = setting(Integer(1, 65535), 256)
    cap: int = setting(Integer(0, 65535), 0)
    pool: str = setting(Text(), "Pool-0")
    on_poweroff: str = setting(Choice(ACTIONS), "destroy")
    on_reboot: str = setting(Choice(ACTIONS), "restart")
    on_watchdog: str = setting(Choice(ACTIONS), "destroy")
    on_crash: str = setting(Choice(ACTIONS), "destroy")
    on_soft_reset: str = setting(Choice(ACTIONS), "soft-reset")
    disk: tuple[DiskSpecification, ...] = setting(Specifications(DiskSpecification.parse), ())
    vif: tuple[VifSpecification, ...] = setting(Specifications(VifSpecification.parse), ())
    max_event_channels: int = setting(Integer(1, (1 << 17) - 1), 1023)
    max_grant_frames: int = setting(Integer(1, 1 << 20), 64)
    max_maptrack_frames: int = setting(Integer(0, 1 << 20), 1024)
    max_grant_version: int = setting(Integer(1, 2), 2)
    tsc_mode: str = setting(Choice(TSC_MODES), "default")
    nomigrate: bool = setting(Flag(), False)
    driver_domain: bool = setting(Flag(), False)
    seclabel: str = setting(Text(), "")
    bootloader_args: tuple[str, ...] = setting(Texts(), ())

    @classmethod
    def read(cls, settings: Settings) -> tuple[DomainConfig, list[ConfigWarning]]:
        """Check the settings of a file. Raises ``ConfigError`` for the first mistake; what has no effect is a warning."""
        return _Reader(settings).read()

    @classmethod
    def from_mapping(cls, untrusted_mapping: Mapping[str, Any], source: str = "configuration") -> tuple[DomainConfig, list[ConfigWarning]]:
        """As ``read``, for what came over a socket or from a Python program: text, numbers and lists of those."""
        settings = Settings(source)
        place = Place(source)
        for key, item in untrusted_mapping.items():
            if not isinstance(key, str) or not KEY.fullmatch(key):
                raise ConfigError(place, f"{key!a} is no key of a configuration")
            settings.assign(key, _value(item, key, place), place)
        return cls.read(settings)

    def to_mapping(self) -> dict[str, Any]:
        """The keys that differ from their defaults, as text, numbers and lists of those: JSON-able, and xl.cfg(5) itself."""
        return {key.name: key.metadata["kind"].plain(value) for key in fields(self) if (value := getattr(self, key.name)) != key.default}

    @property
    def memory_mib(self) -> int:
        """What the domain starts with."""
        return self.memory or self.maxmem or DEFAULT_MEMORY

    @property
    def maxmem_mib(self) -> int:
        """The most that it can ever have."""
        return self.maxmem or self.memory_mib

    @property
    def max_vcpus(self) -> int:
        return self.maxvcpus or self.vcpus

    @property
    def command_line(self) -> str:
        """The kernel's: ``cmdline`` if given, else made of ``root`` and ``extra`` as xl does it."""
        if self.cmdline is not None:
            return self.cmdline
        root = None if self.root is None else f"root={self.root}"
        return " ".join(part for part in (root, self.extra) if part)

    def vcpu_affinity(self, vcpu: int, *, soft: bool = False) -> str:
        """The CPU list (see ``cpu_list``) of one vCPU."""
        lists = self.cpus_soft if soft else self.cpus
        if isinstance(lists, str):
            return lists
        return lists[vcpu] if vcpu < len(lists) else "all"

    def require_supported(self, settings: Settings | None = None) -> None:
        """Raises ``UnsupportedError`` when the domain can't be made by this version; ``settings`` tell the line."""
        for key, reason in self._unsupported():
            raise UnsupportedError(settings.place(key) if settings is not None else Place("configuration"), reason)

    def _unsupported(self) -> list[tuple[str, str]]:
        reasons = []
        if self.type == "hvm":
            reasons.append(("type", 'domains of type "hvm" are not supported yet; use type = "pv" or "pvh"'))
        if self.bootloader and os.path.basename(self.bootloader) != "pygrub":
            reasons.append(("bootloader", f'the boot loader "{self.bootloader}" is not supported yet; use bootloader = "pygrub"'))
        if self.firmware == "pvgrub32" and self.type == "pv":
            reasons.append(("firmware", '32-bit PV domains are not supported yet; use firmware = "pvgrub64", or type = "pvh"'))
        reasons += [("disk", f"`disk': {disk.vdev}: {disk.unsupported()}") for disk in self.disk if disk.unsupported()]
        reasons += [("vif", f"`vif': {vif.unsupported()}") for vif in self.vif if vif.unsupported()]
        return reasons


_KINDS: dict[str, ValueType[Any]] = {key.name: key.metadata["kind"] for key in fields(DomainConfig)}
_OTHER_TABLES = (UNSUPPORTED_KEYS, FULLY_VIRTUALISED_KEYS, DEPRECATED_KEYS, IGNORED_KEYS)
_ALL_KEYS = frozenset(_KINDS).union(*_OTHER_TABLES)


class _Reader:
    """Settings to a configuration: every key read by its type, then what concerns several keys."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._warnings: list[ConfigWarning] = []

    def read(self) -> tuple[DomainConfig, list[ConfigWarning]]:
        values = {key: self._known(key, _KINDS[key]) for key in self._settings if key in _KINDS}
        if "builder" in self._settings:
            values["type"] = self._type_from_builder(values.get("type"))
        config = DomainConfig(**values)
        self._check(config)
        for key in self._settings:
            if key in WITHOUT_EFFECT:
                self._warn(key, f"`{key}' is not supported yet and has no effect")
            elif key not in _KINDS:
                self._other(key, config.type)
        return config, sorted(self._warnings, key=lambda warning: warning.place.line)

    def _known(self, key: str, kind: ValueType[Any]) -> Any:
        value = self._settings.value(key)
        assert value is not None
        if key == "bootloader_args" and isinstance(value, Atom):
            self._warn(key, "a string for `bootloader_args' is deprecated; use a list of arguments")
            value = ListValue(tuple(Atom(word, True, value.line) for word in value.text.split()), value.line)
        if key == "tsc_mode" and isinstance(value, Atom) and value.text.isdecimal() and int(value.text) < len(TSC_MODES):
            word = TSC_MODES[int(value.text)]
            self._warn(key, f'a number for `tsc_mode\' is deprecated; use tsc_mode = "{word}"')
            value = Atom(word, True, value.line)
        try:
            return kind.read(value)
        except ValueError as error:
            raise self._error(key, f"`{key}': {error}") from None

    def _other(self, key: str, kind: str) -> None:
        """A key that pyxen does not act on. A mistake in its value is still a mistake."""
        table = next((candidate for candidate in _OTHER_TABLES if key in candidate), None)
        if table is None:
            near = difflib.get_close_matches(key, _ALL_KEYS, 1, 0.75)
            self._warn(key, f"unknown key `{key}' is ignored" + (f"; did you mean `{near[0]}'?" if near else ""))
            return
        entry = table[key]
        self._known(key, entry.kind)
        if table is IGNORED_KEYS or (table is UNSUPPORTED_KEYS and self._is_empty(key)):
            return
        if table is DEPRECATED_KEYS:
            self._warn(key, f"`{key}' is deprecated" + (f": {entry.note}" if entry.note else ""))
        elif table is FULLY_VIRTUALISED_KEYS and kind == "pv":
            self._warn(key, f"`{key}' has no effect for a pv domain")
        else:
            self._warn(key, f"`{key}' is not supported yet and has no effect")

    def _is_empty(self, key: str) -> bool:
        value = self._settings.value(key)
        return not value.items if isinstance(value, ListValue) else value is None or value.text in ("", "0")

    def _type_from_builder(self, kind: str | None) -> str:
        builder = self._known("builder", Choice(("generic", "linux", "hvm")))
        named = "hvm" if builder == "hvm" else "pv"
        if kind not in (None, named):
            raise self._error("builder", 'contradicting "builder" and "type" options specified')
        return named

    def _check(self, config: DomainConfig) -> None:
        if not config.name:
            raise ConfigError(Place(self._settings.source), 'the domain must have a name: name = "..."')
        if config.maxvcpus is not None and config.maxvcpus < config.vcpus:
            raise self._error("maxvcpus", f"maxvcpus ({config.maxvcpus}) is less than vcpus ({config.vcpus})")
        if config.maxmem is not None and config.maxmem < config.memory_mib:
            raise self._error("maxmem", f"maxmem ({config.maxmem}) is less than memory ({config.memory_mib})")
        if (config.kernel or config.bootloader) and config.firmware and config.type != "hvm":
            raise self._error("firmware", f"both {'kernel' if config.kernel else 'bootloader'} and firmware are given")
        if config.firmware and config.type != "hvm" and config.firmware not in FIRMWARES:
            raise self._error("firmware", f'unknown firmware "{config.firmware}"; it must be one of: {", ".join(FIRMWARES)}')
        if not (config.kernel or config.bootloader or config.firmware) and config.type != "hvm":
            raise ConfigError(Place(self._settings.source), 'neither kernel nor bootloader is given: kernel = "PATH"')
        if config.tsc_mode == "native_paravirt":
            raise self._error("tsc_mode", "`tsc_mode': native_paravirt does not exist any more, as in Xen since 4.13")
        if config.type == "pvh" and config.maxmem_mib > config.memory_mib:
            self._warn("maxmem", "`maxmem' above `memory' has no effect for a pvh domain: there is no populate-on-demand yet")
        if config.cmdline is not None and (config.root is not None or config.extra is not None):
            self._warn("cmdline", "root= and extra= are ignored in favour of cmdline=")
        if config.name.isascii() and config.name.isdigit():
            self._warn("name", f'the name "{config.name}" looks like a domain id: commands will not find the domain by its name')

    def _error(self, key: str, text: str) -> ConfigError:
        return ConfigError(self._settings.place(key), text)

    def _warn(self, key: str, text: str) -> None:
        self._warnings.append(ConfigWarning(self._settings.place(key), text))


def _value(untrusted_item: Any, key: str, place: Place) -> Value:
    """A JSON item as a setting's value. Raises ``ConfigError``."""
    if isinstance(untrusted_item, str):
        return Atom(untrusted_item, True, 0)
    if isinstance(untrusted_item, int):
        if not -(1 << 63) <= untrusted_item < 1 << 64:
            raise ConfigError(place, f"`{key}': the number is out of range")
        return Atom(str(int(untrusted_item)), False, 0)
    if isinstance(untrusted_item, list | tuple):
        return ListValue(tuple(_value(item, key, place) for item in untrusted_item), 0)
    raise ConfigError(place, f"`{key}': {type(untrusted_item).__name__} is no value of a configuration")

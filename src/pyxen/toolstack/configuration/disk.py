"""Disk specifications of xl-disk-configuration(5)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pyxen.toolstack.devices.vdev import device_number

#: The last two before "empty" are not Xen's.
_FORMATS = ("raw", "qcow", "qcow2", "vhd", "qed", "vhdx", "vmdk", "empty")
_BACKEND_TYPES = ("phy", "qdisk", "tap", "standalone")
_ACCESS = {"r": False, "ro": False, "w": True, "rw": True, "w!": True}
_DEVTYPES = ("cdrom", "disk")

_SCRIPTS = ("iscsi", "nbd", "enbd", "drbd")
_PREFIX = re.compile(r"(raw|qcow2?|vhd|iscsi|nbd|enbd|drbd|tapdisk|tap2?|aio|ioemu|file|phy):")
#: ",hdc:cdrom,r": xend's way to write an empty drive.
_EMPTY_CDROM = re.compile(r",(?=[^,=:]+:cdrom(?:,|$))")
_PARAMETER = re.compile(r"([a-z][a-z0-9_-]*)=(.*)", re.DOTALL)
_POSITIONAL = ("target", "format", "vdev", "access")
_NAMED = ("format", "vdev", "access", "devtype", "backend", "backendtype", "script", "specification")
_COLO = ("colo-host", "colo-port", "colo-export", "active-disk", "hidden-disk")
_NO_COLO = "COLO is not supported"
_FLAGS = {
    "cdrom": ("devtype", "cdrom"),
    "disk": ("devtype", "disk"),
    "direct-io-safe": ("direct-io-safe", "yes"),
    "discard": ("discard", "discard"),
    "no-discard": ("discard", "no-discard"),
    "trusted": ("trusted", "trusted"),
    "untrusted": ("trusted", "untrusted"),
}


@dataclass(frozen=True)
class DiskSpecification:
    """One disk of a domain. ``str()`` gives a specification that means the same."""

    target: str  #: a path or, with a script, whatever the script takes; empty: an empty CD drive
    vdev: str
    format: str = "raw"
    writable: bool = True
    shared: bool = False  #: access w! (as in Xen's block script): several domains may write it at once
    cdrom: bool = False
    backend: str = ""  #: name of the backend domain; empty: Domain 0
    backendtype: str = ""  #: empty: chosen by the toolstack
    script: str = ""
    direct_io_safe: bool = False
    discard: bool = True
    trusted: bool = True
    specification: str = "xen"

    @classmethod
    def parse(cls, text: str) -> DiskSpecification:
        """Raises ``ValueError``."""
        return _Parser().parse(text)

    def unsupported(self) -> str:
        """Why pyxen can't make this disk yet; empty if it can."""
        if not self.target and not self.cdrom:
            return "only a CD drive can be empty; add devtype=cdrom"
        if self.shared and self.format != "raw":
            return f"access w! (shared writing) needs a raw image: several programs can't write one of the format {self.format}"
        if self.script:
            return f"the script {self.script} is not supported: give a file or a block device"
        if self.backend not in ("", "0", "Domain-0"):
            return f"a backend in the domain {self.backend} is not supported yet"
        if self.specification != "xen":
            return f"the specification {self.specification} is not supported; use specification=xen"
        if self.backendtype == "phy" and self.format not in ("raw", "empty"):
            return f"backendtype phy is for raw images; leave it out for the format {self.format}"
        if self.backendtype == "standalone":
            return "the backendtype standalone is not supported; use phy"
        return ""

    def __str__(self) -> str:
        parts = [f"format={self.format}", f"vdev={self.vdev}", f"access={'w!' if self.shared else 'rw' if self.writable else 'ro'}"]
        parts += ["devtype=cdrom"] if self.cdrom else []
        parts += [
            f"{key}={value}"
            for key, value in (("backend", self.backend), ("backendtype", self.backendtype), ("script", self.script))
            if value
        ]
        parts += ["direct-io-safe"] if self.direct_io_safe else []
        parts += [] if self.discard else ["no-discard"]
        parts += [] if self.trusted else ["untrusted"]
        parts += [] if self.specification == "xen" else [f"specification={self.specification}"]
        return ",".join([*parts, f"target={self.target}"])


class _Parser:
    """Collects the parameters of one specification. An empty value takes its place among the positional ones, and no more."""

    def __init__(self) -> None:
        self._given: dict[str, str] = {}

    def parse(self, text: str) -> DiskSpecification:
        if match := _EMPTY_CDROM.match(text):
            self._given.update(target="", format="empty")
            text = text[match.end() :]
        rest: str | None = text
        while rest is not None:
            rest = self._parameter(rest.lstrip(" \t"))
        return self._build()

    def _parameter(self, rest: str) -> str | None:
        """Take one parameter off the text. Returns what follows its comma, None at the end."""
        if rest.startswith("target="):
            self._set("target", rest[len("target=") :])
            return None
        parameter, comma, after = rest.partition(",")
        if match := _PARAMETER.fullmatch(parameter):
            self._named(match[1], match[2])
        elif parameter in _FLAGS:
            self._set(*_FLAGS[parameter])
        elif parameter == "colo":
            raise ValueError(_NO_COLO)
        elif parameter or comma:
            self._positional(parameter)
        return after if comma else None

    def _named(self, key: str, value: str) -> None:
        if key in _COLO:
            raise ValueError(_NO_COLO)
        if key not in _NAMED:
            raise ValueError(f"unknown parameter `{key}'")
        self._set(key, value)

    def _positional(self, value: str) -> None:
        key = next((key for key in _POSITIONAL if key not in self._given), None)
        if key is None:
            raise ValueError(f'too many positional parameters: "{value}"')
        if key == "target":
            value = self._strip_prefixes(value)
        elif key == "vdev" and ":" in value:
            value, _, devtype = value.partition(":")
            self._set("devtype", devtype)
        self._set(key, value)

    def _strip_prefixes(self, target: str) -> str:
        """The deprecated prefixes, as in "tap:aio:/images/a.img,xvda,w": after them no format follows."""
        while match := _PREFIX.match(target):
            prefix = match[1]
            self._set("format", prefix if prefix in _FORMATS else "")
            if prefix in _SCRIPTS:
                self._set("script", f"block-{prefix}")
            target = target[match.end() :]
        return target

    def _set(self, key: str, value: str) -> None:
        old = self._given.get(key)
        if old and value and old != value:
            raise ValueError(f'parameter `{key}\' is given twice: "{old}" and "{value}"')
        self._given[key] = old or value

    def _build(self) -> DiskSpecification:
        given = self._given
        cdrom = given.get("devtype") == "cdrom"
        access = given.get("access") or ("ro" if cdrom else "rw")
        format_ = given.get("format") or "raw"
        for value, allowed, what in (
            (format_, _FORMATS, "format"),
            (access, tuple(_ACCESS), "access"),
            (given.get("devtype") or "disk", _DEVTYPES, "devtype"),
            (given.get("backendtype") or "phy", _BACKEND_TYPES, "backendtype"),
            (given.get("specification") or "xen", ("xen", "virtio"), "specification"),
        ):
            if value not in allowed:
                raise ValueError(f'unknown {what} "{value}"; it must be one of: {", ".join(allowed)}')
        vdev = given.get("vdev") or ""
        if not vdev:
            raise ValueError("no vdev is given (such as xvda)")
        device_number(vdev)
        target = given.get("target") or ""
        if not target and not cdrom and format_ != "empty":
            raise ValueError("no target is given")
        return DiskSpecification(
            target=target,
            vdev=vdev,
            format=format_ if target else "empty",
            writable=_ACCESS[access] and not cdrom,
            shared=access == "w!" and not cdrom,
            cdrom=cdrom,
            backend=given.get("backend") or "",
            backendtype=given.get("backendtype") or "",
            script=given.get("script") or "",
            direct_io_safe="direct-io-safe" in given,
            discard=given.get("discard") != "no-discard",
            trusted=given.get("trusted") != "untrusted",
            specification=given.get("specification") or "xen",
        )

"""Network interface specifications of xl-network-configuration(5)."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, fields
from typing import Any

_MAC = re.compile(r"[0-9a-fA-F]{1,2}(?::[0-9a-fA-F]{1,2}){5}")
_RATE = re.compile(r"([0-9]{1,15})([GMK]?)([Bb])/s(?:@([0-9]{1,12})(ms|us|s)?)?")
_FORWARD = re.compile(r"(?:(tcp|udp)/)?(?:(\[?)([0-9a-fA-F:.]{2,45})(\]?)/)?([0-9]{1,5})(?::([0-9]{1,5}))?")
_FACTORS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3}
_MICROSECONDS = {"us": 1, "ms": 1000, "s": 1000000, None: 1}
#: Keys that only HVM guests' emulated cards and COLO use: accepted and kept out.
_WITHOUT_EFFECT = ("accel", "forwarddev")


@dataclass(frozen=True)
class VifSpecification:
    """One network interface of a domain; empty text: the default. ``str()`` gives a specification that means the same."""

    mac: str = ""  #: six pairs of hexadecimal digits; empty: made by the toolstack
    bridge: str = ""
    gatewaydev: str = ""
    type: str = ""
    model: str = ""
    vifname: str = ""
    script: str = ""
    ip: str = ""
    backend: str = ""
    rate: str = ""
    devid: int = -1  #: -1: the index in the list
    mtu: int = 0  #: 0: the bridge's
    trusted: bool = True
    forwards: tuple[str, ...] = ()  #: pyxen's own key ``forward``: "tcp/127.0.0.1/8080:80", the host's port and the guest's

    @classmethod
    def parse(cls, text: str) -> VifSpecification:
        """Raises ``ValueError``."""
        given: dict[str, Any] = {}
        for parameter in text.split(","):
            parameter = parameter.strip(" \t")
            if not parameter:
                continue
            if parameter in ("trusted", "untrusted"):
                given["trusted"] = parameter == "trusted"
                continue
            key, equals, value = parameter.partition("=")
            if not equals:
                raise ValueError(f"unrecognized argument `{parameter}'")
            if key == "forward":
                given["forwards"] = (*given.get("forwards", ()), _read_forward(value))
                continue
            key = "gatewaydev" if key == "netdev" else key
            if key in _WITHOUT_EFFECT or key.startswith("colo_"):
                continue
            given[key] = _read(key, value)
        return cls(**given)

    def unsupported(self) -> str:
        """Why pyxen can't make this interface; empty if it can."""
        if self.backend not in ("", "0", "Domain-0"):
            return f"a backend in the domain {self.backend} is not supported yet"
        if self.gatewaydev:
            return "`gatewaydev' (routing) is not supported; use NAT or a bridge"
        if self.forwards and self.bridge:
            return "`forward' is for NAT; an interface with `bridge' has none"
        return ""

    def rate_limit(self) -> tuple[int, int] | None:
        """Bytes for each interval, and the interval in microseconds. None: no limit."""
        return parse_rate(self.rate) if self.rate else None

    def __str__(self) -> str:
        plain = [field for field in fields(self) if field.name not in ("trusted", "forwards")]
        parts = [f"{field.name}={getattr(self, field.name)}" for field in plain if getattr(self, field.name) != field.default]
        return ",".join([*parts, *([] if self.trusted else ["untrusted"]), *(f"forward={forward}" for forward in self.forwards)])


def parse_rate(text: str) -> tuple[int, int]:
    """ "10Mb/s@20ms": bytes for each interval, and the interval in microseconds. Raises ``ValueError``."""
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is not a rate such as 10Mb/s or 250KB/s@20ms')
    bytes_per_second = int(match[1]) * _FACTORS[match[2]] // (8 if match[3] == "b" else 1)
    interval = int(match[4]) * _MICROSECONDS[match[5]] if match[4] else 50_000
    if not 0 < interval < 1 << 32:
        raise ValueError(f'"{text}": the interval is out of range')
    return bytes_per_second * interval // 1_000_000, interval


def _read_forward(text: str) -> str:
    """ "[tcp/|udp/][ADDRESS/]PORT[:GUEST-PORT]" in full. Without an address only this machine's own programs reach it.

    Raises ``ValueError``."""
    match = _FORWARD.fullmatch(text)
    if match is None or bool(match[2]) != bool(match[4]):
        raise ValueError(f'forward "{text}" is not of the form [tcp/|udp/][ADDRESS/]PORT[:GUEST-PORT]')
    address = str(ipaddress.ip_address(match[3] or "127.0.0.1"))
    port, guest_port = int(match[5]), int(match[6] or match[5])
    if not 0 < port < 65536 or not 0 < guest_port < 65536:
        raise ValueError(f'forward "{text}": ports are 1 to 65535')
    return f"{match[1] or 'tcp'}/{address}/{port}:{guest_port}"


def _read(key: str, value: str) -> str | int:
    if key == "mac":
        if not _MAC.fullmatch(value):
            raise ValueError(f'"{value}" is not a MAC address such as 00:16:3e:74:3d:76')
        return ":".join(f"{int(pair, 16):02x}" for pair in value.split(":"))
    if key == "type":
        if value not in ("vif", "ioemu"):
            raise ValueError(f'unknown type "{value}"; it must be one of: vif, ioemu')
        return value
    if key in ("devid", "mtu"):
        limit = 65535
        if not value.isascii() or not value.isdigit() or len(value) > 5 or int(value) > limit:
            raise ValueError(f"`{key}' must be a number from 0 to {limit}")
        return int(value)
    if key == "rate":
        parse_rate(value)
        return value
    if key not in ("bridge", "gatewaydev", "model", "vifname", "script", "ip", "backend"):
        raise ValueError(f"unrecognized argument `{key}'")
    return value

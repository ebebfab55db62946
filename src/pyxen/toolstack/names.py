"""Names and UUIDs of domains."""

from __future__ import annotations

import os
import re

from pyxen.hypervisor.dom0_interface import Dom0Hypercalls
from pyxen.toolstack.domain_record import DOMAIN_0_NAME, DomainRegistry
from pyxen.toolstack.errors import Fault, ToolstackError

_NAME_LIMIT = 128
_NAME = re.compile(r"[^/\x00-\x1f\x7f]+")


def check_name(untrusted_name: str) -> str:
    """A name that may be given to a domain: it also becomes part of a log file's name. Raises ``ToolstackError``."""
    if not untrusted_name or len(untrusted_name.encode("utf-8", "replace")) > _NAME_LIMIT:
        raise ToolstackError(f"a domain's name has 1 to {_NAME_LIMIT} bytes", Fault.INVALID)
    if not _NAME.fullmatch(untrusted_name):
        raise ToolstackError(f"a domain's name has no slash and no control character: {untrusted_name!a}", Fault.INVALID)
    return untrusted_name


def uuid_bytes(text: str) -> bytes:
    """The 16 bytes of a UUID that the configuration has checked."""
    return bytes.fromhex(text.replace("-", ""))


def uuid_text(uuid: bytes) -> str:
    """8-4-4-4-12, as libxl prints it."""
    digits = uuid.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def random_uuid() -> bytes:
    """A version 4 UUID."""
    octets = bytearray(os.urandom(16))
    octets[6] = octets[6] & 0x0F | 0x40
    octets[8] = octets[8] & 0x3F | 0x80
    return bytes(octets)


def resolve(dom0: Dom0Hypercalls, registry: DomainRegistry, identifier: str) -> int:
    """The id of the domain that a name or a number means; as for xl, a number is an id first. Raises ``ToolstackError`` NOT_FOUND."""
    if identifier.isascii() and identifier.isdigit():
        number = int(identifier)
        if any(info.domid == number for info in dom0.list_domains()):
            return number
    if identifier == DOMAIN_0_NAME:
        return 0
    domid = registry.find_name(identifier)
    if domid is None:
        raise ToolstackError(f"{identifier} is an invalid domain identifier: there is no such domain", Fault.NOT_FOUND)
    return domid

"""``xl vcpu-pin`` and ``vcpu-set``. The words are those of xl 4.17."""

from __future__ import annotations

from pyxen.cli.command import Context, parse_options
from pyxen.cli.failures import EXIT_SUCCESS, CommandFailed
from pyxen.host.protocol import (
    DOMAIN_INFO,
    DOMAIN_VCPU_PIN,
    DOMAIN_VCPU_SET,
    PHYSINFO,
    DomainId,
    HostError,
    Nothing,
    VcpuPinRequest,
    VcpuSetRequest,
)

_UNCHANGED = "-"
_LARGEST_NUMBER = 1 << 31


def vcpu_pin(context: Context, arguments: list[str]) -> int:
    """Hard and soft affinity of one vCPU, or of all."""
    _, rest = parse_options(arguments, "f", ["force"], required=3)
    domain = context.resolve(rest[0])
    vcpu = None if rest[1] == "all" else _number(rest[1], f"Error: Invalid argument {rest[1]} as VCPU.")
    hard, soft = (None if text == _UNCHANGED else text for text in (rest[2], rest[3] if len(rest) > 3 else _UNCHANGED))
    try:
        context.client.call(DOMAIN_VCPU_PIN, VcpuPinRequest(domain.domid, vcpu, hard, soft))
    except HostError as error:
        which = "Could not set affinity" if vcpu is None else f"Could not set affinity for vcpu `{vcpu}'"
        raise CommandFailed(f"{which}: {error}") from None
    return EXIT_SUCCESS


def vcpu_set(context: Context, arguments: list[str]) -> int:
    """How many vCPUs the guest's kernel shall use."""
    options, rest = parse_options(arguments, "i", ["ignore-host"], required=2)
    domain = context.resolve(rest[0])
    count = _number(rest[1], "Error: Invalid argument.")
    if not options:
        host_cpus = context.client.call(PHYSINFO, Nothing()).nr_cpus
        if count > host_cpus and count > context.client.call(DOMAIN_INFO, DomainId(domain.domid)).vcpus:
            raise CommandFailed(
                f"You are overcommmitting! You have {host_cpus} physical CPUs and want {count} vCPUs! "
                "Aborting, use --ignore-host to continue"
            )
    try:
        context.client.call(DOMAIN_VCPU_SET, VcpuSetRequest(domain.domid, count))
    except HostError as error:
        raise CommandFailed(f"libxl_set_vcpuonline failed domid={domain.domid} max_vcpus={count}: {error}") from None
    return EXIT_SUCCESS


def _number(text: str, message: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 11 and int(text) < _LARGEST_NUMBER):
        raise CommandFailed(message)
    return int(text)

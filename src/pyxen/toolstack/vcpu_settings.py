"""How a domain's vCPUs run: affinity, weight and cap, and how many of them there are."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

from pyxen.hypervisor.dom0_interface import Dom0Hypercalls, SchedulerParameters
from pyxen.toolstack.configuration import DomainConfig
from pyxen.toolstack.configuration.cpu_list import parse_cpu_list
from pyxen.toolstack.domain_record import DomainRecord
from pyxen.toolstack.domain_store import DomainStore
from pyxen.toolstack.errors import Fault, ToolstackError

_DEFAULTS = SchedulerParameters(weight=256, cap=0)


def apply(dom0: Dom0Hypercalls, domid: int, config: DomainConfig) -> None:
    """What the configuration of a new domain says. Raises ``ToolstackError`` for CPUs that the host does not have, ``HypercallError``."""
    parameters = SchedulerParameters(config.cpu_weight, config.cap)
    if parameters != _DEFAULTS:
        dom0.scheduling.set_parameters(domid, parameters)
    if config.cpus == config.cpus_soft == "all":
        return
    for vcpu in range(config.max_vcpus):
        hard = cpu_set(dom0, config.vcpu_affinity(vcpu))
        soft = cpu_set(dom0, config.vcpu_affinity(vcpu, soft=True))
        dom0.set_vcpu_affinity(domid, vcpu, hard, soft)


def cpu_set(dom0: Dom0Hypercalls, untrusted_text: str) -> frozenset[int] | None:
    """The CPUs of a list, None for all. Raises ``ToolstackError`` when the host has none of them. Others that it does not have are
    left out, as libxl does."""
    existing = frozenset(range(dom0.physical_info().nr_cpus))
    try:
        chosen = parse_cpu_list(untrusted_text, existing) & existing
    except ValueError as error:
        raise ToolstackError(f"cpus: {error}", Fault.INVALID) from None
    if not chosen:
        raise ToolstackError(
            f'cpus: the host has none of the CPUs "{untrusted_text}": it has {", ".join(map(str, sorted(existing)))}', Fault.INVALID
        )
    return None if chosen == existing else chosen


def pin(dom0: Dom0Hypercalls, domid: int, vcpu: int | None, hard: str | None, soft: str | None) -> None:
    """Set the affinities of one vCPU, or of all; None leaves one as it is. Raises ``ToolstackError``, ``HypercallError``."""
    infos = dom0.vcpu_info(domid)
    if vcpu is not None and not 0 <= vcpu < len(infos):
        raise ToolstackError(f"there is no vCPU {vcpu}: the domain has {len(infos)}", Fault.INVALID)
    hard_set = None if hard is None else cpu_set(dom0, hard)
    soft_set = None if soft is None else cpu_set(dom0, soft)
    for info in infos if vcpu is None else [infos[vcpu]]:
        dom0.set_vcpu_affinity(
            domid, info.vcpu, info.hard_affinity if hard is None else hard_set, info.soft_affinity if soft is None else soft_set
        )


def set_parameters(dom0: Dom0Hypercalls, record: DomainRecord, weight: int | None, cap: int | None) -> None:
    """Weight and cap; None leaves one as it is. They hold for the domain's next start too. Raises ``HypercallError``."""
    old = dom0.scheduling.parameters(record.domid)
    new = replace(old, weight=old.weight if weight is None else weight, cap=old.cap if cap is None else cap)
    dom0.scheduling.set_parameters(record.domid, new)
    record.config = dataclasses.replace(record.config, cpu_weight=new.weight, cap=new.cap)
    record.next_config = dataclasses.replace(record.next_config, cpu_weight=new.weight, cap=new.cap)


def set_online(store: DomainStore, record: DomainRecord, count: int) -> None:
    """Ask the guest's kernel to use its first ``count`` vCPUs (the store's cpu/N/availability, as by libxl). Raises ``ToolstackError``."""
    most = record.config.max_vcpus
    if count > most:
        raise ToolstackError(f"Requested {count} VCPUs, however maxcpus is {most}!", Fault.INVALID)
    if count < 1:
        raise ToolstackError("a domain needs at least one vCPU", Fault.INVALID)
    store.set_vcpus(record.domid, count, most)
    record.config = dataclasses.replace(record.config, vcpus=count, maxvcpus=most)
    record.next_config = dataclasses.replace(record.next_config, vcpus=min(count, record.next_config.max_vcpus))

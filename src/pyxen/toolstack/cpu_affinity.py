"""Which CPUs a domain's vCPUs may run on: ``cpus`` and ``cpus_soft`` of the configuration."""

from __future__ import annotations

from pyxen.hypervisor.dom0_interface import Dom0Hypercalls
from pyxen.toolstack.configuration import DomainConfig
from pyxen.toolstack.configuration.cpu_list import parse_cpu_list
from pyxen.toolstack.errors import Fault, ToolstackError


def apply(dom0: Dom0Hypercalls, domid: int, config: DomainConfig) -> None:
    """Pin the vCPUs of a new domain. Raises ``ToolstackError`` for CPUs that the host does not have."""
    if not (config.cpus or config.cpus_soft):
        return
    host_cpus = dom0.physical_info().nr_cpus
    for vcpu in range(config.max_vcpus):
        hard = _cpus(config.vcpu_affinity(vcpu), host_cpus)
        soft = _cpus(config.vcpu_affinity(vcpu, soft=True), host_cpus)
        if hard is not None or soft is not None:
            dom0.set_vcpu_affinity(domid, vcpu, hard, soft)


def _cpus(text: str | None, host_cpus: int) -> frozenset[int] | None:
    if text is None:
        return None
    existing = frozenset(range(host_cpus))
    chosen = parse_cpu_list(text, existing) & existing
    if not chosen:
        raise ToolstackError(f'cpus: the host has none of the CPUs "{text}": it has 0 to {host_cpus - 1}', Fault.INVALID)
    return chosen

"""What Domain 0 is told of domains and vCPUs: XEN_DOMCTL_getdomaininfo, getvcpuinfo, and the counters that Xen has none for. Lock held."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

from pyxen.abi.vcpu import RUNSTATE_running
from pyxen.engine.interface import ExitReason
from pyxen.hypervisor.dom0_interface import DomainCounters, DomainInfo, VcpuInfo
from pyxen.hypervisor.hypercall_table import TABLE

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.hypervisor import Hypervisor
    from pyxen.hypervisor.vcpu import Vcpu


def domain_info(hypervisor: Hypervisor, domain: Domain) -> DomainInfo:
    """XEN_DOMCTL_getdomaininfo."""
    now = hypervisor.now()
    online = [vcpu for vcpu in domain.vcpus if vcpu.online]
    alive = not domain.is_shut_down and not domain.dying
    is_dom0 = domain.domid == 0
    first_runs = [vcpu.runstate.first_ran_ns for vcpu in domain.vcpus if vcpu.runstate.first_ran_ns is not None]
    return DomainInfo(
        domid=domain.domid,
        handle=domain.handle,
        kind=domain.kind,
        running=alive and (is_dom0 or any(vcpu.unit.processor is not None for vcpu in online)),
        blocked=alive and not is_dom0 and bool(online) and all(vcpu.blocked for vcpu in online),
        paused=domain.pause_count > 0,
        dying=domain.dying,
        shutdown=domain.is_shut_down,
        shutdown_reason=domain.shutdown_reason,
        crash_cause=domain.crash_cause,
        total_pages=domain.total_pages,
        max_pages=domain.max_pages,
        outstanding_pages=0,
        shared_info_frame=domain.shared_info >> 12,
        cpu_time_ns=_domain0_time() if is_dom0 else sum(vcpu.runstate.running_ns(now) for vcpu in domain.vcpus),
        max_vcpu_id=max(len(domain.vcpus) - 1, 0),
        online_vcpus=_nr_cpus(hypervisor) if is_dom0 else len(online),
        cpupool=domain.cpupool.number,
        executing_for_ns=now - min(first_runs) if first_runs else None,
    )


def vcpu_infos(hypervisor: Hypervisor, domain: Domain) -> list[VcpuInfo]:
    """XEN_DOMCTL_getvcpuinfo of all vCPUs. The embedded Domain 0 is one loop, which the host schedules; it shows the machine's CPUs as
    its vCPUs, the loop's time on the first."""
    if domain.domid:
        now = hypervisor.now()
        return [_vcpu_info(vcpu, now) for vcpu in domain.vcpus]
    return [
        VcpuInfo(
            vcpu=number,
            online=True,
            blocked=number > 0,
            running=number == 0,
            cpu_time_ns=_domain0_time() if number == 0 else 0,
            cpu=number,
        )
        for number in range(_nr_cpus(hypervisor))
    ]


def domain_counters(domain: Domain) -> DomainCounters:
    """What its vCPUs have done so far."""
    native: Counter[str] = Counter()
    native_hypercalls: Counter[str] = Counter()
    for vcpu in domain.vcpus:
        gate = vcpu.gate
        native.update(
            {
                "system_call": gate.system_calls,
                "page_fault": gate.page_faults,
                "event_upcall": gate.upcalls,
                "page_table_write": gate.table_writes,
                "cpuid": gate.cpuids,
                "event_sent": gate.events_sent,
                "timer": gate.timer_events,
                "interrupt_flag": gate.interrupt_flags,
                "register": gate.registers,
            }
        )
        native_hypercalls.update({_hypercall_name(number): count for number, count in enumerate(gate.hypercalls) if count})
    return DomainCounters(
        exits={ExitReason(number).name.lower(): count for number, count in enumerate(domain.exits) if count},
        hypercalls={_hypercall_name(number): count for number, count in sorted(domain.hypercalls.items())},
        native={name: count for name, count in native.items() if count},
        native_hypercalls=dict(native_hypercalls),
        tlb_flushes=sum(vcpu.flushes for vcpu in domain.vcpus),
    )


def _hypercall_name(number: int) -> str:
    entry = TABLE.get(number)
    return entry.name if entry is not None else f"hypercall_{number}"


def _vcpu_info(vcpu: Vcpu, now: int) -> VcpuInfo:
    unit, times = vcpu.unit, vcpu.runstate.snapshot(now)
    return VcpuInfo(
        vcpu=vcpu.vcpu_id,
        online=bool(vcpu.online),
        blocked=bool(vcpu.blocked),
        running=unit.processor is not None,
        cpu_time_ns=times[RUNSTATE_running],
        cpu=max(unit.last, 0),
        hard_affinity=unit.hard,
        soft_affinity=unit.soft,
        runstate_ns=(times[0], times[1], times[2], times[3]),
    )


def _nr_cpus(hypervisor: Hypervisor) -> int:
    return len(hypervisor.dispatcher.processors)


def _domain0_time() -> int:
    """CPU time of the thread that runs Domain 0's loop."""
    identity = threading.main_thread().ident
    return time.clock_gettime_ns(time.pthread_getcpuclockid(identity)) if identity is not None else 0

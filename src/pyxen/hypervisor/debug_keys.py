"""Debug keys: what ``xl debug-keys`` makes the hypervisor write into its log (Xen's common/keyhandler.c)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pyxen.abi.xen import VIRQ_DEBUG
from pyxen.engine.interface import ExitReason

if TYPE_CHECKING:
    from pyxen.hypervisor.hypervisor import Hypervisor


def handle(hypervisor: Hypervisor, key: str) -> None:
    """Write the answer to ``key``; an unknown key is logged and otherwise ignored, as by Xen."""
    entry = _KEYS.get(key)
    if entry is None:
        hypervisor.log(f"'{key}' is no debug key; press 'h' for help")
        return
    hypervisor.log(f"'{key}' pressed -> {entry[0]}")
    entry[1](hypervisor)


def _help(hypervisor: Hypervisor) -> None:
    for key, (text, _) in sorted(_KEYS.items()):
        hypervisor.log(f" key '{key}' => {text}")


def _domains(hypervisor: Hypervisor) -> None:
    """Guests are asked for their own state, too (VIRQ_DEBUG)."""
    for domain in hypervisor.domains():
        flags = f"paused {domain.pause_count}, shut down {domain.is_shut_down}, dying {domain.dying}"
        hypervisor.log(f"General information for domain {domain.domid}: {flags}")
        hypervisor.log(f"    nr_pages={domain.total_pages} max_pages={domain.max_pages} vm_assist={domain.vm_assist:#x}")
        exits = ", ".join(f"{ExitReason(index).name.lower()} {count}" for index, count in enumerate(domain.exits) if count)
        hypervisor.log(f"    exits: {exits or 'none'}")
        for vcpu in domain.vcpus:
            domain.event_channels.send_virq(vcpu, VIRQ_DEBUG)
            state = "blocked" if vcpu.blocked else "running" if vcpu.runnable else "off"
            hypervisor.log(f"    vCPU {vcpu.vcpu_id}: {state}, online {vcpu.online}, events masked {vcpu.events_masked}")


def _event_channels(hypervisor: Hypervisor) -> None:
    for domain in hypervisor.domains():
        hypervisor.log(f"Event channel information for domain {domain.domid}:")
        hypervisor.log("    port [pending/masked/ABI]: state, notified vCPU, domain and port of the other end, VIRQ")
        for port in sorted(domain.event_channels.ports()):
            hypervisor.log(f"    {port:4d} {domain.event_channels.describe(port)}")


def _registers(hypervisor: Hypervisor) -> None:
    """Of vCPUs that are not in the guest at this moment: the others' registers are in motion."""
    for domain in hypervisor.domains():
        for vcpu in domain.vcpus:
            if vcpu.in_guest:
                hypervisor.stop_briefly(vcpu, None)
            state = vcpu.state
            hypervisor.log(f"d{domain.domid}v{vcpu.vcpu_id}: rip {state.rip:016x} rsp {state.rsp:016x} rflags {state.rflags:08x}")
            hypervisor.log(f"    rax {state.rax:016x} rbx {state.rbx:016x} rcx {state.rcx:016x} rdx {state.rdx:016x}")
            hypervisor.log(f"    cr2 {state.cr2:016x} cr3 {state.cr3:016x} kernel mode {vcpu.kernel_mode}")


def _memory(hypervisor: Hypervisor) -> None:
    memory = hypervisor.memory
    hypervisor.log(f"Physical memory information: {memory.free_frames} of {memory.total_frames} frames free")


def _run_queues(hypervisor: Hypervisor) -> None:
    for number, pool in sorted(hypervisor.dispatcher.pools.items()):
        hypervisor.log(f"CPU pool {number}: scheduler {pool.scheduler.name}, CPUs {' '.join(map(str, sorted(pool.processors))) or 'none'}")
        for line in pool.scheduler.describe():
            hypervisor.log(f"    {line}")


_KEYS: dict[str, tuple[str, Callable[[Hypervisor], None]]] = {
    "h": ("show this message", _help),
    "q": ("dump domain (and guest debug) info", _domains),
    "e": ("dump evtchn info", _event_channels),
    "d": ("dump registers", _registers),
    "m": ("memory info", _memory),
    "r": ("dump run queues", _run_queues),
}

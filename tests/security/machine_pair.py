"""What the differential fuzzers of the native gate have in common: the same machine twice, with the gate and without."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import pytest

from pyxen.abi import xen
from pyxen.hypervisor.domain import Domain
from pyxen.hypervisor.hypervisor import Hypervisor
from pyxen.hypervisor.vcpu import Vcpu

LONG = os.environ.get("PYXEN_LONG") == "1"
SEED = int(os.environ.get("PYXEN_SEED", "1"))


def calls_to_make(usual: int) -> int:
    """PYXEN_CALLS; else a million of them when PYXEN_LONG is 1."""
    return int(os.environ.get("PYXEN_CALLS", "1000000" if LONG else str(usual)))


class OneSide(Protocol):
    """A machine and whether its domain has the gate."""

    @property
    def machine(self) -> Hypervisor: ...
    @property
    def native(self) -> bool: ...


Side = TypeVar("Side", bound=OneSide)


class MachinePair(Generic[Side]):
    """``native`` and ``python``, as ``make`` makes each."""

    def __init__(self, make: Callable[[], Side], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("PYXEN_GATE", raising=False)
        self.native = make()
        monkeypatch.setenv("PYXEN_GATE", "python")
        self.python = make()
        assert self.native.native and not self.python.native

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.native, self.python

    def close(self) -> None:
        for side in self.sides:
            side.machine.close()


def open_ports(domain: Domain, fifo: tuple[int, int] | None) -> list[int]:
    """For two IPIs of each vCPU, VIRQ_TIMER, and one that nobody has bound. ``fifo``: the frames of the control blocks and of the first
    words, as the guest names them."""
    channels, vcpus = domain.event_channels, range(len(domain.vcpus))
    with domain.hypervisor.lock:
        if fifo is not None:
            for vcpu_id in vcpus:
                channels.init_control(vcpu_id, fifo[0], 128 * vcpu_id)
            channels.expand_array(fifo[1])
        ports = [channels.bind_ipi(vcpu_id) for vcpu_id in (*vcpus, *vcpus)]
        ports += [channels.bind_virq(xen.VIRQ_TIMER, 0), channels.alloc_unbound(0)]
        if fifo is not None:
            channels.set_priority(ports[0], 2)
    return ports


def forget_events(vcpu: Vcpu, masked: int) -> None:
    """The guest has handled what its vcpu_info says is pending, and wants no more of it or does."""
    vcpu.octets[vcpu.info : vcpu.info + 16] = bytes((0, masked)) + bytes(14)


def forget_ports(domain: Domain, masked: int) -> None:
    """Likewise the ports of the 2-level ABI, every second of which is masked or none."""
    octets, shared = domain.hypervisor.memory.octets, domain.shared_info
    octets[shared + 2048 : shared + 3072] = bytes(512) + bytes((0xAA * masked,)) * 512

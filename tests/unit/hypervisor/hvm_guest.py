"""Small HVM domains: their first vCPU is in protected mode without paging, so linear addresses are guest physical ones."""

from __future__ import annotations

import struct
import time

import numpy as np

from pyxen.hypervisor import guest_access, hypercall_table
from pyxen.hypervisor.dom0_interface import DomainInfo
from pyxen.hypervisor.hvm import processor_reset
from pyxen.hypervisor.hvm.container import HvmContainer
from pyxen.hypervisor.hvm.vcpu import HvmVcpu
from pyxen.hypervisor.hypervisor import Hypervisor
from pyxen.hypervisor.preemption import Preempted

PAGE = 4096
MASK64 = (1 << 64) - 1


class SmallHvmDomain:
    """``pages`` of RAM from address 0 on."""

    def __init__(self, hypervisor: Hypervisor, *, pages: int = 64, vcpus: int = 1, **options: int) -> None:
        self.hypervisor = hypervisor
        self.dom0 = hypervisor.dom0
        self.domid = self.dom0.create_domain(kind="pvh", handle=bytes(range(16)), max_vcpus=vcpus, **options)
        self.domain = hypervisor.domain(self.domid)
        self.dom0.set_max_memory(self.domid, pages + 64)
        self.mfns: list[int] = self.dom0.populate_guest_frames(self.domid, np.arange(pages, dtype=np.uint64)).tolist()
        with hypervisor.lock:
            processor_reset.enter_at(self.vcpu, 0, 0)

    @property
    def vcpu(self) -> HvmVcpu:
        vcpu = self.domain.vcpus[0]
        assert isinstance(vcpu, HvmVcpu)
        return vcpu

    @property
    def container(self) -> HvmContainer:
        assert self.domain.hvm is not None
        return self.domain.hvm

    def write(self, address: int, data: bytes) -> int:
        with self.hypervisor.lock:
            guest_access.write(self.vcpu, address, data)
        return address

    def read(self, address: int, size: int) -> bytes:
        with self.hypervisor.lock:
            return guest_access.read(self.vcpu, address, size)

    def put(self, form: str, *values: int, at: int = 0) -> int:
        """Pack little-endian values into memory. -> their address."""
        return self.write(at, struct.pack("<" + form, *values))

    def get(self, form: str, at: int = 0) -> tuple[int, ...]:
        return struct.unpack("<" + form, self.read(at, struct.calcsize("<" + form)))

    def call(self, number: int, *arguments: int) -> int:
        """A hypercall, continued as often as it asks to be."""
        registers = [value & MASK64 for value in arguments] + [0] * (6 - len(arguments))
        with self.hypervisor.lock:
            while True:
                try:
                    return hypercall_table.call(self.vcpu, number, tuple(registers))
                except Preempted as continuation:
                    registers[: len(continuation.arguments)] = continuation.arguments

    def run(self, code: bytes, *, at: int = 0x1000, seconds: float = 20) -> DomainInfo:
        """Run 32-bit ``code`` until the domain is shut down."""
        self.write(at, code)
        self.dom0.set_hvm_context(self.domid, at, 0)
        self.dom0.unpause_domain(self.domid)
        end = time.monotonic() + seconds
        while not (info := self.dom0.domain_info(self.domid)).shutdown:
            assert time.monotonic() < end, "the guest goes on"
            time.sleep(0.002)
        return info

"""A domain's time-stamp counter: the host's own, or one made of system time (xen-tscmode(7), Xen's arch/x86/time.c).

Natively a PV domain reads the host's counter, an HVM domain the same counted from its creation. An emulated one is an exit each time it is
read, runs at the frequency that the host's counter had when the domain was made, from 0, and never shows the same value twice. A vCPU of an
HVM domain may write its own: then its offset (``tsc_offset`` of the engine's state block) changes, in either mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyxen.hypervisor.dom0_interface import TscMode

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.vcpu import Vcpu

MASK32, MASK64 = (1 << 32) - 1, (1 << 64) - 1
SECOND_NS = 1_000_000_000
#: Of the first subleaf's EAX.
EMULATED, RELIABLE, RDTSCP = 1, 2, 4


@dataclass(frozen=True, slots=True)
class TimeScale:
    """ticks * 2**shift * multiplier / 2**32, as vcpu_time_info has it."""

    multiplier: int
    shift: int

    @classmethod
    def of_frequency(cls, hertz: int) -> TimeScale:
        """From ticks of this frequency to nanoseconds (set_time_scale)."""
        shift = 0
        while hertz > 2 * SECOND_NS:
            hertz >>= 1
            shift -= 1
        while hertz <= SECOND_NS:
            hertz <<= 1
            shift += 1
        return cls((SECOND_NS << 32) // hertz, shift)

    def inverse(self) -> TimeScale:
        """The other way round (scale_reciprocal)."""
        return TimeScale((1 << 63) // self.multiplier, 1 - self.shift)

    def apply(self, ticks: int) -> int:
        """The scaled number; for a negative one, minus that of its opposite."""
        if ticks < 0:
            return -self.apply(-ticks)
        shifted = ticks << self.shift if self.shift >= 0 else ticks >> -self.shift
        return shifted * self.multiplier >> 32


class GuestCounter:
    """One per domain. All methods are called with the hypervisor lock held."""

    def __init__(self, domain: Domain) -> None:
        hypervisor = domain.hypervisor
        self._domain = domain
        self._time = hypervisor.guest_time
        self._engine = hypervisor.engine
        self.khz = int(self._time.tsc_hz / 1000)
        self._to_ns = TimeScale.of_frequency(self.khz * 1000)
        self._to_ticks = self._to_ns.inverse()
        self._start_ns = self._last_ns = self._time.now()
        self.mode = TscMode.DEFAULT
        self.emulated = False
        #: Whether the guest is told that its counter never changes its frequency (CPUID 0x80000007, EDX bit 8).
        self.invariant = False
        if domain.hvm is not None:
            for vcpu in domain.vcpus:
                vcpu.state.tsc_offset = -self._engine.tsc() & MASK64

    def set_mode(self, mode: TscMode, *, invariant: bool) -> None:
        """XEN_DOMCTL_settscinfo of a new domain."""
        self.mode = mode
        self.invariant = invariant
        reliable = self._domain.hypervisor.tsc_is_reliable
        self.emulated = mode is TscMode.ALWAYS_EMULATE or (mode is TscMode.DEFAULT and not reliable)
        if mode is not TscMode.NATIVE:
            self._start_ns = self._last_ns = self._time.now()
        for vcpu in self._domain.vcpus:
            vcpu.state.rdtsc_exits = self.emulated
            if self.emulated:
                vcpu.state.tsc_offset = 0
            vcpu.time_generation = -1

    def _unmoved(self) -> int:
        """The counter before a vCPU's offset."""
        return self._to_ticks.apply(self._last_ns - self._start_ns) if self.emulated else self._engine.tsc()

    def read(self, vcpu: Vcpu) -> int:
        """What RDTSC answers now."""
        if self.emulated:
            self._last_ns = max(self._time.now(), self._last_ns + 1)
        return int(self._unmoved() + vcpu.state.tsc_offset & MASK64)

    def write(self, vcpu: Vcpu, value: int) -> None:
        """From now on it counts from this value (Xen's hvm_set_guest_tsc)."""
        vcpu.state.tsc_offset = value - self.read(vcpu) + vcpu.state.tsc_offset & MASK64
        vcpu.time_generation = -1

    def reset(self, vcpu: Vcpu) -> None:
        """An HVM vCPU that starts has the boot processor's counter."""
        vcpu.state.tsc_offset = self._domain.vcpus[0].state.tsc_offset
        vcpu.time_generation = -1

    def system_time(self, vcpu: Vcpu, untrusted_count: int) -> int:
        """When the counter reads this: system time in nanoseconds, as far as can be said now. The past, if it is beyond it."""
        ticks = untrusted_count - self.read(vcpu)
        if self.emulated:
            return self._last_ns + self._to_ns.apply(ticks)
        return self._time.at(self._engine.tsc() + ticks)

    def time_scale(self, vcpu: Vcpu, host_scale: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """tsc_timestamp, system_time, tsc_to_system_mul and tsc_shift of vcpu_time_info, from those of the host's counter."""
        tsc, system_ns, multiplier, shift = host_scale
        if self.emulated:
            tsc, multiplier, shift = self._to_ticks.apply(system_ns - self._start_ns), self._to_ns.multiplier, self._to_ns.shift
        return tsc + vcpu.state.tsc_offset & MASK64, system_ns, multiplier, shift

    def cpuid_leaf(self, subleaf: int) -> tuple[int, int, int, int]:
        """Xen's time leaf (arch-x86/cpuid.h: leaf 4)."""
        if subleaf == 0:
            reliable = RELIABLE if self._domain.hypervisor.tsc_is_reliable else 0
            return self.emulated * EMULATED | reliable | RDTSCP, self.mode, self.khz, 1
        if subleaf == 1:
            offset = 0 if self.emulated else self._start_ns
            return offset & MASK32, offset >> 32 & MASK32, self._to_ns.multiplier, self._to_ns.shift & MASK32
        if subleaf == 2:
            return int(self._time.tsc_hz / 1000), 0, 0, 0
        return 0, 0, 0, 0

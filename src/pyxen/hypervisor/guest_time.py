"""Time: system time from the guest's own TSC, the wall clock, and what guests read of both (xen.h: vcpu_time_info).

System time is *defined* by the scale that guests get: nanoseconds = base + (TSC - base TSC) * multiplier / 2**32. Hypervisor and
guests compute the same number, so a timer never fires before the guest thinks it is due. Once a second the scale is compared with the
host's clock, and corrected if need be, by at most 250 ppm and without a step. No vCPU is in its guest meanwhile, so all change at once, and
time never runs backwards, whichever vCPU is asked.
"""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING

from pyxen.abi.xen import vcpu_info
from pyxen.engine.interface import Engine

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.vcpu import Vcpu

CALIBRATION_S = 0.02
#: How often both counters are read to find a moment of both, and the gap between two reads of one that is as good as none.
LOOKS = 16
GOOD_LOOK_NS = 400
CORRECTION_PERIOD_NS = 1_000_000_000
#: An error that is left as it is.
TOLERANCE_NS = 20_000
#: Linux 6.1 takes a counter for unstable that goes 1000 ppm beside pvclock (250 us in half a second for each of the two). This comes on top
#: of what the host's clock itself is steered.
LARGEST_CORRECTION = 250e-6
TIME_OFFSET: int = vcpu_info.time.offset
_TIME = struct.Struct("<IIQQIbBH")


class GuestTime:
    """The one clock of the machine. ``generation`` counts corrections."""

    def __init__(self, engine: Engine) -> None:
        self._tsc = engine.tsc
        self._set_clock = engine.set_clock
        self._tsc_start, self._host_start_ns = self._moment()
        time.sleep(CALIBRATION_S)
        self._base_tsc = self._tsc_start
        self._base_ns: int = 0
        self._hz = self._measured_hz(*self._moment())
        self._set_rate(self._hz)
        self._steering = False
        self.generation = 1

    @property
    def tsc_hz(self) -> float:
        """Frequency of the host's counter, as measured since the start."""
        return self._hz

    def now(self) -> int:
        """System time in nanoseconds since the hypervisor started."""
        return self._base_ns + ((self._tsc() - self._base_tsc) * self._multiplier >> 32)

    def at(self, tsc: int) -> int:
        """System time when the counter reads ``tsc``, as far as can be said now."""
        return self._base_ns + ((tsc - self._base_tsc) * self._multiplier >> 32)

    def _moment(self) -> tuple[int, int]:
        """The counter and the host's clock in nanoseconds at one moment: the tightest of several looks.

        A thread may lose its CPU between two reads, and 20 us here are an error of 1000 ppm in what is measured at the start.
        """
        best = (0, 0, 1 << 63)
        for _ in range(LOOKS):
            before = time.monotonic_ns()
            tsc = self._tsc()
            gap = time.monotonic_ns() - before
            if gap < best[2]:
                best = (tsc, before + gap // 2, gap)
            if gap < GOOD_LOOK_NS:
                break
        return best[:2]

    def _measured_hz(self, tsc: int, host_ns: int) -> float:
        return (tsc - self._tsc_start) * 1e9 / (host_ns - self._host_start_ns)

    def _set_rate(self, hz: float) -> None:
        """From the base on, for guests, the hypervisor and the engine alike."""
        self._multiplier = int((10**9 << 32) / hz)
        self._shift = 0
        self._scaled = self._multiplier
        while self._scaled >= 1 << 32:
            self._scaled >>= 1
            self._shift += 1
        while self._scaled < 1 << 31:
            self._scaled <<= 1
            self._shift -= 1
        # The guest shifts first and multiplies then; use the very same precision.
        if self._shift >= 0:
            self._multiplier = self._scaled << self._shift
        self._set_clock(self._base_tsc, self._base_ns, self._multiplier)

    def _error_ns(self, tsc: int, host_ns: int) -> int:
        """By how much the host's clock is ahead of system time."""
        return host_ns - self._host_start_ns - self.at(tsc)

    @property
    def needs_correction(self) -> bool:
        """Whether it is off the host's clock by more than is tolerated, or on its way back to it."""
        return self._steering or abs(self._error_ns(*self._moment())) > TOLERANCE_NS

    def correct(self) -> None:
        """Re-anchor at this moment and steer towards the host's clock. No vCPU may be in its guest."""
        tsc, host_ns = self._moment()
        error_ns = self._error_ns(tsc, host_ns)
        here = self.at(tsc)
        self._steering = abs(error_ns) > TOLERANCE_NS
        error = max(-LARGEST_CORRECTION, min(LARGEST_CORRECTION, error_ns / CORRECTION_PERIOD_NS))
        self._base_tsc, self._base_ns = tsc, here
        self._hz = self._measured_hz(tsc, host_ns)
        self._set_rate(self._hz * (1 - error))
        self.generation += 1

    def before_entry(self, vcpu: Vcpu) -> None:
        """Give the vCPU the current scale if it has an older one."""
        if vcpu.time_generation != self.generation:
            vcpu.time_generation = self.generation
            self.write_time(vcpu, vcpu.info + TIME_OFFSET)
        if vcpu.runstate_area or vcpu.time_area:
            vcpu.hypervisor.write_areas(vcpu)

    @property
    def host_scale(self) -> tuple[int, int, int, int]:
        """tsc_timestamp, system_time, tsc_to_system_mul and tsc_shift for who reads the host's counter."""
        return self._base_tsc, self._base_ns, self._scaled, self._shift

    def write_time(self, vcpu: Vcpu, where: int) -> None:
        """Fill a vcpu_time_info: odd version while it changes, then even."""
        octets = vcpu.octets
        version = struct.unpack_from("<I", octets, where)[0] + 1 | 1
        octets[where : where + 4] = (version & 0xFFFFFFFF).to_bytes(4, "little")
        _TIME.pack_into(octets, where, version & 0xFFFFFFFF, 0, *vcpu.domain.counter.time_scale(vcpu, self.host_scale), 0, 0)
        octets[where : where + 4] = (version + 1 & 0xFFFFFFFF).to_bytes(4, "little")

    def image(self, vcpu: Vcpu) -> bytes:
        """A vcpu_time_info as octets, for areas that the guest registered by linear address."""
        return _TIME.pack(2 * self.generation & 0xFFFFFFFF, 0, *vcpu.domain.counter.time_scale(vcpu, self.host_scale), 0, 0)

    def write_wall_clock(self, domain: Domain) -> None:
        """Wall-clock time at system time 0 (wc_version, wc_sec, wc_nsec, wc_sec_hi)."""
        start_ns = time.time_ns() - self.now()
        seconds, nanoseconds = divmod(start_ns, 10**9)
        octets, layout = domain.hypervisor.memory.octets, domain.shared_layout
        where = domain.shared_info + layout.wall_clock
        version = (struct.unpack_from("<I", octets, where)[0] + 1 | 1) & 0xFFFFFFFF
        struct.pack_into("<3I", octets, where, version, seconds & 0xFFFFFFFF, nanoseconds)
        struct.pack_into("<I", octets, domain.shared_info + layout.wall_clock_high, seconds >> 32)
        struct.pack_into("<I", octets, where, version + 1 & 0xFFFFFFFF)

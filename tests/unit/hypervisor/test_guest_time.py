from __future__ import annotations

import struct
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from pyxen.abi.xen import shared_info, vcpu_time_info
from pyxen.hypervisor.guest_time import TIME_OFFSET, GuestTime
from pyxen.hypervisor.hypervisor import Hypervisor
from tests.unit.hypervisor.machine import SmallDomain


class Tsc:
    """A counter of the host's time at a frequency of the test's choice, and a little wrong."""

    def __init__(self, hz: float) -> None:
        self.hz = hz
        self.frozen: int | None = None
        self.clock = (0, 0, 0)

    def set_clock(self, tsc: int, system_time_ns: int, multiplier: int) -> None:
        self.clock = (tsc, system_time_ns, multiplier)

    def native_time(self) -> int:
        """What native code computes (native/pyxen_timer.c)."""
        tsc, system_time_ns, multiplier = self.clock
        return system_time_ns + ((self.tsc() - tsc) * multiplier >> 32)

    def tsc(self) -> int:
        return int(time.monotonic_ns() * self.hz / 1e9) if self.frozen is None else self.frozen


def image_of(clock: GuestTime) -> bytes:
    """A vcpu_time_info for who reads the host's counter."""
    info = vcpu_time_info()
    info.tsc_timestamp, info.system_time, info.tsc_to_system_mul, info.tsc_shift = clock.host_scale
    return bytes(info)


def guest_reads(image: bytes, tsc: int) -> int:
    """pvclock, as guests compute it."""
    info = vcpu_time_info.from_buffer_copy(image)
    delta = tsc - info.tsc_timestamp
    delta = (delta + (1 << 63)) % (1 << 64) - (1 << 63)
    delta = delta << info.tsc_shift if info.tsc_shift >= 0 else delta >> -info.tsc_shift
    return int(info.system_time + (delta * info.tsc_to_system_mul >> 32))


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([0.5e9, 0.999e9, 1e9, 1.7e9, 2e9, 2.4e9, 3.3e9, 5e9]), st.integers(0, 10**15))
def test_guest_and_hypervisor_agree(hz: float, later: int) -> None:
    source = Tsc(hz)
    clock = GuestTime(source)  # type: ignore[arg-type]
    source.frozen = clock._base_tsc + later
    assert 0 <= clock.now() - guest_reads(image_of(clock), source.frozen) <= max(1, later >> 40)
    assert source.native_time() == clock.now()


def test_never_backwards(machine: Hypervisor) -> None:
    clock = machine.guest_time
    times = []
    for number in range(3000):
        times.append(clock.now())
        if number % 7 == 0:
            with machine.lock:
                clock.correct()
    assert times == sorted(times)
    assert abs(clock.now() - (time.monotonic_ns() - clock._host_start_ns)) < 50_000_000


def test_corrections_steer_to_the_hosts_clock() -> None:
    """Slowly: by at most 250 ppm of the rate that was measured."""
    source = Tsc(2e9)
    clock = GuestTime(source)  # type: ignore[arg-type]
    clock._base_ns -= 10_000_000  # behind
    for wanted in (1.00025, 1.00025):
        clock.correct()
        assert abs(clock._multiplier / 2**32 * clock.tsc_hz / 1e9 - wanted) < 1e-5
    clock._base_ns += 30_000_000  # ahead
    clock.correct()
    assert abs(clock._multiplier / 2**32 * clock.tsc_hz / 1e9 - 0.99975) < 1e-5
    source.frozen = source.tsc()
    assert source.native_time() == clock.now()


class InterruptedTsc(Tsc):
    """Its reader loses the CPU at two of three reads."""

    def __init__(self, hz: float) -> None:
        super().__init__(hz)
        self.reads = 0

    def tsc(self) -> int:
        self.reads += 1
        if self.reads % 3 == 1:
            time.sleep(0.001)
        count = super().tsc()
        if self.reads % 3 == 2:
            time.sleep(0.001)
        return count


def test_calibration_survives_interruptions() -> None:
    """A millisecond lost at either side of a read is no part of the frequency, which Linux trusts to 1000 ppm."""
    assert abs(GuestTime(InterruptedTsc(2.6e9)).tsc_hz / 2.6e9 - 1) < 1e-4  # type: ignore[arg-type]


def test_what_a_vcpu_gets(machine: Hypervisor) -> None:
    guest = SmallDomain(machine)
    vcpu = guest.vcpu
    with machine.lock:
        machine.guest_time.before_entry(vcpu)
        where = vcpu.info + TIME_OFFSET
        first = bytes(machine.memory.octets[where : where + 32])
        machine.guest_time.before_entry(vcpu)
        assert bytes(machine.memory.octets[where : where + 32]) == first, "written only when the scale has changed"
        version = struct.unpack_from("<I", first)[0]
        assert version and version % 2 == 0
        assert abs(guest_reads(first, machine.engine.tsc()) - machine.now()) < 10_000_000
        machine.guest_time.correct()
        machine.guest_time.before_entry(vcpu)
        second = bytes(machine.memory.octets[where : where + 32])
        assert struct.unpack_from("<I", second)[0] == version + 2
        assert second[4:] == machine.guest_time.image(vcpu)[4:]


def test_version_wraps(machine: Hypervisor) -> None:
    """The guest can write its vcpu_info, and so choose the version."""
    guest = SmallDomain(machine)
    where = guest.vcpu.info + TIME_OFFSET
    for version in (0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD):
        struct.pack_into("<I", machine.memory.octets, where, version)
        machine.guest_time.write_time(guest.vcpu, where)
        assert struct.unpack_from("<I", machine.memory.octets, where)[0] % 2 == 0
    clock = guest.domain.shared_info + guest.domain.shared_layout.wall_clock
    for version in (0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD):
        struct.pack_into("<I", machine.memory.octets, clock, version)
        machine.guest_time.write_wall_clock(guest.domain)
        assert struct.unpack_from("<I", machine.memory.octets, clock)[0] % 2 == 0


def test_wall_clock(guest: SmallDomain) -> None:
    info = shared_info.from_buffer_copy(guest.hypervisor.memory.page(guest.domain.shared_info >> 12))
    start = (info.wc_sec_hi << 32 | info.wc_sec) + info.wc_nsec / 1e9
    assert abs(start + guest.hypervisor.now() / 1e9 - time.time()) < 1
    assert info.wc_version % 2 == 0 and info.wc_nsec < 10**9

"""Schedulers with real guests: shares by weight, caps, affinity, pools, wake-ups, and runstate times that add up.

Shares are counted in runstate time, so other programs on the host do not change them. The long forms (PYXEN_LONG=1) are those that
SPECIFICATION.md promises; ``python -m tests.guests.test_scheduling`` prints the numbers.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyxen.hypervisor.dom0_interface import HypercallError, SchedulerParameters, VcpuInfo
from tests.guests.build import Builder, all_programs
from tests.guests.machine import Machine, Outcome, running_machine

LONG = bool(os.environ.get("PYXEN_LONG"))
#: Seconds of a measurement, and by how much of its value a share may be wrong.
SHARE_S, SHARE_TOLERANCE = (30.0, 0.03) if LONG else (4.0, 0.1)
CAP_S, CAP_TOLERANCE = (30.0, 2.0) if LONG else (4.0, 4.0)
SPINNER = "loop_masked"
WEIGHTS = (256, 512, 1024)


@pytest.fixture
def single() -> Iterator[Machine]:
    """A machine with one physical CPU."""
    with running_machine(processors=1) as machine:
        yield machine


@pytest.fixture
def double() -> Iterator[Machine]:
    """A machine with two physical CPUs."""
    with running_machine(processors=2) as machine:
        yield machine


@contextlib.contextmanager
def spinners(machine: Machine, kernel: Path, count: int, cpupool: int = 0) -> Iterator[list[int]]:
    """So many domains that never sleep. Gives their ids."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(machine.running(kernel, cpupool=cpupool)) for _ in range(count)]


def vcpus(machine: Machine, domids: list[int]) -> list[VcpuInfo]:
    """The only vCPU of each, all at one moment."""
    with machine.hypervisor.lock:
        return [machine.hypervisor.dom0.vcpu_info(domid)[0] for domid in domids]


def cpu_times(machine: Machine, domids: list[int], seconds: float) -> list[float]:
    """Seconds of CPU time that each got meanwhile, and how long it was by the hypervisor's clock."""
    before, started = vcpus(machine, domids), machine.hypervisor.now()
    time.sleep(seconds)
    after, ended = vcpus(machine, domids), machine.hypervisor.now()
    for one, other in zip(before, after, strict=True):
        # All four states together are the time that passed, less than the call itself takes.
        assert abs(sum(other.runstate_ns) - sum(one.runstate_ns) - (ended - started)) < 50_000_000
    times = [(other.cpu_time_ns - one.cpu_time_ns) / 1e9 for one, other in zip(before, after, strict=True)]
    return [*times, (ended - started) / 1e9]


def set_weight(machine: Machine, domid: int, weight: int = 256, cap: int = 0) -> None:
    machine.hypervisor.dom0.scheduling.set_parameters(domid, SchedulerParameters(weight, cap))


def shares_by_weight(machine: Machine, kernel: Path, seconds: float) -> list[float]:
    """The shares of three spinning domains, as fractions of the time that they got together."""
    with spinners(machine, kernel, len(WEIGHTS)) as domids:
        for domid, weight in zip(domids, WEIGHTS, strict=True):
            set_weight(machine, domid, weight)
        *times, elapsed = cpu_times(machine, domids, seconds)
    assert sum(times) <= elapsed * 1.01, "one CPU has no more time than passes"
    assert sum(times) > elapsed * 0.9, "somebody always runs"
    return [one / sum(times) for one in times]


@pytest.mark.timeout(120)
def test_shares_follow_weights(single: Machine, guests: dict[str, Path]) -> None:
    shares = shares_by_weight(single, guests[SPINNER], SHARE_S)
    for share, weight in zip(shares, WEIGHTS, strict=True):
        wanted = weight / sum(WEIGHTS)
        assert abs(share - wanted) < SHARE_TOLERANCE * wanted, f"weight {weight}: {share:.4f} of the time, wanted {wanted:.4f} ({shares})"


@pytest.mark.timeout(120)
def test_cap(single: Machine, guests: dict[str, Path]) -> None:
    """Of an otherwise idle CPU."""
    with spinners(single, guests[SPINNER], 1) as domids:
        set_weight(single, domids[0], cap=25)
        used, elapsed = cpu_times(single, domids, CAP_S)
        assert abs(100 * used / elapsed - 25) < CAP_TOLERANCE, f"{100 * used / elapsed:.1f} %"
        set_weight(single, domids[0])
        used, elapsed = cpu_times(single, domids, 0.5)
        assert used > 0.9 * elapsed, "without a cap it has all"


def test_cap_leaves_the_rest_to_others(single: Machine, guests: dict[str, Path]) -> None:
    with spinners(single, guests[SPINNER], 2) as domids:
        set_weight(single, domids[0], weight=1024, cap=25)
        capped, other, elapsed = cpu_times(single, domids, 2.0)
    assert abs(100 * capped / elapsed - 25) < 5 and other > 0.65 * elapsed, f"{capped:.2f} and {other:.2f} of {elapsed:.2f} s"


def test_shares_on_two_cpus(double: Machine, guests: dict[str, Path]) -> None:
    """Three domains on two CPUs: units move between them, each gets two thirds of a CPU."""
    with spinners(double, guests[SPINNER], 3) as domids:
        *times, elapsed = cpu_times(double, domids, 3.0)
        assert {info.cpu for info in vcpus(double, domids)} == {0, 1}
    assert all(abs(one / elapsed - 2 / 3) < 0.07 for one in times), f"{times} of {elapsed}"


def test_an_uncontended_cpu_is_not_interrupted(double: Machine, guests: dict[str, Path]) -> None:
    with spinners(double, guests[SPINNER], 2) as domids:
        time.sleep(0.3)
        with double.hypervisor.lock:
            dispatcher = double.hypervisor.dispatcher
            assert all(processor.current is not None and processor.timer is None for processor in dispatcher.processors)
        before = vcpus(double, domids)
        time.sleep(0.3)
        assert [info.runstate_ns[1] for info in vcpus(double, domids)] == [info.runstate_ns[1] for info in before], "none waits"


def test_who_ran_alone_does_not_pay_for_it(single: Machine, guests: dict[str, Path]) -> None:
    """Time that nobody else wanted is free: a newcomer gets half of the CPU, no more."""
    with spinners(single, guests[SPINNER], 1) as first:
        time.sleep(1.5)
        with spinners(single, guests[SPINNER], 1) as second:
            one, other, elapsed = cpu_times(single, [*first, *second], 1.5)
    assert abs(one - other) < 0.2 * elapsed, f"{one:.2f} and {other:.2f} s"


@pytest.mark.parametrize("scheduler", ["null", "rr"])
def test_other_schedulers(double: Machine, guests: dict[str, Path], scheduler: str) -> None:
    """Round robin shares equally. Null gives the CPU to the first, and to the next when that one is gone."""
    control = double.hypervisor.dom0.scheduling
    pool = control.create_cpupool(scheduler)
    control.remove_cpu(0, 1)
    control.add_cpu(pool, 1)
    with spinners(double, guests[SPINNER], 1, pool) as first, spinners(double, guests[SPINNER], 1, pool) as second:
        one, other, elapsed = cpu_times(double, [*first, *second], 1.0)
        if scheduler == "rr":
            assert abs(one - other) < 0.15 * elapsed, f"{one:.2f} and {other:.2f} s"
            return
        assert one > 0.9 * elapsed and other == 0
        double.hypervisor.dom0.pause_domain(first[0])
        assert cpu_times(double, second, 0.2)[0] == 0, "the CPU is the first's even while it sleeps"
        double.hypervisor.dom0.destroy_domain(first[0])
        other, elapsed = cpu_times(double, second, 0.5)
        assert other > 0.9 * elapsed


def test_hard_affinity(double: Machine, guests: dict[str, Path]) -> None:
    """Two domains pinned to one CPU share it while the other stands idle; unpinned, both have one."""
    with spinners(double, guests[SPINNER], 2) as domids:
        for domid in domids:
            double.hypervisor.dom0.set_vcpu_affinity(domid, 0, frozenset({1}), None)
        time.sleep(0.1)
        *times, elapsed = cpu_times(double, domids, 1.0)
        assert all(abs(one / elapsed - 0.5) < 0.1 for one in times), f"{times}"
        assert {info.cpu for info in vcpus(double, domids)} == {1}
        for domid in domids:
            double.hypervisor.dom0.set_vcpu_affinity(domid, 0, None, None)
        time.sleep(0.1)
        *times, elapsed = cpu_times(double, domids, 0.5)
        assert all(one > 0.9 * elapsed for one in times), f"{times}"


def test_the_host_thread_of_a_pinned_vcpu(double: Machine, guests: dict[str, Path]) -> None:
    host = os.sched_getaffinity(0)
    with spinners(double, guests[SPINNER], 1) as domids:
        vcpu = double.hypervisor.domain(domids[0]).vcpus[0]
        assert vcpu.thread is not None and vcpu.thread.native_id is not None
        thread = vcpu.thread.native_id
        assert os.sched_getaffinity(thread) == host
        double.hypervisor.dom0.set_vcpu_affinity(domids[0], 0, frozenset({1}), None)
        assert os.sched_getaffinity(thread) == {sorted(host)[1 % len(host)]}
        double.hypervisor.dom0.set_vcpu_affinity(domids[0], 0, None, None)
        assert os.sched_getaffinity(thread) == host


def test_soft_affinity(double: Machine, guests: dict[str, Path]) -> None:
    """It is followed while that costs nobody a CPU: two that both prefer CPU 1 use both CPUs; one alone is where it wants to be."""
    with spinners(double, guests[SPINNER], 1) as first:
        double.hypervisor.dom0.set_vcpu_affinity(first[0], 0, None, frozenset({1}))
        time.sleep(0.1)
        assert vcpus(double, first)[0].cpu == 1
        with spinners(double, guests[SPINNER], 1) as second:
            double.hypervisor.dom0.set_vcpu_affinity(second[0], 0, None, frozenset({1}))
            *times, elapsed = cpu_times(double, [*first, *second], 0.5)
            assert all(one > 0.85 * elapsed for one in times), f"{times}"
            double.hypervisor.dom0.destroy_domain(vcpus_on(double, [*first, *second], 1))
            time.sleep(0.1)
            left = [info.domid for info in double.domains()]
            assert vcpus(double, left)[0].cpu == 1, "it comes back when the CPU is free"


def vcpus_on(machine: Machine, domids: list[int], cpu: int) -> int:
    """The domain that runs there."""
    return next(domid for domid, info in zip(domids, vcpus(machine, domids), strict=True) if info.cpu == cpu)


def test_pools(double: Machine, guests: dict[str, Path]) -> None:
    """CPUs and domains move while guests run; what can't be is refused."""
    control = double.hypervisor.dom0.scheduling
    with spinners(double, guests[SPINNER], 2) as domids:
        time.sleep(0.05)
        control.remove_cpu(0, 1)
        assert control.free_cpus() == {1}
        *times, elapsed = cpu_times(double, domids, 0.5)
        assert sum(times) <= 1.02 * elapsed, "one CPU is left"
        pool = control.create_cpupool("credit2")
        for refused in (
            lambda: control.move_domain(domids[0], pool),
            lambda: control.add_cpu(pool, 0),
            lambda: control.add_cpu(pool, 7),
            lambda: control.remove_cpu(0, 0),
            lambda: control.remove_cpu(pool, 0),
            lambda: control.move_domain(0, pool),
            lambda: control.move_domain(domids[0], 9),
            lambda: control.destroy_cpupool(0),
            lambda: control.create_cpupool("sedf"),
            lambda: double.hypervisor.dom0.create_domain(kind="pv", handle=bytes(16), max_vcpus=1, cpupool=pool),
            lambda: set_weight(double, 0),
            lambda: set_weight(double, domids[0], weight=0),
            lambda: set_weight(double, domids[0], cap=101),
            lambda: control.set_ratelimit_us(0, 50),
        ):
            with pytest.raises(HypercallError):
                refused()
        control.add_cpu(pool, 1)
        control.move_domain(domids[0], pool)
        with pytest.raises(HypercallError):
            control.destroy_cpupool(pool)
        with pytest.raises(HypercallError):
            control.remove_cpu(pool, 1)
        *times, elapsed = cpu_times(double, domids, 0.5)
        assert all(one > 0.9 * elapsed for one in times), f"{times}: each has a CPU"
        assert [(info.cpus, info.domains) for info in control.cpupools()] == [({0}, 2), ({1}, 1)]
        control.move_domain(domids[0], 0)
        control.remove_cpu(pool, 1)
        control.destroy_cpupool(pool)
        control.add_cpu(0, 1)
        *times, elapsed = cpu_times(double, domids, 0.5)
        assert all(one > 0.85 * elapsed for one in times), f"{times}"


def test_a_paused_domain_uses_no_time(single: Machine, guests: dict[str, Path]) -> None:
    with spinners(single, guests[SPINNER], 2) as domids:
        for _ in range(50):
            single.hypervisor.dom0.pause_domain(domids[0])
            used = vcpus(single, domids)[0].cpu_time_ns
            time.sleep(0.001)
            assert vcpus(single, domids)[0].cpu_time_ns == used
            single.hypervisor.dom0.unpause_domain(domids[0])


def wakeup_latency(machine: Machine, kernels: dict[str, Path]) -> dict[str, int]:
    """Microseconds, of a domain that mostly sleeps, while the three domains with weights want the CPU."""
    with spinners(machine, kernels[SPINNER], len(WEIGHTS)) as domids:
        for domid, weight in zip(domids, WEIGHTS, strict=True):
            set_weight(machine, domid, weight)
        outcome = machine.run(kernels["bench_wakeup"], timeout_s=60)
    return latencies(outcome)


def latencies(outcome: Outcome) -> dict[str, int]:
    """What the guest measured, in microseconds."""
    assert outcome.passed, str(outcome)
    lines = [line.split() for line in outcome.console.splitlines() if line.startswith("BENCH")]
    return {line[1]: int(line[2]) for line in lines}


@pytest.mark.timeout(120)
def test_a_sleeper_runs_soon_after_it_wakes(single: Machine, guests: dict[str, Path]) -> None:
    """It goes before those that ran meanwhile: its median is far below their slice of 10 ms."""
    latency = wakeup_latency(single, guests)
    assert latency["wakeup_median"] < 5000, latency


def main() -> None:
    """Print what SPECIFICATION.md promises of the scheduler, as measured here and now."""
    kernels = Builder().build(all_programs())
    with running_machine(processors=1) as machine:
        print("shares of weights 256, 512, 1024 in 30 s:", *(f"{share:.4f}" for share in shares_by_weight(machine, kernels[SPINNER], 30.0)))
        with spinners(machine, kernels[SPINNER], 1) as domids:
            set_weight(machine, domids[0], cap=25)
            used, elapsed = cpu_times(machine, domids, 30.0)
            print(f"cap 25: {100 * used / elapsed:.2f} %")
        print("wake-up on an idle CPU:", latencies(machine.run(kernels["bench_wakeup"], timeout_s=60)))
        print("wake-up under three spinning domains:", wakeup_latency(machine, kernels))


if __name__ == "__main__":
    main()

"""Runstate accounting of a vCPU (vcpu.h: struct vcpu_runstate_info): the time it spent in each of the four states, in nanoseconds."""

from __future__ import annotations

from pyxen.abi.vcpu import RUNSTATE_offline, RUNSTATE_running


class Runstate:
    """``entered_ns`` is when the current ``state`` began, in system time; ``times_ns`` excludes the time since then."""

    def __init__(self) -> None:
        self.state: int = RUNSTATE_offline
        self.entered_ns = 0
        self.times_ns = [0, 0, 0, 0]
        self.first_ran_ns: int | None = None  # when it was running for the first time

    def change(self, state: int, now_ns: int) -> None:
        """Enter ``state`` at ``now_ns``."""
        if state == self.state:
            return
        self.times_ns[self.state] += max(0, now_ns - self.entered_ns)
        self.state = state
        self.entered_ns = now_ns
        if state == RUNSTATE_running and self.first_ran_ns is None:
            self.first_ran_ns = now_ns

    def snapshot(self, now_ns: int) -> list[int]:
        """The four times up to ``now_ns``."""
        times = list(self.times_ns)
        times[self.state] += max(0, now_ns - self.entered_ns)
        return times

    def running_ns(self, now_ns: int) -> int:
        """Time spent executing guest code or hypercalls."""
        return self.snapshot(now_ns)[RUNSTATE_running]

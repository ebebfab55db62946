"""A vCPU's one-shot timer (VCPUOP_set_singleshot_timer, set_timer_op): VIRQ_TIMER at a deadline.

The deadline is in the gate's block. Native code arms the timers of vCPUs while they run (native/pyxen_timer.c); then ``timer_native``
is set, and the alarm comes as a signal to the vCPU's own thread. Otherwise a timer of the hypervisor's looks at the deadline. A deadline
that moves to later leaves that one as it is: it looks in vain, and once more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyxen.abi.xen import VIRQ_TIMER

if TYPE_CHECKING:
    from pyxen.hypervisor.timers import Timer
    from pyxen.hypervisor.vcpu import Vcpu


class OneShotTimer:
    """All methods: hypervisor lock held, and the vCPU is not in the guest, or native code has not armed the timer."""

    def __init__(self, vcpu: Vcpu) -> None:
        self._vcpu = vcpu
        self._look: Timer | None = None

    @property
    def deadline_ns(self) -> int | None:
        """System time; None while it is not armed."""
        return self._vcpu.gate.timer_deadline or None

    def set(self, deadline_ns: int | None) -> None:
        """VIRQ_TIMER at ``deadline_ns`` in place of whatever was armed, at once if that has passed; None disarms."""
        gate = self._vcpu.gate
        gate.timer_native = 0
        gate.timer_deadline = 0 if deadline_ns is None else max(deadline_ns, 1)
        if deadline_ns is None:
            self._forget_look()
        elif self._look is None or self._look.deadline_ns > deadline_ns:
            self._forget_look()
            self._look = self._vcpu.domain.add_timer(deadline_ns, self._look_again)

    def _forget_look(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def take_over(self) -> None:
        """The vCPU is about to sleep, and its thread's alarm would find nobody in the guest."""
        gate = self._vcpu.gate
        if gate.timer_native:
            self._vcpu.cpu.stop_alarm()
            self.set(self.deadline_ns)

    def look(self) -> None:
        """The alarm has come, and native code has left it to us, if it was that."""
        if self._vcpu.gate.timer_native:
            self.take_over()
            self._look_again()

    def _look_again(self) -> None:
        self._forget_look()
        vcpu, deadline_ns = self._vcpu, self.deadline_ns
        if vcpu.gate.timer_native or deadline_ns is None:
            return
        if deadline_ns > vcpu.hypervisor.now():
            self.set(deadline_ns)
            return
        vcpu.gate.timer_deadline = 0
        vcpu.domain.event_channels.send_virq(vcpu, VIRQ_TIMER)

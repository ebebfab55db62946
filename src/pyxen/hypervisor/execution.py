"""The life of a vCPU's host thread: wait for a processor, deliver what is pending, run the guest, handle the exit.

The hypervisor lock is held all the time but while the guest runs and while the thread sleeps.
"""

from __future__ import annotations

import threading
import traceback
from typing import TYPE_CHECKING

from pyxen.hypervisor.exits import EXIT_HANDLERS
from pyxen.hypervisor.guest_access import GuestFault
from pyxen.hypervisor.hvm import exits as hvm_exits
from pyxen.hypervisor.hvm import interrupts
from pyxen.hypervisor.hvm.vcpu import HvmVcpu
from pyxen.hypervisor.hypercall_table import describe_hypercall
from pyxen.hypervisor.traps import deliver_pending

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu


def start(vcpu: Vcpu) -> None:
    """Give the vCPU its thread. Lock held; at most once."""
    assert vcpu.thread is None
    vcpu.thread = threading.Thread(target=_live, args=(vcpu,), name=f"pyxen-d{vcpu.domain.domid}v{vcpu.vcpu_id}", daemon=True)
    vcpu.thread.start()


def _live(vcpu: Vcpu) -> None:
    domain = vcpu.domain
    dispatcher = vcpu.hypervisor.dispatcher
    with vcpu.hypervisor.lock:
        dispatcher.place_thread(vcpu)
        while not domain.dying:
            if not vcpu.may_enter:
                dispatcher.await_turn(vcpu)
                continue
            try:
                _step(vcpu)
            except GuestFault as fault:
                domain.crash(f"vCPU {vcpu.vcpu_id}: {fault} at rip {vcpu.state.rip:#x}")
            except Exception as error:
                # Our bug, never the host's end: the domain pays, the log tells.
                domain.crash(f"internal error: {error!r} {_what_it_did(vcpu)}")
                for line in traceback.format_exc().splitlines():
                    vcpu.hypervisor.log(f"  {line}")
        vcpu.settle()
        vcpu.cpu.close()
        vcpu.ended = True
        domain.exclusive_done.notify_all()
        if domain.abandoned and domain.all_ended:
            domain.finish_death()


def _what_it_did(vcpu: Vcpu) -> str:
    """For the log: what the guest wanted when something of ours failed."""
    where = f"at rip {vcpu.state.rip:#x}, rax {vcpu.state.rax:#x}"
    return f"in {describe_hypercall(vcpu)} {where}" if vcpu.current_hypercall is not None else where


def _step(vcpu: Vcpu) -> None:
    """One entry to the guest and the exit that ends it."""
    vcpu.hypervisor.guest_time.before_entry(vcpu)
    if isinstance(vcpu, HvmVcpu):
        interrupts.deliver_pending(vcpu)
    else:
        deliver_pending(vcpu)
    if not vcpu.may_enter:
        return
    lock = vcpu.hypervisor.lock
    vcpu.in_guest = True
    lock.release()
    try:
        reason = vcpu.cpu.run()
    finally:
        # Before the lock: who holds it may be waiting for just this (``Hypervisor.stop_briefly``).
        vcpu.in_guest = False
        lock.acquire()
        vcpu.stuck = False
        while vcpu.domain.exclusive:
            vcpu.domain.exclusive_done.wait()
    vcpu.domain.exits[reason] += 1
    vcpu.current_hypercall = None  # of an exit before this, which failed
    if isinstance(vcpu, HvmVcpu):
        hvm_exits.EXIT_HANDLERS[reason](vcpu)
    else:
        EXIT_HANDLERS[reason](vcpu)

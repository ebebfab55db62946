"""The hypervisor: machine memory, the engine, all domains, and the one lock that guards them.

Locking: ``lock`` is held by every vCPU thread except while its guest runs or it sleeps, by the timer thread during callbacks, and by every
call of Domain 0. Python's own lock is not relied on.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import time
from collections.abc import Callable

import numpy as np

from pyxen.engine.interface import Engine, EngineFactory
from pyxen.hypervisor import descriptors, execution, guest_access
from pyxen.hypervisor.console_ring import ConsoleRing
from pyxen.hypervisor.dom0 import Dom0
from pyxen.hypervisor.dom0_interface import DOMID_SELF, Dom0Hypercalls, GrantLimits, HypercallError
from pyxen.hypervisor.domain import Domain
from pyxen.hypervisor.event_channel_delivery import HandlerDelivery
from pyxen.hypervisor.frame_table import FrameTable
from pyxen.hypervisor.gate import is_wanted
from pyxen.hypervisor.grant_table import INITIAL_FRAMES, GrantTable
from pyxen.hypervisor.guest_time import CORRECTION_PERIOD_NS, GuestTime
from pyxen.hypervisor.hooks import Hooks
from pyxen.hypervisor.machine_memory import OWNER_XEN, Frames, MachineMemory
from pyxen.hypervisor.page_tables import ACCESSED, DIRTY, NX, PRESENT, PSE, USER, PageTables
from pyxen.hypervisor.scheduling.cpu_pool import CpuPool
from pyxen.hypervisor.scheduling.dispatcher import Dispatcher
from pyxen.hypervisor.timers import TimerQueue
from pyxen.hypervisor.vcpu import Vcpu, VcpuStuckError
from pyxen.hypervisor.vcpu_op import write_runstate
from pyxen.hypervisor.xen_version import VERSION

INVALID_M2P_ENTRY = (1 << 64) - 1
LARGE_PAGE_FRAMES = 512
#: Domain ids of guests: 1 up to here (DOMID_FIRST_RESERVED is 0x7ff0).
LAST_DOMID = 0x7FEF
#: A vCPU that has not left the guest after so many looks is a defect of the engine, which costs its domain. Looks are counted, not time: a
#: host that was suspended meanwhile proves nothing. First short sleeps, then so many of a millisecond.
QUICK_LOOKS, QUICK_LOOK_S = 500, 20e-6
SLOW_LOOKS, SLOW_LOOK_S = 900, 1e-3
#: Long enough for a waiting thread to take the lock.
BREATH_S = 1e-6


class Hypervisor:
    """One machine. ``memory_bytes`` is what all domains and Xen itself can use; it is taken from the host only as it is touched.
    ``processors``: how many physical CPUs it has; None: as many as this process may use of the host. ``tsc_is_reliable``: whether the
    host's time-stamp counter has one rate on all its processors, so that guests may read it as it is."""

    def __init__(
        self,
        engine_factory: EngineFactory,
        *,
        memory_bytes: int,
        processors: int | None = None,
        self_test: bool = True,
        tsc_is_reliable: bool = True,
    ) -> None:
        self.console = ConsoleRing()
        self.hooks = Hooks(self.log, self._native_work_watched)
        self.memory = MachineMemory(memory_bytes)
        self.engine: Engine = engine_factory(self.memory.address, memory_bytes)
        self.lock = self.engine.lock
        self._breather = self.lock.condition()
        if self_test:
            self.engine.self_test()
        self.frames = FrameTable(self.memory)
        self.frames.flush_stale = self._flush_stale
        self.frames.freed = self._frames_freed
        self.guest_time = GuestTime(self.engine)
        self.tsc_is_reliable = tsc_is_reliable
        self._build_xen_frames()
        self.frames.block.m2p_entry = self._m2p_entry
        self.page_tables = PageTables(self.memory, self.frames, self._m2p_entry, self.breathe, self.engine)
        self.guest_cr4_mask = 0x8 | 0x4
        self.timers = TimerQueue(self.lock.condition(), self.now, self._timer_failed)
        self.dispatcher = Dispatcher(self.now, self.timers, processors)
        self._domains: dict[int, Domain] = self.page_tables.domains
        self._next_domid = 1
        self._exception_handlers: list[Callable[[], None]] = []
        self.closed = False
        self._domains[0] = Domain(
            self, 0, kind="dom0", handle=bytes(16), max_evtchn_port=HandlerDelivery.ports - 1, pool=self.dispatcher.pools[0]
        )
        self._domains[0].pause_count = 0
        with self.lock:
            # It grants nothing, but has a table as every Domain 0: who tries one of its grants finds an entry that permits nothing.
            self._domains[0].grant_table.open(INITIAL_FRAMES)
        self.dom0: Dom0Hypercalls = Dom0(self)
        with self.lock:
            self._schedule_correction()
        self.log(f"pyxen presents Xen {VERSION.major}.{VERSION.minor}{VERSION.extra}; engine {self.engine.name}")
        self.log(f"machine memory {memory_bytes >> 20} MiB, TSC {self.guest_time.tsc_hz / 1e6:.3f} MHz")

    # -- start ---------------------------------------------------------------------------------------------------------
    def _build_xen_frames(self) -> None:
        """The machine-to-physical table with its page tables, and the page of Xen's own descriptors. The table is mapped by 2 MiB
        pages and so
        aligned to them; the frames before it serve for the rest."""
        memory = self.memory
        spare = memory.allocate(OWNER_XEN, LARGE_PAGE_FRAMES - 1).tolist()
        large_pages = -(-memory.total_frames * 8 // (LARGE_PAGE_FRAMES * 4096))
        table = memory.allocate(OWNER_XEN, large_pages * LARGE_PAGE_FRAMES)
        start = int(table[0])
        #: MFN of each 2 MiB page of the table.
        self.m2p_pages = list(range(start, start + large_pages * LARGE_PAGE_FRAMES, LARGE_PAGE_FRAMES))
        self.m2p = memory.words[start << 9 : (start << 9) + memory.total_frames]
        self.m2p_array: Frames = memory.tables.reshape(-1)[start << 9 : (start << 9) + memory.total_frames]
        upper, lower, self.gdt_frame, self.zero_frame = spare[:4]
        memory.words[upper << 9] = lower << 12 | PRESENT | USER | ACCESSED
        for page in range(large_pages):
            address = start + page * LARGE_PAGE_FRAMES << 12
            memory.words[(lower << 9) + page] = address | PRESENT | USER | ACCESSED | DIRTY | PSE | NX
        self._m2p_entry = upper << 12 | PRESENT | USER | ACCESSED
        for index, descriptor in descriptors.xen_descriptor_page():
            memory.words[(self.gdt_frame << 9) + index] = descriptor

    def now(self) -> int:
        """System time in nanoseconds."""
        return self.guest_time.now()

    def _schedule_correction(self) -> None:
        def correct() -> None:
            if self.guest_time.needs_correction and self._stop_all_briefly():
                self.guest_time.correct()
            self._schedule_correction()

        self.timers.add(self.now() + CORRECTION_PERIOD_NS, correct)

    # -- log -----------------------------------------------------------------------------------------------------------
    def log(self, text: str) -> None:
        """One line into ``xl dmesg``."""
        self.console.write(text)

    def guest_log(self, domid: int, text: str) -> None:
        """One line that a guest caused: rate limited."""
        self.console.write_guest(domid, text)

    def _native_work_watched(self, watched: bool) -> None:
        """The native gate serves hypercalls and sends events only while nobody wants to see them."""
        with self.lock:
            for domain in self.domains():
                for vcpu in domain.vcpus:
                    with contextlib.suppress(VcpuStuckError):
                        self.stop_briefly(vcpu, None)
                    vcpu.gate.enabled = not watched and is_wanted()

    def _timer_failed(self, error: BaseException) -> None:
        self.log(f"internal error in a timer: {error!r}")

    # -- domains -------------------------------------------------------------------------------------------------------
    def domain(self, domid: int) -> Domain:
        """ESRCH when there is none."""
        domain = self._domains.get(domid)
        if domain is None:
            raise HypercallError(errno.ESRCH, f"there is no domain {domid}")
        return domain

    def check_own_domid(self, caller: Domain, domid: int) -> None:
        """An unprivileged domain may name only itself. ESRCH when no such domain exists, EPERM when it is another's."""
        if domid not in (DOMID_SELF, caller.domid):
            self.domain(domid)
            raise HypercallError(errno.EPERM, f"domain {caller.domid} may not do that to domain {domid}")

    def is_present(self, domain: Domain) -> bool:
        """Whether it has not been forgotten yet."""
        return self._domains.get(domain.domid) is domain

    def grant_table(self, untrusted_domid: int) -> GrantTable | None:
        """The grants of a domain; None when there is no such domain."""
        domain = self._domains.get(untrusted_domid)
        return domain.grant_table if domain is not None else None

    def domains(self) -> list[Domain]:
        """All, by id."""
        return [self._domains[domid] for domid in sorted(self._domains)]

    def create_domain(self, kind: str, handle: bytes, max_vcpus: int, max_evtchn_port: int, limits: GrantLimits, pool: CpuPool) -> Domain:
        """An empty, paused domain. ENOSPC, ENOMEM."""
        domid = self._free_domid()
        domain = Domain(self, domid, kind=kind, handle=handle, max_evtchn_port=max_evtchn_port, pool=pool)
        self._domains[domid] = domain
        try:
            domain.build(max_vcpus, limits)
        except BaseException:
            domain.release_resources()
            for vcpu in domain.vcpus:
                vcpu.cpu.close()
            del self._domains[domid]
            raise
        self._next_domid = domid + 1
        domain.publish("created")
        return domain

    def _free_domid(self) -> int:
        for candidate in itertools.chain(range(self._next_domid, LAST_DOMID + 1), range(1, self._next_domid)):
            if candidate not in self._domains:
                return candidate
        raise HypercallError(errno.ENOSPC, "all domain ids are in use")

    def finish_if_dead(self, domain: Domain) -> None:
        """The last step of a domain's death, when no other domain holds a frame of it any more."""
        if domain.released and not domain.held_by_others and self.is_present(domain):
            self._forget_domain(domain)

    def _forget_domain(self, domain: Domain) -> None:
        """The last of it is gone."""
        del self._domains[domain.domid]
        domain.publish("destroyed")
        self.notify_domain_exception()

    def add_exception_handler(self, handler: Callable[[], None]) -> Callable[[], None]:
        """VIRQ_DOM_EXC for Domain 0's programs. -> a function that takes it back."""
        self._exception_handlers.append(handler)

        def remove() -> None:
            with self.lock:
                if handler in self._exception_handlers:
                    self._exception_handlers.remove(handler)

        return remove

    def notify_domain_exception(self) -> None:
        """Some domain's life changed."""
        for handler in tuple(self._exception_handlers):
            self.call_domain0(handler)

    def call_domain0(self, handler: Callable[[], None]) -> None:
        """An event for Domain 0. If its program fails, that is neither the sending guest's fault nor the other programs'."""
        try:
            handler()
        except Exception as error:
            self.log(f"handler {handler!r} in Domain 0 raised {error!r}")

    # -- vCPUs -----------------------------------------------------------------------------------------------------------
    def bring_up(self, vcpu: Vcpu) -> None:
        """VCPUOP_up: it may run from now on."""
        vcpu.online = True
        if vcpu.thread is None:
            execution.start(vcpu)
        vcpu.settle()

    def stop_briefly(self, vcpu: Vcpu, caller: Vcpu | None) -> None:
        """Return when ``vcpu`` is not executing guest code; it can't start again before the lock is free. ``caller`` itself never is.

        The lock stays held while this waits, so a handler's work is never interleaved with another's: a vCPU says that it left the guest
        before it takes the lock.

        A vCPU that does not leave has its domain crashed, and nobody waits for it again. ``VcpuStuckError`` then: whatever needs it stopped
        must not happen.
        """
        if vcpu is caller or not vcpu.in_guest:
            return
        vcpu.cpu.kick()
        if not self.has_left(vcpu):
            self._give_up(vcpu)

    def has_left(self, vcpu: Vcpu) -> bool:
        """Wait for a vCPU that was kicked, not for long. -> whether it is out of the guest. With or without the lock."""
        looks = 1 if vcpu.stuck else QUICK_LOOKS + SLOW_LOOKS
        for look in range(looks):
            if not vcpu.in_guest:
                return True
            time.sleep(QUICK_LOOK_S if look < QUICK_LOOKS else SLOW_LOOK_S)
        return not vcpu.in_guest

    def _give_up(self, vcpu: Vcpu) -> None:
        domain = vcpu.domain
        vcpu.stuck = True
        domain.crash(f"internal error: vCPU {vcpu.vcpu_id} does not leave the guest")
        raise VcpuStuckError(errno.EBUSY, f"vCPU {vcpu.vcpu_id} of domain {domain.domid} does not leave the guest")

    def check_stopped(self, domain: Domain) -> None:
        """After a wait without the lock (``has_left``): EBUSY, and the domain is crashed, for a vCPU that did not leave. It would not have
        been let in again, since the domain is paused."""
        for vcpu in domain.vcpus:
            if vcpu.in_guest:
                self._give_up(vcpu)

    def _stop_all_briefly(self) -> bool:
        """As ``stop_briefly`` for every vCPU of the machine, but False if one does not leave in time."""
        inside = [vcpu for domain in self.domains() for vcpu in domain.vcpus if vcpu.in_guest]
        for vcpu in inside:
            vcpu.cpu.kick()
        return all(self.has_left(vcpu) for vcpu in inside)

    def breathe(self, domid: int) -> None:
        """In the middle of long work on a domain: let others have the lock for a moment. The domain's own vCPUs wait until it is over
        (``execution``), so they never see the work half done; whoever calls has left everything else consistent."""
        domain = self._domains.get(domid)
        if domain is None:
            return
        domain.exclusive += 1
        try:
            self.let_others_in()
        finally:  # a signal may end the wait of a program's main thread
            domain.exclusive -= 1
            domain.exclusive_done.notify_all()

    def let_others_in(self) -> None:
        """Be without the lock for long enough that a thread that waits for it gets it: who releases it and takes it again at once would
        nearly always be the faster one."""
        self._breather.wait(BREATH_S)

    def _flush_stale(self, owner: int, stamp: int) -> None:
        domain = self._domains.get(owner)
        if domain is not None and domain.vcpus and not domain.stopped:
            domain.address_space.flush_stale(stamp)

    def _frames_freed(self, owner: int, count: int) -> None:
        domain = self._domains.get(owner)
        if domain is not None:
            domain.total_pages -= count

    def note_write(self, mfn: int) -> None:
        """The hypervisor wrote to a guest's frame: code translated from it is void, in every vCPU of its owner."""
        if self.engine.has_translated_code(mfn):
            domain = self._domains.get(self.memory.owner[mfn])
            for vcpu in domain.vcpus if domain is not None else ():
                vcpu.cpu.invalidate_frame(mfn)

    def write_areas(self, vcpu: Vcpu) -> None:
        """Runstate and time as the guest asked to have them in its own memory. A bad address is the guest's loss, as on Xen."""
        try:
            if vcpu.runstate_area and vcpu.runstate_changed:
                vcpu.runstate_changed = False
                write_runstate(vcpu)
            if vcpu.time_area and vcpu.time_area_generation != self.guest_time.generation:
                vcpu.time_area_generation = self.guest_time.generation
                guest_access.write_kernel(vcpu, vcpu.time_area, self.guest_time.image(vcpu))
        except guest_access.GuestFault:
            pass

    # -- end -----------------------------------------------------------------------------------------------------------
    def close(self) -> None:
        """Destroy all guests and stop the timer thread."""
        self.closed = True
        for domain in self.domains():
            if domain.domid:
                self.dom0.destroy_domain(domain.domid)
        self.timers.close()
        self.memory.close()

    def new_frames(self, frames: Frames) -> None:
        """Frames that a domain just got: no physical address yet."""
        self.m2p_array[frames] = np.uint64(INVALID_M2P_ENTRY)

"""What Domain 0 does at random between the hypercalls of hostile guests: maps and unmaps their memory and their grants, binds and closes
ports, schedules, pauses, shuts down, limits. What it is refused by an errno is no failure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from pyxen.hypervisor.dom0_interface import Dom0Hypercalls, GrantCopy, HypercallError, SchedulerParameters, ShutdownReason
from pyxen.hypervisor.hypervisor import Hypervisor
from tests.security.octets import Dice

REFERENCES = 12
PORTS = 16


class Domain0AtRandom:
    """``dice`` decides everything and is replaced for each step."""

    dice: Dice

    def __init__(self, machine: Hypervisor) -> None:
        self._machine = machine
        self._dom0: Dom0Hypercalls = machine.dom0
        self.results: Counter[str] = Counter()
        self._foreign: list[tuple[int, int]] = []
        self._grants: list[tuple[int, int, bool]] = []
        self._ports: list[int] = []
        self._events = 0

    def _refused(self, action: Callable[[], object]) -> bool:
        try:
            action()
        except HypercallError:
            self.results["refused"] += 1
            return True
        self.results["done"] += 1
        return False

    # -- memory ------------------------------------------------------------------------------------------------------
    def foreign_memory(self, domid: int) -> None:
        """Map a frame of the domain, or give the last mapping back. Now and then for a frame that is not its own."""
        if self._foreign and self.dice.random() < 0.4:
            self._unmap_foreign()
            return
        with self._machine.lock:
            frames = self._dom0.memory_list(domid).tolist() if domid else []
        mfn = self.dice.choice(frames) if frames and self.dice.random() < 0.95 else self.dice.choice((0, 1, 1 << 40))
        if not self._refused(lambda: self._dom0.map_foreign(domid, mfn)):
            self._foreign.append((domid, mfn))

    def _unmap_foreign(self) -> None:
        domid, mfn = self._foreign.pop()
        self._dom0.unmap_foreign(domid, mfn)

    def grants(self, domid: int) -> None:
        """Map, unmap, or copy by references of the domain, as backends do at a device's hot plug and unplug."""
        dice = self.dice
        kind = dice.randrange(4)
        if kind == 0 and self._grants:
            self._unmap_grant()
        elif kind < 3:
            reference, writable = dice.randrange(REFERENCES), dice.random() < 0.7
            if not self._refused(lambda: self._dom0.map_grant(domid, reference, writable=writable)):
                self._grants.append((domid, reference, writable))
        else:
            local = memoryview(bytearray(dice.choice((8, 512, 4096))))
            copies = [GrantCopy(domid, dice.randrange(REFERENCES), dice.choice((0, 8, 3584)), local, dice.random() < 0.5) for _ in range(3)]
            self._refused(lambda: self._dom0.grant_copy(copies))

    def _unmap_grant(self) -> None:
        domid, reference, writable = self._grants.pop()
        self._dom0.unmap_grants(domid, [reference], writable=writable)

    # -- events ------------------------------------------------------------------------------------------------------
    def ports(self, domid: int) -> None:
        """Offer a port for the domain, bind to one of its, send, close."""
        dice = self.dice
        kind = dice.randrange(5)
        if kind == 0:
            self._refused(lambda: self._dom0.evtchn_alloc_unbound(domid, dice.choice((0, domid, 77))))
        elif kind < 3:
            port = dice.randrange(PORTS)
            self._refused(lambda: self._ports.append(self._dom0.bind_interdomain(domid, port, self._event)))
        elif self._ports:
            port = self._ports[dice.randrange(len(self._ports))]
            if kind == 3:
                self._refused(lambda: self._dom0.notify(port))
            else:
                self._ports.remove(port)
                self._refused(lambda: self._dom0.close_port(port))

    def _event(self) -> None:
        self._events += 1

    # -- life and scheduling -------------------------------------------------------------------------------------------
    def life(self, domid: int) -> None:
        """What a toolstack does with a domain that lives. Its pause count never reaches 0 here."""
        dice, dom0 = self.dice, self._dom0
        info = dom0.domain_info(domid)
        actions: tuple[Callable[[], object], ...] = (
            lambda: dom0.pause_domain(domid),
            lambda: dom0.unpause_domain(domid) if self._machine.domain(domid).pause_count > 1 else None,
            lambda: dom0.shutdown_domain(domid, ShutdownReason(dice.randrange(6))),
            lambda: dom0.resume_domain(domid),
            lambda: dom0.send_nmi(domid, dice.randrange(3)),
            lambda: dom0.set_max_memory(domid, dice.choice((info.total_pages, 0, info.total_pages + 40))),
            lambda: dom0.vcpu_info(domid),
            lambda: dom0.list_domains(),
            lambda: dom0.debug_keys("".join(dice.choices("0qrevgd*", 2))),
        )
        action = dice.choice(actions)
        self._refused(action)

    def scheduling(self, domid: int) -> None:
        """Parameters, affinities, and CPU pools."""
        dice, scheduling = self.dice, self._dom0.scheduling
        pool = dice.randrange(4)
        cpus = frozenset(dice.choices((0, 1, 2, 63), 2))
        actions: tuple[Callable[[], object], ...] = (
            lambda: scheduling.set_parameters(
                domid, SchedulerParameters(dice.choice((256, 1, 65535, 0, 65536)), dice.choice((0, 1, 200, 201)))
            ),
            lambda: scheduling.parameters(domid),
            lambda: scheduling.set_ratelimit_us(pool, dice.choice((1000, 0, 99, 500_000))),
            lambda: scheduling.create_cpupool(dice.choice(("credit2", "null", "rr", "credit"))) if len(scheduling.cpupools()) < 4 else None,
            lambda: scheduling.destroy_cpupool(pool),
            lambda: scheduling.remove_cpu(dice.choice((0, pool)), dice.randrange(3)),
            lambda: scheduling.add_cpu(pool, dice.randrange(3)),
            lambda: scheduling.move_domain(domid, pool),
            lambda: self._dom0.set_vcpu_affinity(domid, dice.randrange(3), dice.choice((None, cpus)), dice.choice((None, cpus))),
        )
        self._refused(dice.choice(actions))

    def let_go(self) -> None:
        """Give back everything that is held: at the end nothing of the guests' may be left."""
        while self._foreign:
            self._unmap_foreign()
        while self._grants:
            self._unmap_grant()
        while self._ports:
            self._refused(lambda: self._dom0.close_port(self._ports.pop()))

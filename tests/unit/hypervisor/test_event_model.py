"""Random operations of two domains, in either ABI, against a model of a page: which ports are open, which are pending, and in what order
each queue is consumed. Consumers run between operations and in the middle of the hypervisor's linking."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pyxen.abi import event_channel as abi
from pyxen.abi.xen import VIRQ_CON_RING, VIRQ_TIMER
from pyxen.hypervisor.hypervisor import Hypervisor
from tests.unit.hypervisor import invariants
from tests.unit.hypervisor.event_guest import BUSY, LINKED, WORDS_PER_PAGE, EventGuest
from tests.unit.hypervisor.machine import SmallDomain, new_machine

VCPUS = 2
#: Few, so that ports meet again and limits are reached.
MAX_PORT = 12
_machine: Hypervisor | None = None


def shared_machine() -> Hypervisor:
    global _machine
    if _machine is None:
        _machine = new_machine()
    return _machine


@dataclass
class Port:
    kind: int
    vcpu: int = 0
    virq: int = -1
    priority: int = abi.EVTCHN_FIFO_PRIORITY_DEFAULT
    remote: int = 0  # which of the two domains
    remote_port: int = 0


@dataclass
class Model:
    """What one domain's guest knows and expects."""

    guest: EventGuest
    ports: dict[int, Port] = field(default_factory=dict)
    pending: set[int] = field(default_factory=set)
    masked: set[int] = field(default_factory=set)
    masked_two_level: set[int] = field(default_factory=set)
    early: set[int] = field(default_factory=set)
    linked: set[int] = field(default_factory=set)
    queues: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    fifo: bool = False
    expanded: bool = False

    def lowest_free(self) -> int:
        free = (port for port in range(1, MAX_PORT + 1) if port not in self.ports and port not in self.linked)
        return next(free, -errno.ENOSPC)

    def event(self, port: int) -> None:
        if not self.fifo:
            self.pending.add(port)
        elif not self.expanded:
            self.early.add(port)
        else:
            self.pending.add(port)
            if port not in self.masked and port not in self.linked:
                self.linked.add(port)
                self.queues.setdefault((self.ports[port].vcpu, self.ports[port].priority), []).append(port)

    def consumed(self, vcpu: int, priority: int, port: int, due: bool) -> None:
        assert self.queues[vcpu, priority].pop(0) == port, "out of order"
        assert due == (port in self.pending and port not in self.masked)
        self.linked.remove(port)
        if due:
            self.pending.remove(port)


DOMAIN = st.integers(0, 1)
VCPU = st.integers(0, VCPUS - 1)
#: Mostly one of the open ports (by its place among them), now and then any number.
PORT = st.integers(0, 99)
ANY_PORT_FROM = 95
CONSUMERS = st.lists(st.tuples(DOMAIN, VCPU, st.integers(1, 4)), max_size=2)


class EventChannelMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.machine = shared_machine()
        self.free = self.machine.memory.free_frames
        self.models = [Model(EventGuest(SmallDomain(self.machine, pages=24, vcpus=VCPUS, max_evtchn_port=MAX_PORT))) for _ in range(2)]
        self.interrupting: list[tuple[int, int, int]] = []
        self._replace = self.machine.engine.compare_exchange32
        self.machine.engine.compare_exchange32 = self._racing_replace  # type: ignore[method-assign]

    def teardown(self) -> None:
        self.interrupting = []
        for model in self.models:
            self._settle(model)
            model.guest.small.destroy()
        self.machine.engine.compare_exchange32 = self._replace  # type: ignore[method-assign]
        assert self.machine.memory.free_frames == self.free
        invariants.check(self.machine)

    def _settle(self, model: Model) -> None:
        """When the guest has done what it was told to do, nothing that it wants to hear of is left."""
        for vcpu in range(VCPUS):
            self._consume(model, vcpu, 1000)
        assert not model.pending - model.masked
        assert not model.linked

    def _consume(self, model: Model, vcpu: int, count: int) -> None:
        guest = model.guest
        if not model.fifo:
            if vcpu == 0 or guest.upcall_pending(vcpu):
                for port in guest.consume_two_level(vcpu):
                    assert port in model.pending and port not in model.masked
                    model.pending.remove(port)
            return
        guest.begin_upcall(vcpu)
        while count and (one := guest.consume_one(vcpu)) is not None:
            model.consumed(vcpu, *one)
            count -= 1

    def _racing_replace(self, address: int, expected: int, new: int) -> int:
        """Let consumers run right before the hypervisor replaces a word."""
        todo, self.interrupting = self.interrupting, []
        for domain, vcpu, count in todo:
            model = self.models[domain]
            if model.fifo and model.expanded:
                # What is being appended just now is not on its queue yet: only what is linked can be reached.
                self._consume(model, vcpu, min(count, model.guest.reachable(vcpu)))
        return self._replace(address, expected, new)

    # -- operations ------------------------------------------------------------------------------------------------------------
    @initialize(fifo=st.tuples(st.booleans(), st.booleans()), masked=st.booleans())
    def begin(self, fifo: tuple[bool, bool], masked: bool) -> None:
        """Ports of all kinds, so that there is something to send on; FIFO in half of the domains from the start."""
        for domain in range(2):
            if fifo[domain]:
                self.use_fifo(domain)
                self.expand(domain, masked)
        for domain in range(2):
            self.bind_ipi(domain, 0)
            self.bind_ipi(domain, 0)
            self.bind_ipi(domain, 1)
            self.alloc_unbound(domain, 1 - domain)
            self.bind_virq(domain, 0, VIRQ_TIMER)
            if masked and fifo[domain]:
                for port in range(1, 5):
                    self._unmask(domain, port)
        for domain in range(2):
            self._bind_interdomain(domain, 1 - domain, 4)

    def _port(self, domain: int, choice: int) -> int:
        open_ports = sorted(self.models[domain].ports)
        if choice >= ANY_PORT_FROM or not open_ports:
            return choice % (MAX_PORT + 2)
        return open_ports[choice % len(open_ports)]

    def _opened(self, model: Model, got: int, port: Port) -> bool:
        assert got == model.lowest_free()
        if got > 0:
            model.ports[got] = port
        return got > 0

    @rule(domain=DOMAIN, remote=DOMAIN)
    def alloc_unbound(self, domain: int, remote: int) -> None:
        model = self.models[domain]
        got = model.guest.alloc_unbound(self.models[remote].guest.domid)
        self._opened(model, got, Port(abi.EVTCHNSTAT_unbound, remote=remote))

    @rule(domain=DOMAIN, remote=DOMAIN, remote_port=PORT)
    def bind_interdomain(self, domain: int, remote: int, remote_port: int) -> None:
        self._bind_interdomain(domain, remote, self._port(remote, remote_port))

    def _bind_interdomain(self, domain: int, remote: int, remote_port: int) -> None:
        model, theirs = self.models[domain], self.models[remote].ports.get(remote_port)
        got = model.guest.bind_interdomain(self.models[remote].guest.domid, remote_port)
        if model.lowest_free() > 0 and (theirs is None or theirs.kind != abi.EVTCHNSTAT_unbound or theirs.remote != domain):
            assert got == -errno.EINVAL
        elif self._opened(model, got, Port(abi.EVTCHNSTAT_interdomain, remote=remote, remote_port=remote_port)):
            assert theirs is not None
            theirs.kind, theirs.remote_port = abi.EVTCHNSTAT_interdomain, got
            model.event(got)

    @rule(domain=DOMAIN, vcpu=VCPU)
    def bind_ipi(self, domain: int, vcpu: int) -> None:
        model = self.models[domain]
        self._opened(model, model.guest.bind_ipi(vcpu), Port(abi.EVTCHNSTAT_ipi, vcpu))

    @rule(domain=DOMAIN, vcpu=VCPU, virq=st.sampled_from([VIRQ_TIMER, VIRQ_CON_RING]))
    def bind_virq(self, domain: int, vcpu: int, virq: int) -> None:
        model = self.models[domain]
        got = model.guest.bind_virq(virq, vcpu)
        if virq == VIRQ_CON_RING and vcpu:
            assert got == -errno.EINVAL
        elif any(port.virq == virq and (port.vcpu == vcpu or virq == VIRQ_CON_RING) for port in model.ports.values()):
            assert got == -errno.EEXIST
        else:
            self._opened(model, got, Port(abi.EVTCHNSTAT_virq, vcpu, virq))

    @rule(domain=DOMAIN, vcpu=VCPU, virq=st.sampled_from([VIRQ_TIMER, VIRQ_CON_RING]))
    def virq(self, domain: int, vcpu: int, virq: int) -> None:
        model = self.models[domain]
        if virq == VIRQ_CON_RING:
            vcpu = 0
        with self.machine.lock:
            for number, port in model.ports.items():
                if port.virq == virq and (port.vcpu == vcpu or virq == VIRQ_CON_RING):
                    model.event(number)
            model.guest.channels.send_virq(model.guest.small.domain.vcpus[vcpu], virq)

    @rule(domain=DOMAIN, port=PORT, vcpu=VCPU)
    def bind_vcpu(self, domain: int, port: int, vcpu: int) -> None:
        model, port = self.models[domain], self._port(domain, port)
        found = model.ports.get(port)
        fixed = found is None or found.kind == abi.EVTCHNSTAT_ipi or found.virq == VIRQ_TIMER
        assert model.guest.bind_vcpu(port, vcpu) == (-errno.EINVAL if fixed else 0)
        if found is not None and not fixed:
            found.vcpu = vcpu

    @rule(domain=DOMAIN, port=PORT)
    def close(self, domain: int, port: int) -> None:
        model, port = self.models[domain], self._port(domain, port)
        assert model.guest.close(port) == (0 if port in model.ports else -errno.EINVAL)
        self._closed(domain, port)

    def _closed(self, domain: int, number: int) -> None:
        model = self.models[domain]
        port = model.ports.pop(number, None)
        if port is not None:
            model.pending.discard(number)
            model.early.discard(number)
            if port.kind == abi.EVTCHNSTAT_interdomain:
                peer = self.models[port.remote].ports[port.remote_port]
                peer.kind, peer.remote = abi.EVTCHNSTAT_unbound, domain

    @rule(domain=DOMAIN, ports=st.lists(PORT, min_size=1, max_size=8), consumers=CONSUMERS)
    def send(self, domain: int, ports: list[int], consumers: list[tuple[int, int, int]]) -> None:
        for port in ports:
            self._send(domain, self._port(domain, port), consumers)

    def _send(self, domain: int, port: int, consumers: list[tuple[int, int, int]]) -> None:
        model = self.models[domain]
        found = model.ports.get(port)
        self.interrupting = list(consumers)
        if found is None or found.kind == abi.EVTCHNSTAT_virq:
            assert model.guest.send(port) == -errno.EINVAL
            return
        if found.kind == abi.EVTCHNSTAT_interdomain:
            self.models[found.remote].event(found.remote_port)
        elif found.kind == abi.EVTCHNSTAT_ipi:
            model.event(port)
        assert model.guest.send(port) == 0
        self.interrupting = []

    @rule(domain=DOMAIN, port=PORT)
    def mask(self, domain: int, port: int) -> None:
        model, port = self.models[domain], self._port(domain, port)
        if not model.fifo or model.expanded:
            model.guest.mask(port)
            (model.masked if model.fifo else model.masked_two_level).add(port)
            if not model.fifo:
                model.masked = model.masked_two_level

    @rule(domain=DOMAIN, port=PORT)
    def unmask(self, domain: int, port: int) -> None:
        self._unmask(domain, self._port(domain, port))

    def _unmask(self, domain: int, port: int) -> None:
        model = self.models[domain]
        if port in model.ports and (not model.fifo or model.expanded):
            model.masked.discard(port)
            if model.fifo and port in model.pending:
                model.event(port)
        assert model.guest.unmask(port) == 0

    @rule(domain=DOMAIN, port=PORT, priority=st.sampled_from([0, 6, 7, 15, 16]))
    def set_priority(self, domain: int, port: int, priority: int) -> None:
        model, port = self.models[domain], self._port(domain, port)
        wanted = 0
        if not model.fifo:
            wanted = -errno.ENOSYS
        elif port not in model.ports:
            wanted = -errno.EACCES
        elif priority > abi.EVTCHN_FIFO_PRIORITY_MIN:
            wanted = -errno.EINVAL
        else:
            model.ports[port].priority = priority
        assert model.guest.set_priority(port, priority) == wanted

    @rule(domain=DOMAIN)
    def use_fifo(self, domain: int) -> None:
        model = self.models[domain]
        if model.fifo:
            return
        # Linux does this before it binds anything; a guest that did not look at what was announced forgets it.
        for vcpu in range(VCPUS):
            assert model.guest.init_control(vcpu) == 0
            info = model.guest.small.domain.vcpus[vcpu].info
            model.guest.octets[info : info + 16] = bytes(16)
        model.fifo, model.expanded = True, False
        model.early, model.pending, model.masked = set(model.pending), set(), set()

    @rule(domain=DOMAIN, masked=st.booleans())
    def expand(self, domain: int, masked: bool) -> None:
        model = self.models[domain]
        if not model.fifo:
            assert model.guest.expand_array() == -errno.EOPNOTSUPP
        elif not model.expanded:
            model.expanded = True
            model.masked = set(range(WORDS_PER_PAGE)) if masked else set()
            early, model.early = sorted(model.early), set()
            for port in early:
                model.event(port)
            assert (model.guest.expand_array() if masked else model.guest.expand_array(word=0)) == 0

    @rule(domain=DOMAIN, really=st.integers(0, 3))
    def reset(self, domain: int, really: int) -> None:
        if really:
            return
        model = self.models[domain]
        for port in list(model.ports):
            self._closed(domain, port)
        assert model.guest.reset() == 0
        model.fifo = model.expanded = False
        model.linked, model.queues, model.masked = set(), {}, model.masked_two_level

    @rule(domain=DOMAIN, vcpu=VCPU, count=st.integers(1, 20))
    def consume(self, domain: int, vcpu: int, count: int) -> None:
        self._consume(self.models[domain], vcpu, count)

    # -- what always holds -----------------------------------------------------------------------------------------------------
    @invariant()
    def ports_are_as_expected(self) -> None:
        for model in self.models:
            assert set(model.guest.channels.ports()) == set(model.ports)
            for number in range(1, MAX_PORT + 1):
                port, found = model.ports.get(number), model.guest.channels.status(number)
                assert found.state == (port.kind if port else abi.EVTCHNSTAT_closed)
                assert model.guest.is_pending(number) == (number in model.pending)
                if port is not None:
                    assert found.vcpu_id == port.vcpu
                if port is not None and port.kind == abi.EVTCHNSTAT_interdomain:
                    assert (found.remote_domid, found.remote_port) == (self.models[port.remote].guest.domid, port.remote_port)
                if model.expanded:
                    assert bool(model.guest.word(number) & LINKED) == (number in model.linked)
                    assert not model.guest.word(number) & BUSY
                    assert model.guest.is_masked(number) == (number in model.masked)


EventChannelMachine.TestCase.settings = settings(
    max_examples=2000 if os.environ.get("PYXEN_LONG") else 60,
    stateful_step_count=60,
    deadline=None,
    derandomize=not os.environ.get("PYXEN_LONG"),
)
TestEventChannels = EventChannelMachine.TestCase

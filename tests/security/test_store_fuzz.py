"""Hostile guests against the store: random packets and random pages, with fixed seeds.

``PYXEN_LONG=1`` runs a hundred thousand packets and more.
"""

from __future__ import annotations

import logging
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from pyxen.abi.io import xs_wire
from pyxen.xenstore.requests import COMMANDS
from pyxen.xenstore.store import Store
from pyxen.xenstore.wire import HEADER
from tests.security.campaign import LONG, SEED, explore
from tests.security.octets import Octets, octets
from tests.unit.xenstore.simulated_guest import PAGE_SIZE, RING, SimulatedGuest, World

PACKETS = 100_000 if LONG else 6_000
PAGES = 80_000 if LONG else 4_000

NAMES = ["a", "b", "c", "d" * 30]
BAD_NAMES = ["", ".", "\xff", "name with blanks", "e" * 300, "@x"]
BASES = ["", "/local/domain/1", "/local/domain/2", "/shared", "/shared", "/secret"]
BAD_BASES = ["/", "//", "@releaseDomain", "@introduceDomain", "@"]
WORDS = ["", "0", "1", "2", "4294967295", "-1", "99999999999", "n1", "b1", "r0", "n2", "x", "T", "F", "check", "quota", "token"]


def random_path(chance: Octets) -> str:
    base = chance.choice(BAD_BASES if chance.random() < 0.1 else BASES)
    names = [chance.choice(BAD_NAMES if chance.random() < 0.03 else NAMES) for _ in range(chance.randrange(4))]
    return "/".join([base, *names]) if base else "/".join(names)


def random_payload(chance: Octets, message_type: int) -> bytes:
    """Mostly what such a request may look like, so that many get somewhere; the rest is anything."""
    if chance.random() < 0.1:
        return chance.randbytes(chance.choice([0, 1, 2, 15, 100, 1000, 4096]))
    pieces = [random_path(chance)]
    if message_type in (xs_wire.XS_WATCH, xs_wire.XS_UNWATCH, xs_wire.XS_SET_PERMS, xs_wire.XS_WRITE) and chance.random() < 0.5:
        pieces = [chance.choice(["/shared", "a"])]
    if message_type == xs_wire.XS_TRANSACTION_END:
        pieces = [chance.choice("TF")]
    if message_type == xs_wire.XS_GET_DOMAIN_PATH or chance.random() < 0.05:
        pieces = [chance.choice(WORDS)]
    extra = {
        xs_wire.XS_WATCH: chance.choice([["t"], ["u"], ["t", "1"]]),
        xs_wire.XS_UNWATCH: [chance.choice("tu")],
        xs_wire.XS_SET_PERMS: [chance.choice(["n1", "b1", "r1"]), *chance.choices(["r2", "b2", "n0", "w3"], k=chance.randrange(6))],
        xs_wire.XS_DIRECTORY_PART: [str(chance.randrange(100))],
    }
    pieces += extra.get(message_type, [])
    if chance.random() < 0.1:
        pieces += [chance.choice(WORDS) for _ in range(chance.randrange(4))]
    data = "\0".join(pieces).encode("latin-1") + b"\0"
    if message_type == xs_wire.XS_WRITE:
        data += chance.randbytes(chance.choice([0, 5, 500]))
    if chance.random() < 0.05:
        data += chance.choice([b"tail", b"\0" * 50, b"x" * 3000])
    return data[: xs_wire.XENSTORE_PAYLOAD_MAX]


def populated() -> tuple[World, Store, SimulatedGuest, SimulatedGuest]:
    world = World()
    world.daemon.quotas.request_rate = 0
    store = Store(world.daemon)
    hostile, honest = world.guest(1), world.guest(2)
    restore(store)
    store.mkdir("/local/domain/2", perms=["n2"])
    store.write("/secret/key", "value")
    assert honest.write("own", "honest") == "OK"
    return world, store, hostile, honest


def restore(store: Store) -> None:
    """What the hostile guest may remove, so that it finds something to do."""
    store.mkdir("/local/domain/1", perms=["n1"])
    store.mkdir("/shared", perms=["b0"])


def assert_unharmed(world: World, store: Store, honest: SimulatedGuest) -> None:
    assert store.read("/secret/key") == "value"
    assert store.get_perms("/secret/key") == ["n0"]
    assert store.get_perms("/") == ["n0"]
    assert honest.read("own") == "honest"
    tree = world.daemon.operations.tree
    assert tree.inconsistencies() == []
    assert tree.usage_of(1).nodes <= world.daemon.quotas.nodes
    connection = world.daemon.guests[1].connection
    assert world.daemon.memory_of(connection) <= world.daemon.quotas.memory + 100_000
    assert world.daemon.watches.count(connection) <= world.daemon.quotas.watches
    assert len(connection.transactions) <= world.daemon.quotas.transactions


class Errors(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@dataclass
class Totals:
    """Of all examples: ``answers`` counts replies by type, ``pages`` rounds with a page of anything."""

    packets: int = 0
    pages: int = 0
    answers: Counter[int] = field(default_factory=Counter)


class HostileStoreGuest(RuleBasedStateMachine):
    """A guest at the store that also has others."""

    totals: ClassVar[Totals] = Totals()

    def __init__(self) -> None:
        super().__init__()
        self.errors = Errors()
        logging.getLogger().addHandler(self.errors)
        self.world, self.store, self.hostile, self.honest = populated()
        self.number = 0

    @rule()
    def restore(self) -> None:
        restore(self.store)

    @rule()
    def look(self) -> None:
        assert_unharmed(self.world, self.store, self.honest)

    def teardown(self) -> None:
        logging.getLogger().removeHandler(self.errors)
        assert_unharmed(self.world, self.store, self.honest)
        assert not [text for text in self.errors.texts if "internal error" in text]
        self.store.release_domain(1)
        tree = self.world.daemon.operations.tree
        assert tree.usage_of(1).nodes == 0
        assert tree.inconsistencies() == []


class Packets(HostileStoreGuest):
    """Every well-framed packet has exactly one reply, with its own ids; others are unharmed."""

    def __init__(self) -> None:
        super().__init__()
        self.transactions: list[int] = []

    @rule(octets=octets(61), times=st.integers(1, 12))
    def packets(self, octets: Octets, times: int) -> None:
        for _ in range(times):
            self.number += 1
            message_type = octets.choice((*range(24), 0xFFFF)) if octets.random() < 0.95 else octets.getrandbits(32)
            transaction = octets.choice((0, 0, *self.transactions[-3:])) if octets.random() < 0.95 else octets.getrandbits(32)
            self._packet(message_type, transaction, random_payload(octets, message_type))

    @rule(end=st.sampled_from("TF"))
    def end_a_transaction(self, end: str) -> None:
        if self.transactions:
            self.number += 1
            self._packet(xs_wire.XS_TRANSACTION_END, self.transactions.pop(), end.encode() + b"\0")

    def _packet(self, message_type: int, transaction: int, payload: bytes) -> None:
        note(f"{message_type} in {transaction}: {payload!r}")
        self.hostile.send(HEADER.pack(message_type, self.number, transaction, len(payload)) + payload)
        replies = self.hostile.receive()
        assert [(reply.request_id, reply.transaction_id) for reply in replies] == [(self.number, transaction)]
        (reply,) = replies
        self.totals.packets += 1
        self.totals.answers[reply.type] += 1
        if reply.type == xs_wire.XS_ERROR:
            assert reply.error in xs_wire.xsd_errors
        else:
            assert reply.type == message_type
        if reply.type == xs_wire.XS_TRANSACTION_START:
            self.transactions.append(int(reply.strings[0]))


INTERESTING = (0, 1, 2, RING - 1, RING, RING + 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


class Pages(HostileStoreGuest):
    """Anything at all in the page, at any time: the store goes on with the others, and with this one after a reconnection."""

    def _kick(self) -> None:
        self.totals.pages += 1
        self.hostile.kick()

    @rule(octets=octets(251))
    def anything(self, octets: Octets) -> None:
        self.hostile.memory[:] = octets.randbytes(PAGE_SIZE)
        self._kick()

    @rule(word=st.integers(512, 518), value=st.one_of(st.sampled_from(INTERESTING), st.integers(0, 0xFFFFFFFF)))
    def index(self, word: int, value: int) -> None:
        struct.pack_into("<I", self.hostile.memory, word * 4, value)
        self._kick()

    @rule(octets=octets(47), times=st.integers(1, 12))
    def packet_anywhere(self, octets: Octets, times: int) -> None:
        """At any place of the ring, announced as long as it is, or as anything."""
        interface = self.hostile.interface
        for _ in range(times):
            self.number += 1
            interface.req_cons = interface.req_prod = octets.getrandbits(32)
            interface.rsp_cons = interface.rsp_prod = octets.getrandbits(32)
            payload = random_payload(octets, xs_wire.XS_WRITE)
            announced = len(payload) if octets.random() < 0.9 else octets.getrandbits(32)
            self.hostile.put((HEADER.pack(octets.randrange(24), self.number, 0, announced) + payload)[:RING])
            self._kick()

    @rule()
    def reconnect(self) -> None:
        self.hostile.interface.connection = xs_wire.XENSTORE_RECONNECT
        self._kick()

    def teardown(self) -> None:
        self.reconnect()
        self.hostile.inbox.clear()
        assert self.hostile.read("/secret/key") == "EACCES"
        super().teardown()


def _explore(machine: type[HostileStoreGuest], enough: Callable[[Totals], bool]) -> tuple[Totals, int]:
    """Seed after seed. -> what was done, and with how many."""
    totals, seeds = Totals(), 0
    while not enough(totals):
        explore(type(machine.__name__, (machine,), {"totals": totals}), seed=SEED + seeds, examples=20, steps=60)
        seeds += 1
    return totals, seeds


@pytest.mark.timeout(3600 if LONG else 600)
def test_random_packets(capsys: pytest.CaptureFixture[str]) -> None:
    totals, seeds = _explore(Packets, lambda totals: totals.packets >= PACKETS)
    for_domain_0 = {number for number, command in COMMANDS.items() if command.privileged}
    assert totals.answers.keys() >= COMMANDS.keys() - for_domain_0, "every kind of request succeeds now and then"
    assert not totals.answers.keys() & for_domain_0
    if LONG:
        with capsys.disabled():
            print(f"\n{totals.packets} store packets from {seeds} seeds, {totals.answers[xs_wire.XS_ERROR]} of them answered by an error")


@pytest.mark.timeout(3600 if LONG else 600)
def test_random_pages(capsys: pytest.CaptureFixture[str]) -> None:
    totals, seeds = _explore(Pages, lambda totals: totals.pages >= PAGES)
    if LONG:
        with capsys.disabled():
            print(f"\n{totals.pages} pages of anything from {seeds} seeds")


def test_a_flood_of_watches_and_events_leaves_memory_bounded() -> None:
    world, store, hostile, honest = populated()
    for index in range(500):
        hostile.post(xs_wire.XS_WATCH, f"/shared/{index}".encode() + b"\0" + b"t" * 1500 + b"\0")
    for index in range(5000):
        honest.write(f"/shared/{index % 100}", "x")
    assert_unharmed(world, store, honest)


def test_transactions_that_are_never_ended_cost_a_bounded_amount() -> None:
    """Ten snapshots, however often the rest of the store changes, hold on to what was there at their start and no more."""
    world, store, hostile, honest = populated()
    while hostile.request(xs_wire.XS_TRANSACTION_START, payload=b"\0").type != xs_wire.XS_ERROR:
        store.write("/shared/new", "x")
    numbers = sorted(world.daemon.guests[1].connection.transactions)
    for number in numbers:
        for index in range(300):
            hostile.write(f"n{index}", "x" * 1000, number)
        transaction = world.daemon.guests[1].connection.transactions[number]
        assert transaction.tree.usage_of(1).nodes <= world.daemon.quotas.nodes
        assert transaction.accessed_nodes <= world.daemon.quotas.transaction_nodes + 1
    assert_unharmed(world, store, honest)

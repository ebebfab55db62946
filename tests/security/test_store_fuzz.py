"""Hostile guests against the store: random packets and random pages, with fixed seeds.

``PYXEN_LONG=1`` runs a hundred thousand packets and more.
"""

from __future__ import annotations

import logging
import os
import random
import struct

import pytest

from pyxen.abi.io import xs_wire
from pyxen.xenstore.requests import COMMANDS
from pyxen.xenstore.store import Store
from pyxen.xenstore.wire import HEADER
from tests.unit.xenstore.simulated_guest import PAGE_SIZE, RING, SimulatedGuest, World

LONG = os.environ.get("PYXEN_LONG") == "1"
PACKETS = 25_000 if LONG else 2_500
PAGES = 20_000 if LONG else 1_500

NAMES = ["a", "b", "c", "d" * 30]
BAD_NAMES = ["", ".", "\xff", "name with blanks", "e" * 300, "@x"]
BASES = ["", "/local/domain/1", "/local/domain/2", "/shared", "/shared", "/secret"]
BAD_BASES = ["/", "//", "@releaseDomain", "@introduceDomain", "@"]
WORDS = ["", "0", "1", "2", "4294967295", "-1", "99999999999", "n1", "b1", "r0", "n2", "x", "T", "F", "check", "quota", "token"]


def random_path(chance: random.Random) -> str:
    base = chance.choice(BAD_BASES if chance.random() < 0.1 else BASES)
    names = [chance.choice(BAD_NAMES if chance.random() < 0.03 else NAMES) for _ in range(chance.randrange(4))]
    return "/".join([base, *names]) if base else "/".join(names)


def random_payload(chance: random.Random, message_type: int) -> bytes:
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


@pytest.mark.timeout(900 if LONG else 120)
@pytest.mark.parametrize("seed", range(4))
def test_random_packets(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """Every well-framed packet has exactly one reply, with its own ids; others are unharmed."""
    caplog.set_level(logging.ERROR)
    chance = random.Random(f"packets {seed}")
    world, store, hostile, honest = populated()
    transactions: list[int] = []
    answers: dict[int, int] = {}
    for number in range(PACKETS):
        if number % 10 == 0:
            restore(store)
        message_type = chance.choice([*range(24), 0xFFFF]) if chance.random() < 0.95 else chance.getrandbits(32)
        transaction = chance.choice([0, 0, *transactions[-3:]]) if chance.random() < 0.95 else chance.getrandbits(32)
        payload = random_payload(chance, message_type)
        hostile.send(HEADER.pack(message_type, number, transaction, len(payload)) + payload)
        replies = hostile.receive()
        assert [(reply.request_id, reply.transaction_id) for reply in replies] == [(number, transaction)]
        reply = replies[0]
        answers[reply.type] = answers.get(reply.type, 0) + 1
        if reply.type == xs_wire.XS_ERROR:
            assert reply.error in xs_wire.xsd_errors
        else:
            assert reply.type == message_type
        if reply.type == xs_wire.XS_TRANSACTION_START:
            transactions.append(int(reply.strings[0]))
        if number % 500 == 0:
            assert_unharmed(world, store, honest)
    assert_unharmed(world, store, honest)
    for_domain_0 = {number for number, command in COMMANDS.items() if command.privileged}
    assert answers.keys() >= COMMANDS.keys() - for_domain_0, "every kind of request succeeds now and then"
    assert not answers.keys() & for_domain_0
    assert "internal error" not in caplog.text
    store.release_domain(1)
    assert world.daemon.operations.tree.usage_of(1).nodes == 0
    assert world.daemon.operations.tree.inconsistencies() == []


@pytest.mark.timeout(900 if LONG else 120)
@pytest.mark.parametrize("seed", range(4))
def test_random_pages(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """Anything at all in the page, at any time: the store goes on with the others, and with this one after a reconnection."""
    caplog.set_level(logging.ERROR)
    chance = random.Random(f"pages {seed}")
    world, store, hostile, honest = populated()
    interesting = [0, 1, 2, RING - 1, RING, RING + 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
    for number in range(PAGES):
        style = chance.random()
        if style < 0.2:
            hostile.memory[:] = chance.randbytes(PAGE_SIZE)
        elif style < 0.6:
            word = chance.randrange(512, 519)
            struct.pack_into("<I", hostile.memory, word * 4, chance.choice(interesting))
        elif style < 0.9:
            hostile.interface.req_cons = hostile.interface.req_prod = chance.getrandbits(32)
            hostile.interface.rsp_cons = hostile.interface.rsp_prod = chance.getrandbits(32)
            payload = random_payload(chance, xs_wire.XS_WRITE)
            announced = len(payload) if chance.random() < 0.9 else chance.getrandbits(32)
            hostile.put((HEADER.pack(chance.randrange(24), number, 0, announced) + payload)[:RING])
        else:
            hostile.interface.connection = xs_wire.XENSTORE_RECONNECT
        hostile.kick()
        if number % 250 == 0:
            assert_unharmed(world, store, honest)
    assert_unharmed(world, store, honest)
    assert "internal error" not in caplog.text
    hostile.interface.connection = xs_wire.XENSTORE_RECONNECT
    hostile.kick()
    hostile.inbox.clear()
    assert hostile.read("/secret/key") == "EACCES"


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

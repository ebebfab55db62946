"""Random contents of the rings that guests share with backends: console and disk (the store's are in test_store_fuzz.py).

The seeds are fixed. PYXEN_LONG=1 takes many more, from a base that PYXEN_SEED names.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import struct
from pathlib import Path

import pytest

from pyxen.backends.console_ring import ConsoleRing, ConsoleRingError
from tests.unit.backends.block_guest import DATA_PFN, DATA_REFERENCE, INDIRECT_PFN, INDIRECT_REFERENCE, SLOT, World, block_world, until
from tests.unit.hypervisor import invariants
from tests.unit.hypervisor.machine import new_machine

LONG = os.environ.get("PYXEN_LONG") == "1"
SEED = int(os.environ.get("PYXEN_SEED", "1"))
CONSOLE_PAGES = 200_000 if LONG else 5_000
DISK_TURNS = 5_000 if LONG else 60
EDGES = (0, 1, 2, 2047, 2048, 2049, 1 << 31, (1 << 32) - 1, (1 << 32) - 2048)


def test_console_rings() -> None:
    """Whatever the four indexes and the rest of the page are: the backend takes no more than it asked for, puts no more than there is room
    for, and touches nothing beside the page."""
    dice = random.Random(SEED)
    memory = bytearray(3 * 4096)
    page = memoryview(memory)[4096:8192]
    ring = ConsoleRing(page)
    refused = moved = 0
    for _ in range(CONSOLE_PAGES):
        if dice.random() < 0.1:
            page[:] = dice.randbytes(4096)
        base = dice.choice((*EDGES, dice.getrandbits(32)))
        near = [(base + dice.choice((0, 1, 100, 1024, 2048, dice.randrange(2048)))) & 0xFFFFFFFF for _ in range(4)]
        indexes = near if dice.random() < 0.8 else [dice.choice((*EDGES, dice.getrandbits(32))) for _ in range(4)]
        page[3072:3088] = struct.pack("<4I", *indexes)
        limit = dice.choice((0, 1, 100, 2048, 5000))
        try:
            taken = ring.take_output(limit)
            assert len(taken) <= min(limit, 2048)
            put = ring.put_input(bytes(dice.choice((0, 1, 1000, 3000))))
            assert 0 <= put <= 1024
            moved += len(taken) + put
        except ConsoleRingError:
            refused += 1
    assert not any(memory[:4096]) and not any(memory[8192:])
    assert refused > CONSOLE_PAGES // 20 and moved > CONSOLE_PAGES


def random_request(dice: random.Random) -> bytes:
    """Mostly the fields of a request, each with a value that could be meant."""
    if dice.random() < 0.1:
        return dice.randbytes(SLOT)
    references = (*range(DATA_REFERENCE, DATA_REFERENCE + 18), INDIRECT_REFERENCE, 0, 1, 0xFFFFFFFF)
    operation = dice.choice((0, 0, 0, 1, 1, 1, 2, 3, 4, 5, 6, 6, dice.randrange(256)))
    sector = dice.choice((0, 8, 100, 2047, 2048, 1 << 40, (1 << 64) - 1, dice.randrange(2048)))
    if operation == 6:
        pages = [dice.choice((INDIRECT_REFERENCE, dice.choice(references))) for _ in range(8)]
        count = dice.choice((0, 1, 8, 11, 200, 256, 257, 65535))
        return struct.pack(
            "<BBHxxxxQQHxx8I", 6, dice.choice((0, 1, 1, 6, 9)), count, dice.getrandbits(64), sector, dice.getrandbits(16), *pages
        )
    if operation == 5:
        return struct.pack("<BBHxxxxQQQ", 5, dice.getrandbits(8), 0, dice.getrandbits(64), sector, dice.choice((0, 8, 1 << 63, 2048)))
    segments = [(dice.choice(references), dice.choice((0, 0, 0, 7, 8, 255)), dice.choice((7, 7, 7, 0, 6, 8, 255))) for _ in range(11)]
    head = struct.pack("<BBHxxxxQQ", operation, dice.choice((0, 1, 2, 11, 12, 255)), dice.getrandbits(16), dice.getrandbits(64), sector)
    return head + b"".join(struct.pack("<IBBxx", *segment) for segment in segments)


async def flood(world: World, dice: random.Random) -> None:
    """As many requests at once as the ring has room for, each of which must be answered once; the guest's pages change meanwhile."""
    await world.attach(world.image())
    frontend = world.frontend
    await frontend.connect()
    answers: dict[int, int] = {}
    for _ in range(DISK_TURNS):
        count = dice.randrange(1, frontend.slots + 1)
        for _ in range(count):
            frontend.put(random_request(dice).ljust(SLOT, b"\0"))
        entries = (dice.choice((DATA_REFERENCE, DATA_REFERENCE + dice.randrange(20), dice.getrandbits(32))) for _ in range(512))
        frontend.poke(INDIRECT_PFN, 0, b"".join(struct.pack("<IBBxx", entry, dice.randrange(9), dice.randrange(9)) for entry in entries))
        frontend.kick()
        frontend.poke(DATA_PFN, 0, dice.randbytes(64))
        for _, _, status in await frontend.responses(count):
            answers[status] = answers.get(status, 0) + 1
    assert frontend.backend_state() == "4"
    assert answers.get(0, 0) > DISK_TURNS and answers.get(-1, 0) > DISK_TURNS, answers


@pytest.mark.timeout(3600 if LONG else 120)
def test_disk_rings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    machine = new_machine()

    async def main() -> None:
        async with block_world(machine, tmp_path) as world:
            await flood(world, random.Random(SEED))

    try:
        with caplog.at_level(logging.ERROR):
            asyncio.run(main())
        assert not caplog.records, caplog.text
        assert (tmp_path / "disk.img").stat().st_size == 1 << 20
        invariants.check(machine)
    finally:
        machine.close()


@pytest.mark.timeout(120)
def test_producers_of_disk_rings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Random indexes: the device closes with an error, or what is there is answered; a new connection works."""
    machine, dice = new_machine(), random.Random(SEED)

    async def main() -> None:
        for number in range(20 if LONG else 5):
            async with block_world(machine, tmp_path) as world:
                await world.attach(world.image(name=f"{number}.img"))
                await world.frontend.connect()
                world.frontend.producer = dice.choice((33, 1 << 31, (1 << 32) - 1, dice.randrange(33, 1 << 32)))
                world.frontend.kick()
                await until(lambda world=world: world.frontend.backend_state() != "4")

    try:
        with caplog.at_level(logging.ERROR):
            asyncio.run(main())
        assert not caplog.records, caplog.text
        invariants.check(machine)
    finally:
        machine.close()

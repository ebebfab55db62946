"""Random contents of the rings that guests share with backends: console, disk and network (the store's are in test_store_fuzz.py).

Hypervisor, store and backends are the real ones; the frontends are hypothesis's. The seeds are fixed. PYXEN_LONG=1 takes many more, from a
base that PYXEN_SEED names.
"""

from __future__ import annotations

import asyncio
import logging
import os
import struct
import tempfile
from abc import abstractmethod
from collections import Counter
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pyxen.backends.console_ring import ConsoleRing, ConsoleRingError
from tests.security.campaign import LONG, SEED, explore
from tests.security.octets import Octets, octets
from tests.security.test_store_fuzz import Errors
from tests.unit.backends import block_guest, network_guest
from tests.unit.backends.block_guest import DATA_PFN, DATA_REFERENCE, INDIRECT_PFN, INDIRECT_REFERENCE, SLOT, until
from tests.unit.hypervisor import invariants
from tests.unit.hypervisor.machine import new_machine

SEEDS = int(os.environ.get("PYXEN_SEEDS", "60" if LONG else "2"))
EDGES = (0, 1, 2, 2047, 2048, 2049, 1 << 31, (1 << 32) - 1, (1 << 32) - 2048)
INDEX = st.one_of(st.sampled_from(EDGES), st.integers(0, (1 << 32) - 1))


class ConsoleRings(RuleBasedStateMachine):
    """Whatever the four indexes and the rest of the page are: the backend takes no more than it asked for, puts no more than there is room
    for, and touches nothing beside the page."""

    done: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.memory = bytearray(3 * 4096)
        self.page = memoryview(self.memory)[4096:8192]
        self.ring = ConsoleRing(self.page)

    @rule(octets=octets(97))
    def fill(self, octets: Octets) -> None:
        self.page[:] = octets.randbytes(4096)

    @rule(indexes=st.tuples(INDEX, INDEX, INDEX, INDEX))
    def anywhere(self, indexes: tuple[int, ...]) -> None:
        self.page[3072:3088] = struct.pack("<4I", *indexes)
        self._use(2048)

    @rule(base=INDEX, distances=st.tuples(*[st.integers(0, 2048)] * 4), limit=st.sampled_from((0, 1, 100, 2048, 5000)))
    def near_each_other(self, base: int, distances: tuple[int, ...], limit: int) -> None:
        self.page[3072:3088] = struct.pack("<4I", *(base + distance & 0xFFFFFFFF for distance in distances))
        self._use(limit)

    def _use(self, limit: int) -> None:
        try:
            taken = self.ring.take_output(limit)
            assert len(taken) <= min(limit, 2048)
            for size in (0, 1, 1000, 3000):
                put = self.ring.put_input(bytes(size))
                assert 0 <= put <= min(size, 1024)
                self.done["moved"] += len(taken) + put
        except ConsoleRingError:
            self.done["refused"] += 1
        self.done["pages"] += 1

    @invariant()
    def nothing_beside_the_page_is_touched(self) -> None:
        assert not any(self.memory[:4096]) and not any(self.memory[8192:])


class Backend(RuleBasedStateMachine):
    """A machine with a backend in an event loop of its own. Nothing may be logged as an error, and at the end nothing of the guest's may be
    held."""

    done: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.errors = Errors()
        logging.getLogger().addHandler(self.errors)
        self.machine = new_machine()
        self.loop = asyncio.new_event_loop()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def _enter(self, context: AbstractAsyncContextManager[Any]) -> Any:
        async def enter() -> Any:
            return await context.__aenter__()

        self.context = context
        return self._run(enter())

    @abstractmethod
    def _plug(self) -> None:
        """Attach the device, and connect its frontend."""

    @abstractmethod
    def _unplug(self) -> None:
        """Detach it."""

    @abstractmethod
    def _is_connected(self) -> bool: ...

    @rule(sure=st.integers(0, 5))
    def plug_again(self, sure: int) -> None:
        """A device that was closed; of six times once one in use."""
        if not sure or not self._is_connected():
            self._unplug()
            self._plug()
            self.done["plugged again"] += 1

    def teardown(self) -> None:
        try:
            self._run(self.context.__aexit__(None, None, None))
            assert not self.errors.texts, self.errors.texts
            invariants.check(self.machine)
        finally:
            logging.getLogger().removeHandler(self.errors)
            self.loop.close()
            self.machine.close()


def random_request(dice: Octets) -> bytes:
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


class DiskRings(Backend):
    """Every request is answered once, whatever it says and however the guest's pages change meanwhile; impossible indexes close the
    device."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="pyxen-fuzz-")
        self.world = self._enter(block_guest.block_world(self.machine, Path(self.folder.name)))
        self.image = self.world.image()
        self._plug()

    def _plug(self) -> None:
        self._run(self.world.attach(self.image))
        self._run(self.world.frontend.connect())

    def _unplug(self) -> None:
        self._run(self.world.disks.remove_all(self.world.guest.domid))

    def _is_connected(self) -> bool:
        return bool(self.world.frontend.backend_state() == "4")

    @precondition(_is_connected)
    @rule(octets=octets(251), count=st.integers(1, 32))
    def requests(self, octets: Octets, count: int) -> None:
        """As many at once as the ring has room for."""
        frontend = self.world.frontend
        for _ in range(count):
            frontend.put(random_request(octets).ljust(SLOT, b"\0"))
        entries = (octets.choice((DATA_REFERENCE, DATA_REFERENCE + octets.randrange(20), octets.getrandbits(32))) for _ in range(512))
        frontend.poke(
            INDIRECT_PFN, 0, b"".join(struct.pack("<IBBxx", entry, octets.randrange(9), octets.randrange(9)) for entry in entries)
        )
        frontend.kick()
        frontend.poke(DATA_PFN, 0, octets.randbytes(64))
        for _, _, status in self._run(frontend.responses(count)):
            self.done[f"status {status}"] += 1
        self.done["requests"] += count

    @precondition(_is_connected)
    @rule(sure=st.integers(0, 9), distance=st.one_of(st.sampled_from((33, 1 << 31, (1 << 32) - 1)), st.integers(33, (1 << 32) - 1)))
    def producer(self, sure: int, distance: int) -> None:
        """Further than the ring is long; of ten times once, as it ends the connection."""
        if sure:
            return
        frontend = self.world.frontend
        frontend.producer += distance
        frontend.kick()
        self._run(until(lambda: not self._is_connected()))
        self.done["closed"] += 1

    def teardown(self) -> None:
        try:
            super().teardown()
            assert self.image.stat().st_size == 1 << 20
        finally:
            self.folder.cleanup()


class NetworkRings(Backend):
    """Slots of anything in the transmit ring, buffers of anything in the receive ring: the backend goes on or closes this device, and an
    honest frontend beside it can send at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.world = self._enter(network_guest.network_world(self.machine))
        self._run(self.world.connect())
        self.world.second.offer(8)

    def _plug(self) -> None:
        self._run(self.world.attach())
        self._run(self.world.first.connect())

    def _unplug(self) -> None:
        self._run(self.world.interfaces.remove_all(self.world.first.guest.domid))

    def _is_connected(self) -> bool:
        return bool(self.world.first.backend_state() == "4")

    async def _settle(self) -> None:
        """Long enough for the backend to have looked at what there is."""
        for _ in range(5):
            await asyncio.sleep(0.001)

    def _slot(self, octets: Octets) -> bytes:
        kind = octets.randrange(60)
        if kind == 59:
            return octets.randbytes(12)
        if kind > 55:
            return octets.choice(
                (network_guest.gso(octets.getrandbits(16), octets.choice((1, 2, 0))), network_guest.extra(octets.randrange(4)))
            )
        size = octets.choice((60, 60, 14, 13, 1514, 100, 1, 0))
        flags = octets.choice((*[0] * 60, 4, 4, 8, 2, 1))
        offset = octets.choice((0, 0, 8, 2048))
        if octets.random() < 0.02:
            size, flags, offset = octets.choice((4096, 4097, 65535)), octets.getrandbits(16), octets.choice((0, 4095, 4096, 65535))
        return network_guest.request(octets.randrange(20), size, flags, offset, octets.getrandbits(16))

    @precondition(_is_connected)
    @rule(octets=octets(127), count=st.integers(1, 60))
    def transmit(self, octets: Octets, count: int) -> None:
        first = self.world.first
        for _ in range(count):
            first.put(self._slot(octets))
        first.kick()
        first.poke(DATA_PFN, 0, octets.randbytes(64))
        self._run(self._settle())
        produced = first.number(network_guest.TX_PFN, 8)
        assert produced - first.tx_consumer & 0xFFFFFFFF <= 256
        self.done["slots"] += count
        self.done["answered"] += produced - first.tx_consumer & 0xFFFFFFFF
        first.tx_consumer = produced

    @precondition(_is_connected)
    @rule(octets=octets(61), count=st.integers(1, 60))
    def receive(self, octets: Octets, count: int) -> None:
        """Buffers that are there or not, and frames for them."""
        first, second = self.world.first, self.world.second
        for _ in range(count):
            reference = network_guest.DATA_REFERENCE + octets.choice((8, octets.randrange(20), 1 << 16))
            slot = struct.pack("<HHI", octets.getrandbits(16), octets.getrandbits(16), reference)
            first.poke(network_guest.RX_PFN, 64 + first.rx_producer % network_guest.SLOTS * 8, slot)
            first.rx_producer += 1
        first.kick()
        for _ in range(3):
            status = self._run(second.send(b"\xff" * 6 + bytes(range(100))))
            assert status == 0, "the honest frontend can't send"
            self.done["frames of the honest one"] += 1

    @precondition(_is_connected)
    @rule(sure=st.integers(0, 9), tx=INDEX, rx=INDEX)
    def producers(self, sure: int, tx: int, rx: int) -> None:
        """Anywhere; of ten times once, as it ends the connection or leaves the rings out of step."""
        if sure:
            return
        first = self.world.first
        note(f"producers {tx:#x} and {rx:#x}")
        first.tx_producer, first.rx_producer = tx, rx
        first.kick()
        self._run(self._settle())
        self.done["closed" if not self._is_connected() else "goes on"] += 1


def _explore(machine: type[RuleBasedStateMachine], examples: int, steps: int) -> Counter[str]:
    done: Counter[str] = Counter()
    for seed in range(SEED, SEED + SEEDS):
        explore(type(machine.__name__, (machine,), {"done": done}), seed=seed, examples=examples, steps=steps)
    return done


@pytest.mark.timeout(3600 if LONG else 600)
@pytest.mark.parametrize(("machine", "examples", "steps"), [(ConsoleRings, 60, 60), (DiskRings, 8, 30), (NetworkRings, 8, 30)])
def test_rings(machine: type[RuleBasedStateMachine], examples: int, steps: int, capsys: pytest.CaptureFixture[str]) -> None:
    done = _explore(machine, examples, steps)
    with capsys.disabled():
        print(f"\n{machine.__name__}: {dict(done)}")
    if machine is ConsoleRings:
        assert done["refused"] > done["pages"] // 20 and done["moved"] > done["pages"]
    elif machine is DiskRings:
        assert min(done["status 0"], done["status -1"]) > done["requests"] // 20 and done["closed"]
    else:
        assert done["answered"] > done["slots"] // 10 and done["frames of the honest one"] and done["closed"]

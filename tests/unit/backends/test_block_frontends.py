"""The block backend against frontends that break the protocol, come back, or go away."""

from __future__ import annotations

import asyncio
import random
import struct
import threading
from collections.abc import Sequence

import pytest

from pyxen.abi.io.blkif import (
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
)
from pyxen.backends.block_image import BlockImage
from pyxen.toolstack.devices import device_entries
from pyxen.toolstack.errors import ToolstackError
from tests.unit.backends.block_guest import (
    DATA_PFN,
    DATA_REFERENCE,
    ERROR,
    OKAY,
    RING_REFERENCE,
    SLOT,
    Play,
    World,
    connected,
    data_segments,
    plain,
)


@pytest.fixture(params=["pv", "pvh"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("distance", [33, 1 << 31, -1])
def test_runaway_producer_closes_the_device(play: Play, distance: int) -> None:
    async def scenario(world: World) -> None:
        frontend = world.frontend
        frontend.producer += distance
        frontend.kick()
        await frontend.backend_reaches(5)
        assert "run away" in world.store.read(frontend.error)
        assert len(world.hypervisor.domain(0).maptrack) == 0
        frontend.switch(6)
        await frontend.backend_reaches(6)
        # A frontend that starts anew is served again.
        frontend.switch(1)
        await frontend.connect()
        assert await frontend.request(plain(BLKIF_OP_READ, 0, data_segments(1))) == OKAY

    play(connected(scenario))


def test_producer_that_goes_back_behind_what_was_taken(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, reached = threading.Event(), threading.Event()

    def slow_read(image: BlockImage, buffers: Sequence[memoryview], offset: int) -> None:
        reached.set()
        assert gate.wait(20)

    async def scenario(world: World) -> None:
        frontend = world.frontend
        world.serve_nothing_at_once(monkeypatch)
        monkeypatch.setattr(BlockImage, "read", slow_read)
        for _ in range(4):
            frontend.put(plain(BLKIF_OP_READ, 0, data_segments(1)))
        frontend.kick()
        await asyncio.to_thread(reached.wait, 20)
        frontend.producer = 2
        frontend.kick()
        gate.set()
        await frontend.backend_reaches(5)
        assert "has run away" in world.store.read(frontend.error)

    play(connected(scenario))


@pytest.mark.parametrize(
    "entries",
    [
        {"ring_ref": "nonsense"},
        {"ring_ref": ""},
        {"ring_ref": RING_REFERENCE + 50},
        {"ring_ref": 1 << 32},
        {"ring_ref": -1},
        {"event_channel": 1000},
        {"event_channel": "x" * 3000},
        {"protocol": "arm-abi"},
        {"ring_page_order": 5},
        {"ring_page_order": 2},
        {"multi_queue_num_queues": 0},
        {"multi_queue_num_queues": 5},
        {"multi_queue_num_queues": 2},
        {"feature_persistent": 2},
    ],
)
def test_nonsense_of_a_frontend_closes_the_device(play: Play, entries: dict[str, object]) -> None:
    async def scenario(world: World) -> None:
        await world.attach(world.image())
        frontend = world.frontend
        await frontend.backend_reaches(2)
        frontend.prepare(**entries)  # type: ignore[arg-type]
        frontend.switch(3)
        await frontend.backend_reaches(5)
        assert world.store.read(frontend.error)
        assert len(world.hypervisor.domain(0).maptrack) == 0

    play(scenario)


def test_states_in_any_order_do_no_harm(play: Play) -> None:
    chance = random.Random(4)

    async def scenario(world: World) -> None:
        await world.attach(world.image())
        frontend = world.frontend
        await frontend.backend_reaches(2)
        for _ in range(60):
            frontend.prepare(feature_persistent=chance.randrange(2))
            for _ in range(chance.randrange(1, 4)):
                frontend.switch(chance.choice([*range(10), 77, "", "x", "-1", "9" * 40]))
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
        frontend.switch(6)
        await frontend.backend_reaches(6)
        assert len(world.hypervisor.domain(0).maptrack) == 0
        frontend.switch(1)
        await frontend.connect()
        assert await frontend.request(plain(BLKIF_OP_READ, 0, data_segments(1))) == OKAY

    play(scenario)


def test_frontend_that_starts_anew_without_closing(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.frontend.switch(1)
        await world.frontend.connect(feature_persistent=1)
        assert await world.frontend.request(plain(BLKIF_OP_READ, 0, data_segments(1))) == OKAY

    play(connected(scenario))


def test_detach_and_forced_detach(play: Play) -> None:
    async def scenario(world: World) -> None:
        frontend = world.frontend
        removal = asyncio.create_task(world.disks.detach(world.guest.domid, "xvda", force=False))
        await frontend.backend_reaches(5)
        assert world.store.read(f"{frontend.backend}/online") == "0"
        frontend.switch(5)
        frontend.switch(6)
        await removal
        assert not world.store.exists(f"/local/domain/0/backend/vbd/{world.guest.domid}")
        assert not world.store.exists(f"/libxl/{world.guest.domid}/device/vbd")
        await world.attach(world.folder / "disk.img")
        await frontend.connect()
        await world.disks.detach(world.guest.domid, "51712", force=True)
        assert len(world.hypervisor.domain(0).maptrack) == 0

    play(connected(scenario))


def test_guest_that_does_not_give_a_disk_back(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(device_entries, "TIMEOUT", 0.2)
            with pytest.raises(ToolstackError, match="did not give the device back"):
                await world.disks.detach(world.guest.domid, "xvda", force=False)
        assert await world.frontend.request(plain(BLKIF_OP_READ, 0, data_segments(1))) == OKAY
        world.frontend.switch(6)
        await world.frontend.backend_reaches(6)
        await world.disks.detach(world.guest.domid, "xvda", force=False)
        assert world.disks.attached(world.guest.domid) == []

    play(connected(scenario))


def test_random_garbage_in_the_ring(play: Play) -> None:
    """Every request that the ring can hold is answered, whatever it says, or the device is closed; the host lives."""
    chance = random.Random(20)

    async def scenario(world: World) -> None:
        frontend = world.frontend
        for _ in range(150):
            count = chance.randrange(1, 33)
            for _ in range(count):
                slot = bytearray(chance.randbytes(SLOT))
                if chance.random() < 0.8:
                    slot[0] = chance.randrange(8)
                    slot[1] = chance.choice([0, 1, 6, 11, 12])
                    slot[16:24] = struct.pack("<Q", chance.choice([0, 5, 2047, 2048, 1 << 63]))
                    slot[24:32] = struct.pack("<IBBxx", DATA_REFERENCE + chance.randrange(18), chance.randrange(9), chance.randrange(9))
                frontend.put(bytes(slot))
            frontend.kick()
            assert len(await frontend.responses(count)) == count
        assert await frontend.request(plain(BLKIF_OP_READ, 0, data_segments(1))) == OKAY

    play(connected(scenario, feature_persistent=1))


@pytest.mark.parametrize("persistent", [0, 1])
def test_grants_revoked_in_flight(play: Play, monkeypatch: pytest.MonkeyPatch, persistent: int) -> None:
    """What is mapped stays the backend's until it has answered; what it has not mapped yet, it does not get."""
    gate, reached = threading.Event(), threading.Event()
    read = BlockImage.read

    def slow_read(image: BlockImage, buffers: Sequence[memoryview], offset: int) -> None:
        reached.set()
        assert gate.wait(20)
        read(image, buffers, offset)

    async def scenario(world: World) -> None:
        frontend = world.frontend
        world.serve_nothing_at_once(monkeypatch)
        monkeypatch.setattr(BlockImage, "read", slow_read)
        frontend.put(plain(BLKIF_OP_READ, 0, data_segments(1)))
        frontend.kick()
        await asyncio.to_thread(reached.wait, 20)
        world.guest.set_entry(DATA_REFERENCE, 0, 0)
        gate.set()
        assert (await frontend.responses(1))[0][2] == OKAY
        assert frontend.peek(DATA_PFN, 0, 4096) == (world.folder / "disk.img").read_bytes()[:4096]
        # A persistent grant is mapped for good, whatever its entry says now.
        assert await frontend.request(plain(BLKIF_OP_READ, 0, data_segments(1))) == (OKAY if persistent else ERROR)
        world.guest.set_entry(DATA_REFERENCE + 1, 0, 0)
        assert await frontend.request(plain(BLKIF_OP_READ, 0, data_segments(2))) == ERROR
        assert await frontend.request(plain(BLKIF_OP_READ, 0, [(DATA_REFERENCE + 2, 0, 7)])) == OKAY

    play(connected(scenario, feature_persistent=persistent))


def test_guest_destroyed_with_requests_in_flight(play: Play) -> None:
    async def scenario(world: World) -> None:
        for _ in range(32):
            world.frontend.put(plain(BLKIF_OP_WRITE, 0, data_segments(11)))
        world.frontend.kick()
        await asyncio.sleep(0)
        await world.disks.remove_all(world.guest.domid)
        assert len(world.hypervisor.domain(0).maptrack) == 0

    play(connected(scenario))

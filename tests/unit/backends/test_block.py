"""The block backend against a frontend that the test plays: every operation, and everything that a frontend can do wrong."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import random
import struct
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest

from pyxen.abi import grant_table as grants
from pyxen.abi.io.blkif import (
    BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER,
    BLKIF_RSP_EOPNOTSUPP,
    BLKIF_RSP_ERROR,
    BLKIF_RSP_OKAY,
)
from pyxen.backends import block_image, block_request
from pyxen.backends.block import BlockDevice
from pyxen.backends.block_image import BlockImage
from pyxen.hypervisor.hypervisor import Hypervisor
from pyxen.toolstack.configuration.disk import DiskSpecification
from pyxen.toolstack.devices import device_entries
from pyxen.toolstack.errors import ToolstackError
from tests.unit.backends.block_guest import (
    DATA_PFN,
    DATA_REFERENCE,
    DEVID,
    INDIRECT_PFN,
    INDIRECT_REFERENCE,
    RING_REFERENCE,
    SLOT,
    World,
    block_world,
    data_segments,
    discard,
    indirect,
    plain,
    until,
)
from tests.unit.hypervisor import invariants
from tests.unit.hypervisor.machine import new_machine

OKAY, ERROR, NOT_SUPPORTED = BLKIF_RSP_OKAY, BLKIF_RSP_ERROR, BLKIF_RSP_EOPNOTSUPP
Scenario = Callable[[World], Awaitable[None]]


@pytest.fixture(scope="module")
def hypervisor() -> Iterator[Hypervisor]:
    hypervisor = new_machine()
    yield hypervisor
    invariants.check(hypervisor)
    hypervisor.close()


@pytest.fixture
def play(hypervisor: Hypervisor, tmp_path: Path) -> Callable[[Scenario], None]:
    async def main(scenario: Scenario) -> None:
        gc.collect()  # what other tests left to the collector does not count
        before = len(os.listdir("/proc/self/fd"))
        async with block_world(hypervisor, tmp_path) as world:
            await scenario(world)
        assert len(os.listdir("/proc/self/fd")) == before

    return lambda scenario: asyncio.run(asyncio.wait_for(main(scenario), 60))


def connected(scenario: Scenario, **entries: object) -> Scenario:
    """With a disk of 1 MiB, attached and connected."""

    async def run(world: World) -> None:
        await world.attach(world.image())
        await world.frontend.connect(**entries)
        await scenario(world)

    return run


@pytest.mark.parametrize("persistent", [0, 1])
def test_reading_and_writing(play: Callable[[Scenario], None], persistent: int) -> None:
    async def scenario(world: World) -> None:
        frontend, image = world.frontend, world.folder / "disk.img"
        content = image.read_bytes()
        assert await frontend.request(plain(BLKIF_OP_READ, 3, [(DATA_REFERENCE, 1, 2), (DATA_REFERENCE + 1, 0, 7)])) == OKAY
        assert frontend.peek(DATA_PFN, 0, 4096) == bytes(512) + content[3 * 512 : 5 * 512] + bytes(4096 - 1536)
        assert frontend.peek(DATA_PFN + 1, 0, 4096) == content[5 * 512 : 13 * 512]
        frontend.poke(DATA_PFN + 2, 512, b"x" * 512)
        assert await frontend.request(plain(BLKIF_OP_WRITE, 2047, [(DATA_REFERENCE + 2, 1, 1)])) == OKAY
        assert await frontend.request(plain(BLKIF_OP_FLUSH_DISKCACHE, 0, [])) == OKAY
        assert image.read_bytes() == content[:-512] + b"x" * 512
        device = world.bus.find(world.guest.domid, DEVID)
        assert isinstance(device, BlockDevice)
        counted = device.statistics
        assert (counted.reads, counted.read_sectors, counted.writes, counted.written_sectors) == (1, 10, 1, 1)

    play(connected(scenario, feature_persistent=persistent))


def test_writes_need_only_read_access_to_the_page(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World) -> None:
        world.guest.grant(DATA_REFERENCE, 0, DATA_PFN, grants.GTF_permit_access | grants.GTF_readonly)
        assert await world.frontend.request(plain(BLKIF_OP_WRITE, 0, data_segments(1))) == OKAY
        assert await world.frontend.request(plain(BLKIF_OP_READ, 0, data_segments(1))) == ERROR

    play(connected(scenario))


@pytest.mark.parametrize("pages", [1, 2, 4])
def test_rings_of_several_pages_go_round(play: Callable[[Scenario], None], pages: int) -> None:
    async def scenario(world: World) -> None:
        await world.attach(world.image())
        await world.frontend.connect(pages=pages)
        slots = world.frontend.slots
        for round_ in range(3):
            for index in range(slots):
                world.frontend.put(plain(BLKIF_OP_READ, index % 100, data_segments(1), request_id=round_ << 32 | index))
            world.frontend.kick()
            answers = await world.frontend.responses(slots)
            assert sorted(answers) == [(round_ << 32 | index, BLKIF_OP_READ, OKAY) for index in range(slots)]

    play(scenario)


def test_indices_wrap(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World) -> None:
        await world.attach(world.image())
        frontend = world.frontend
        await frontend.backend_reaches(2)
        frontend.prepare()
        start = 0xFFFFFFF0
        frontend.producer = frontend.consumer = start
        frontend.poke(20, 0, struct.pack("<IIII", start, start + 1, start, start + 1))
        frontend.switch(3)
        await frontend.backend_reaches(4)
        for _ in range(40):
            assert await frontend.request(plain(BLKIF_OP_READ, 0, data_segments(1))) == OKAY

    play(scenario)


def test_indirect_segments(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World) -> None:
        frontend, image = world.frontend, world.folder / "disk.img"
        descriptors = b"".join(struct.pack("<IBBxx", *segment) for segment in data_segments(16))
        frontend.poke(INDIRECT_PFN, 0, descriptors)
        frontend.put(indirect(BLKIF_OP_READ, 8, 16))
        frontend.kick()
        assert await frontend.responses(1) == [(7, BLKIF_OP_READ, OKAY)]
        assert frontend.peek(DATA_PFN + 15, 0, 4096) == image.read_bytes()[16 * 4096 : 17 * 4096]
        for bad in (
            indirect(BLKIF_OP_READ, 8, 0),
            indirect(BLKIF_OP_READ, 8, 257),
            indirect(BLKIF_OP_READ, 8, 17),  # the page's next descriptor is zeroes: reference 0
            indirect(BLKIF_OP_READ, 8, 16, INDIRECT_REFERENCE + 1),
            indirect(BLKIF_OP_READ, 8, 16, 0xFFFFFFFF),
            indirect(BLKIF_OP_READ, 2040, 16),
            indirect(BLKIF_OP_FLUSH_DISKCACHE, 8, 16),
            indirect(6, 8, 16),
        ):
            assert await frontend.request(bad) == ERROR

    play(connected(scenario))


def test_discarded_sectors_read_as_zeroes(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World) -> None:
        image = world.folder / "disk.img"
        assert world.store.read(f"{world.frontend.backend}/feature-discard") == "1"
        before = image.read_bytes()
        status = await world.frontend.request(discard(8, 16))
        assert status in (OKAY, NOT_SUPPORTED)
        if status == OKAY:
            assert image.read_bytes() == before[:4096] + bytes(8192) + before[12288:]
        assert await world.frontend.request(discard(2040, 9)) == ERROR
        assert await world.frontend.request(discard((1 << 64) - 1, (1 << 64) - 1)) == ERROR

    play(connected(scenario))


def test_barrier_waits_for_all_before_and_holds_up_all_after(play: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    for name in ("read", "write", "flush"):
        original = getattr(block_image.BlockImage, name)

        def recording(self: object, *arguments: object, _name: str = name, _original: Callable[..., None] = original) -> None:
            log.append(_name)
            _original(self, *arguments)
            log.append(f"{_name} done")

        monkeypatch.setattr(block_image.BlockImage, name, recording)

    async def scenario(world: World) -> None:
        for operation in [BLKIF_OP_READ] * 6 + [BLKIF_OP_WRITE_BARRIER] + [BLKIF_OP_READ] * 6:
            world.frontend.put(plain(operation, 0, data_segments(1)))
        world.frontend.kick()
        answers = await world.frontend.responses(13)
        assert [operation for _, operation, _ in answers] == [0] * 6 + [BLKIF_OP_WRITE_BARRIER] + [0] * 6
        barrier = log.index("flush")
        assert log[:barrier].count("read done") == 6
        assert log[barrier : barrier + 6] == ["flush", "flush done", "write", "write done", "flush", "flush done"]

    play(connected(scenario))


@pytest.mark.parametrize(
    "slot",
    [
        plain(BLKIF_OP_READ, 0, []),
        plain(BLKIF_OP_READ, 0, data_segments(11), count=12),
        plain(BLKIF_OP_READ, 0, data_segments(11), count=255),
        plain(BLKIF_OP_READ, 0, [(DATA_REFERENCE, 5, 4)]),
        plain(BLKIF_OP_READ, 0, [(DATA_REFERENCE, 0, 8)]),
        plain(BLKIF_OP_READ, 0, [(DATA_REFERENCE, 255, 255)]),
        plain(BLKIF_OP_READ, 2048, data_segments(1)),
        plain(BLKIF_OP_READ, 2041, data_segments(1)),
        plain(BLKIF_OP_WRITE, (1 << 64) - 1, data_segments(2)),
        plain(BLKIF_OP_READ, 0, [(0xFFFFFFFF, 0, 7)]),
        plain(BLKIF_OP_READ, 0, [(DATA_REFERENCE + 50, 0, 7)]),
        plain(BLKIF_OP_READ, 0, [*data_segments(2), (DATA_REFERENCE + 50, 0, 7)]),
    ],
)
@pytest.mark.parametrize("persistent", [0, 1])
def test_bad_requests_are_answered_with_an_error(play: Callable[[Scenario], None], slot: bytes, persistent: int) -> None:
    async def scenario(world: World) -> None:
        before = (world.folder / "disk.img").read_bytes()
        assert await world.frontend.request(slot) == ERROR
        assert (world.folder / "disk.img").read_bytes() == before
        assert await world.frontend.request(plain(BLKIF_OP_READ, 0, data_segments(1))) == OKAY

    play(connected(scenario, feature_persistent=persistent))


@pytest.mark.parametrize("operation", [4, 7, 100, 255])
def test_unknown_operations_are_not_supported(play: Callable[[Scenario], None], operation: int) -> None:
    async def scenario(world: World) -> None:
        world.frontend.put(plain(operation, 0, []))
        world.frontend.kick()
        assert await world.frontend.responses(1) == [(7, operation, NOT_SUPPORTED)]

    play(connected(scenario))


def test_read_only_disk(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World) -> None:
        image = world.image()
        os.chmod(image, 0o444)
        before = image.read_bytes()
        await world.attach(image, "r")
        await world.frontend.connect()
        assert world.store.read(f"{world.frontend.backend}/info") == "4"
        for slot in (plain(BLKIF_OP_WRITE, 0, data_segments(1)), plain(BLKIF_OP_WRITE_BARRIER, 0, data_segments(1)), discard(0, 8)):
            assert await world.frontend.request(slot) == ERROR
        assert await world.frontend.request(plain(BLKIF_OP_READ, 0, data_segments(1))) == OKAY
        assert image.read_bytes() == before

    play(scenario)


def test_image_that_shrinks_and_grows(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World) -> None:
        image = world.folder / "disk.img"
        os.truncate(image, 4096)
        assert await world.frontend.request(plain(BLKIF_OP_READ, 8, data_segments(1))) == ERROR
        await until(lambda: world.store.get(f"{world.frontend.backend}/sectors") == "8")
        os.truncate(image, 2 << 20)
        await until(lambda: world.store.get(f"{world.frontend.backend}/sectors") == "4096")
        assert await world.frontend.request(plain(BLKIF_OP_READ, 4088, data_segments(1))) == OKAY

    play(connected(scenario))


def test_host_disk_that_is_full(play: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def scenario(world: World) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwritev", full)
            assert await world.frontend.request(plain(BLKIF_OP_WRITE, 0, data_segments(1))) == ERROR
        assert await world.frontend.request(plain(BLKIF_OP_WRITE, 0, data_segments(1))) == OKAY

    play(connected(scenario))


# -- the conversation in the store ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", [33, 1 << 31, -1])
def test_runaway_producer_closes_the_device(play: Callable[[Scenario], None], distance: int) -> None:
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
        {"protocol": "x86_32-abi"},
        {"ring_page_order": 5},
        {"ring_page_order": 2},
        {"multi_queue_num_queues": 0},
        {"multi_queue_num_queues": 5},
        {"multi_queue_num_queues": 2},
        {"feature_persistent": 2},
    ],
)
def test_nonsense_of_a_frontend_closes_the_device(play: Callable[[Scenario], None], entries: dict[str, object]) -> None:
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


def test_several_queues(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World) -> None:
        await world.attach(world.image())
        frontend = world.frontend
        await frontend.backend_reaches(2)
        frontend.prepare()
        world.guest.grant(RING_REFERENCE + 40, 0, 21)
        frontend.poke(21, 0, struct.pack("<IIII", 0, 1, 0, 1) + bytes(4080))
        second = world.guest.dom0.evtchn_alloc_unbound(world.guest.domid, 0)
        for name, value in (
            ("multi-queue-num-queues", 2),
            ("queue-0/ring-ref", RING_REFERENCE),
            ("queue-0/event-channel", frontend.port),
            ("queue-1/ring-ref", RING_REFERENCE + 40),
            ("queue-1/event-channel", second),
        ):
            world.store.write(f"{frontend.path}/{name}", str(value))
        frontend.switch(3)
        await frontend.backend_reaches(4)
        assert await frontend.request(plain(BLKIF_OP_READ, 0, data_segments(1))) == OKAY
        frontend.poke(21, 64, plain(BLKIF_OP_READ, 0, data_segments(1)))
        frontend.poke(21, 0, struct.pack("<I", 1))
        world.guest.call(32, 4, world.guest.write(world.guest.at(0), struct.pack("<I", second)))
        await until(lambda: frontend.peek(21, 8, 4) == b"\1\0\0\0")

    play(scenario)


def test_states_in_any_order_do_no_harm(play: Callable[[Scenario], None]) -> None:
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


def test_states_in_any_order_while_the_backend_restarts(play: Callable[[Scenario], None]) -> None:
    chance = random.Random(5)

    async def scenario(world: World) -> None:
        await world.attach(world.image())
        frontend = world.frontend
        await frontend.backend_reaches(2)
        restarts = []
        for _ in range(60):
            frontend.prepare(feature_persistent=chance.randrange(2))
            frontend.put(plain(BLKIF_OP_READ, 0, data_segments(4)))
            frontend.set_producer(frontend.producer)
            frontend.switch(chance.choice([1, 3, 3, 4, 4, 5, 6]))
            if chance.random() < 0.5:
                restarts.append(asyncio.create_task(world.bus.restart(world.guest.domid, DEVID)))
            for _ in range(chance.randrange(12)):
                await asyncio.sleep(0)
        await asyncio.gather(*restarts)
        frontend.switch(6)
        await frontend.backend_reaches(6)
        assert len(world.hypervisor.domain(0).maptrack) == 0
        frontend.switch(1)
        await frontend.connect()
        assert await frontend.request(plain(BLKIF_OP_READ, 0, data_segments(1))) == OKAY

    play(scenario)


def test_frontend_that_starts_anew_without_closing(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World) -> None:
        world.frontend.switch(1)
        await world.frontend.connect(feature_persistent=1)
        assert await world.frontend.request(plain(BLKIF_OP_READ, 0, data_segments(1))) == OKAY

    play(connected(scenario))


def test_detach_and_forced_detach(play: Callable[[Scenario], None]) -> None:
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


def test_guest_that_does_not_give_a_disk_back(play: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_random_garbage_in_the_ring(play: Callable[[Scenario], None]) -> None:
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


def test_producer_that_goes_back_behind_what_was_taken(play: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch) -> None:
    gate, reached = threading.Event(), threading.Event()

    def slow_read(image: BlockImage, buffers: Sequence[memoryview], offset: int) -> None:
        reached.set()
        assert gate.wait(20)

    async def scenario(world: World) -> None:
        frontend = world.frontend
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


def test_sectors_beyond_32_bits(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World) -> None:
        path = world.folder / "large.img"
        path.touch()
        os.truncate(path, 3 << 40)
        await world.attach(path)
        frontend = world.frontend
        await frontend.connect()
        assert world.store.read(f"{frontend.backend}/sectors") == str((3 << 40) // 512)
        sector = (1 << 32) + 24
        frontend.poke(DATA_PFN, 0, b"far" * 1365)
        assert await frontend.request(plain(BLKIF_OP_WRITE, sector, data_segments(1))) == OKAY
        with path.open("rb") as file:
            assert os.pread(file.fileno(), 4095, sector * 512) == b"far" * 1365
            assert os.pread(file.fileno(), 4095, (sector & 0xFFFFFFFF) * 512) == bytes(4095)
        frontend.poke(DATA_PFN, 0, bytes(4096))
        assert await frontend.request(plain(BLKIF_OP_READ, sector, data_segments(1))) == OKAY
        assert frontend.peek(DATA_PFN, 0, 4095) == b"far" * 1365

    play(scenario)


@pytest.mark.parametrize("persistent", [0, 1])
def test_grants_revoked_in_flight(play: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch, persistent: int) -> None:
    """What is mapped stays the backend's until it has answered; what it has not mapped yet, it does not get."""
    gate, reached = threading.Event(), threading.Event()
    read = BlockImage.read

    def slow_read(image: BlockImage, buffers: Sequence[memoryview], offset: int) -> None:
        reached.set()
        assert gate.wait(20)
        read(image, buffers, offset)

    async def scenario(world: World) -> None:
        frontend = world.frontend
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


def test_guest_destroyed_with_requests_in_flight(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World) -> None:
        for _ in range(32):
            world.frontend.put(plain(BLKIF_OP_WRITE, 0, data_segments(11)))
        world.frontend.kick()
        await asyncio.sleep(0)
        await world.disks.remove_all(world.guest.domid)
        assert len(world.hypervisor.domain(0).maptrack) == 0

    play(connected(scenario))


def test_media_of_a_cd_drive(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World) -> None:
        domid, frontend = world.guest.domid, world.frontend

        def medium(name: str) -> DiskSpecification:
            return DiskSpecification(target=str(world.folder / name), vdev="xvda", writable=False, cdrom=True)

        first, second = world.image(name="first.iso"), world.image(2 << 20, "second.iso")
        await world.disks.attach(domid, DiskSpecification.parse("devtype=cdrom,vdev=xvda,target="))
        await frontend.connect()
        assert world.store.read(f"{frontend.backend}/sectors") == "0"
        assert world.store.read(f"{frontend.backend}/info") == "5"
        assert await frontend.request(plain(BLKIF_OP_READ, 0, data_segments(1))) == ERROR
        for image in (first, second):
            assert await world.disks.change_medium(domid, "xvda", medium(image.name)) == "xvda"
            await until(lambda image=image: world.store.read(f"{frontend.backend}/sectors") == str(image.stat().st_size // 512))  # type: ignore[misc]
            assert await frontend.request(plain(BLKIF_OP_READ, 0, data_segments(1))) == OKAY
            assert await frontend.request(plain(BLKIF_OP_WRITE, 0, data_segments(1))) == ERROR
        with pytest.raises(ToolstackError, match="missing does not exist; the drive is empty now"):
            await world.disks.change_medium(domid, "xvda", medium("missing"))
        assert await frontend.request(plain(BLKIF_OP_READ, 0, data_segments(1))) == ERROR
        await world.disks.change_medium(domid, "xvda", medium("first.iso"))
        await world.disks.change_medium(domid, "xvda", None)
        await world.disks.change_medium(domid, "xvda", None)
        await until(lambda: world.store.read(f"{frontend.backend}/sectors") == "0")
        assert frontend.backend_state() == "4"
        await world.disks.detach(domid, "xvda", force=True)
        await world.attach(first)
        with pytest.raises(ToolstackError, match="no CD drive xvda"):
            await world.disks.change_medium(domid, "xvda", medium("second.iso"))

    play(scenario)


# -- restarts -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("persistent", [0, 1])
def test_restarted_backend_does_what_was_asked_of_the_old_one(
    play: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch, persistent: int
) -> None:
    """Requests are answered out of order, so that responses stand where unanswered requests stood; then the backend is restarted."""
    gate = threading.Event()
    read = BlockImage.read

    def slow_read(image: BlockImage, buffers: Sequence[memoryview], offset: int) -> None:
        if offset < 3 * 4096:
            assert gate.wait(20)
            raise OSError(errno.EIO, "the old backend's answer, which must not be given")
        read(image, buffers, offset)

    async def scenario(world: World) -> None:
        frontend = world.frontend
        with monkeypatch.context() as patch:
            patch.setattr(BlockImage, "read", slow_read)
            for page in range(8):
                frontend.put(plain(BLKIF_OP_READ, 8 * page, [(DATA_REFERENCE + page, 0, 7)], request_id=page))
            frontend.kick()
            early = await frontend.responses(5)
            restart = asyncio.create_task(world.bus.restart(world.guest.domid, DEVID))
            await asyncio.sleep(0.01)
            gate.set()
            await restart
        late = await frontend.responses(3)
        assert sorted(answer[0] for answer in early) == [3, 4, 5, 6, 7]
        assert sorted(late) == [(page, BLKIF_OP_READ, OKAY) for page in range(3)]
        content = (world.folder / "disk.img").read_bytes()
        for page in range(8):
            assert frontend.peek(DATA_PFN + page, 0, 4096) == content[4096 * page : 4096 * page + 4096]
        assert frontend.backend_state() == "4"
        await world.bus.restart(world.guest.domid, DEVID)
        assert await frontend.request(plain(BLKIF_OP_WRITE, 0, data_segments(8))) == OKAY

    play(connected(scenario, feature_persistent=persistent))


def test_restart_in_any_state(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World) -> None:
        await world.attach(world.image())
        frontend = world.frontend
        await world.bus.restart(world.guest.domid, DEVID)
        await frontend.connect()
        frontend.switch(6)
        await frontend.backend_reaches(6)
        await world.bus.restart(world.guest.domid, DEVID)
        frontend.switch(1)
        await frontend.connect()
        await asyncio.gather(*(world.bus.restart(world.guest.domid, DEVID) for _ in range(3)))
        assert await frontend.request(plain(BLKIF_OP_READ, 0, data_segments(1))) == OKAY
        with pytest.raises(KeyError):
            await world.bus.restart(world.guest.domid, DEVID + 1)
        restart = asyncio.create_task(world.bus.restart(world.guest.domid, DEVID))
        await world.disks.detach(world.guest.domid, "xvda", force=True)
        await restart
        await until(lambda: world.bus.find(world.guest.domid, DEVID) is None)

    play(scenario)


def test_backend_that_fails_is_restarted_and_one_that_always_fails_is_closed(
    play: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([True, True])
    parse = block_request.parse

    def sometimes(slot: bytes) -> block_request.BlockRequest:
        if next(failures, False):
            raise RuntimeError("a fault of ours")
        return parse(slot)

    async def scenario(world: World) -> None:
        nonlocal failures
        monkeypatch.setattr(block_request, "parse", sometimes)
        assert await world.frontend.request(plain(BLKIF_OP_READ, 0, data_segments(1))) == OKAY
        assert next(failures, None) is None
        failures = iter([True] * 100)
        world.frontend.put(plain(BLKIF_OP_READ, 0, data_segments(1)))
        world.frontend.kick()
        await world.frontend.backend_reaches(5)
        assert "fails all the time" in world.store.read(world.frontend.error)

    play(connected(scenario))


# -- images -------------------------------------------------------------------------------------------------------------------


def test_images_that_cannot_be_used(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World) -> None:
        folder = world.folder
        (folder / "odd").write_bytes(bytes(1000))
        (folder / "empty").write_bytes(b"")
        os.mkfifo(folder / "fifo")
        for name, reason in (
            ("missing", "does not exist"),
            ("odd", "1000 bytes, is no multiple of 512"),
            ("empty", "is empty"),
            ("fifo", "neither a file nor a block device"),
            (".", "can't be written: Is a directory"),
        ):
            with pytest.raises(ToolstackError, match=reason) as refused:
                await world.attach(folder / name)
            assert "\n" not in str(refused.value)
            assert str(folder) in str(refused.value)
            assert world.disks.attached(world.guest.domid) == []
            assert not world.store.exists(f"/local/domain/0/backend/vbd/{world.guest.domid}")

    play(scenario)


def test_block_device_of_the_host(play: Callable[[Scenario], None], tmp_path: Path) -> None:
    file = tmp_path / "behind.img"
    file.write_bytes(os.urandom(1 << 20))
    try:
        attached = subprocess.run(["losetup", "--find", "--show", str(file)], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("loop devices need root")
    device = Path(attached.stdout.strip())

    async def scenario(world: World) -> None:
        await world.attach(device)
        frontend = world.frontend
        await frontend.connect()
        number = device.stat().st_rdev
        assert world.store.read(f"{frontend.backend}/physical-device") == f"{os.major(number):x}:{os.minor(number):x}"
        assert await frontend.request(plain(BLKIF_OP_READ, 16, data_segments(2))) == OKAY
        assert frontend.peek(DATA_PFN + 1, 0, 4096) == file.read_bytes()[3 * 4096 : 4 * 4096]
        frontend.poke(DATA_PFN, 0, b"\x5a" * 4096)
        assert await frontend.request(plain(BLKIF_OP_WRITE, 2040, data_segments(1))) == OKAY
        assert await frontend.request(plain(BLKIF_OP_FLUSH_DISKCACHE, 0, [])) == OKAY
        assert await frontend.request(plain(BLKIF_OP_WRITE, 2041, data_segments(1))) == ERROR
        with pytest.raises(ToolstackError, match="in use by another domain"):
            await world.attach(device, vdev="xvdb")

    try:
        play(scenario)
        assert file.read_bytes()[-4096:] == b"\x5a" * 4096
    finally:
        subprocess.run(["losetup", "--detach", str(device)], check=True)


def test_images_are_locked(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World) -> None:
        image = world.image()
        await world.attach(image, "w", "xvda")
        for access in ("w", "r"):
            with pytest.raises(ToolstackError, match="in use by another"):
                await world.attach(image, access, "xvdb")
        await world.attach(image, "w!", "xvdb")
        await world.disks.remove_all(world.guest.domid)
        await world.attach(image, "r", "xvda")
        await world.attach(image, "r", "xvdb")
        with pytest.raises(ToolstackError, match="w!"):
            await world.attach(image, "w", "xvdc")
        with pytest.raises(ToolstackError, match="has a disk xvdb already"):
            await world.attach(image, "r", "xvdb")

    play(scenario)

"""The block backend against a frontend that the test plays: every operation, and bad requests."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

import pytest

from pyxen.abi import grant_table as grants
from pyxen.abi.io.blkif import (
    BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER,
)
from pyxen.backends import block_image
from pyxen.backends.block import BlockDevice
from tests.unit.backends.block_guest import (
    DATA_PFN,
    DATA_REFERENCE,
    DEVID,
    ERROR,
    INDIRECT_PFN,
    INDIRECT_REFERENCE,
    NOT_SUPPORTED,
    OKAY,
    RING_REFERENCE,
    Play,
    World,
    connected,
    data_segments,
    discard,
    indirect,
    plain,
    until,
)


@pytest.mark.parametrize("persistent", [0, 1])
def test_reading_and_writing(play: Play, persistent: int) -> None:
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


def test_writes_need_only_read_access_to_the_page(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.guest.grant(DATA_REFERENCE, 0, DATA_PFN, grants.GTF_permit_access | grants.GTF_readonly)
        assert await world.frontend.request(plain(BLKIF_OP_WRITE, 0, data_segments(1))) == OKAY
        assert await world.frontend.request(plain(BLKIF_OP_READ, 0, data_segments(1))) == ERROR

    play(connected(scenario))


@pytest.mark.parametrize("pages", [1, 2, 4])
def test_rings_of_several_pages_go_round(play: Play, pages: int) -> None:
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


def test_indices_wrap(play: Play) -> None:
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


def test_indirect_segments(play: Play) -> None:
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


def test_discarded_sectors_read_as_zeroes(play: Play) -> None:
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


def test_barrier_waits_for_all_before_and_holds_up_all_after(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    for name in ("read", "write", "flush"):
        original = getattr(block_image.BlockImage, name)

        def recording(self: object, *arguments: object, _name: str = name, _original: Callable[..., None] = original) -> None:
            log.append(_name)
            _original(self, *arguments)
            log.append(f"{_name} done")

        monkeypatch.setattr(block_image.BlockImage, name, recording)

    async def scenario(world: World) -> None:
        world.serve_nothing_at_once(monkeypatch)
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
def test_bad_requests_are_answered_with_an_error(play: Play, slot: bytes, persistent: int) -> None:
    async def scenario(world: World) -> None:
        before = (world.folder / "disk.img").read_bytes()
        assert await world.frontend.request(slot) == ERROR
        assert (world.folder / "disk.img").read_bytes() == before
        assert await world.frontend.request(plain(BLKIF_OP_READ, 0, data_segments(1))) == OKAY

    play(connected(scenario, feature_persistent=persistent))


@pytest.mark.parametrize("operation", [4, 7, 100, 255])
def test_unknown_operations_are_not_supported(play: Play, operation: int) -> None:
    async def scenario(world: World) -> None:
        world.frontend.put(plain(operation, 0, []))
        world.frontend.kick()
        assert await world.frontend.responses(1) == [(7, operation, NOT_SUPPORTED)]

    play(connected(scenario))


def test_read_only_disk(play: Play) -> None:
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


def test_several_queues(play: Play) -> None:
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


def test_sectors_beyond_32_bits(play: Play) -> None:
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

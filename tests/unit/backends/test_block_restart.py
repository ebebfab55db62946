"""The block backend restarted under a frontend that knows of nothing."""

from __future__ import annotations

import asyncio
import errno
import random
import threading
from collections.abc import Sequence

import pytest

from pyxen.abi.io.blkif import (
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
)
from pyxen.backends.block_image import BlockImage
from pyxen.backends.block_request import BlockRequest, RequestForm
from tests.unit.backends.block_guest import (
    DATA_PFN,
    DATA_REFERENCE,
    DEVID,
    OKAY,
    Play,
    World,
    connected,
    data_segments,
    plain,
    until,
)


@pytest.mark.parametrize("persistent", [0, 1])
def test_restarted_backend_does_what_was_asked_of_the_old_one(play: Play, monkeypatch: pytest.MonkeyPatch, persistent: int) -> None:
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
            world.serve_nothing_at_once(patch)
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


def test_restart_in_any_state(play: Play) -> None:
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


def test_states_in_any_order_while_the_backend_restarts(play: Play) -> None:
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


def test_backend_that_fails_is_restarted_and_one_that_always_fails_is_closed(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = iter([True, True])
    parse = RequestForm.parse

    def sometimes(form: RequestForm, slot: bytes) -> BlockRequest:
        if next(failures, False):
            raise RuntimeError("a fault of ours")
        return parse(form, slot)

    async def scenario(world: World) -> None:
        nonlocal failures
        monkeypatch.setattr(RequestForm, "parse", sometimes)
        assert await world.frontend.request(plain(BLKIF_OP_READ, 0, data_segments(1))) == OKAY
        assert next(failures, None) is None
        failures = iter([True] * 100)
        world.frontend.put(plain(BLKIF_OP_READ, 0, data_segments(1)))
        world.frontend.kick()
        await world.frontend.backend_reaches(5)
        assert "fails all the time" in world.store.read(world.frontend.error)

    play(connected(scenario))

"""The network backend against frontends that the test plays: what passes, and everything that a frontend can do wrong."""

from __future__ import annotations

import asyncio
import gc
import os
import random
from collections.abc import Awaitable, Callable

import pytest

from pyxen.abi.io import netif
from pyxen.backends.network import NetworkDevice
from pyxen.hypervisor.hypervisor import Hypervisor
from pyxen.toolstack.errors import ToolstackError
from tests.unit.backends.block_guest import until
from tests.unit.backends.network_frames import checksums_are_right, tcp_frame
from tests.unit.backends.network_guest import (
    BLANK,
    DATA_PFN,
    DATA_REFERENCE,
    EXTRA,
    MORE,
    TX_PFN,
    World,
    extra,
    gso,
    network_world,
    request,
)

Scenario = Callable[[World], Awaitable[None]]
OKAY, ERROR, NULL = netif.NETIF_RSP_OKAY, netif.NETIF_RSP_ERROR, netif.NETIF_RSP_NULL
FIRST, SECOND = bytes.fromhex("00163e000001"), bytes.fromhex("00163e000002")
LONG = os.environ.get("PYXEN_LONG") == "1"


def plain(payload: bytes = b"payload", to: bytes = b"\xff" * 6, source: bytes = FIRST) -> bytes:
    return to + source + b"\x88\xb5" + payload


@pytest.fixture(params=["pv", "pvh"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def play(hypervisor: Hypervisor, kind: str) -> Callable[[Scenario], None]:
    async def main(scenario: Scenario) -> None:
        gc.collect()  # what other tests left to the collector does not count
        before = len(os.listdir("/proc/self/fd"))
        async with network_world(hypervisor, kind=kind) as world:
            await scenario(world)
        assert len(os.listdir("/proc/self/fd")) == before

    return lambda scenario: asyncio.run(asyncio.wait_for(main(scenario), 120))


Play = Callable[[Scenario], None]


def device(world: World, index: int = 0) -> NetworkDevice:
    found = world.bus.find(world.guests[index].domid, 0)
    assert isinstance(found, NetworkDevice)
    return found


def test_frames_pass_in_both_directions(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.connect()
        world.second.offer(2)
        assert await world.first.send(plain(b"there")) == OKAY
        assert await world.second.frame() == plain(b"there")
        world.first.offer(1)
        back = plain(b"and back", to=FIRST, source=SECOND)
        assert await world.second.send(back) == OKAY
        assert await world.first.frame() == back
        assert device(world).statistics.rx_packets == device(world).statistics.tx_packets == 1

    play(scenario)


def test_store_entries_are_those_that_frontends_look_for(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.attach("bridge=lab,mac=00:16:3e:00:00:09,rate=1MB/s@20ms,mtu=9000")
        read = world.store.get
        backend, frontend = world.first.backend, world.first.path
        for name, value in (
            ("mac", "00:16:3e:00:00:09"),
            ("handle", "0"),
            ("rate", "20000,20000"),
            ("bridge", "lab"),
            ("mtu", "9000"),
            ("online", "1"),
        ):
            assert read(f"{backend}/{name}") == value
        for name in ("sg", "gso-tcpv4", "gso-tcpv6", "ipv6-csum-offload", "rx-copy", "multicast-control", "split-event-channels"):
            assert read(f"{backend}/feature-{name}") == "1"
        assert read(f"{backend}/multi-queue-max-queues") == "4"
        for name, value in (("mac", "00:16:3e:00:00:09"), ("handle", "0"), ("backend-id", "0"), ("backend", backend)):
            assert read(f"{frontend}/{name}") == value

    play(scenario)


def test_a_frame_of_many_slots(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.connect()
        frame = plain(bytes(index * 11 % 253 for index in range(9000)))
        for page in range(3):
            world.first.poke(DATA_PFN + page, 0, frame[page * 4096 : page * 4096 + 4096])
        world.second.offer(3)
        world.first.put(request(0, len(frame), MORE, request_id=1))
        world.first.put(request(1, 4096, MORE, request_id=2))
        world.first.put(request(2, len(frame) - 8192, 0, request_id=3))
        world.first.kick()
        assert await world.first.answers(3) == [(1, OKAY), (2, OKAY), (3, OKAY)]
        parts = await world.second.received(3)
        assert [bool(flags & netif.NETRXF_more_data) for _, _, flags, _ in parts] == [True, True, False]
        assert b"".join(world.second.peek(DATA_PFN + page, offset, size) for page, offset, _, size in parts) == frame

    play(scenario)


@pytest.mark.parametrize("version", [4, 6])
def test_segments_pass_whole_to_who_takes_them_and_are_cut_for_others(play: Play, version: int) -> None:
    async def scenario(world: World) -> None:
        features = {f"feature-gso-tcpv{version}": 1} if version == 6 else {}
        await world.attach()
        await world.attach(index=1)
        await world.first.connect()
        await world.second.connect(**features)
        frame = tcp_frame(version, FIRST, bytes(3000))

        async def send() -> None:
            world.first.poke(DATA_PFN, 0, frame)
            world.first.put(request(0, len(frame), EXTRA | BLANK))
            world.first.put(gso(1000, 1 if version == 4 else 2))
            world.first.kick()
            assert await world.first.answers(2) == [(7, OKAY), (0, NULL)]

        world.second.offer(2)
        await send()
        (page, _, flags, size), (kind, _, _, _) = await world.second.received(2)
        assert flags & netif.NETRXF_extra_info and flags & netif.NETRXF_csum_blank
        assert kind & 0xFF == netif.XEN_NETIF_EXTRA_TYPE_GSO
        assert world.second.peek(DATA_PFN + page, 0, size) == frame

        # The same frontend anew, as one that takes neither segments nor unfinished checksums.
        world.second.switch(5)
        await world.second.backend_reaches(5)
        world.second.switch(6)
        await world.second.backend_reaches(6)
        world.second.switch(1)
        await world.second.connect(feature_gso_tcpv4=0, feature_gso_tcpv6=0, feature_no_csum_offload=1)
        world.second.offer(3)
        await send()
        parts = await world.second.received(3)
        segments = [world.second.peek(DATA_PFN + page, 0, size) for page, _, _, size in parts]
        assert all(checksums_are_right(segment) for segment in segments)
        assert sum(len(segment) for segment in segments) == 3 * len(frame) - 2 * 3000

    play(scenario)


def test_switch_sends_frames_only_to_whom_they_are_for(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.connect()
        world.second.offer(4)
        other = bytes.fromhex("00163e0000aa")
        await world.first.send(plain(b"to nobody known", to=other))
        assert (await world.second.frame())[14:] == b"to nobody known"
        await world.second.send(plain(b"I am the other", source=FIRST))  # the switch learns that FIRST is there now
        await world.second.send(plain(b"to myself", to=FIRST, source=SECOND))
        await world.first.send(plain(b"next", source=other))
        assert (await world.second.frame())[14:] == b"next"

    play(scenario)


def test_multicast_only_as_asked_for(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.connect(request_multicast_control=1)
        group, stranger = bytes.fromhex("01005e000001"), bytes.fromhex("01005e000002")
        world.second.put(request(0, 0, EXTRA))
        world.second.put(extra(netif.XEN_NETIF_EXTRA_TYPE_MCAST_ADD, group))
        world.second.put(request(0, 0, EXTRA))
        world.second.put(extra(netif.XEN_NETIF_EXTRA_TYPE_MCAST_ADD, SECOND))
        world.second.kick()
        assert [status for _, status in await world.second.answers(4)] == [OKAY, NULL, ERROR, NULL]
        world.second.offer(3)
        for to in (stranger, group, b"\xff" * 6):
            await world.first.send(plain(to=to))
        assert (await world.second.frame())[:6] == group
        assert (await world.second.frame())[:6] == b"\xff" * 6

    play(scenario)


def test_rate_limit_holds_back_what_exceeds_it(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.connect("bridge=lab,rate=100KB/s@20ms")  # 2000 octets in 20 ms
        world.second.offer(8)
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(8):
            world.first.poke(DATA_PFN, 0, plain(bytes(1900)))
            world.first.put(request(0, 1914))
        world.first.kick()
        await world.first.answers(8)
        assert loop.time() - began >= 6 * 0.02

    play(scenario)


def test_a_guest_that_offers_no_pages_loses_frames_and_no_more(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.connect()
        frame = plain(bytes(4000))
        for _ in range(1200):
            assert await world.first.send(frame) == OKAY
        assert device(world, 1).statistics.tx_dropped > 0
        world.second.offer(1)
        assert await world.second.frame() == frame

    play(scenario)


@pytest.mark.parametrize(
    "slots",
    [
        [request(0, 13)],
        [request(0, 8000, MORE), request(1, 9000 - 8192, MORE), request(2, 4096, MORE), request(3, 4096)],
        [request(60, 60)],
        [request(0, 100 * 19, MORE), *[request(1, 100, MORE)] * 17, request(1, 100)],
    ],
    ids=["too short", "sizes do not add up", "no such grant", "19 slots"],
)
def test_a_bad_packet_is_an_error_and_the_next_one_passes(play: Play, slots: list[bytes]) -> None:
    async def scenario(world: World) -> None:
        await world.connect()
        for slot in slots:
            world.first.put(slot)
        world.first.kick()
        assert {status for _, status in await world.first.answers(len(slots))} == {ERROR}
        world.second.offer(1)
        assert await world.first.send(plain()) == OKAY
        assert await world.second.frame() == plain()
        assert device(world).statistics.rx_errors == 1

    play(scenario)


@pytest.mark.parametrize(
    ("slots", "words"),
    [
        ([request(0, 200, offset=4000)], "cross page boundary"),
        ([request(0, 5000, MORE), request(1, 200, offset=4000)], "cross page boundary"),
        ([request(0, 100, MORE)], "goes on beyond"),
        ([request(0, 4000, MORE), *[request(1, 10, MORE)] * 30, request(1, 10)], "20 slots or more"),
        ([request(0, 100, EXTRA)], "missing extra info"),
        ([request(0, 100, EXTRA), extra(0)], "invalid extra type 0"),
        ([request(0, 100, EXTRA), extra(9)], "invalid extra type 9"),
        ([request(0, 100, EXTRA), extra(4, more=True)], "missing extra info"),
        ([request(0, 100, EXTRA), gso(0)], "GSO size must not be zero"),
        ([request(0, 100, EXTRA), gso(100, 7)], "bad GSO type 7"),
    ],
)
def test_a_frontend_that_breaks_the_protocol_is_closed(play: Play, slots: list[bytes], words: str) -> None:
    async def scenario(world: World) -> None:
        await world.connect()
        for slot in slots:
            world.first.put(slot)
        world.first.kick()
        await world.first.backend_reaches(5)
        assert words in world.store.get(world.first.error)
        assert world.second.backend_state() == "4"

    play(scenario)


def test_a_producer_that_runs_away_closes_the_device(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.connect()
        world.first.tx_producer = 5000
        world.first.kick()
        await world.first.backend_reaches(5)
        assert "has run away" in world.store.get(world.first.error)
        world.second.rx_producer = 1 << 31
        world.second.kick()
        world.second.poke(DATA_PFN, 0, plain())
        assert device(world, 1).may_send()

    play(scenario)


def test_grants_revoked_in_flight(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.connect()
        world.second.offer(2)
        world.second.guest.set_entry(DATA_REFERENCE + 8, 0, 0)
        assert await world.first.send(plain(b"lost")) == OKAY
        assert (await world.second.received(1))[0][3] < 0
        assert await world.first.send(plain(b"arrives")) == OKAY
        assert await world.second.frame() == plain(b"arrives")
        world.first.guest.set_entry(DATA_REFERENCE, 0, 0)
        assert await world.first.send(plain()) == ERROR

    play(scenario)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"request-rx-copy": 0}, "rx copy"),
        ({"tx-ring-ref": 999}, "mapping shared-frames"),
        ({"tx-ring-ref": "x"}, "no number"),
        ({"event-channel": 4000}, "mapping shared-frames"),
        ({"multi-queue-num-queues": 9}, "not within"),
        ({"multi-queue-num-queues": 2}, "tx-ring-ref"),
    ],
)
def test_bad_entries_in_the_store(play: Play, entries: dict[str, object], words: str) -> None:
    async def scenario(world: World) -> None:
        await world.attach()
        await world.first.backend_reaches(2)
        world.first.prepare(**entries)
        world.first.switch(4)
        await world.first.backend_reaches(5)
        assert words in world.store.get(world.first.error)

    play(scenario)


def test_a_restarted_backend_goes_on_where_the_old_one_was(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.connect()
        domid = world.guests[0].domid
        world.second.offer(8)
        for index in range(8):
            world.first.poke(DATA_PFN, 0, plain(bytes([index])))
            world.first.put(request(0, 15, request_id=index))
            world.first.kick()
            await world.bus.restart(domid, 0)
            await until(lambda: device(world).legacy() is not None and bool(device(world)._queues))
            assert await world.first.answers(1) == [(index, OKAY)]
            assert (await world.second.frame())[14:] == bytes([index])
        await world.bus.restart(world.guests[1].domid, 0)
        await until(lambda: bool(device(world, 1)._queues))
        world.second.offer(1)
        assert await world.first.send(plain(b"at last")) == OKAY
        assert (await world.second.frame())[14:] == b"at last"
        assert device(world).statistics.rx_packets == 9

    play(scenario)


def test_refusals_of_the_toolstack(play: Play) -> None:
    async def scenario(world: World) -> None:
        for specification, words in (
            ("bridge=lo", "no bridge"),
            ("script=vif-openvswitch", "vif-openvswitch is not supported"),
            ("script=vif-bridge,bridge=nosuchbridge", "no bridge nosuchbridge: make it"),
            ("bridge=../x", "no name of a bridge"),
            ("", "starts no helper programs"),
            ("backend=other,bridge=lab", "backend in the domain other"),
        ):
            with pytest.raises(ToolstackError, match=words):
                await world.attach(specification)
            assert world.interfaces.attached(world.guests[0].domid) == []
            assert not world.store.exists(world.first.path)

    play(scenario)


def test_random_rings(play: Play) -> None:
    """Garbage in slots and indexes, at random: the backend closes the device at most, and the other guest's still works."""
    seed = random.randrange(1 << 32)
    rounds = 2000 if LONG else 60

    async def scenario(world: World) -> None:
        dice = random.Random(seed)
        await world.connect()
        for _ in range(rounds):
            for _ in range(dice.randrange(1, 40)):
                kind = dice.random()
                if kind < 0.5:
                    world.first.put(
                        request(dice.randrange(16), dice.randrange(70), dice.choice((0, 0, 0, MORE, BLANK)), dice.randrange(4096))
                    )
                elif kind < 0.6:
                    world.first.put(extra(dice.randrange(6), dice.randbytes(6), dice.random() < 0.2))
                elif kind < 0.62:
                    world.first.put(dice.randbytes(12))
                else:
                    flags = dice.choice((0, EXTRA, MORE))
                    world.first.put(request(0, dice.choice((60, 1500, 4000, 65535)), flags))
            if dice.random() < 0.02:
                world.first.tx_producer += dice.randrange(1 << 32)
            if dice.random() < 0.1:
                world.first.rx_producer += dice.randrange(300)
            world.first.kick()
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            if world.first.backend_state() == "5":
                world.first.switch(6)
                await world.first.backend_reaches(6)
                world.first.switch(1)
                await world.first.connect()
            world.first.tx_consumer = world.first.number(TX_PFN, 8)
        world.second.offer(1)
        frame = plain(b"alive", source=SECOND)
        assert await world.second.send(frame) == OKAY

    try:
        play(scenario)
    except BaseException:
        print(f"seed {seed}")
        raise


def test_frames_to_a_guest_that_dies(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.connect()
        world.second.offer(4)
        world.guests[1].dom0.destroy_domain(world.guests[1].domid)
        for _ in range(3):
            assert await world.first.send(plain()) == OKAY

    play(scenario)

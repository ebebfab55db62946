"""The guest's ring: wrap-around, back-pressure, fairness, reconnection, and guests that put anything into the page."""

from __future__ import annotations

import pytest

from pyxen.abi.io import xs_wire
from pyxen.xenstore.client import REQUESTS_PER_TURN
from pyxen.xenstore.ring import SECOND_LOOK_S, RequestRate, RingConnection
from pyxen.xenstore.store import Store
from pyxen.xenstore.wire import pack
from tests.unit.xenstore.simulated_guest import RING, SimulatedGuest, World


@pytest.fixture
def guest(world: World, store: Store) -> SimulatedGuest:
    guest = world.guest(1)
    store.mkdir("/local/domain/1", perms=["n1"])
    store.write("/public", "for all", perms=["r0"])
    return guest


def read_request(number: int) -> bytes:
    return pack(xs_wire.XS_READ, number, 0, b"/public\0")


class TestStart:
    def test_features_are_offered_and_the_guest_is_told(self, guest: SimulatedGuest) -> None:
        assert guest.interface.server_features == 1 | 2 | 4
        assert guest.interface.connection == xs_wire.XENSTORE_CONNECTED
        assert guest.interface.error == xs_wire.XENSTORE_ERROR_NONE
        assert guest.notifications == 1

    def test_a_page_that_was_used_before_starts_empty(self, world: World) -> None:
        guest = world.guest(3)
        guest.put(b"half a request")
        world.daemon.introduce(3, 1, 1)
        interface = guest.interface
        assert (interface.req_cons, interface.req_prod, interface.rsp_cons, interface.rsp_prod) == (0, 0, 0, 0)
        assert guest.read("/public") in ("EACCES", "ENOENT")


class TestTransport:
    @pytest.mark.parametrize("start", [0, 1020, 0xFFFFFFF0, 0xFFFFFC00])
    def test_indexes_wrap(self, guest: SimulatedGuest, start: int) -> None:
        interface = guest.interface
        interface.req_cons = interface.req_prod = interface.rsp_cons = interface.rsp_prod = start
        for index in range(200):
            assert guest.write("value", f"{index}") == "OK"
            assert guest.read("value") == f"{index}"

    def test_largest_messages_pass_the_small_ring(self, world: World, guest: SimulatedGuest, store: Store) -> None:
        world.daemon.quotas.node_size = 0
        value = bytes(index % 251 for index in range(4096 - len("value\0")))
        assert guest.write("value", value) == "OK"
        reply = guest.request(xs_wire.XS_READ, "value")
        assert reply.payload == value

    def test_requests_cut_into_single_bytes(self, guest: SimulatedGuest) -> None:
        request = read_request(7)
        for position in range(len(request)):
            assert guest.receive() == []
            guest.send(request[position : position + 1])
        assert [reply.payload for reply in guest.receive()] == [b"for all"]

    def test_requests_in_a_row_are_answered_in_order(self, guest: SimulatedGuest) -> None:
        guest.send(b"".join(read_request(number) for number in range(300)))
        assert [reply.request_id for reply in guest.receive()] == list(range(300))

    def test_one_event_for_a_turn(self, guest: SimulatedGuest) -> None:
        before = guest.notifications
        guest.put(b"".join(read_request(number) for number in range(10)))
        guest.kick()
        assert guest.notifications == before + 1

    def test_an_event_without_news_is_answered_by_nothing(self, guest: SimulatedGuest) -> None:
        before = guest.notifications
        guest.kick()
        assert guest.notifications == before

    def test_requests_wait_while_replies_are_not_taken(self, world: World, guest: SimulatedGuest) -> None:
        served = world.daemon.requests
        for _ in range(20):
            guest.put(b"".join(read_request(number) for number in range(30)))
            guest.kick()
        limit = RING // 23 + world.daemon.quotas.outstanding + 1
        assert world.daemon.requests - served <= limit
        assert world.daemon.guests[1].connection.outstanding == world.daemon.quotas.outstanding
        guest.take()
        assert world.daemon.guests[1].connection.outstanding == 0


class TestRoomInTheResponseRing:
    """Linux's xb_read tells the store only when it has read from a ring that was full."""

    @staticmethod
    def queue_events(world: World, guest: SimulatedGuest, store: Store, number: int) -> None:
        guest.do(xs_wire.XS_WATCH, "/public", "T")
        guest.new_events()
        for index in range(number):
            store.write(f"/public/{index}", "", perms=["r0"])

    def test_a_guest_that_reads_while_the_store_writes_need_not_tell(
        self, world: World, guest: SimulatedGuest, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The store fills what it took for room while the guest takes out what was there before: the ring was never full to the guest."""
        interface = guest.interface
        put = RingConnection._put

        def put_while_the_guest_reads(connection: RingConnection, data: bytes) -> int:
            there = interface.rsp_prod
            sent = put(connection, data)
            while sent < len(data) and interface.rsp_cons != there:
                guest.inbox.append(interface.rsp[interface.rsp_cons % RING])
                interface.rsp_cons += 1
            return sent

        self.queue_events(world, guest, store, 300)
        monkeypatch.setattr(RingConnection, "_put", put_while_the_guest_reads)
        world.loop.run()
        assert interface.rsp_prod - interface.rsp_cons == RING or not world.daemon.guests[1].connection.memory

    def test_a_second_look_at_a_full_ring(self, world: World, guest: SimulatedGuest, store: Store) -> None:
        self.queue_events(world, guest, store, 300)
        world.loop.run()
        guest.interface.rsp_cons = guest.interface.rsp_prod
        before = guest.interface.rsp_prod
        world.loop.advance(SECOND_LOOK_S)
        assert guest.interface.rsp_prod == before + RING

    def test_a_guest_that_never_reads_is_not_polled(self, world: World, guest: SimulatedGuest, store: Store) -> None:
        self.queue_events(world, guest, store, 300)
        world.loop.run()
        world.loop.advance(SECOND_LOOK_S)
        assert world.loop.timers == 0


class TestFairness:
    def test_a_flood_leaves_the_loop_to_others(self, world: World, guest: SimulatedGuest, store: Store) -> None:
        store.mkdir("/local/domain/2", perms=["n2"])
        world.daemon.quotas.outstanding = 0
        other = world.guest(2)
        short = pack(xs_wire.XS_TRANSACTION_END, 1, 0, b"")
        guest.put(short * (RING // len(short)))
        other.put(read_request(1))
        guest.on_event()
        other.on_event()
        served = (world.daemon.guests[1].connection.requests, world.daemon.guests[2].connection.requests)
        assert served == (REQUESTS_PER_TURN, 1)
        world.loop.run()
        assert world.daemon.guests[1].connection.requests == RING // len(short)

    def test_rate(self, world: World, guest: SimulatedGuest) -> None:
        world.daemon.quotas.request_rate = 100
        served = 0

        def ask() -> int:
            for number in range(500):
                if RING - (guest.interface.req_prod - guest.interface.req_cons) % (1 << 32) < len(read_request(number)):
                    break
                guest.put(read_request(number))
                guest.kick()
                guest.take()
            nonlocal served
            now = world.daemon.requests
            before, served = served, now
            return now - before

        world.loop.advance(1)
        assert 100 <= ask() <= 100 + REQUESTS_PER_TURN
        assert world.loop.timers == 1, "it wakes up by itself"
        world.loop.advance(1)
        world.loop.advance(1)
        assert world.daemon.requests > served
        world.daemon.quotas.request_rate = 0
        assert ask() >= 400

    def test_rate_arithmetic(self) -> None:
        rate = RequestRate(0.0)
        for _ in range(10):
            assert rate.wait(0.0, 10) == 0
            rate.spend()
        assert rate.wait(0.0, 10) == pytest.approx(0.1)
        assert rate.wait(0.05, 10) == pytest.approx(0.05)
        assert rate.wait(0.2, 10) == 0
        assert rate.wait(0.2, 0) == 0


class TestReconnection:
    def test_everything_starts_anew(self, world: World, guest: SimulatedGuest, store: Store) -> None:
        guest.do(xs_wire.XS_WATCH, "/public", "T")
        guest.new_events()
        number = guest.start()
        guest.write("kept", "1")
        guest.put(read_request(1)[:10])
        guest.kick()
        store.write("/public", "event in flight")
        guest.interface.connection = xs_wire.XENSTORE_RECONNECT
        before = guest.notifications
        guest.kick()
        interface = guest.interface
        assert interface.connection == xs_wire.XENSTORE_CONNECTED
        assert (interface.req_cons, interface.req_prod, interface.rsp_cons, interface.rsp_prod) == (0, 0, 0, 0)
        assert guest.notifications == before + 1
        guest.inbox.clear()
        store.write("/public", "again")
        world.loop.run()
        assert guest.new_events() == []
        assert guest.end(number) == "ENOENT"
        assert guest.read("kept") == "1"

    def test_after_an_error(self, guest: SimulatedGuest) -> None:
        guest.interface.req_prod = 5000
        guest.kick()
        assert guest.interface.error == xs_wire.XENSTORE_ERROR_RINGIDX
        guest.interface.connection = xs_wire.XENSTORE_RECONNECT
        guest.kick()
        assert guest.interface.error == xs_wire.XENSTORE_ERROR_NONE
        assert guest.read("/public") == "for all"


class TestHostility:
    def assert_ignored(self, world: World, guest: SimulatedGuest, error: int) -> None:
        assert guest.interface.error == error
        before = world.daemon.requests
        guest.interface.req_cons = guest.interface.req_prod = guest.interface.rsp_cons = guest.interface.rsp_prod = 0
        guest.put(read_request(1))
        guest.kick()
        assert world.daemon.requests == before
        assert guest.interface.rsp_prod == 0
        connection = world.daemon.guests[1].connection
        assert world.daemon.watches.count(connection) == 0
        assert connection.transactions == {}
        assert world.guest(2).request(xs_wire.XS_GET_DOMAIN_PATH, "2").strings == ["/local/domain/2"], "others are served on"

    @pytest.mark.parametrize(("consumer", "producer"), [(0, 1025), (1, 0), (0, 0xFFFFFFFF), (0x80000000, 0), (0xFFFFFFFF, 1024)])
    def test_request_indexes(self, world: World, guest: SimulatedGuest, consumer: int, producer: int) -> None:
        guest.do(xs_wire.XS_WATCH, "/public", "T")
        guest.start()
        guest.interface.req_cons, guest.interface.req_prod = consumer, producer
        guest.kick()
        self.assert_ignored(world, guest, xs_wire.XENSTORE_ERROR_RINGIDX)

    @pytest.mark.parametrize(("consumer", "producer"), [(1, 0), (0, 1025), (0x80000000, 0)])
    def test_response_indexes(self, world: World, guest: SimulatedGuest, consumer: int, producer: int) -> None:
        guest.interface.rsp_cons, guest.interface.rsp_prod = consumer, producer
        guest.put(read_request(1))
        guest.kick()
        self.assert_ignored(world, guest, xs_wire.XENSTORE_ERROR_RINGIDX)

    def test_response_indexes_when_an_event_is_due(self, world: World, guest: SimulatedGuest, store: Store) -> None:
        guest.do(xs_wire.XS_WATCH, "/public", "T")
        guest.interface.rsp_cons, guest.interface.rsp_prod = 1, 0
        store.write("/public", "changed")
        world.loop.run()
        self.assert_ignored(world, guest, xs_wire.XENSTORE_ERROR_RINGIDX)
        assert store.read("/public") == "changed"

    @pytest.mark.parametrize("length", [4097, 0x7FFFFFFF, 0xFFFFFFFF])
    def test_too_long_a_payload(self, world: World, guest: SimulatedGuest, length: int) -> None:
        guest.put(bytes(xs_wire.xsd_sockmsg(xs_wire.XS_WRITE, 1, 0, length)))
        guest.kick()
        self.assert_ignored(world, guest, xs_wire.XENSTORE_ERROR_PROTO)

    def test_a_page_that_firmware_cleared_is_used_on(self, guest: SimulatedGuest) -> None:
        guest.read("/public")
        guest.memory[:] = bytes(len(guest.memory))
        assert guest.read("/public") == "for all"

    def test_event_channel_is_gone(self, world: World, guest: SimulatedGuest) -> None:
        guest.broken_port = True
        guest.put(read_request(1))
        guest.kick()
        assert guest.interface.error == xs_wire.XENSTORE_ERROR_COMM
        assert world.guest(2).read("/public") == "for all"

    def test_events_after_the_end_are_harmless(self, world: World, guest: SimulatedGuest, store: Store) -> None:
        connection = world.daemon.guests[1].connection
        world.daemon.quotas.request_rate = 1
        guest.put(read_request(1) * 20)
        guest.on_event()  # leaves a turn and a timer behind
        store.release_domain(1)
        world.loop.run()
        world.loop.advance(100)
        guest.on_event()
        connection.watch_event("/public", b"T")
        world.loop.run()
        assert guest.closed
        connection.close()


def test_a_slow_reader_still_gets_everything_in_order(world: World, guest: SimulatedGuest, store: Store) -> None:
    guest.do(xs_wire.XS_WATCH, "/public", "T")
    guest.new_events()
    for index in range(300):
        store.write(f"/public/{index}", "", perms=["r0"])
    world.loop.run()
    assert [path for path, _ in guest.new_events()] == [f"/public/{index}" for index in range(300)]

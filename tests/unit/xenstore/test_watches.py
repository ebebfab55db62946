from __future__ import annotations

import pytest

from pyxen.abi.io import xs_wire
from pyxen.xenstore.guest_link import DomainState
from pyxen.xenstore.store import Store
from tests.unit.xenstore.simulated_guest import SimulatedGuest, World


@pytest.fixture
def guest(world: World, store: Store) -> SimulatedGuest:
    """Domain 1, which may read all below /t and write in its own directory."""
    guest = world.guest(1)
    store.mkdir("/t", perms=["r0"])
    store.mkdir("/local/domain/1", perms=["n1"])
    return guest


def watch(guest: SimulatedGuest, *arguments: str) -> None:
    assert guest.do(xs_wire.XS_WATCH, *arguments) == "OK"
    guest.new_events()


def told(world: World, guest: SimulatedGuest) -> list[tuple[str, str]]:
    world.loop.run()
    return guest.new_events()


def test_first_event_follows_the_reply(guest: SimulatedGuest) -> None:
    guest.post(xs_wire.XS_WATCH, b"/t\0token\0")
    guest.take()
    first = guest.inbox[:4]
    assert int.from_bytes(first, "little") == xs_wire.XS_WATCH
    guest.receive()
    assert guest.events == [("/t", "token")]


def test_changes_on_and_below_the_path(world: World, store: Store, guest: SimulatedGuest) -> None:
    watch(guest, "/t", "T")
    store.write("/t", "1")
    store.write("/t/a", "1")
    store.set_perms("/t/a", ["r0", "b1"])
    store.write("/tt", "not below")
    store.write("/x", "elsewhere")
    assert told(world, guest) == [("/t", "T"), ("/t/a", "T")], "the same event waits once only"
    store.mkdir("/t/b")
    store.mkdir("/t/b")
    assert told(world, guest) == [("/t/b", "T")]


def test_missing_parents_are_told_by_the_event_of_the_node(world: World, store: Store, guest: SimulatedGuest) -> None:
    for path in ("/t", "/t/a", "/t/a/b"):
        watch(guest, path, path)
    store.write("/t/a/b/c", "1")
    assert sorted(told(world, guest)) == [("/t/a/b/c", "/t"), ("/t/a/b/c", "/t/a"), ("/t/a/b/c", "/t/a/b")]


def test_missing_parents_are_told_themselves_to_who_does_not_watch_so_deep(world: World, store: Store, guest: SimulatedGuest) -> None:
    watch(guest, "/t", "one", "1")
    watch(guest, "/t", "two", "2")
    watch(guest, "/t/a/b/c", "there", "0")
    store.write("/t/a/b/c", "1")
    assert told(world, guest) == [("/t/a", "one"), ("/t/a", "two"), ("/t/a/b", "two"), ("/t/a/b/c", "there")]


@pytest.mark.parametrize(("depth", "expected"), [("0", ["/t"]), ("1", ["/t", "/t/a"]), ("2", ["/t", "/t/a", "/t/a/b"])])
def test_depth(world: World, store: Store, guest: SimulatedGuest, depth: str, expected: list[str]) -> None:
    store.write("/t/a/b", "")
    watch(guest, "/t", "T", depth)
    for path in ("/t", "/t/a", "/t/a/b"):
        store.write(path, "1")
    assert [path for path, _ in told(world, guest)] == expected


def test_depth_of_the_root(world: World, store: Store, guest: SimulatedGuest) -> None:
    watch(guest, "/", "T", "1")
    store.write("/t", "1")
    store.write("/t/a", "1")
    assert told(world, guest) == [("/t", "T")]


@pytest.mark.parametrize("depth", ["x", "-1", "1x", "99999999999999999999999"])
def test_bad_depth(guest: SimulatedGuest, depth: str) -> None:
    assert guest.do(xs_wire.XS_WATCH, "/t", "T", depth) == "EINVAL"
    assert guest.new_events() == []


def test_empty_third_parameter_is_no_depth(world: World, store: Store, guest: SimulatedGuest) -> None:
    watch(guest, "/t", "T", "")
    store.write("/t/a/b", "1")
    assert told(world, guest) == [("/t/a/b", "T")]


def test_removal(world: World, store: Store, guest: SimulatedGuest) -> None:
    store.write("/t/a/b/c", "1")
    for path in ("/t", "/t/a", "/t/a/b/c", "/t/a/b/absent", "/t/other"):
        watch(guest, path, path)
    store.rm("/t/a")
    assert told(world, guest) == [("/t/a", "/t"), ("/t/a", "/t/a"), ("/t/a/b/c", "/t/a/b/c")]
    store.rm("/t/a")
    assert told(world, guest) == [], "nothing was removed"


def test_relative_paths_are_reported_relative(world: World, store: Store, guest: SimulatedGuest) -> None:
    assert guest.do(xs_wire.XS_WATCH, "device", "relative") == "OK"
    assert guest.new_events() == [("device", "relative")]
    watch(guest, "/local/domain/1/device", "absolute")
    store.write("/local/domain/1/device/vbd", "1", perms=["n1"])
    store.set_perms("/local/domain/1/device", ["n1"])
    assert set(told(world, guest)) >= {("device/vbd", "relative"), ("/local/domain/1/device/vbd", "absolute")}
    assert guest.do(xs_wire.XS_UNWATCH, "/local/domain/1/device", "relative") == "OK", "the same path in its other form"


def test_only_what_may_be_read_is_told(world: World, store: Store, guest: SimulatedGuest) -> None:
    store.mkdir("/secret", perms=["n0"])
    store.write("/secret/a/b", "1")
    watch(guest, "/secret", "T")
    store.write("/secret/a/b", "2")
    store.rm("/secret/a")
    assert told(world, guest) == []
    store.write("/secret/mine", "", perms=["n0", "r1"])
    assert told(world, guest) == [("/secret/mine", "T")]
    store.set_perms("/secret/mine", ["n0"])
    assert told(world, guest) == [("/secret/mine", "T")], "the loss of the right to read is told"
    store.write("/secret/mine", "2")
    assert told(world, guest) == []
    store.set_perms("/secret/mine", ["n0", "r1"])
    told(world, guest)
    store.rm("/secret/mine")
    assert told(world, guest) == [("/secret/mine", "T")], "who could read it hears of its end"


def test_unreadable_node_below_a_readable_one_is_told(world: World, store: Store, guest: SimulatedGuest) -> None:
    watch(guest, "/t", "T")
    store.mkdir("/t/hidden", perms=["n0"])
    told(world, guest)
    store.write("/t/hidden", "1")
    assert told(world, guest) == [("/t/hidden", "T")]


def test_duplicates_and_unwatch(world: World, store: Store, guest: SimulatedGuest) -> None:
    watch(guest, "/t", "T")
    assert guest.do(xs_wire.XS_WATCH, "/t", "T") == "EEXIST"
    watch(guest, "/t", "U")
    assert guest.do(xs_wire.XS_UNWATCH, "/t", "T") == "OK"
    assert guest.do(xs_wire.XS_UNWATCH, "/t", "T") == "ENOENT"
    store.write("/t", "1")
    assert told(world, guest) == [("/t", "U")]


def test_quota(world: World, guest: SimulatedGuest) -> None:
    for index in range(128):
        watch(guest, f"/t/{index}", "T")
    assert guest.do(xs_wire.XS_WATCH, "/t/more", "T") == "E2BIG"
    assert guest.do(xs_wire.XS_UNWATCH, "/t/0", "T") == "OK"
    assert guest.do(xs_wire.XS_WATCH, "/t/more", "T") == "OK"


def test_reset(world: World, store: Store, guest: SimulatedGuest) -> None:
    watch(guest, "/t", "T")
    number = guest.start()
    assert guest.request(xs_wire.XS_RESET_WATCHES, payload=b"\0").payload == b"OK\0"
    store.write("/t", "1")
    assert told(world, guest) == []
    assert guest.end(number) == "ENOENT"
    assert world.daemon.watches.memory(world.daemon.guests[1].connection) == 0


@pytest.mark.parametrize(("path", "token"), [("", "T"), ("/t/", "T"), ("@bad char", "T"), ("/a b", "T")])
def test_malformed(guest: SimulatedGuest, path: str, token: str) -> None:
    assert guest.do(xs_wire.XS_WATCH, path, token) == "EINVAL"


def test_no_token(guest: SimulatedGuest) -> None:
    assert guest.request(xs_wire.XS_WATCH, payload=b"/t\0").error == "EINVAL"
    assert guest.request(xs_wire.XS_UNWATCH, payload=b"/t\0").error == "EINVAL"


class TestSpecialEvents:
    def test_domain_0_hears_of_domains(self, world: World, store: Store) -> None:
        heard: list[tuple[str, str]] = []
        store.watch("@introduceDomain", "in", lambda path, token: heard.append((path, token)))
        store.watch("@releaseDomain", "out", lambda path, token: heard.append((path, token)))
        store.watch("@releaseDomain", "who", lambda path, token: heard.append((path, token)), depth=1)
        store.watch("@releaseDomain/7", "seven", lambda path, token: heard.append((path, token)))
        world.loop.run()
        heard.clear()
        world.guest(6)
        world.guest(7)
        world.guest(7)
        world.loop.run()
        assert heard == [("@introduceDomain", "in")] * 2
        heard.clear()
        store.release_domain(6)
        world.loop.run()
        assert heard == [("@releaseDomain", "out"), ("@releaseDomain/6", "who")]
        heard.clear()
        store.release_domain(7)
        world.loop.run()
        assert heard == [("@releaseDomain", "out"), ("@releaseDomain/7", "who"), ("@releaseDomain/7", "seven")]

    def test_shutdown_is_told_once_until_resume(self, world: World, store: Store) -> None:
        heard: list[str] = []
        world.guest(6)
        store.watch("@releaseDomain", "out", lambda path, token: heard.append(path), depth=1)
        world.loop.run()
        heard.clear()

        def look() -> list[str]:
            store.check_domains()
            world.loop.run()
            news = heard.copy()
            heard.clear()
            return news

        assert look() == []
        world.connector.states[6] = DomainState.SHUTDOWN
        assert look() == ["@releaseDomain/6"]
        assert look() == []
        world.daemon.resume(6)
        assert look() == ["@releaseDomain/6"]
        world.connector.states[6] = DomainState.GONE
        assert look() == ["@releaseDomain/6"]
        assert not store.is_introduced(6)
        assert world.connector.guests[6].closed

    def test_guests_hear_only_by_permission(self, world: World, store: Store, guest: SimulatedGuest) -> None:
        watch(guest, "@introduceDomain", "in")
        world.guest(6)
        assert told(world, guest) == []
        assert guest.request(xs_wire.XS_GET_PERMS, "@introduceDomain").error == "EACCES"
        assert guest.do(xs_wire.XS_SET_PERMS, "@introduceDomain", "n0", "r1") == "EACCES"
        store.set_perms("@introduceDomain", ["n0", "r1"])
        assert guest.request(xs_wire.XS_GET_PERMS, "@introduceDomain").strings == ["n0", "r1"]
        assert guest.do(xs_wire.XS_SET_PERMS, "@introduceDomain", "n0", "b1") == "EACCES"
        world.guest(7)
        assert told(world, guest) == [("@introduceDomain", "in")]
        store.release_domain(1)
        assert store.get_perms("@introduceDomain") == ["n0"], "the next domain 1 starts without the right"

    def test_other_special_paths_never_fire(self, world: World, store: Store, guest: SimulatedGuest) -> None:
        watch(guest, "@somethingElse", "T")
        assert guest.request(xs_wire.XS_GET_PERMS, "@somethingElse").error == "ENOENT"
        assert guest.do(xs_wire.XS_WATCH, "@releaseDomain", "T", "2") == "EINVAL"


def test_a_guest_that_never_reads_costs_a_bounded_amount(world: World, store: Store, guest: SimulatedGuest) -> None:
    watch(guest, "/t", "x" * 1000)
    for index in range(10_000):
        store.write(f"/t/{index}", "")
    world.loop.run()
    connection = world.daemon.guests[1].connection
    assert world.daemon.memory_of(connection) <= world.daemon.quotas.memory
    assert connection.dropped_events > 5000
    assert guest.read("/t/1") == "", "and when it reads again it is served"

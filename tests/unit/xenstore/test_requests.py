"""Every request of the protocol, as a guest or Domain 0 sends it."""

from __future__ import annotations

import pytest

from pyxen.abi.io import xs_wire
from pyxen.xenstore.guest_link import DomainState
from pyxen.xenstore.requests import COMMANDS
from pyxen.xenstore.store import Store
from tests.unit.xenstore.simulated_guest import SimulatedGuest, World

HOME = "/local/domain/1"


@pytest.fixture
def guest(world: World, store: Store) -> SimulatedGuest:
    guest = world.guest(1)
    store.mkdir(HOME, perms=["n1"])
    store.write("/public", "for all", perms=["r0"])
    store.write("/secret/a", "hidden")
    return guest


@pytest.fixture
def domain0(world: World) -> SimulatedGuest:
    """A ring with Domain 0's rights."""
    world.connector.states[0] = DomainState.ALIVE
    world.daemon.introduce(0, 1, 1)
    world.loop.run()
    return world.connector.guests[0]


def test_every_type_of_the_header_is_in_the_table() -> None:
    names = {name: value for name, value in vars(xs_wire).items() if name.startswith("XS_") and isinstance(value, int)}
    for not_a_request in ("XS_WATCH_EVENT", "XS_ERROR", "XS_TYPE_COUNT", "XS_INVALID", "XS_WATCH_PATH", "XS_WATCH_TOKEN", "XS_DEBUG"):
        del names[not_a_request]
    assert {value: name[3:] for name, value in names.items()} == {number: command.name for number, command in COMMANDS.items()}


@pytest.mark.parametrize("message_type", [xs_wire.XS_WATCH_EVENT, xs_wire.XS_ERROR, 20, 23, 0xFFFF, 0xFFFFFFFF])
def test_unknown_types(guest: SimulatedGuest, message_type: int) -> None:
    assert guest.request(message_type, "/public").error == "ENOSYS"
    assert guest.read("/public") == "for all"


class TestNodes:
    def test_read_and_write(self, guest: SimulatedGuest, store: Store) -> None:
        assert guest.read("/public") == "for all"
        assert guest.write("name", "x") == "OK"
        assert store.read(f"{HOME}/name") == "x"
        assert guest.read("name") == guest.read(f"{HOME}/name") == "x"
        assert guest.write("name", b"\0any\xff bytes\0") == "OK"
        assert store.read_bytes(f"{HOME}/name") == b"\0any\xff bytes\0"
        assert guest.write("name", "") == "OK"
        assert guest.read("name") == ""

    def test_parents_are_made_and_belong_to_their_maker(self, guest: SimulatedGuest, store: Store) -> None:
        store.set_perms(HOME, ["r0", "b1", "r7"])
        assert guest.write("a/b/c", "1") == "OK"
        assert store.read(f"{HOME}/a") == ""
        for path in ("a", "a/b", "a/b/c"):
            assert store.get_perms(f"{HOME}/{path}") == ["r1", "b1", "r7"], "as the parent, but for the owner"
        store.write(f"{HOME}/d/e", "1")
        assert store.get_perms(f"{HOME}/d/e") == ["r0", "b1", "r7"], "what Domain 0 makes keeps the parent's owner"

    def test_what_may_not_be_known_is_not(self, guest: SimulatedGuest) -> None:
        for request in (xs_wire.XS_READ, xs_wire.XS_DIRECTORY, xs_wire.XS_GET_PERMS, xs_wire.XS_MKDIR, xs_wire.XS_RM):
            assert guest.request(request, "/secret/a").error == "EACCES"
            assert guest.request(request, "/secret/absent/too").error == "EACCES"
        assert guest.write("/secret/a", "x") == "EACCES"
        assert guest.write("/public", "x") == "EACCES"
        assert guest.write("/public/new", "x") == "EACCES"
        assert guest.read("/public/absent") == "ENOENT"
        assert guest.read("absent") == "ENOENT"

    def test_write_only(self, guest: SimulatedGuest, store: Store) -> None:
        store.write("/in", "", perms=["n0", "w1"])
        assert guest.write("/in", "drop") == "OK"
        assert guest.read("/in") == "EACCES"
        assert store.read("/in") == "drop"

    def test_a_child_may_be_open_below_a_closed_parent(self, guest: SimulatedGuest, store: Store) -> None:
        store.write("/secret/open", "yes", perms=["n0", "r1"])
        assert guest.read("/secret/open") == "yes"

    def test_mkdir(self, guest: SimulatedGuest, store: Store) -> None:
        assert guest.do(xs_wire.XS_MKDIR, "d/e") == "OK"
        assert guest.write("d/e", "value") == "OK"
        assert guest.do(xs_wire.XS_MKDIR, "d/e") == "OK"
        assert guest.read("d/e") == "value"

    def test_rm(self, guest: SimulatedGuest, store: Store, domain0: SimulatedGuest) -> None:
        guest.write("d/e/f", "1")
        assert guest.do(xs_wire.XS_RM, "d") == "OK"
        assert store.ls(HOME) == []
        assert guest.do(xs_wire.XS_RM, "d") == "OK", "not there: no error"
        assert guest.do(xs_wire.XS_RM, "d/e") == "ENOENT", "but its parent must be"
        assert domain0.do(xs_wire.XS_RM, "/") == "EINVAL"
        assert domain0.do(xs_wire.XS_RM, "/secret") == "OK"
        assert not store.exists("/secret/a")

    def test_rm_takes_all_below_whoever_owns_it(self, guest: SimulatedGuest, store: Store) -> None:
        guest.write("d", "1")
        store.write(f"{HOME}/d/e", "", perms=["n0"])
        assert guest.do(xs_wire.XS_RM, "d") == "OK"
        assert not store.exists(f"{HOME}/d/e")

    def test_directory(self, guest: SimulatedGuest) -> None:
        for name in ("z", "a", "m"):
            guest.write(f"d/{name}", "")
        assert guest.request(xs_wire.XS_DIRECTORY, "d").strings == ["z", "a", "m"]
        assert guest.request(xs_wire.XS_DIRECTORY, "d/a").strings == []
        assert guest.request(xs_wire.XS_DIRECTORY, "/").error == "EACCES"

    def test_long_directory_comes_in_parts(self, guest: SimulatedGuest, store: Store, domain0: SimulatedGuest) -> None:
        names = [f"child-number-{index:04}" for index in range(700)]
        for name in names:
            store.write(f"/public/{name}", "")
        assert guest.request(xs_wire.XS_DIRECTORY, "/public").error == "E2BIG"
        listing = b""
        generations = set()
        while True:
            part = guest.request(xs_wire.XS_DIRECTORY_PART, "/public", str(len(listing)))
            assert part.type == xs_wire.XS_DIRECTORY_PART
            generation, _, chunk = part.payload.partition(b"\0")
            generations.add(generation)
            if chunk.endswith(b"\0\0"):
                listing += chunk[:-1]
                break
            assert chunk.endswith(b"\0")
            assert len(part.payload) > 4000
            listing += chunk
        assert listing.decode().split("\0")[:-1] == names
        assert len(generations) == 1
        assert guest.request(xs_wire.XS_DIRECTORY_PART, "/public", "999999").payload == generation + b"\0\0"
        store.write("/public/one-more", "")
        assert guest.request(xs_wire.XS_DIRECTORY_PART, "/public", "0").payload.partition(b"\0")[0] != generation

    def test_directory_part_of_a_short_list(self, guest: SimulatedGuest) -> None:
        guest.write("d/a", "")
        assert guest.request(xs_wire.XS_DIRECTORY_PART, "d", "0").payload.partition(b"\0")[2] == b"a\0\0"
        for offset in ("x", "-1", ""):
            assert guest.request(xs_wire.XS_DIRECTORY_PART, "d", offset).error == "EINVAL"
        assert guest.request(xs_wire.XS_DIRECTORY_PART, "d").error == "EINVAL"

    @pytest.mark.parametrize("message_type", [xs_wire.XS_READ, xs_wire.XS_DIRECTORY, xs_wire.XS_MKDIR, xs_wire.XS_RM, xs_wire.XS_GET_PERMS])
    @pytest.mark.parametrize("payload", [b"", b"\0", b"/public", b"/public\0x", b"/public\0\0", b"//\0", b"/p/\0", b"\xff\0", b"/ \0"])
    def test_malformed(self, guest: SimulatedGuest, message_type: int, payload: bytes) -> None:
        assert guest.request(message_type, payload=payload).error == "EINVAL"

    def test_malformed_write(self, guest: SimulatedGuest) -> None:
        for payload in (b"", b"no nul", b"\0value", b"bad path\0"):
            assert guest.request(xs_wire.XS_WRITE, payload=payload).error == "EINVAL"

    def test_longest_paths(self, guest: SimulatedGuest, store: Store) -> None:
        assert guest.write("r" * 2048, "1") == "ENOSPC", "the parent's list of names would be too large"
        assert guest.read("r" * 2048) == "ENOENT"
        assert guest.read("r" * 2049) == "EINVAL"
        assert guest.read("/" + "r" * 2048) == "EINVAL", "counted from the root it is one too long for a guest"
        store.write("/" + "r" * 3071, "domain 0 has the full length")


class TestPermissions:
    def test_get_and_set(self, guest: SimulatedGuest, store: Store) -> None:
        guest.write("a", "1")
        world_reads = ["r1", "b0"]
        assert guest.do(xs_wire.XS_SET_PERMS, "a", *world_reads) == "OK"
        assert guest.request(xs_wire.XS_GET_PERMS, "a").strings == world_reads
        assert store.get_perms(f"{HOME}/a") == world_reads

    def test_only_the_owner_changes_them_and_stays_it(self, guest: SimulatedGuest, store: Store) -> None:
        store.write("/shared", "", perms=["b0"])
        assert guest.do(xs_wire.XS_SET_PERMS, "/shared", "b1") == "EACCES"
        guest.write("a", "1")
        assert guest.do(xs_wire.XS_SET_PERMS, "a", "n0") == "EPERM"
        store.set_perms(f"{HOME}/a", ["n2"])
        assert guest.read("a") == "EACCES"

    def test_ownership_moves_the_quota(self, world: World, guest: SimulatedGuest, store: Store) -> None:
        guest.write("a", "1")
        assert world.daemon.operations.tree.usage_of(1).nodes == 2  # with its home
        store.set_perms(f"{HOME}/a", ["n0"])
        assert world.daemon.operations.tree.usage_of(1).nodes == 1

    def test_bad_ones(self, guest: SimulatedGuest, domain0: SimulatedGuest) -> None:
        guest.write("a", "1")
        for bad in (["x1"], [], ["n99999"], ["n"]):
            assert guest.do(xs_wire.XS_SET_PERMS, "a", *bad) == "EINVAL"
        assert guest.do(xs_wire.XS_SET_PERMS, "a", *["n1"] * 6) == "ENOSPC"
        assert domain0.do(xs_wire.XS_SET_PERMS, "/public", "n99") == "ENOENT", "there is no such domain"
        assert domain0.do(xs_wire.XS_SET_PERMS, "/absent", "n1") == "ENOENT"
        assert domain0.do(xs_wire.XS_SET_PERMS, "/public", "r0", "b1") == "OK"


class TestQuotas:
    def test_nodes(self, world: World, guest: SimulatedGuest) -> None:
        world.daemon.quotas.node_size = 0
        answers = [guest.write(f"n{index}", "") for index in range(1001)]
        assert answers == ["OK"] * 999 + ["ENOSPC"] * 2  # its home is the thousandth
        assert guest.write("deep/er/still", "") == "ENOSPC"
        assert guest.do(xs_wire.XS_RM, "n0") == "OK"
        assert guest.write("n0", "") == "OK"

    def test_node_size(self, guest: SimulatedGuest) -> None:
        assert guest.write("a", "x" * 2016) == "OK"
        assert guest.write("a", "x" * 2017) == "ENOSPC"
        assert guest.write("b", "x" * 2017) == "ENOSPC"
        assert guest.read("b") == "ENOENT"
        assert guest.do(xs_wire.XS_SET_PERMS, "a", "n1", "r2") == "ENOSPC"

    def test_memory(self, world: World, guest: SimulatedGuest) -> None:
        world.daemon.quotas.memory = 10_000
        answers = [guest.write(f"n{index}", "x" * 1500) for index in range(8)]
        assert answers == ["OK"] * 6 + ["ENOMEM"] * 2

    def test_domain_0_has_none(self, store: Store, world: World, domain0: SimulatedGuest) -> None:
        for index in range(1100):
            store.write(f"/many/{index}", "x" * 3000)
        assert domain0.write("/many/large", "x" * 4000) == "OK"
        for index in range(200):
            assert domain0.do(xs_wire.XS_WATCH, "/many", str(index)) == "OK"
        assert len({domain0.start() for _ in range(30)}) == 30


class TestDomains:
    @pytest.mark.parametrize(
        ("message_type", "arguments"),
        [
            (xs_wire.XS_CONTROL, ["help"]),
            (xs_wire.XS_INTRODUCE, ["7", "1007", "1"]),
            (xs_wire.XS_RELEASE, ["1"]),
            (xs_wire.XS_RESUME, ["1"]),
            (xs_wire.XS_SET_TARGET, ["1", "2"]),
            (xs_wire.XS_IS_DOMAIN_INTRODUCED, ["1"]),
        ],
    )
    def test_for_domain_0_only(self, guest: SimulatedGuest, message_type: int, arguments: list[str]) -> None:
        assert guest.request(message_type, *arguments).error == "EACCES"

    def test_domain_path(self, guest: SimulatedGuest) -> None:
        assert guest.request(xs_wire.XS_GET_DOMAIN_PATH, "017").strings == ["/local/domain/17"]
        assert guest.request(xs_wire.XS_GET_DOMAIN_PATH, "x").error == "EINVAL"

    def test_introduce(self, world: World, domain0: SimulatedGuest, store: Store) -> None:
        assert domain0.request(xs_wire.XS_INTRODUCE, "7", "1007", "3").error == "EINVAL", "no such domain: ESRCH has no name here"
        world.connector.states[7] = DomainState.ALIVE
        assert domain0.request(xs_wire.XS_IS_DOMAIN_INTRODUCED, "7").strings == ["F"]
        assert domain0.do(xs_wire.XS_INTRODUCE, "7", "1007", "3") == "OK"
        assert world.connector.connected[-1] == (7, 1007, 3)
        assert domain0.request(xs_wire.XS_IS_DOMAIN_INTRODUCED, "7").strings == ["T"]
        assert world.connector.guests[7].request(xs_wire.XS_GET_DOMAIN_PATH, "7").strings == ["/local/domain/7"]
        for bad in (["0", "1", "1"], ["7", "1", "0"], ["7", "1"], ["x", "1", "1"], ["7", "-1", "1"], ["40000", "1", "1"]):
            assert domain0.do(xs_wire.XS_INTRODUCE, *bad) == "EINVAL"

    def test_introducing_again_starts_anew(self, world: World, guest: SimulatedGuest, store: Store, domain0: SimulatedGuest) -> None:
        guest.do(xs_wire.XS_WATCH, "/public", "T")
        number = guest.start()
        guest.write("kept", "1")
        assert domain0.do(xs_wire.XS_INTRODUCE, "1", "1001", "2") == "OK"
        assert guest.end(number) == "ENOENT"
        assert guest.read("kept") == "1"
        guest.new_events()
        store.write("/public", "changed")
        world.loop.run()
        assert guest.new_events() == []

    def test_is_introduced(self, guest: SimulatedGuest, domain0: SimulatedGuest) -> None:
        for domid, answer in (("0", "T"), ("1", "T"), ("2", "F"), ("32752", "T")):
            assert domain0.request(xs_wire.XS_IS_DOMAIN_INTRODUCED, domid).strings == [answer]

    def test_release(self, world: World, guest: SimulatedGuest, domain0: SimulatedGuest, store: Store) -> None:
        guest.write("a/b", "1")
        store.write("/shared", "x", perms=["n0", "r1", "r2"])
        store.write("/foreign/of1/below", "x")
        store.set_perms("/foreign/of1", ["n1"])
        heard: list[str] = []
        store.watch("/foreign", "T", lambda path, token: heard.append(path))
        world.loop.run()
        heard.clear()
        assert domain0.do(xs_wire.XS_RELEASE, "1") == "OK"
        world.loop.run()
        assert guest.closed
        assert not store.exists(HOME)
        assert store.ls("/foreign") == []
        assert heard == ["/foreign/of1"]
        assert store.get_perms("/shared") == ["n0", "r2"]
        assert world.daemon.operations.tree.usage_of(1).nodes == 0
        assert world.daemon.operations.tree.inconsistencies() == []
        assert domain0.do(xs_wire.XS_RELEASE, "1") == "ENOENT"
        assert domain0.do(xs_wire.XS_RELEASE, "0") == "EINVAL"

    def test_resume(self, guest: SimulatedGuest, domain0: SimulatedGuest) -> None:
        assert domain0.do(xs_wire.XS_RESUME, "1") == "OK"
        assert domain0.do(xs_wire.XS_RESUME, "9") == "ENOENT"

    def test_target(self, world: World, guest: SimulatedGuest, domain0: SimulatedGuest, store: Store) -> None:
        helper = world.guest(2)
        store.write("/for1", "x", perms=["n0", "r1"])
        assert helper.read(f"{HOME}") == "EACCES"
        assert domain0.do(xs_wire.XS_SET_TARGET, "2", "1") == "OK"
        assert helper.write(f"{HOME}/by-helper", "1") == "OK"
        assert helper.read("/for1") == "x"
        assert domain0.do(xs_wire.XS_SET_TARGET, "2", "9") == "ENOENT"
        assert domain0.do(xs_wire.XS_SET_TARGET, "9", "1") == "ENOENT"
        assert domain0.do(xs_wire.XS_SET_TARGET, "2") == "EINVAL"
        store.release_domain(1)
        store.write("/for1", "x", perms=["n0", "r1"])
        assert helper.read("/for1") == "EACCES", "the target is gone"


def test_requests_of_one_guest_do_not_reach_the_transactions_of_another(world: World, guest: SimulatedGuest) -> None:
    number = guest.start()
    assert world.guest(2).request(xs_wire.XS_READ, "/public", transaction=number).error == "ENOENT"


def test_an_internal_error_ends_only_the_connection_that_met_it(
    world: World, guest: SimulatedGuest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = world.guest(2)
    tree = world.daemon.operations.tree
    monkeypatch.setattr(tree, "get", lambda parts: 1 / 0)
    monkeypatch.setattr(tree, "nearest", lambda parts: 1 / 0)
    guest.post(xs_wire.XS_READ, b"/public\0")
    monkeypatch.undo()
    assert "domain 1: connection closed because of an internal error" in caplog.text
    assert guest.interface.error == xs_wire.XENSTORE_ERROR_COMM
    guest.put(b"more")
    guest.kick()
    assert guest.receive() == []
    assert other.read("/public") == "for all"

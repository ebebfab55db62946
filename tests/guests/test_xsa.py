"""Published Xen advisories on xenstored, oxenstored, the console and images: each is tried from a guest's side
of the ring or by a hostile file.

Those on the hypervisor are micro-guests, programs/xsa_*.c. docs/xsa.md has the table of all.
"""

from __future__ import annotations

import gzip
import re
import struct
from pathlib import Path

import pytest

from pyxen.abi.io import xs_wire
from pyxen.backends.console_ring import ConsoleRing, ConsoleRingError
from pyxen.toolstack.builder.errors import BuilderError
from pyxen.toolstack.builder.kernel_image import open_kernel
from pyxen.xenstore.store import Store
from pyxen.xenstore.wire import HEADER
from tests.guests.build import Builder, all_programs
from tests.unit.xenstore.simulated_guest import SimulatedGuest, World

HOME = "/local/domain/{}"


class Scene:
    """A store with a hostile guest (1) and an honest one (2), each with a home of its own, a shared node and a secret of Domain 0's."""

    def __init__(self) -> None:
        self.world = World()
        self.world.daemon.quotas.request_rate = 0
        self.store = Store(self.world.daemon)
        for domid in (1, 2):
            self.store.mkdir(HOME.format(domid), perms=[f"n{domid}"])
        self.store.write("/secret", "value")
        self.store.mkdir("/shared", perms=["b0"])
        self.hostile, self.honest = self.world.guest(1), self.world.guest(2)

    def introduce(self, domid: int) -> SimulatedGuest:
        """A new domain of this id with a home."""
        self.store.mkdir(HOME.format(domid), perms=[f"n{domid}"])
        return self.world.guest(domid)

    def kill(self, domid: int) -> None:
        """The domain dies, and the toolstack clears up after it."""
        self.world.daemon.release(domid)
        self.world.connector.guests.pop(domid)
        self.store.rm(HOME.format(domid))

    def nodes_of(self, domid: int) -> int:
        return self.world.daemon.operations.tree.usage_of(domid).nodes

    def check(self) -> None:
        """The store still serves everybody, and Domain 0's nodes are as they were."""
        assert self.store.read("/secret") == "value"
        assert self.store.get_perms("/") == ["n0"]
        assert self.honest.write("alive", "yes") == "OK"
        assert self.honest.read("alive") == "yes"


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_xsa_038_ring_states(scene: Scene) -> None:
    """oxenstored: impossible ring indexes. Any pair of them, at any time, hurts only the guest itself."""
    interface = scene.hostile.interface
    for producer, consumer in ((1025, 0), (0, 1), (0xFFFFFFFF, 0), (0, 0xFFFFFFFF), (0x80000000, 0), (5000, 2500)):
        for name in ("req", "rsp"):
            setattr(interface, f"{name}_prod", producer)
            setattr(interface, f"{name}_cons", consumer)
            scene.hostile.kick()
            scene.check()


def test_xsa_072_oversized_replies(scene: Scene) -> None:
    """ocaml xenstored: a listing longer than a message. The reply is an error, never more than 4096 octets."""
    for number in range(200):
        scene.store.write(f"{HOME.format(1)}/dir/{number:03}-{'x' * 40}", "")
    reply = scene.hostile.request(xs_wire.XS_DIRECTORY, "dir")
    assert reply.type == xs_wire.XS_ERROR and reply.error == "E2BIG"
    scene.check()


def test_xsa_115_watches_tell_no_secrets(scene: Scene) -> None:
    """Watches told of nodes that the watcher may not read."""
    for path in ("/", "/local", HOME.format(2), "/secret"):
        scene.hostile.do(xs_wire.XS_WATCH, path, "t")
    scene.hostile.new_events()
    assert scene.honest.write("private", "1") == "OK"
    scene.store.write("/secret", "other")
    scene.store.write("/secret", "value")
    scene.store.rm(f"{HOME.format(2)}/private")
    assert scene.hostile.new_events() == []


@pytest.mark.parametrize("producer", [2049, 0x7FFFFFFF, 0xFFFFFFFF])
def test_xsa_155_console_ring(producer: int) -> None:
    """Backends fetched indexes twice. The console takes each once, and refuses what can't be."""
    page = bytearray(4096)
    ring = ConsoleRing(memoryview(page))
    struct.pack_into("<4I", page, 3072, 0, producer, 0, producer)
    with pytest.raises(ConsoleRingError):
        ring.take_output(100)
    with pytest.raises(ConsoleRingError):
        ring.put_input(b"x")
    ring.release()


def test_xsa_155_store_ring_changes_after_it_was_read(scene: Scene) -> None:
    """The octets of a request change after the store took them: what counts is what was taken."""
    data = HEADER.pack(xs_wire.XS_WRITE, 1, 0, 100) + b"a\0" + b"x" * 50
    scene.hostile.put(data)
    scene.hostile.kick()
    for index in range(xs_wire.XENSTORE_RING_SIZE):
        scene.hostile.interface.req[index] = 0xFF
    scene.hostile.put(b"y" * 48)
    scene.hostile.kick()
    assert scene.store.read(f"{HOME.format(1)}/a") == "x" * 50 + "y" * 48
    scene.check()


def test_xsa_206_updates_of_one_do_not_block_transactions_of_others(scene: Scene) -> None:
    """A guest that writes all the time made all transactions of others fail."""
    for number in range(50):
        transaction = scene.honest.start()
        assert scene.honest.write("in", str(number), transaction) == "OK"
        for word in ("a", "b", "c"):
            assert scene.hostile.write(word, str(number)) == "OK"
        assert scene.honest.end(transaction) == "OK"


def test_xsa_233_cleanup_races(scene: Scene) -> None:
    """cxenstored used a connection after its domain was cleaned up. Requests and events of a dead domain go nowhere."""
    scene.hostile.do(xs_wire.XS_WATCH, "/shared", "t")
    transaction = scene.hostile.start()
    scene.hostile.write("x", "1", transaction)
    on_event = scene.hostile.on_event
    scene.hostile.put(HEADER.pack(xs_wire.XS_READ, 1, 0, 2) + b"x\0")
    scene.kill(1)
    on_event()
    scene.world.loop.run()
    scene.store.write("/shared/new", "1")
    again = scene.introduce(1)
    assert again.new_events() == []
    assert again.end(transaction) == "ENOENT"
    scene.check()


def test_xsa_272_number_of_nodes(scene: Scene) -> None:
    """oxenstored did not apply quota-maxentity."""
    results = {scene.hostile.write(f"n/{number}", "") for number in range(scene.world.daemon.quotas.nodes + 50)}
    assert results == {"OK", "ENOSPC"}
    assert scene.nodes_of(1) <= scene.world.daemon.quotas.nodes
    scene.check()


def test_xsa_322_a_new_domain_inherits_nothing(scene: Scene) -> None:
    """Permissions for a dead domain's id were those of the next domain with that id. XSA-417: its nodes elsewhere could be had again."""
    assert scene.honest.do(xs_wire.XS_MKDIR, "for3") == "OK"
    third = scene.introduce(3)
    assert scene.honest.do(xs_wire.XS_SET_PERMS, "for3", "n2", "b3") == "OK"
    assert third.write(f"{HOME.format(2)}/for3/x", "mine") == "OK"
    scene.kill(3)
    third = scene.introduce(3)
    assert third.read(f"{HOME.format(2)}/for3") == "EACCES"
    assert third.read(f"{HOME.format(2)}/for3/x") != "mine"
    assert scene.nodes_of(3) == 1
    scene.check()


@pytest.mark.parametrize("length", [1024, 2047, 2048, 2049, 3071, 3072, 3073, 4000])
def test_xsa_323_path_lengths(scene: Scene, length: int) -> None:
    """The length of relative paths was checked without their base."""
    for path in ("a" * length, "/" + "a" * (length - 1), "a/" * (length // 2) + "a", "@" + "a" * (length - 1)):
        for message_type in (xs_wire.XS_MKDIR, xs_wire.XS_READ, xs_wire.XS_DIRECTORY, xs_wire.XS_RM, xs_wire.XS_GET_PERMS):
            scene.hostile.request(message_type, path)
        scene.hostile.request(xs_wire.XS_WATCH, path, "t")
    for events in range(3):
        scene.store.write(f"{HOME.format(1)}/event{events}", "")
    scene.hostile.new_events()
    scene.check()


def test_xsa_324_watch_events_never_too_long(scene: Scene) -> None:
    """The event of a watch with a long path or token overflowed xenstored's buffer."""
    for token_length in (1, 1000, 3000, 4000, 4070):
        scene.hostile.request(xs_wire.XS_WATCH, "d", "t" * token_length)
        scene.hostile.request(xs_wire.XS_WATCH, HOME.format(1) + "/d", "u" * token_length)
    scene.hostile.write("d/" + "e" * 1500, "")
    for _, token in scene.hostile.new_events():
        assert len(token) <= 4096
    scene.check()


def test_xsa_325_cleanup_can_not_be_disturbed(scene: Scene) -> None:
    """Nodes that a guest made or removed kept the daemon from clearing up after it."""
    for path in ("/local/domain", "/local/domain/2", "/secret", "/", "/local/domain/0", "/vm"):
        assert scene.hostile.do(xs_wire.XS_RM, path) != "OK"
    assert scene.hostile.do(xs_wire.XS_SET_PERMS, HOME.format(1), "n1", "r2", "b0") == "OK"
    assert scene.hostile.do(xs_wire.XS_RELEASE, "2") == "EACCES"
    assert scene.hostile.do(xs_wire.XS_INTRODUCE, "1", "5", "1") == "EACCES"
    assert scene.hostile.do(xs_wire.XS_RM, HOME.format(1)) in ("OK", "EACCES")
    scene.world.daemon.release(1)
    assert scene.nodes_of(1) == 0 or scene.store.rm(HOME.format(1)) is None
    scene.check()


def test_xsa_326_memory_is_bounded(scene: Scene) -> None:
    """Watches, transactions, values and unread replies without end. XSA-416: temporary memory that was not freed."""
    guest, daemon = scene.hostile, scene.world.daemon
    client = daemon.guests[1].connection
    for number in range(300):
        guest.do(xs_wire.XS_WATCH, f"w{number}", "t" * 1000)
        guest.write(f"big{number}", b"v" * 2000)
    transactions = [guest.request(xs_wire.XS_TRANSACTION_START, payload=b"\0") for _ in range(30)]
    assert sum(reply.type != xs_wire.XS_ERROR for reply in transactions) <= daemon.quotas.transactions
    assert daemon.memory_of(client) <= daemon.quotas.memory + 10_000
    request = HEADER.pack(xs_wire.XS_READ, 1, 0, 5) + b"big1\0"
    for _ in range(2000):
        guest.put(request)
        guest.kick()
    assert daemon.memory_of(client) <= daemon.quotas.memory + 200_000
    scene.check()
    for path in [f"big{number}" for number in range(300)]:
        scene.store.rm(f"{HOME.format(1)}/{path}") if scene.store.exists(f"{HOME.format(1)}/{path}") else None


def test_xsa_330_reset_watches(scene: Scene) -> None:
    """oxenstored kept the memory of watches that XS_RESET_WATCHES removed."""
    client = scene.world.daemon.guests[1].connection
    before = scene.world.daemon.memory_of(client)
    for _ in range(10):
        for number in range(scene.world.daemon.quotas.watches):
            assert scene.hostile.do(xs_wire.XS_WATCH, f"w{number}", "t" * 500) == "OK"
        assert scene.hostile.do(xs_wire.XS_WATCH, "one-more", "t") == "E2BIG"
        assert scene.hostile.request(xs_wire.XS_RESET_WATCHES, payload=b"\0").type == xs_wire.XS_RESET_WATCHES
        scene.hostile.new_events()
    assert scene.world.daemon.memory_of(client) == before


def test_xsa_512_watches_of_connections_that_were_reset(scene: Scene) -> None:
    """oxenstored: a guest that reconnected left its watches behind, and each time more of them."""
    daemon = scene.world.daemon
    interface = scene.hostile.interface
    scene.store.write(f"{HOME.format(1)}/w1", "changed")
    before = daemon.memory_of(daemon.guests[1].connection)
    for _ in range(20):
        for number in range(daemon.quotas.watches):
            assert scene.hostile.do(xs_wire.XS_WATCH, f"w{number}", "t" * 300) == "OK"
        assert scene.hostile.do(xs_wire.XS_WATCH, "one-more", "t") == "E2BIG"
        scene.hostile.new_events()
        interface.connection = xs_wire.XENSTORE_RECONNECT
        scene.hostile.kick()
        scene.world.loop.run()
        assert interface.connection == xs_wire.XENSTORE_CONNECTED
        scene.store.write(f"{HOME.format(1)}/w1", "changed")
        scene.world.loop.run()
        assert scene.hostile.new_events() == []
    assert daemon.memory_of(daemon.guests[1].connection) == before
    scene.check()


def test_xsa_352_ownership(scene: Scene) -> None:
    """oxenstored: an unprivileged client could give its nodes away, or take others'."""
    assert scene.hostile.write("mine", "1") == "OK"
    for owner in ("n0", "n2", "b2", "n7"):
        assert scene.hostile.do(xs_wire.XS_SET_PERMS, "mine", owner) in ("EPERM", "EACCES", "EINVAL", "ENOENT")
    for path in ("/secret", HOME.format(2), "/shared", "/"):
        assert scene.hostile.do(xs_wire.XS_SET_PERMS, path, "n1") in ("EPERM", "EACCES")
    assert scene.store.get_perms(f"{HOME.format(1)}/mine")[0].endswith("1")


def test_xsa_353_root_node(scene: Scene) -> None:
    """oxenstored: the permissions of the root were not checked."""
    assert scene.hostile.write("/", "x") == "EACCES"
    assert scene.hostile.write("/mine", "x") == "EACCES"
    assert scene.hostile.do(xs_wire.XS_MKDIR, "/mine") == "EACCES"
    assert scene.hostile.do(xs_wire.XS_RM, "/") in ("EACCES", "EINVAL")
    assert scene.hostile.request(xs_wire.XS_DIRECTORY, "/").error == "EACCES"
    assert scene.hostile.do(xs_wire.XS_SET_PERMS, "/", "b1") == "EACCES"
    scene.check()


def test_xsa_414_malformed_permissions(scene: Scene) -> None:
    """xenstored crashed by a request that fails half-way in a transaction, or by malformed permissions."""
    transaction = scene.hostile.start()
    scene.hostile.write("a", "1", transaction)
    for entries in (["n1"] * 200, ["n1", "r99999999999"], ["", "n1"], ["x1"], ["n-1"], ["n"], ["n1", "\xff"], []):
        scene.hostile.request(xs_wire.XS_SET_PERMS, "a", *entries, transaction=transaction)
        scene.hostile.request(xs_wire.XS_SET_PERMS, "a", *entries)
    scene.hostile.request(xs_wire.XS_WRITE, payload=b"a", transaction=transaction)
    scene.hostile.request(xs_wire.XS_TRANSACTION_END, "X", transaction=transaction)
    scene.hostile.end(transaction)
    scene.check()


def test_xsa_415_no_orphans(scene: Scene) -> None:
    """A creation that fails half-way left nodes without parents, or parents without what they were made for."""
    quotas = scene.world.daemon.quotas
    quotas.nodes = 20
    before = scene.nodes_of(1)
    assert scene.hostile.do(xs_wire.XS_MKDIR, "/".join("abcdefghijklmnopqrstuvwxyz")) == "ENOSPC"
    assert scene.nodes_of(1) == before
    assert scene.hostile.write("p/q/r", b"x" * 3000) != "OK"
    assert scene.nodes_of(1) == before
    assert scene.hostile.read("p") == "ENOENT"
    scene.check()


def test_xsa_418_deep_trees(scene: Scene) -> None:
    """xenstored recursed over the tree until its stack was full."""
    quotas = scene.world.daemon.quotas
    quotas.nodes = 5000
    path = "/".join(["a"] * 1000)
    assert scene.hostile.do(xs_wire.XS_MKDIR, path) == "OK"
    assert scene.hostile.do(xs_wire.XS_WATCH, "a", "t") == "OK"
    assert scene.hostile.do(xs_wire.XS_RM, "a") == "OK"
    assert scene.hostile.do(xs_wire.XS_MKDIR, path) == "OK"
    scene.kill(1)
    assert scene.nodes_of(1) == 0
    scene.check()


def test_xsa_419_cooperating_guests(scene: Scene) -> None:
    """A guest made nodes below another's, died, and its successor made more: the dead domain's nodes go with it."""
    assert scene.honest.do(xs_wire.XS_SET_PERMS, HOME.format(2), "b2") == "OK"
    total = []
    for domid in range(3, 9):
        guest = scene.introduce(domid)
        for number in range(50):
            guest.write(f"{HOME.format(2)}/{domid}-{number}", "x")
        scene.kill(domid)
        assert scene.nodes_of(domid) == 0
        total.append(scene.nodes_of(0) + scene.nodes_of(2))
    assert len(set(total)) == 1, total
    scene.check()


@pytest.mark.parametrize(
    "path", ["/local/domain/", "/local/domain//", "//", "/local/domain/1/", "/local/domain/1//data", "/local/domain/x/"]
)
def test_xsa_481_illegal_paths(scene: Scene, path: str) -> None:
    """xenstored crashed by a path that ends below the domains' root."""
    for message_type in (xs_wire.XS_READ, xs_wire.XS_MKDIR, xs_wire.XS_RM, xs_wire.XS_DIRECTORY, xs_wire.XS_GET_PERMS):
        assert scene.hostile.request(message_type, path).type == xs_wire.XS_ERROR
    assert scene.hostile.write(path, "x") == "EINVAL"
    assert scene.hostile.do(xs_wire.XS_SET_PERMS, path, "n1") == "EINVAL"
    scene.hostile.request(xs_wire.XS_WATCH, path, "t")
    scene.check()


def test_xsa_484_reset_watches_in_a_transaction(scene: Scene) -> None:
    """xenstored crashed by XS_RESET_WATCHES with a transaction, which it ends."""
    for _ in range(5):
        transaction = scene.hostile.start()
        scene.hostile.do(xs_wire.XS_WATCH, "w", "t")
        scene.hostile.write("in-it", "1", transaction)
        scene.hostile.request(xs_wire.XS_RESET_WATCHES, payload=b"\0", transaction=transaction)
        scene.hostile.end(transaction)
        scene.hostile.write("w", "1")
        scene.check()


def test_xsa_483_counts_end_with_the_domain(scene: Scene) -> None:
    """oxenstored kept the counts of a dead domain's quota for the next domain of that id."""
    limit = scene.world.daemon.quotas.nodes = 40
    for _ in range(10):
        guest = scene.introduce(3)
        made = sum(guest.write(f"n{number}", "") == "OK" for number in range(limit + 10))
        assert made == limit - 1
        for _ in range(3):
            transaction = guest.start()
            guest.write("in-it", "", transaction)
        guest.do(xs_wire.XS_WATCH, "w", "t")
        scene.kill(3)
        assert scene.nodes_of(3) == 0
    scene.check()


@pytest.mark.parametrize("number", ["-1", "4294967296", "2147483648", "1073741824", "99999999999999999999", "0x1", " 1", "1\n"])
def test_xsa_420_integers(scene: Scene, number: str) -> None:
    """oxenstored cut integers to 31 bits."""
    for message_type in (xs_wire.XS_GET_DOMAIN_PATH, xs_wire.XS_IS_DOMAIN_INTRODUCED, xs_wire.XS_SET_TARGET, xs_wire.XS_RESUME):
        assert scene.hostile.request(message_type, number).type == xs_wire.XS_ERROR
    assert scene.hostile.request(xs_wire.XS_DIRECTORY_PART, "", number).type == xs_wire.XS_ERROR
    for transaction in (0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x40000000):
        assert scene.hostile.read("x", transaction) == "ENOENT"
    scene.check()


def test_xsa_421_nodes_by_transactions(scene: Scene) -> None:
    """Nodes made in several transactions at once went past the quota."""
    quotas = scene.world.daemon.quotas
    quotas.nodes = 30
    transactions = [scene.hostile.start() for _ in range(5)]
    for transaction in transactions:
        scene.hostile.do(xs_wire.XS_MKDIR, f"t{transaction}", transaction=transaction)
        for number in range(20):
            scene.hostile.write(f"t{transaction}/{number}", "", transaction)
    for transaction in transactions:
        scene.hostile.end(transaction)
    assert scene.nodes_of(1) <= 30
    scene.check()


def test_xsa_440_transaction_conflicts(scene: Scene) -> None:
    """C xenstored crashed at a conflict with nodes removed and made again. XSA-425: by a domain that is introduced again."""
    for _ in range(20):
        transaction = scene.hostile.start()
        scene.hostile.write("a/b/c", "1", transaction)
        scene.hostile.do(xs_wire.XS_RM, "a", transaction=transaction)
        scene.hostile.write("a/d", "1", transaction)
        scene.hostile.write("a/e", "2")
        scene.hostile.do(xs_wire.XS_RM, "a")
        assert scene.hostile.end(transaction) in ("EAGAIN", "OK")
    scene.world.daemon.introduce(1, 1001, 1)
    scene.world.loop.run()
    scene.check()


def test_xsa_025_compressed_kernels(tmp_path: Path) -> None:
    """A malformed or bombed kernel image made the domain builder use all memory."""
    bomb = gzip.compress(bytes(1 << 26), 1)
    for data in (bomb, bomb[:-10], bomb[:1000], b"\x1f\x8b" + bytes(100)):
        (tmp_path / "kernel").write_bytes(data)
        with pytest.raises(BuilderError):
            open_kernel(tmp_path / "kernel", cache_directory=tmp_path)


def test_xsa_055_malformed_elf(tmp_path: Path) -> None:
    """libelf trusted offsets and sizes. XSA-194: and leaked host memory into the guest's symbol table. Every word of an image's
    headers, changed."""
    program = next(program for program in all_programs() if program.name == "shutdown_poweroff")
    image = Builder().build([program])[program.name].read_bytes()
    refused = 0
    for offset in range(0, 64 + 56 * 4, 4):
        for value in (0xFFFFFFFF, 0x80000000, 0x7FFFFFFF, 0, len(image)):
            changed = bytearray(image)
            struct.pack_into("<I", changed, offset, value)
            (tmp_path / "kernel").write_bytes(changed)
            try:
                open_kernel(tmp_path / "kernel", cache_directory=tmp_path)
            except BuilderError:
                refused += 1
    assert refused > 50


def test_the_table_is_complete() -> None:
    """docs/xsa.md names each test of an advisory, and no test that does not exist."""
    here = Path(__file__).parent
    table = (here.parents[1] / "docs" / "xsa.md").read_text()
    sources = [source for folder in ("programs", "pvh/programs") for source in (here / folder).glob("xsa_*.c")]
    tests = {source.stem for source in sources}
    tests |= set(re.findall(r"^def test_(xsa_\w+)", Path(__file__).read_text(), re.MULTILINE))
    assert set(re.findall(r"xsa_\d\w+", table)) == tests
    claimed = set(map(int, re.findall(r"^\| (\d+) \|.*xsa_\d", table, re.MULTILINE)))
    named = {int(number) for source in sources for number in re.findall(r'"[^"]*?XSA-(\d+)', source.read_text())}
    assert named <= claimed, f"checked, but not in the table: {sorted(named - claimed)}"

from __future__ import annotations

import errno

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from pyxen.abi.io import xs_wire
from pyxen.xenstore import paths
from pyxen.xenstore.errors import StoreError
from pyxen.xenstore.operations import DOMAIN_0, Operations
from pyxen.xenstore.quotas import Quotas
from pyxen.xenstore.store import Store
from pyxen.xenstore.transactions import Transaction
from pyxen.xenstore.watches import WatchRegistry
from tests.unit.xenstore.simulated_guest import World


def test_changes_are_seen_by_others_at_the_end_only(world: World, store: Store) -> None:
    guest = world.guest(1)
    store.mkdir("/t", perms=["b0"])
    number = guest.start()
    assert guest.write("/t/a", "1", number) == "OK"
    assert guest.read("/t/a", number) == "1"
    assert guest.read("/t/a") == "ENOENT"
    assert guest.end(number) == "OK"
    assert store.read("/t/a") == "1"
    assert guest.read("/t/a", number) == "ENOENT", "the number is no longer valid"


def test_abort(world: World, store: Store) -> None:
    guest = world.guest(1)
    store.write("/t", "old", perms=["b0"])
    number = guest.start()
    assert guest.write("/t", "new", number) == "OK"
    assert guest.end(number, commit=False) == "OK"
    assert store.read("/t") == "old"


def test_reads_are_of_the_start(world: World, store: Store) -> None:
    guest = world.guest(1)
    store.write("/t", "old", perms=["b0"])
    number = guest.start()
    store.write("/t", "new")
    assert guest.read("/t", number) == "old"
    assert guest.end(number) == "EAGAIN"


@pytest.mark.parametrize("change", ["write", "rm", "set_perms", "child"])
def test_conflict(world: World, store: Store, change: str) -> None:
    guest = world.guest(1)
    store.write("/t/x", "old", perms=["b0"])
    number = guest.start()
    assert guest.read("/t/x", number) == "old"
    if change == "write":
        store.write("/t/x", "old")  # the same value: still a change
    elif change == "rm":
        store.rm("/t/x")
    elif change == "set_perms":
        store.set_perms("/t/x", ["b0", "r7"])
    else:
        store.write("/t/x/child", "")
    assert guest.end(number) == "EAGAIN"


def test_unrelated_changes_do_not_conflict(world: World, store: Store) -> None:
    guest = world.guest(1)
    store.write("/t/x", "old", perms=["b0"])
    store.write("/other", "1")
    number = guest.start()
    assert guest.write("/t/x", "new", number) == "OK"
    store.write("/other", "2")
    store.write("/t/y", "2")  # changes the list of /t's children, of which the transaction knows nothing
    assert guest.end(number) == "OK"
    assert [store.read(path) for path in ("/t/x", "/other", "/t/y")] == ["new", "2", "2"]
    assert world.daemon.operations.tree.inconsistencies() == []


def test_making_children_of_one_node_conflicts(world: World, store: Store) -> None:
    guest = world.guest(1)
    store.mkdir("/t", perms=["b0"])
    number = guest.start()
    assert guest.write("/t/a", "1", number) == "OK"
    store.write("/t/b", "2")
    assert guest.end(number) == "EAGAIN"


def test_a_missing_node_that_was_read_and_then_made_by_another_conflicts(world: World, store: Store) -> None:
    guest = world.guest(1)
    store.mkdir("/t", perms=["b0"])
    number = guest.start()
    assert guest.read("/t/a", number) == "ENOENT"
    store.write("/t/a", "1")
    assert guest.end(number) == "EAGAIN"


def test_removal_conflicts_with_a_change_deep_below(store: Store) -> None:
    store.write("/t/a/b/c", "1")
    with pytest.raises(StoreError) as caught, store.transaction() as transaction:
        transaction.rm("/t/a")
        store.write("/t/a/b/c", "2")
    assert caught.value.errno == errno.EAGAIN
    assert store.read("/t/a/b/c") == "2"


def test_remove_and_make_again_in_one_transaction(world: World, store: Store) -> None:
    store.write("/t/a/b", "1")
    store.write("/t/a/c", "2")
    with store.transaction() as transaction:
        transaction.rm("/t/a")
        transaction.write("/t/a/c/d", "3")
        store.write("/elsewhere", "")  # so that the commit has to merge
    assert not store.exists("/t/a/b")
    assert store.read("/t/a/c") == ""
    assert store.read("/t/a/c/d") == "3"
    assert world.daemon.operations.tree.inconsistencies() == []


def test_events_come_with_the_commit_once_for_each_path(world: World, store: Store) -> None:
    guest = world.guest(1)
    store.write("/t/a", "", perms=["r0"])
    store.write("/t/gone/below", "", perms=["r0"])
    store.set_perms("/t/gone", ["r0"])
    guest.do(xs_wire.XS_WATCH, "/t", "top")
    guest.do(xs_wire.XS_WATCH, "/t/gone/below", "below")
    guest.new_events()
    with store.transaction() as transaction:
        transaction.write("/t/a", "1")
        transaction.write("/t/a", "2")
        transaction.rm("/t/gone")
        world.loop.run()
        assert guest.new_events() == []
    world.loop.run()
    assert guest.new_events() == [("/t/a", "top"), ("/t/gone", "top"), ("/t/gone/below", "below")]


def test_no_nesting_and_unknown_numbers(world: World) -> None:
    guest = world.guest(1)
    number = guest.start()
    assert guest.request(xs_wire.XS_TRANSACTION_START, payload=b"\0", transaction=number).error == "EBUSY"
    assert guest.request(xs_wire.XS_TRANSACTION_START, payload=b"\0", transaction=77).error == "ENOENT"
    assert guest.do(xs_wire.XS_TRANSACTION_END, "T") == "ENOENT"
    assert guest.do(xs_wire.XS_TRANSACTION_END, "X", transaction=number) == "EINVAL"
    assert guest.end(number) == "OK"
    assert world.guest(2).start() == 1, "numbers are each connection's own"


def test_numbers_wrap_and_skip_open_ones(world: World) -> None:
    guest = world.guest(1)
    first = guest.start()
    connection = world.daemon.guests[1].connection
    connection._last_transaction = 0xFFFFFFFE
    assert guest.start() == 0xFFFFFFFF
    assert guest.start() == first + 1


def test_quotas(world: World, store: Store) -> None:
    guest = world.guest(1)
    store.mkdir("/t", perms=["b0"])
    numbers = [guest.start() for _ in range(10)]
    assert guest.request(xs_wire.XS_TRANSACTION_START, payload=b"\0").error == "ENOSPC"
    world.daemon.quotas.transaction_nodes = 8
    answers = [guest.read(f"/t/{index}", numbers[0]) for index in range(10)]
    assert answers == ["ENOENT"] * 7 + ["ENOSPC"] * 3  # /t counts: it decides what the guest may know


def test_node_quota_counts_what_others_did_meanwhile(world: World, store: Store) -> None:
    guest = world.guest(1)
    world.daemon.quotas.nodes = 4
    store.mkdir("/t", perms=["b0"])
    store.mkdir("/u", perms=["b0"])
    number = guest.start()
    for name in ("a", "b"):
        assert guest.write(f"/t/{name}", "", number) == "OK"
    for name in ("a", "b", "c"):
        assert guest.write(f"/u/{name}", "") == "OK"
    assert guest.end(number) == "ENOSPC"
    assert store.ls("/t") == []


def test_a_domain_that_dies_is_granted_nothing_later(world: World, store: Store) -> None:
    world.guest(1)
    with pytest.raises(StoreError) as caught, store.transaction() as transaction:
        transaction.write("/t", "", perms=["n0", "b1"])
        store.release_domain(1)
    assert caught.value.errno == errno.EAGAIN


PATHS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=0, max_size=4).map(tuple)
VALUES = st.binary(max_size=3)


class StoreModel:
    """The obvious store: a dictionary of paths."""

    def __init__(self, nodes: dict[tuple[str, ...], bytes]) -> None:
        self.nodes = nodes

    def write(self, parts: tuple[str, ...], value: bytes) -> None:
        for depth in range(len(parts)):
            self.nodes.setdefault(parts[:depth], b"")
        self.nodes[parts] = value

    def mkdir(self, parts: tuple[str, ...]) -> None:
        if parts not in self.nodes:
            self.write(parts, b"")

    def remove(self, parts: tuple[str, ...]) -> int:
        if parts in self.nodes:
            if not parts:
                return errno.EINVAL
            for other in [other for other in self.nodes if other[: len(parts)] == parts]:
                del self.nodes[other]
            return 0
        return 0 if parts[:-1] in self.nodes else errno.ENOENT


class TransactionMachine(RuleBasedStateMachine):
    """Several transactions and direct changes at a time, against models.

    A commit that succeeds must have the effect of running the transaction's operations at that moment, with the results that it
    saw; nobody else may have changed what it relied on. One that nothing interfered with must succeed.
    """

    transactions = Bundle("transactions")

    def __init__(self) -> None:
        super().__init__()
        self.operations = Operations(WatchRegistry(), Quotas())
        self.model = StoreModel({(): b""})
        self.changes = 0
        self.numbers = 0

    @initialize()
    def begin(self) -> None:
        self.operations.write(DOMAIN_0, None, "/a/b", b"0")
        self.model.write(("a", "b"), b"0")

    @rule(target=transactions)
    def start(self) -> tuple[Transaction, StoreModel, list[tuple[str, tuple[str, ...], bytes, object]], int]:
        self.numbers += 1
        return Transaction(self.numbers, self.operations.tree), StoreModel(dict(self.model.nodes)), [], self.changes

    def perform(self, transaction: Transaction | None, model: StoreModel, kind: str, parts: tuple[str, ...], value: bytes) -> object:
        """Do the same to both; they must agree. -> the result."""
        path = paths.join(parts)
        operations = self.operations
        try:
            if kind == "write":
                operations.write(DOMAIN_0, transaction, path, value)
                model.write(parts, value)
                return None
            if kind == "mkdir":
                operations.mkdir(DOMAIN_0, transaction, path)
                model.mkdir(parts)
                return None
            if kind == "remove":
                expected = model.remove(parts)
                operations.remove(DOMAIN_0, transaction, path)
                assert expected == 0
                return None
            if kind == "read":
                result: object = operations.read(DOMAIN_0, transaction, path)
                assert result == model.nodes.get(parts)
                return result
            result = sorted(operations.directory(DOMAIN_0, transaction, path)[1])
            assert result == sorted(other[-1] for other in model.nodes if other and other[:-1] == parts)
            return result
        except StoreError as error:
            if kind == "remove":
                assert error.errno == expected
            else:
                assert error.errno == errno.ENOENT
                assert parts not in model.nodes
            return error.errno

    @rule(kind=st.sampled_from(["write", "mkdir", "remove"]), parts=PATHS, value=VALUES)
    def directly(self, kind: str, parts: tuple[str, ...], value: bytes) -> None:
        self.changes += 1
        self.perform(None, self.model, kind, parts, value)

    @rule(entry=transactions, kind=st.sampled_from(["write", "mkdir", "remove", "read", "directory"]), parts=PATHS, value=VALUES)
    def inside(
        self,
        entry: tuple[Transaction, StoreModel, list[tuple[str, tuple[str, ...], bytes, object]], int],
        kind: str,
        parts: tuple[str, ...],
        value: bytes,
    ) -> None:
        transaction, model, history, _ = entry
        history.append((kind, parts, value, self.perform(transaction, model, kind, parts, value)))

    @rule(entry=consumes(transactions))
    def commit(self, entry: tuple[Transaction, StoreModel, list[tuple[str, tuple[str, ...], bytes, object]], int]) -> None:
        transaction, _, history, changes = entry
        try:
            self.operations.end(transaction)
        except StoreError as error:
            assert error.errno == errno.EAGAIN
            assert changes != self.changes, "nothing interfered"
            return
        self.changes += 1
        for kind, parts, value, result in history:
            assert self.replay(kind, parts, value) == result

    def replay(self, kind: str, parts: tuple[str, ...], value: bytes) -> object:
        model = self.model
        if kind == "write":
            return model.write(parts, value)
        if kind == "mkdir":
            return model.mkdir(parts)
        if kind == "remove":
            return model.remove(parts) or None
        if parts not in model.nodes:
            return errno.ENOENT
        if kind == "read":
            return model.nodes[parts]
        return sorted(other[-1] for other in model.nodes if other and other[:-1] == parts)

    @invariant()
    def store_and_model_agree(self) -> None:
        tree = self.operations.tree
        assert {parts: node.value for parts, node in tree.walk()} == self.model.nodes
        assert tree.inconsistencies() == []


TransactionMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestTransactionsAgainstAModel = TransactionMachine.TestCase

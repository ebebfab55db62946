from __future__ import annotations

from pyxen.xenstore.permissions import parse
from pyxen.xenstore.tree import NO_GENERATION, Tree, Usage

N0 = parse(["n0"])
N5 = parse(["n5", "r6"])


def populated() -> Tree:
    tree = Tree()
    tree.add(("a",), b"1", N0)
    tree.add(("a", "b"), b"22", N5)
    tree.add(("a", "c"), b"", N0)
    return tree


def contents(tree: Tree) -> dict[tuple[str, ...], bytes]:
    return {parts: node.value for parts, node in tree.walk()}


def test_reading() -> None:
    tree = populated()
    assert contents(tree) == {(): b"", ("a",): b"1", ("a", "b"): b"22", ("a", "c"): b""}
    assert tree.get(("a", "x")) is None
    assert tree.get(("x", "y", "z")) is None
    node = tree.get(("a", "b"))
    assert node is not None
    assert tree.nearest(("a", "b")) == (("a", "b"), node)
    assert tree.nearest(("a", "b", "x", "y")) == (("a", "b"), node)
    assert tree.nearest(("x",)) == ((), tree.root)
    assert [parts for parts, _ in tree.walk(("a",))] == [("a",), ("a", "b"), ("a", "c")]
    assert list(tree.walk(("x",))) == []


def test_usage_follows_every_change() -> None:
    tree = populated()
    assert tree.usage_of(5) == Usage(1, 24 + 16 + 2)
    tree.set_value(("a", "b"), b"12345")
    assert tree.usage_of(5) == Usage(1, 24 + 16 + 5)
    tree.add(("a", "b", "cd"), b"", N5)
    assert tree.usage_of(5) == Usage(2, 24 + 16 + 5 + 3 + 24 + 16)
    assert tree.inconsistencies() == []
    tree.set_permissions(("a", "b"), N0)
    assert tree.usage_of(5) == Usage(1, 24 + 16)
    tree.remove(("a",))
    assert tree.usage_of(5) == Usage()
    assert tree.usage == {0: Usage(1, 24 + 8)}
    assert tree.inconsistencies() == []


def test_generations_change_with_value_permissions_and_children() -> None:
    tree = populated()

    def generations() -> tuple[int, ...]:
        return tuple(tree.generation(parts) for parts in ((), ("a",), ("a", "b"), ("a", "c")))

    def changed(before: tuple[int, ...]) -> list[bool]:
        return [old != new for old, new in zip(before, generations(), strict=True)]

    before = generations()
    tree.set_value(("a", "b"), b"22")
    assert changed(before) == [False, False, True, False]
    before = generations()
    tree.set_permissions(("a", "c"), N5)
    assert changed(before) == [False, False, False, True]
    before = generations()
    tree.add(("a", "d"), b"", N0)
    assert changed(before) == [False, True, False, False]
    before = generations()
    tree.remove(("a", "b"))
    assert changed(before) == [False, True, True, False]
    assert tree.generation(("a", "b")) == NO_GENERATION


def test_snapshots_do_not_see_each_others_changes() -> None:
    tree = populated()
    first, second = tree.snapshot(), tree.snapshot()
    before = contents(tree)
    tree.set_value(("a", "b"), b"live")
    first.remove(("a", "b"))
    second.add(("a", "b", "x"), b"deep", N0)
    assert contents(tree) == before | {("a", "b"): b"live"}
    assert contents(first) == {parts: value for parts, value in before.items() if parts != ("a", "b")}
    assert contents(second) == before | {("a", "b", "x"): b"deep"}
    for each in (tree, first, second):
        assert each.inconsistencies() == []


def test_snapshot_copies_only_what_changes() -> None:
    tree = populated()
    snapshot = tree.snapshot()
    tree.set_value(("a", "b"), b"live")
    assert snapshot.get(("a", "c")) is tree.get(("a", "c"))
    assert snapshot.get(("a", "b")) is not tree.get(("a", "b"))
    root = tree.root
    tree.set_value(("a", "b"), b"again")
    assert tree.root is root, "a second change copies nothing"


def test_adopt() -> None:
    tree = populated()
    snapshot = tree.snapshot()
    snapshot.set_value(("a",), b"new")
    other = tree.snapshot()
    version = tree.version
    tree.adopt(snapshot)
    assert contents(tree)[("a",)] == b"new"
    assert contents(other)[("a",)] == b"1"
    assert tree.version != version
    tree.set_value(("a",), b"newer")
    assert contents(other)[("a",)] == b"1"
    assert tree.inconsistencies() == []


def test_inconsistencies_are_found() -> None:
    tree = populated()
    node = tree.get(("a", "b"))
    assert node is not None
    node.value = b"changed behind its back"
    tree.root.names_size += 1
    found = tree.inconsistencies()
    assert any("size of the children's names" in line for line in found)
    assert any(line.startswith("domain 5:") for line in found)


def test_a_very_deep_path() -> None:
    tree = Tree()
    parts: tuple[str, ...] = ()
    for _ in range(1500):
        parts = (*parts, "x")
        tree.add(parts, b"", N0)
    assert tree.inconsistencies() == []
    tree.remove(("x",))
    assert contents(tree) == {(): b""}

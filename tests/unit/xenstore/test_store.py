"""The interface for the toolstack and the backends."""

from __future__ import annotations

import asyncio
import errno

import pytest

from pyxen.xenstore.daemon import INITIAL_NODES, Daemon
from pyxen.xenstore.errors import StoreError
from pyxen.xenstore.store import Store
from tests.unit.xenstore.simulated_guest import SimulatedGuest, World


def test_nodes_of_the_start(store: Store) -> None:
    for path in INITIAL_NODES:
        assert store.get_perms(path) == ["n0"]
    assert store.ls("/") == ["tool", "local", "vm"]


def test_reading_and_writing(store: Store) -> None:
    store.write("/a/b", "text")
    store.write("/a/c", b"\xff\0", perms=["r0", "b5"])
    store.mkdir("/a/d", perms=["n5"])
    assert store.read("/a/b") == "text"
    assert store.read_bytes("/a/c") == b"\xff\0"
    store.write("/a/b", store.read("/a/c"))
    assert store.read_bytes("/a/b") == b"\xff\0", "bytes that are no text survive"
    assert store.ls("/a") == ["b", "c", "d"]
    assert store.get_perms("/a/c") == ["r0", "b5"]
    assert store.exists("/a/d")
    assert not store.exists("/a/e")
    assert store.get("/a/b/x", "default") == "default"
    store.rm("/a")
    assert not store.exists("/a")
    store.write("relative", "1")
    assert store.read("/local/domain/0/relative") == "1"
    assert store.domain_path(5) == "/local/domain/5"


@pytest.mark.parametrize("operation", ["read", "ls", "get_perms"])
def test_missing(store: Store, operation: str) -> None:
    with pytest.raises(StoreError) as caught:
        getattr(store, operation)("/missing")
    assert caught.value.errno == errno.ENOENT
    assert "/missing" in str(caught.value)


def test_malformed(store: Store) -> None:
    for operation in (store.exists, store.get, store.rm, store.mkdir):
        with pytest.raises(StoreError) as caught:
            operation("/a//b")
        assert caught.value.errno == errno.EINVAL


def test_transaction(store: Store) -> None:
    store.write("/a", "1")
    with store.transaction() as transaction:
        transaction.write("/a", "2")
        transaction.mkdir("/b")
        assert transaction.read("/a") == "2"
        assert store.read("/a") == "1"
    assert store.read("/a") == "2"
    with pytest.raises(ZeroDivisionError), store.transaction() as transaction:
        transaction.write("/a", "3")
        1 / 0  # noqa: B018
    assert store.read("/a") == "2"
    with pytest.raises(StoreError) as caught, store.transaction() as transaction:
        transaction.read("/a")
        store.write("/a", "4")
    assert caught.value.errno == errno.EAGAIN


def test_nothing_is_left_of_transactions_and_watches(world: World, store: Store) -> None:
    with store.transaction() as transaction:
        transaction.write("/a", "1")
    store.watch("/a", "T", lambda path, token: None)()
    with pytest.raises(StoreError):
        store.watch("bad path", "T", lambda path, token: None)
    assert world.daemon.clients == set()
    assert list(world.daemon.watches) == []


def test_watch(world: World, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[tuple[str, str]] = []
    stop = store.watch("/a", "T", lambda path, token: heard.append((path, token)))
    assert heard == [], "never in the middle of a call"
    world.loop.run()
    assert heard == [("/a", "T")]
    store.watch("/a", "bad", lambda path, token: 1 / 0)  # type: ignore[arg-type, return-value]
    store.write("/a/b", "1")
    world.loop.run()
    assert heard == [("/a", "T"), ("/a/b", "T")]
    assert "the callback failed" in caplog.text
    store.write("/a/c", "1")
    stop()
    world.loop.run()
    assert len(heard) == 2, "not even for what has happened before the end"


def test_a_callback_may_use_the_store(world: World, store: Store) -> None:
    def copy(path: str, token: str) -> None:
        store.write("/copy", store.get("/a"))

    store.watch("/a", "T", copy)
    store.write("/a", "1")
    world.loop.run()
    assert store.read("/copy") == "1"


def test_introducing_with_a_page_of_the_callers(world: World, store: Store) -> None:
    guest = SimulatedGuest(world.loop, 8)
    guest.on_event = store.introduce_domain(8, guest.page, 1, guest.notify)
    assert store.is_introduced(8)
    assert guest.notifications == 1
    store.mkdir("/local/domain/8", perms=["n8"])
    assert guest.write("name", "x") == "OK"
    store.release_domain(8)
    assert not store.is_introduced(8)
    with pytest.raises(StoreError):
        store.release_domain(8)
    guest.page.release()  # nobody holds on to the page


def test_introducing_without_a_connector(world: World) -> None:
    store = Store(Daemon(world.loop))
    with pytest.raises(StoreError) as caught:
        store.introduce(5, 1, 1)
    assert caught.value.errno == errno.ENOSYS
    store.check_domains()


def test_failed_introduction_leaves_nothing(world: World, store: Store) -> None:
    with pytest.raises(StoreError):
        store.introduce(5, 1, 1)
    assert not store.is_introduced(5)
    assert world.daemon.clients == set()


def test_in_an_asyncio_loop() -> None:
    async def main() -> list[str]:
        store = Store(Daemon(asyncio.get_running_loop()))
        seen: asyncio.Queue[str] = asyncio.Queue()
        store.watch("/a", "T", lambda path, token: seen.put_nowait(path))
        store.write("/a/b", "1")
        return [await seen.get(), await seen.get()]

    assert asyncio.run(main()) == ["/a", "/a/b"]


def test_closing_the_daemon(world: World, store: Store) -> None:
    guest = world.guest(1)
    world.daemon.close()
    assert guest.closed
    assert not store.is_introduced(1)

"""Introducing a guest through Domain 0's hypercalls."""

from __future__ import annotations

import errno
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pyxen.hypervisor.dom0_interface import Dom0Hypercalls, HypercallError
from pyxen.xenstore.daemon import Daemon
from pyxen.xenstore.errors import StoreError
from pyxen.xenstore.guest_link import DomainState, HypercallConnector
from pyxen.xenstore.store import Store
from tests.unit.xenstore.simulated_guest import ManualLoop, SimulatedGuest


class FewHypercalls:
    """The few of Domain 0's calls that the store needs, for one domain, 5, with its page at 77 and port 3."""

    def __init__(self) -> None:
        self.guest = SimulatedGuest(ManualLoop(), 5)
        self.handler: Callable[[], None] | None = None
        self.mapped: list[int] = []
        self.sent = 0
        self.refuse_bind = False
        self.dying = self.shutdown = False

    def map_foreign(self, domid: int, mfn: int) -> memoryview:
        if (domid, mfn) != (5, 77):
            raise HypercallError(errno.EPERM, "not a frame of the domain")
        self.mapped.append(mfn)
        return self.guest.page

    def unmap_foreign(self, domid: int, mfn: int) -> None:
        self.mapped.remove(mfn)

    def bind_interdomain(self, domid: int, port: int, handler: Callable[[], None]) -> int:
        if self.refuse_bind or port != 3 or self.handler is not None:
            raise HypercallError(errno.EINVAL, "port is not unbound")
        self.handler = handler
        return 12

    def close_port(self, port: int) -> None:
        assert port == 12
        self.handler = None

    def notify(self, port: int) -> None:
        assert port == 12
        self.sent += 1

    def domain_info(self, domid: int) -> Any:
        if domid != 5:
            raise HypercallError(errno.ESRCH, "no such domain")
        return SimpleNamespace(dying=self.dying, shutdown=self.shutdown)


@pytest.fixture
def hypercalls() -> FewHypercalls:
    return FewHypercalls()


@pytest.fixture
def linked(hypercalls: FewHypercalls) -> Store:
    loop = hypercalls.guest.loop
    return Store(Daemon(loop, HypercallConnector(cast(Dom0Hypercalls, hypercalls), loop.call_soon)))


def test_a_guest_is_served_through_hypercalls(hypercalls: FewHypercalls, linked: Store) -> None:
    linked.introduce(5, 77, 3)
    assert hypercalls.sent == 1
    assert hypercalls.handler is not None
    guest = hypercalls.guest
    guest.on_event = hypercalls.handler
    linked.mkdir("/local/domain/5", perms=["n5"])
    assert guest.write("a", "1") == "OK"
    linked.introduce(5, 77, 3)
    assert hypercalls.mapped == [77]
    linked.release_domain(5)
    assert hypercalls.mapped == []
    assert hypercalls.handler is None


def test_many_events_are_handled_once(hypercalls: FewHypercalls, linked: Store) -> None:
    linked.introduce(5, 77, 3)
    loop = hypercalls.guest.loop
    loop.run()
    assert hypercalls.handler is not None
    for _ in range(1000):
        hypercalls.handler()
    assert len(loop._soon) == 1
    loop.run()
    hypercalls.handler()
    assert len(loop._soon) == 1


@pytest.mark.parametrize(("domid", "gfn", "port", "number"), [(5, 78, 3, errno.EPERM), (6, 77, 3, errno.EPERM), (5, 77, 4, errno.EINVAL)])
def test_refusals(hypercalls: FewHypercalls, linked: Store, domid: int, gfn: int, port: int, number: int) -> None:
    with pytest.raises(StoreError) as caught:
        linked.introduce(domid, gfn, port)
    assert caught.value.errno == number
    assert hypercalls.mapped == []
    assert not linked.is_introduced(domid)


def test_states(hypercalls: FewHypercalls) -> None:
    connector = HypercallConnector(cast(Dom0Hypercalls, hypercalls), hypercalls.guest.loop.call_soon)
    assert connector.domain_state(6) is DomainState.GONE
    assert connector.domain_state(5) is DomainState.ALIVE
    hypercalls.shutdown = True
    assert connector.domain_state(5) is DomainState.SHUTDOWN
    hypercalls.dying = True
    assert connector.domain_state(5) is DomainState.GONE

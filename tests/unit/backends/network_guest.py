"""Two vifs on one switch, whose frontends are in this process: their grants, rings and store entries are the tests' to write.

Hypervisor, store, toolstack and backend are the real ones; only the guests' own code does not run.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator

from pyxen.abi.event_channel import EVTCHNOP_send, evtchn_send
from pyxen.abi.io import netif
from pyxen.abi.xen import HYPERVISOR_event_channel_op
from pyxen.backends.device import Surroundings
from pyxen.backends.helper_program import HelperPrograms, NoHelperPrograms
from pyxen.backends.network import network_backend
from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.hypervisor import Hypervisor
from pyxen.toolstack.configuration.vif import VifSpecification
from pyxen.toolstack.devices.interfaces import DomainInterfaces
from pyxen.xenstore.daemon import Daemon
from pyxen.xenstore.guest_link import HypercallConnector
from pyxen.xenstore.store import Store
from tests.unit.backends.block_guest import GUESTS, Guest, until
from tests.unit.hypervisor.grant_guest import GrantGuest

TX_PFN, RX_PFN, DATA_PFN = 20, 21, 24
TX_REFERENCE, RX_REFERENCE, DATA_REFERENCE = 100, 101, 200
DATA_PAGES = 16
SLOTS = 256
MORE, EXTRA, BLANK = netif.NETTXF_more_data, netif.NETTXF_extra_info, netif.NETTXF_csum_blank


class Frontend:
    """One vif's frontend. Data pages 0 to 7 are for sending, 8 to 15 are offered for receiving."""

    def __init__(self, guest: Guest, store: Store) -> None:
        self.guest = guest
        self.store = store
        self.path = f"/local/domain/{guest.domid}/device/vif/0"
        self.backend = f"/local/domain/0/backend/vif/{guest.domid}/0"
        self.error = f"/local/domain/0/error/backend/vif/{guest.domid}/0/error"
        self.tx_producer = self.tx_consumer = self.rx_producer = self.rx_consumer = 0
        self.port = 0

    # -- memory -----------------------------------------------------------------------------------------------------------
    def poke(self, pfn: int, offset: int, data: bytes) -> None:
        start = (self.guest.mfns[pfn] << 12) + offset
        self.guest.hypervisor.memory.octets[start : start + len(data)] = data

    def peek(self, pfn: int, offset: int, size: int) -> bytes:
        start = (self.guest.mfns[pfn] << 12) + offset
        return bytes(self.guest.hypervisor.memory.octets[start : start + size])

    def number(self, pfn: int, offset: int) -> int:
        return int(struct.unpack("<I", self.peek(pfn, offset, 4))[0])

    # -- the store's side ---------------------------------------------------------------------------------------------------
    def prepare(self, **entries: object) -> None:
        """Grant everything, and write what a frontend writes before it says that it is connected."""
        self.tx_producer = self.tx_consumer = self.rx_producer = self.rx_consumer = 0
        for pfn, reference in ((TX_PFN, TX_REFERENCE), (RX_PFN, RX_REFERENCE)):
            self.poke(pfn, 0, bytes(4096))
            self.poke(pfn, 0, struct.pack("<IIII", 0, 1, 0, 1))
            self.guest.grant(reference, 0, pfn)
        for page in range(DATA_PAGES):
            self.guest.grant(DATA_REFERENCE + page, 0, DATA_PFN + page)
        if not self.port:
            self.port = self.guest.dom0.evtchn_alloc_unbound(self.guest.domid, 0)
        defaults: dict[str, object] = {
            "tx-ring-ref": TX_REFERENCE,
            "rx-ring-ref": RX_REFERENCE,
            "event-channel": self.port,
            "request-rx-copy": 1,
            "feature-rx-notify": 1,
            "feature-sg": 1,
            "feature-gso-tcpv4": 1,
        }
        for name, value in (defaults | {name.replace("_", "-"): value for name, value in entries.items()}).items():
            self.store.write(f"{self.path}/{name}", str(value))

    def switch(self, state: int | str) -> None:
        self.store.write(f"{self.path}/state", str(state))

    def backend_state(self) -> str:
        return self.store.get(f"{self.backend}/state")

    async def backend_reaches(self, state: int) -> None:
        await until(lambda: self.backend_state() == str(state))

    async def connect(self, **entries: object) -> None:
        await self.backend_reaches(2)
        self.prepare(**entries)
        self.switch(4)
        await self.backend_reaches(4)

    # -- the rings' side ----------------------------------------------------------------------------------------------------
    def kick(self) -> None:
        self.poke(TX_PFN, 0, struct.pack("<I", self.tx_producer & 0xFFFFFFFF))
        self.poke(RX_PFN, 0, struct.pack("<I", self.rx_producer & 0xFFFFFFFF))
        address = self.guest.write(self.guest.at(0), bytes(evtchn_send(port=self.port)))
        self.guest.call(HYPERVISOR_event_channel_op, EVTCHNOP_send, address)

    def put(self, slot: bytes) -> None:
        """One slot of the transmit ring."""
        self.poke(TX_PFN, 64 + self.tx_producer % SLOTS * 12, slot.ljust(12, b"\0"))
        self.tx_producer += 1

    async def answers(self, count: int) -> list[tuple[int, int]]:
        """(id, status) of so many more transmit responses."""
        await until(lambda: (self.number(TX_PFN, 8) - self.tx_consumer) & 0xFFFFFFFF >= count)
        result = []
        for _ in range(count):
            result.append(struct.unpack("<Hh", self.peek(TX_PFN, 64 + self.tx_consumer % SLOTS * 12, 4)))
            self.tx_consumer += 1
        self.poke(TX_PFN, 12, struct.pack("<I", self.tx_consumer + 1 & 0xFFFFFFFF))
        return result

    def offer(self, pages: int, first: int = 8) -> None:
        """Pages to receive into."""
        for page in range(first, first + pages):
            self.poke(RX_PFN, 64 + self.rx_producer % SLOTS * 8, struct.pack("<HHI", page, 0, DATA_REFERENCE + page))
            self.rx_producer += 1
        self.kick()

    async def received(self, count: int) -> list[tuple[int, int, int, int]]:
        """(id, offset, flags, status) of so many more receive responses."""
        await until(lambda: (self.number(RX_PFN, 8) - self.rx_consumer) & 0xFFFFFFFF >= count)
        result = []
        for _ in range(count):
            result.append(struct.unpack("<HHHh", self.peek(RX_PFN, 64 + self.rx_consumer % SLOTS * 8, 8)))
            self.rx_consumer += 1
        self.poke(RX_PFN, 12, struct.pack("<I", self.rx_consumer + 1 & 0xFFFFFFFF))
        return result

    async def frame(self) -> bytes:
        """The next frame, of one page."""
        ((page, offset, _, size),) = await self.received(1)
        assert size > 0
        return self.peek(DATA_PFN + page, offset, size)

    async def send(self, frame: bytes, flags: int = 0) -> int:
        """One frame from page 0. -> its status."""
        self.poke(DATA_PFN, 0, frame)
        self.put(request(0, len(frame), flags))
        self.kick()
        return (await self.answers(1))[0][1]


def request(page: int, size: int, flags: int = 0, offset: int = 0, request_id: int = 7) -> bytes:
    return struct.pack("<IHHHH", DATA_REFERENCE + page, offset, flags, request_id, size)


def extra(kind: int, body: bytes = b"", more: bool = False) -> bytes:
    return struct.pack("<BB6s", kind, int(more), body)


def gso(size: int, kind: int = 1) -> bytes:
    return extra(netif.XEN_NETIF_EXTRA_TYPE_GSO, struct.pack("<HB", size, kind))


class World:
    """A Domain 0 with a network backend, and two guests on the switch "lab". ``kind``: of the first."""

    def __init__(self, hypervisor: Hypervisor, helpers: HelperPrograms, kind: str) -> None:
        loop = asyncio.get_running_loop()
        self.hypervisor = hypervisor
        self.daemon = Daemon(loop, HypercallConnector(hypervisor.dom0, loop.call_soon_threadsafe))
        self.store = Store(self.daemon)
        self.bus = network_backend(Surroundings(hypervisor.dom0, self.store, loop, helpers))
        self.interfaces = DomainInterfaces(self.store)
        self.guests: list[Guest] = [GUESTS[kind](hypervisor), GrantGuest(hypervisor)]
        self.first, self.second = (Frontend(guest, self.store) for guest in self.guests)

    async def attach(self, specification: str = "bridge=lab", index: int = 0) -> None:
        await self.interfaces.attach(self.guests[index].domid, VifSpecification.parse(specification))

    async def connect(self, first: str = "bridge=lab", **entries: object) -> None:
        """Both are attached and connected. ``entries`` are the second one's."""
        await self.attach(first)
        await self.attach(index=1)
        await self.first.connect()
        await self.second.connect(**entries)


@contextlib.asynccontextmanager
async def network_world(hypervisor: Hypervisor, helpers: HelperPrograms | None = None, kind: str = "pv") -> AsyncIterator[World]:
    """At its end nothing of the guests may be held by the backend."""
    ports = len(hypervisor.domain(0).event_channels._ports)
    world = World(hypervisor, helpers or NoHelperPrograms(), kind)
    try:
        yield world
        for guest in world.guests:
            await world.interfaces.remove_all(guest.domid)
    finally:
        await world.bus.close()
        world.daemon.close()
        for guest in world.guests:
            with contextlib.suppress(HypercallError):  # the test has destroyed it
                guest.destroy()
    assert len(hypervisor.domain(0).maptrack) == 0
    assert len(hypervisor.domain(0).event_channels._ports) == ports
    assert all(info.domid == 0 for info in hypervisor.dom0.list_domains())

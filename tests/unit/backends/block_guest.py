"""A frontend in this process: a small domain whose grants, ring and store entries the tests write as they like.

Hypervisor, store and backend are the real ones; only the guest's own code does not run.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from pyxen.abi.event_channel import EVTCHNOP_send, evtchn_send
from pyxen.abi.io.blkif import BLKIF_OP_INDIRECT, BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_ERROR, BLKIF_RSP_OKAY
from pyxen.abi.xen import HYPERVISOR_event_channel_op
from pyxen.backends.block import block_backend
from pyxen.backends.block_image import BlockImage
from pyxen.backends.device import Surroundings
from pyxen.backends.helper_program import HelperPrograms, NoHelperPrograms
from pyxen.hypervisor.hypervisor import Hypervisor
from pyxen.toolstack.configuration.disk import DiskSpecification
from pyxen.toolstack.devices.disks import DomainDisks
from pyxen.xenstore.daemon import Daemon
from pyxen.xenstore.guest_link import HypercallConnector
from pyxen.xenstore.store import Store
from tests.unit.backends.hvm_frontend import HvmGrantGuest
from tests.unit.hypervisor.grant_guest import GrantGuest

DEVID = 51712
RING_PFN, DATA_PFN, INDIRECT_PFN = 20, 24, 40
RING_REFERENCE, DATA_REFERENCE, INDIRECT_REFERENCE = 100, 200, 300
SLOT = 112
DATA_PAGES = 16

OKAY, ERROR, NOT_SUPPORTED = BLKIF_RSP_OKAY, BLKIF_RSP_ERROR, BLKIF_RSP_EOPNOTSUPP

Segment = tuple[int, int, int]
Guest = GrantGuest | HvmGrantGuest
GUESTS: dict[str, type[GrantGuest] | type[HvmGrantGuest]] = {"pv": GrantGuest, "pvh": HvmGrantGuest}


class Frontend:
    """One disk's frontend. ``request`` does what an honest driver does; the rest lets a test lie."""

    def __init__(self, guest: Guest, store: Store, devid: int = DEVID) -> None:
        self.guest = guest
        self.store = store
        self.path = f"/local/domain/{guest.domid}/device/vbd/{devid}"
        self.backend = f"/local/domain/0/backend/vbd/{guest.domid}/{devid}"
        self.error = f"/local/domain/0/error/backend/vbd/{guest.domid}/{devid}/error"
        self.pages = 1
        self.producer = self.consumer = 0
        self.port = 0

    # -- memory -----------------------------------------------------------------------------------------------------------
    def poke(self, pfn: int, offset: int, data: bytes) -> None:
        start = (self.guest.mfns[pfn] << 12) + offset
        self.guest.hypervisor.memory.octets[start : start + len(data)] = data

    def peek(self, pfn: int, offset: int, size: int) -> bytes:
        start = (self.guest.mfns[pfn] << 12) + offset
        return bytes(self.guest.hypervisor.memory.octets[start : start + size])

    def _ring(self, offset: int) -> tuple[int, int]:
        return RING_PFN + offset // 4096, offset % 4096

    @property
    def slots(self) -> int:
        return 1 << ((self.pages * 4096 - 64) // SLOT).bit_length() - 1

    def set_producer(self, value: int) -> None:
        self.poke(RING_PFN, 0, struct.pack("<I", value & 0xFFFFFFFF))

    def response_producer(self) -> int:
        return int(struct.unpack("<I", self.peek(RING_PFN, 8, 4))[0])

    # -- the store's side ---------------------------------------------------------------------------------------------------
    def prepare(self, pages: int = 1, **entries: object) -> None:
        """Grant the ring and the data pages, and write what a frontend writes before it says that it is initialised."""
        self.pages = pages
        self.producer = self.consumer = 0
        for page in range(pages):
            self.poke(RING_PFN + page, 0, bytes(4096))
            self.guest.grant(RING_REFERENCE + page, 0, RING_PFN + page)
        self.poke(RING_PFN, 0, struct.pack("<IIII", 0, 1, 0, 1))
        for page in range(DATA_PAGES):
            self.guest.grant(DATA_REFERENCE + page, 0, DATA_PFN + page)
        self.guest.grant(INDIRECT_REFERENCE, 0, INDIRECT_PFN)
        if not self.port:
            self.port = self.guest.dom0.evtchn_alloc_unbound(self.guest.domid, 0)
        names = ["ring-ref"] if pages == 1 else [f"ring-ref{page}" for page in range(pages)]
        defaults: dict[str, object] = {name: RING_REFERENCE + page for page, name in enumerate(names)}
        if pages > 1:
            defaults["ring-page-order"] = pages.bit_length() - 1
        defaults |= {"event-channel": self.port, "protocol": "x86_64-abi"}
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
        self.prepare(**entries)  # type: ignore[arg-type]
        self.switch(3)
        await self.backend_reaches(4)
        self.switch(4)

    # -- the ring's side ------------------------------------------------------------------------------------------------------
    def put(self, slot: bytes) -> None:
        for index, octet in enumerate(slot.ljust(SLOT, b"\0")):
            self.poke(*self._ring(64 + self.producer % self.slots * SLOT + index), bytes([octet]))
        self.producer += 1

    def kick(self) -> None:
        self.set_producer(self.producer)
        address = self.guest.write(self.guest.at(0), bytes(evtchn_send(port=self.port)))
        self.guest.call(HYPERVISOR_event_channel_op, EVTCHNOP_send, address)

    async def responses(self, count: int) -> list[tuple[int, int, int]]:
        """(id, operation, status) of so many more responses."""
        await until(lambda: (self.response_producer() - self.consumer) & 0xFFFFFFFF >= count)
        answers = []
        for _ in range(count):
            offset = 64 + self.consumer % self.slots * SLOT
            data = b"".join(self.peek(*self._ring(offset + index), 1) for index in range(16))
            answers.append(struct.unpack("<QBxhxxxx", data))
            self.consumer += 1
        self.poke(RING_PFN, 12, struct.pack("<I", self.consumer + 1 & 0xFFFFFFFF))
        return answers

    async def request(self, slot: bytes) -> int:
        """-> the status of one request."""
        self.put(slot)
        self.kick()
        return (await self.responses(1))[0][2]


def plain(operation: int, sector: int, segments: Sequence[Segment], count: int | None = None, request_id: int = 7) -> bytes:
    head = struct.pack("<BBHxxxxQQ", operation, len(segments) if count is None else count, 0, request_id, sector)
    return head + b"".join(struct.pack("<IBBxx", *segment) for segment in segments)


def discard(sector: int, sectors: int) -> bytes:
    return struct.pack("<BBHxxxxQQQ", 5, 0, 0, 7, sector, sectors)


def indirect(operation: int, sector: int, count: int, reference: int = INDIRECT_REFERENCE) -> bytes:
    return struct.pack("<BBHxxxxQQHxx8I", BLKIF_OP_INDIRECT, operation, count, 7, sector, 0, reference, *[0] * 7)


def data_segments(pages: int) -> list[Segment]:
    return [(DATA_REFERENCE + page, 0, 7) for page in range(pages)]


async def until(condition: Callable[[], bool], timeout: float = 20.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.002)


class World:
    """A Domain 0 with a block backend, and one guest."""

    def __init__(self, hypervisor: Hypervisor, folder: Path, helpers: HelperPrograms, kind: str) -> None:
        loop = asyncio.get_running_loop()
        self.hypervisor = hypervisor
        self.folder = folder
        self.daemon = Daemon(loop, HypercallConnector(hypervisor.dom0, loop.call_soon_threadsafe))
        self.store = Store(self.daemon)
        self.bus = block_backend(Surroundings(hypervisor.dom0, self.store, loop, helpers))
        self.disks = DomainDisks(self.store)
        self.guest = GUESTS[kind](hypervisor)
        self.frontend = Frontend(self.guest, self.store)

    def image(self, size: int = 1 << 20, name: str = "disk.img") -> Path:
        path = self.folder / name
        path.write_bytes(bytes(index * 7 % 251 for index in range(4096)) * (size // 4096))
        return path

    def serve_nothing_at_once(self, patch: pytest.MonkeyPatch) -> None:
        """As if the host had nothing in its page cache: requests go to the disk's threads."""
        for name in ("read_at_once", "write_at_once"):
            patch.setattr(BlockImage, name, lambda *_: False)

    async def attach(self, image: Path, access: str = "w", vdev: str = "xvda", image_format: str = "raw") -> None:
        await self.disks.attach(self.guest.domid, DiskSpecification.parse(f"{image},{image_format},{vdev},{access}"))


@contextlib.asynccontextmanager
async def block_world(
    hypervisor: Hypervisor, folder: Path, helpers: HelperPrograms | None = None, kind: str = "pv"
) -> AsyncIterator[World]:
    """At its end nothing of the guest may be held by the backend."""
    ports = len(hypervisor.domain(0).event_channels._ports)
    world = World(hypervisor, folder, helpers or NoHelperPrograms(), kind)
    try:
        yield world
        await world.disks.remove_all(world.guest.domid)
    finally:
        await world.bus.close()
        world.daemon.close()
        world.guest.destroy()
    assert len(hypervisor.domain(0).maptrack) == 0
    assert len(hypervisor.domain(0).event_channels._ports) == ports
    assert all(info.domid == 0 for info in hypervisor.dom0.list_domains())


Scenario = Callable[[World], Awaitable[None]]
Play = Callable[[Scenario], None]


def connected(scenario: Scenario, **entries: object) -> Scenario:
    """With a disk of 1 MiB, attached and connected."""

    async def run(world: World) -> None:
        await world.attach(world.image())
        await world.frontend.connect(**entries)
        await scenario(world)

    return run

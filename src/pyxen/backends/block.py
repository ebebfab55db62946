"""The block backend: virtual disks ("vbd") on raw files and block devices, as blkback is to Linux's Domain 0 (io/blkif.h)."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from pyxen.abi.io.blkif import VDISK_CDROM, VDISK_READONLY
from pyxen.abi.io.protocols import XEN_IO_PROTO_ABI_NATIVE
from pyxen.backends.block_image import SECTOR, BlockImage, DiskImage, EmptyDrive
from pyxen.backends.block_request import FORMS, MAX_INDIRECT_SEGMENTS
from pyxen.backends.block_ring import BlockRing, RingLegacy, RingPlace
from pyxen.backends.block_statistics import BlockStatistics
from pyxen.backends.block_worker import BlockWorker
from pyxen.backends.device import BackendDevice, DeviceAddress, DeviceError, Surroundings
from pyxen.backends.nbd_image import NbdImage
from pyxen.backends.storage_daemon import DRIVERS
from pyxen.backends.xenbus import BackendBus
from pyxen.hypervisor.dom0_interface import HypercallError

MAX_RING_PAGE_ORDER = 4  #: 16 pages, as Linux's backend
MAX_QUEUES = 4
#: Requests of one disk that are in the host's kernel at the same time.
_THREADS = 4
_MAX_NUMBER = 0xFFFFFFFF
#: Seconds between two looks at a disk's size.
_SIZE_INTERVAL = 1.0


class BlockDevice(BackendDevice):
    """One disk of one guest."""

    def __init__(self, surroundings: Surroundings, address: DeviceAddress) -> None:
        self._image: DiskImage | None = None
        self._rings: list[BlockRing] = []
        self._legacy: list[RingLegacy] = []
        self.statistics = BlockStatistics()
        self._sectors = 0
        self._medium = ""  #: what the toolstack wants in the drive, whether we have it or not
        self._stop_watch: Callable[[], None] | None = None
        self._size_timer: asyncio.TimerHandle | None = None
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix=str(address))
        super().__init__(surroundings, address)

    async def open(self) -> None:
        """Open and lock the image that the toolstack named."""
        is_cdrom = self.backend_value("device-type") == "cdrom"
        self._medium = self.backend_value("params")
        try:
            self._image = image = await self._opened()
        except DeviceError as error:
            if not is_cdrom or self.is_new:
                raise
            self.publish(hotplug_error=str(error))
            self._image = image = EmptyDrive()
        if is_cdrom and self._stop_watch is None:
            path = f"{self.address.backend_path}/params"
            self._stop_watch = self.store.watch(path, str(self.address), lambda _path, _token: self._look_at_medium())
        if image.is_block_device:
            major, minor = image.device_numbers
            self.publish(physical_device=f"{major:x}:{minor:x}")
        self.publish(
            physical_device_path=image.path,
            max_ring_page_order=MAX_RING_PAGE_ORDER,
            multi_queue_max_queues=MAX_QUEUES,
            feature_persistent=1,
            feature_max_indirect_segments=MAX_INDIRECT_SEGMENTS,
        )
        if image.writable:
            discard = int(self.backend_value("discard-enable", "1") != "0")
            self.publish(feature_flush_cache=1, feature_barrier=1, feature_discard=discard)
            if discard:
                self.publish(discard_granularity=4096, discard_alignment=0, discard_secure=0)

    async def _opened(self) -> DiskImage:
        path, image_format, mode = (self.backend_value(name) for name in ("params", "image-format", "mode"))
        writable, shared = mode.startswith("w"), mode.endswith("!")
        if not path:
            return EmptyDrive()
        if image_format in DRIVERS:
            return await NbdImage.open(self.helpers, str(self.address), path, image_format, writable=writable)
        return await self._open_raw(path, writable, shared)

    @staticmethod
    async def _open_raw(path: str, writable: bool, shared: bool) -> BlockImage:
        """In a thread: a network file system may take its time, or forever."""
        opening = asyncio.create_task(asyncio.to_thread(BlockImage, path, writable=writable, shared=shared))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            await asyncio.wait([opening])
            if opening.exception() is None:
                await opening.result().close()
            raise

    def _look_at_medium(self) -> None:
        """The toolstack may have named another one. Nothing there, and the device itself is going."""
        if self._image is not None and self.store.exists(self.address.backend_path) and self.backend_value("params") != self._medium:
            self.on_change()

    async def connect(self) -> None:
        """Map the frontend's rings and tell it what the disk is."""
        assert self._image is not None
        persistent = bool(self.frontend_number("feature-persistent", 0, 1, 0))
        worker = BlockWorker(str(self.address), self._image, self.statistics)
        places = self._ring_places()
        self._legacy = []
        legacies: Sequence[RingLegacy | None] = self.inheritance if isinstance(self.inheritance, tuple) else (None,) * len(places)
        if len(legacies) != len(places):
            raise DeviceError(errno.EINVAL, f"{len(places)} rings in place of {len(legacies)}")
        for place, legacy in zip(places, legacies, strict=True):
            try:
                ring = BlockRing(
                    self.dom0,
                    self.address.domid,
                    place,
                    name=f"{self.address} ring {len(self._rings)}",
                    persistent=persistent,
                    worker=worker,
                    threads=self._threads,
                    failed=self.fail,
                    crashed=self.crash,
                    legacy=legacy,
                )
            except HypercallError as error:
                raise DeviceError(error.errno, f"mapping ring-ref, port {place.untrusted_port}: {error.reason}") from None
            self._rings.append(ring)
        self.inheritance = None
        self._sectors = self._image.sectors()
        is_changed = self.backend_value("sectors") != str(self._sectors)
        self.publish(sectors=self._sectors, info=self._info(), sector_size=SECTOR, physical_sector_size=SECTOR)
        if is_changed:
            self.announce_change()
        self._watch_size()

    async def disconnect(self) -> None:
        """Wait for what runs, and unmap everything."""
        if self._size_timer is not None:
            self._size_timer.cancel()
            self._size_timer = None
        while self._rings:
            await self._rings[0].close()
            self._legacy.append(self._rings.pop(0).legacy())

    def legacy(self) -> object | None:
        """See ``BackendDevice``."""
        return self.inheritance or tuple(self._legacy) or None

    async def release(self) -> None:
        """Close the image."""
        self._threads.shutdown(wait=False)
        if self._stop_watch is not None:
            self._stop_watch()
            self._stop_watch = None
        if self._image is not None:
            image, self._image = self._image, None
            await image.close()

    def _info(self) -> int:
        assert self._image is not None
        cdrom = VDISK_CDROM if self.backend_value("device-type") == "cdrom" else 0
        return cdrom | (0 if self._image.writable else VDISK_READONLY)

    def _ring_places(self) -> list[RingPlace]:
        protocol = self.frontend_text("protocol") or XEN_IO_PROTO_ABI_NATIVE
        if protocol not in FORMS:
            raise DeviceError(errno.EINVAL, f"unknown fe protocol {protocol[:40]!a}")
        queues = self.frontend_number("multi-queue-num-queues", 1, MAX_QUEUES, 1)
        folders = [""] if queues == 1 else [f"queue-{index}/" for index in range(queues)]
        # With one page, "ring-ref" has no number; with more, it has, even if they are one.
        order = self.frontend_number("ring-page-order", 0, MAX_RING_PAGE_ORDER, -1)
        names = ["ring-ref"] if order < 0 else [f"ring-ref{index}" for index in range(1 << order)]
        return [
            RingPlace(
                tuple(self.frontend_number(folder + name, 0, _MAX_NUMBER) for name in names),
                self.frontend_number(f"{folder}event-channel", 0, _MAX_NUMBER),
                FORMS[protocol],
            )
            for folder in folders
        ]

    def _watch_size(self) -> None:
        """A disk that was made larger on the host is larger for the guest, too."""
        assert self._image is not None
        sectors = self._image.sectors()
        if sectors != self._sectors:
            self._sectors = sectors
            self.publish(sectors=sectors)
            self.announce_change()
        self._size_timer = self.loop.call_later(_SIZE_INTERVAL, self._watch_size)


def block_backend(surroundings: Surroundings) -> BackendBus:
    """The block backend of a Domain 0."""
    return BackendBus(surroundings, "vbd", BlockDevice)

"""What the methods of the control protocol do for network interfaces."""

from __future__ import annotations

import asyncio
import dataclasses
import struct
import time
from collections import deque
from collections.abc import Awaitable, Callable

from pyxen.backends.network import NetworkDevice
from pyxen.backends.network_frame import Frame, completed
from pyxen.backends.xenbus import BackendBus
from pyxen.host import protocol as p
from pyxen.host.control_server import MethodTable
from pyxen.toolstack import libxl_json
from pyxen.toolstack.configuration.vif import VifSpecification
from pyxen.toolstack.lifecycle import Toolstack

#: pcap-savefile(5): magic number for nanoseconds, version 2.4, no zone, snapshot length, Ethernet.
_CAPTURE_HEADER = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1)
_CAPTURED_FRAME = struct.Struct("<IIII")
#: Octets that wait for a reader; frames beyond are left out of the capture.
_CAPTURE_BACKLOG = 16 << 20
_CAPTURE_CHUNK = 256 << 10


class NetworkService:
    """Serves the methods ``network.*``."""

    def __init__(self, toolstack: Toolstack, networks: BackendBus) -> None:
        self._toolstack = toolstack
        self._networks = networks

    def register(self, table: MethodTable) -> None:
        """Enter every method into the table."""
        table.call(p.NETWORK_ATTACH, self._attach)
        table.call(p.NETWORK_CHECK, self._check)
        table.call(p.NETWORK_DETACH, self._detach)
        table.call(p.NETWORK_LIST, self._list)
        table.stream(p.NETWORK_CAPTURE, self._capture)

    @staticmethod
    def _interface(request: p.NetworkAttachRequest) -> VifSpecification:
        try:
            return VifSpecification.parse(request.specification)
        except ValueError as error:
            raise p.HostError(f"vif {request.specification!a}: {error}", p.ErrorKind.INVALID) from None

    async def _attach(self, request: p.NetworkAttachRequest) -> p.Nothing:
        await self._toolstack.attach_interface(request.domid, self._interface(request))
        return p.Nothing()

    async def _check(self, request: p.NetworkAttachRequest) -> p.CheckedDevice:
        vif = self._interface(request)
        if vif.unsupported():
            raise p.HostError(f"vif: {vif.unsupported()}", p.ErrorKind.INVALID)
        return p.CheckedDevice(libxl_json.interface_configuration(vif))

    async def _detach(self, request: p.NetworkDetachRequest) -> p.Nothing:
        await self._toolstack.detach_interface(request.domid, request.interface, force=request.force)
        return p.Nothing()

    async def _list(self, request: p.DomainId) -> p.NetworkInterfaceList:
        result = []
        for interface in self._toolstack.interfaces(request.domid):
            device = self._networks.find(request.domid, interface.devid)
            counters = dataclasses.asdict(device.statistics) if isinstance(device, NetworkDevice) else {}
            result.append(p.NetworkInterface(**dataclasses.asdict(interface), **counters))
        return p.NetworkInterfaceList(result)

    def _is_seen_by(self, capture: _Capture, request: p.NetworkCaptureRequest) -> bool:
        """A backend that is restarted keeps its observers."""
        device = self._networks.find(request.domid, request.devid)
        return isinstance(device, NetworkDevice) and not device.finished and capture.observe in device.observers

    async def _capture(self, request: p.NetworkCaptureRequest, send: Callable[[p.CapturedData], Awaitable[None]]) -> p.Nothing:
        """Until the interface is gone, or the reader."""
        self._toolstack.interfaces(request.domid)  # refuses domains that are not
        device = self._networks.find(request.domid, request.devid)
        if not isinstance(device, NetworkDevice):
            raise p.HostError(f"domain {request.domid} has no network interface {request.devid}", p.ErrorKind.NOT_FOUND)
        capture = _Capture()
        device.observers.append(capture.observe)
        try:
            await send(p.CapturedData(_CAPTURE_HEADER))
            while self._is_seen_by(capture, request):
                data, lost = await capture.next()
                if data:
                    await send(p.CapturedData(data, lost))
        finally:
            device.observers.remove(capture.observe)
        return p.Nothing()


class _Capture:
    """Frames between a vif and one reader."""

    def __init__(self) -> None:
        self._records: deque[bytes] = deque()
        self._size = 0
        self._lost = 0
        self._ready = asyncio.Event()

    def observe(self, frame: Frame, _to_guest: bool) -> None:
        """With its checksums, so that readers do not complain about those that were left to us."""
        if self._size > _CAPTURE_BACKLOG:
            self._lost += 1
            return
        data = completed(frame).data
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        record = _CAPTURED_FRAME.pack(seconds, nanoseconds, len(data), len(data)) + data
        self._records.append(record)
        self._size += len(record)
        self._ready.set()

    async def next(self) -> tuple[bytes, int]:
        """The next records and how many frames were lost before them; nothing after a second without any."""
        if not self._records:
            self._ready.clear()
            try:
                await asyncio.wait_for(self._ready.wait(), 1.0)
            except TimeoutError:
                return b"", 0
        chunk = bytearray()
        while self._records and len(chunk) < _CAPTURE_CHUNK:
            chunk += self._records.popleft()
        self._size -= len(chunk)
        lost, self._lost = self._lost, 0
        return bytes(chunk), lost

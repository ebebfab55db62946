"""One queue of a vif: a transmit ring and a receive ring of its frontend (public header io/netif.h), with copies in both directions."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pyxen.abi.io.netif import (
    NETIF_RSP_ERROR,
    XEN_NETIF_EXTRA_TYPE_GSO,
    NETRXF_csum_blank,
    NETRXF_data_validated,
    NETRXF_extra_info,
    NETRXF_more_data,
)
from pyxen.backends import network_transmit
from pyxen.backends.device import DeviceError
from pyxen.backends.network_frame import Frame, completed, gso_version, segmented
from pyxen.backends.network_transmit import TransmitFault, TransmitPacket, parse_packets
from pyxen.backends.ring import BackRing, RingError
from pyxen.hypervisor.dom0_interface import Dom0Hypercalls, GrantCopy, HypercallError
from pyxen.xenstore.single_turn import SingleTurn

_PAGE_BYTES = 4096
_RX_SLOT_BYTES = 8
_RX_REQUEST = struct.Struct("<H2xI")  # id, gref
_RX_RESPONSE = struct.Struct("<HHHh")  # id, offset, flags, status
_RX_EXTRA_GSO = struct.Struct("<BBHB3x")  # type, flags, size, gso type
#: Octets that wait for a frontend which does not offer enough pages; more are dropped.
BACKLOG_BYTES = 4 << 20
#: And frames: a frame costs more than its octets.
BACKLOG_FRAMES = 4096


@dataclass(frozen=True)
class QueuePlace:
    """Where the guest says its rings are."""

    untrusted_tx_reference: int
    untrusted_rx_reference: int
    untrusted_tx_port: int
    untrusted_rx_port: int  #: the same as for tx without feature-split-event-channels


@dataclass(frozen=True)
class FrontendFeatures:
    """What the frontend can take."""

    scatter_gather: bool = False
    gso: frozenset[int] = frozenset()  #: of 4 and 6
    checksum: frozenset[int] = frozenset((4,))  #: IP versions whose unfinished checksums it takes


class QueueOwner(Protocol):
    """The vif, as its queues see it."""

    def take_frames(self, frames: Sequence[Frame]) -> None:
        """From the guest."""

    def may_send(self) -> bool:
        """Whether ``take_frames`` would find room."""

    def spend(self, size: int) -> bool:
        """Take so many octets off what the rate limit allows now. False: not now, ``NetworkQueue.resume`` is called later."""

    def change_multicast(self, kind: int, address: bytes) -> bool:
        """XEN_NETIF_EXTRA_TYPE_MCAST_ADD or DEL."""

    def room_again(self) -> None:
        """The backlog has shrunk."""

    def count_dropped(self, count: int) -> None:
        """Frames for the guest that it had no room for."""

    def count_error(self, reason: str) -> None:
        """A packet of the guest's that could not be sent."""

    def fail(self, error: DeviceError) -> None:
        """The frontend has broken the protocol."""

    def crash(self, error: Exception) -> None:
        """The backend has failed."""


class NetworkQueue:
    """Belongs to the event loop's thread.

    A request's slot in its ring is overwritten by responses in their order only, so one that follows this one, after a restart of the
    backend, finds all that was not answered in the rings (RING_ATTACH). What waited for the frontend is lost, as on a wire.
    """

    def __init__(self, dom0: Dom0Hypercalls, domid: int, place: QueuePlace, features: FrontendFeatures, owner: QueueOwner) -> None:
        """Raises ``HypercallError`` for a place that is not granted; then nothing is held."""
        self._dom0 = dom0
        self._domid = domid
        self._references = (place.untrusted_tx_reference, place.untrusted_rx_reference)
        self._features = features
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[TransmitPacket] = deque()
        self._offered: deque[tuple[int, int]] = deque()  # id and reference of pages to receive into
        self._backlog: deque[Frame] = deque()
        self._backlog_bytes = 0
        self._was_full = False
        self._turn = SingleTurn(lambda: self._guarded(self._serve), self._loop.call_soon_threadsafe)
        self._closed = False
        with contextlib.ExitStack() as undo:
            tx_page, rx_page = dom0.map_grants(domid, self._references, writable=True)
            undo.callback(dom0.unmap_grants, domid, self._references)
            self._tx = BackRing([tx_page], network_transmit.SLOT_BYTES)
            self._rx = BackRing([rx_page], _RX_SLOT_BYTES)
            undo.callback(self._tx.release)
            undo.callback(self._rx.release)
            self._tx_port = self._rx_port = dom0.bind_interdomain(domid, place.untrusted_tx_port, self._turn.ask)
            undo.callback(dom0.close_port, self._tx_port)
            if place.untrusted_rx_port != place.untrusted_tx_port:
                self._rx_port = dom0.bind_interdomain(domid, place.untrusted_rx_port, self._turn.ask)
            undo.pop_all()
        self._turn.ask()

    def close(self) -> None:
        """Let go of the guest."""
        self._closed = True
        for port in {self._tx_port, self._rx_port}:
            with contextlib.suppress(HypercallError):
                self._dom0.close_port(port)
        self._tx.release()
        self._rx.release()
        with contextlib.suppress(HypercallError):
            self._dom0.unmap_grants(self._domid, self._references)

    def resume(self) -> None:
        """What held packets back does not any more. On the loop's thread, so there is nobody to wake."""
        self._loop.call_soon(self._turn.do)

    def _guarded(self, work: Callable[[], None]) -> None:
        if self._closed:
            return
        try:
            work()
        except (RingError, TransmitFault) as error:
            self._stop(DeviceError(errno.EINVAL, str(error)))
        except HypercallError as error:
            self._stop(DeviceError(error.errno, error.reason))  # the domain is going
        except Exception as error:
            self._closed = True
            self._owner.crash(error)

    def _stop(self, error: DeviceError) -> None:
        """The rings are not touched again."""
        self._closed = True
        self._owner.fail(error)

    def _serve(self) -> None:
        if self._backlog:
            self._flush()
        self._transmit()
        if not self._waiting and self._tx.more_requests():
            self.resume()  # after the others' turns

    # -- from the guest -----------------------------------------------------------------------------------------------------
    def _transmit(self) -> None:
        self._waiting.extend(parse_packets(self._tx.take()))
        batch = []
        while self._waiting and self._owner.may_send() and self._owner.spend(self._waiting[0].size):
            batch.append(self._waiting.popleft())
        if not batch:
            return
        frames = self._copy_in(batch)
        # The answers first, so that nothing is sent twice should sending fail; but the guest is told of them when its frames are under way.
        is_awaited = self._tx.push()
        try:
            if frames:
                self._owner.take_frames(frames)
        finally:
            if is_awaited:
                self._notify(self._tx_port)

    def _copy_in(self, batch: Sequence[TransmitPacket]) -> list[Frame]:
        """Get the packets' octets, all in one hypercall, and answer their slots."""
        operations: list[GrantCopy] = []
        buffers: list[bytearray | None] = []
        for packet in batch:
            if packet.reason or packet.multicast is not None:
                buffers.append(None)
                continue
            data = bytearray(packet.size)
            view, start = memoryview(data), 0
            for fragment in packet.fragments:
                if fragment.size:
                    local = view[start : start + fragment.size]
                    operations.append(GrantCopy(self._domid, fragment.untrusted_reference, fragment.offset, local, False))
                    start += fragment.size
            buffers.append(data)
        statuses = iter(self._dom0.grant_copy(operations))
        frames: list[Frame] = []
        for packet, buffer in zip(batch, buffers, strict=True):
            okay = True
            if buffer is not None:
                failed = [status for fragment in packet.fragments if fragment.size for status in (next(statuses),) if status]
                if failed:
                    packet.reason = f"a grant of it can't be copied ({failed[0]})"
                else:
                    frames.append(Frame(buffer, packet.blank, packet.validated, packet.gso_size, packet.gso_type))
            elif packet.multicast is not None:
                okay = self._owner.change_multicast(*packet.multicast)
            if packet.reason:
                self._owner.count_error(packet.reason)
                okay = False
            for response in packet.responses(okay):
                self._tx.put(response)
        return frames

    # -- to the guest -------------------------------------------------------------------------------------------------------
    def deliver(self, frames: Sequence[Frame]) -> None:
        """Frames for the guest; dropped if too many wait already."""
        dropped = 0
        for frame in frames:
            for suitable in self._suitable(frame):
                if self._backlog_bytes + len(suitable.data) > BACKLOG_BYTES or len(self._backlog) >= BACKLOG_FRAMES:
                    dropped += 1
                else:
                    self._backlog.append(suitable)
                    self._backlog_bytes += len(suitable.data)
        if dropped:
            self._owner.count_dropped(dropped)
        self._guarded(self._flush)
        self._was_full = self._was_full or not self.has_room()

    def has_room(self) -> bool:
        return self._backlog_bytes < BACKLOG_BYTES // 2 and len(self._backlog) < BACKLOG_FRAMES // 2

    def _suitable(self, frame: Frame) -> Sequence[Frame]:
        """The frame as this frontend can take it."""
        if len(frame.data) > _PAGE_BYTES and not self._features.scatter_gather:
            return segmented(frame) if frame.gso_size else ()
        if frame.gso_size:
            return (frame,) if gso_version(frame) in self._features.gso else segmented(frame)
        if frame.blank:
            version = 6 if frame.data[12:14] == b"\x86\xdd" else 4
            return (frame,) if version in self._features.checksum else (completed(frame),)
        return (frame,)

    def _flush(self) -> None:
        """Copy what waits, as far as there are pages for it, all in one hypercall."""
        operations: list[GrantCopy] = []
        responses: list[tuple[bytes, int]] = []  # and the number of its operation, -1: none
        while self._backlog:
            frame = self._backlog[0]
            needed = max(-(-len(frame.data) // _PAGE_BYTES), 1) + bool(frame.gso_size)
            if not self._offers(needed):
                break
            self._backlog.popleft()
            self._backlog_bytes -= len(frame.data)
            self._place(frame, operations, responses)
        if responses:
            self._answer(responses, self._dom0.grant_copy(operations))
        if self._was_full and self.has_room():
            self._was_full = False
            self._owner.room_again()

    def _offers(self, needed: int) -> bool:
        """Whether the frontend has offered so many pages; if not, it is asked for an event when it does."""
        while len(self._offered) < needed:
            self._offered.extend(_RX_REQUEST.unpack(slot) for slot in self._rx.take())
            if len(self._offered) < needed and not self._rx.more_requests():
                return False
        return True

    def _place(self, frame: Frame, operations: list[GrantCopy], responses: list[tuple[bytes, int]]) -> None:
        """One frame into offered pages: its first part, extra info if it has any, its other parts."""
        flags = NETRXF_csum_blank | NETRXF_data_validated if frame.blank else NETRXF_data_validated if frame.validated else 0
        if frame.gso_size:
            flags |= NETRXF_extra_info
        view, size = memoryview(frame.data), len(frame.data)
        for start in range(0, size, _PAGE_BYTES):
            part = view[start : start + _PAGE_BYTES]
            request_id, untrusted_reference = self._offered.popleft()
            more = NETRXF_more_data if start + _PAGE_BYTES < size else 0
            responses.append((_RX_RESPONSE.pack(request_id, 0, flags | more, len(part)), len(operations)))
            operations.append(GrantCopy(self._domid, untrusted_reference, 0, part, True))
            if start == 0 and frame.gso_size:
                self._offered.popleft()
                responses.append((_RX_EXTRA_GSO.pack(XEN_NETIF_EXTRA_TYPE_GSO, 0, frame.gso_size, frame.gso_type), -1))
            flags = 0

    def _answer(self, responses: Sequence[tuple[bytes, int]], statuses: Sequence[int]) -> None:
        for response, operation in responses:
            if operation >= 0 and statuses[operation]:
                request_id, offset, flags, _ = _RX_RESPONSE.unpack(response)
                response = _RX_RESPONSE.pack(request_id, offset, flags, NETIF_RSP_ERROR)
                self._owner.count_dropped(1)
            self._rx.put(response)
        if self._rx.push():
            self._notify(self._rx_port)

    def _notify(self, port: int) -> None:
        with contextlib.suppress(HypercallError):  # the guest closed its port, or dies
            self._dom0.notify(port)

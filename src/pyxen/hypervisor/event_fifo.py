"""The FIFO ABI of event channels: a word per port, linked to queues by vCPU and priority (event_channel.h, Xen's common/event_fifo.c).

The words and the heads of the queues lie in pages of the guest, which consumes events while the hypervisor appends others. What the guest
may do to a word that is linked is little, so an append succeeds within a few attempts; a guest that does more loses its own events.
Nothing that the guest can write is used as an address or an index here: tails are kept on this side.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from ctypes import sizeof
from typing import TYPE_CHECKING

from pyxen.abi.event_channel import (
    EVTCHN_FIFO_BUSY,
    EVTCHN_FIFO_LINK_MASK,
    EVTCHN_FIFO_LINKED,
    EVTCHN_FIFO_MASKED,
    EVTCHN_FIFO_MAX_QUEUES,
    EVTCHN_FIFO_NR_CHANNELS,
    EVTCHN_FIFO_PENDING,
    EVTCHN_FIFO_PRIORITY_DEFAULT,
    EVTCHN_FIFO_PRIORITY_MIN,
    evtchn_fifo_control_block,
)
from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.event_channel_delivery import Channel, mark_events_pending, wake_pollers
from pyxen.hypervisor.frame_table import WRITABLE
from pyxen.hypervisor.gate import EVENT_PAGES, EventAbi, queue_number

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.vcpu import Vcpu

PENDING, MASKED, LINKED, BUSY = (1 << bit for bit in (EVTCHN_FIFO_PENDING, EVTCHN_FIFO_MASKED, EVTCHN_FIFO_LINKED, EVTCHN_FIFO_BUSY))
WORDS_PER_PAGE = 1024
LAST_CONTROL_OFFSET = 4096 - sizeof(evtchn_fifo_control_block)
HEADS_OFFSET: int = evtchn_fifo_control_block.head.offset
#: A guest that keeps to the ABI can change a linked, busy word no more often than this.
LINK_ATTEMPTS = 4


class Queue:
    """Events of one priority for one vCPU."""

    __slots__ = ("_tails", "number", "priority", "vcpu")

    def __init__(self, vcpu: Vcpu, priority: int) -> None:
        self.vcpu = vcpu
        self.priority = priority
        self.number = queue_number(vcpu.vcpu_id, priority)
        self._tails = vcpu.gate.event_tails

    @property
    def tail(self) -> int:
        """The port appended last, 0 for none; it may have been consumed since."""
        return int(self._tails[self.priority])

    @tail.setter
    def tail(self, port: int) -> None:
        self._tails[self.priority] = port


class FifoDelivery:
    """See ``Delivery``. Holds a writable reference on each page that the guest named."""

    abi = EventAbi.FIFO
    ports = EVTCHN_FIFO_NR_CHANNELS

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._frames = domain.hypervisor.frames
        self._engine = domain.hypervisor.engine
        self._doublewords = domain.hypervisor.memory.doublewords
        #: MFNs of the pages of event words.
        self._array: list[int] = []
        self._queues = [[Queue(vcpu, priority) for priority in range(EVTCHN_FIFO_MAX_QUEUES)] for vcpu in domain.vcpus]
        self._native = domain.native_ports
        #: Ports that became pending before the guest gave their words.
        self._early: dict[int, Channel] = {}

    # -- the guest's pages ---------------------------------------------------------------------------------------------
    def _hold(self, untrusted_frame: int) -> int:
        """-> the machine frame."""
        try:
            mfn = self._domain.machine_frame(untrusted_frame)
            self._frames.get_page_and_type(mfn, self._domain.domid, WRITABLE)
        except HypercallError as error:
            raise HypercallError(errno.EINVAL, error.reason) from None
        return mfn

    def set_control_block(self, vcpu: Vcpu, mfn: int, offset: int) -> None:
        """EVTCHNOP_init_control, for one vCPU, once. EINVAL."""
        if offset > LAST_CONTROL_OFFSET or offset & 7:
            raise HypercallError(errno.EINVAL, f"a control block at offset {offset:#x} of its page")
        if vcpu.event_control:
            raise HypercallError(errno.EINVAL, f"vCPU {vcpu.vcpu_id} has a control block")
        mfn = self._hold(mfn)
        vcpu.event_control = (mfn << 12) + offset

    def expand_array(self, mfn: int) -> None:
        """EVTCHNOP_expand_array: words for 1024 more ports. Events that came too early for them are delivered. ENOSPC, EINVAL."""
        if len(self._array) == EVENT_PAGES:
            raise HypercallError(errno.ENOSPC, "the event array is complete")
        mfn = self._hold(mfn)
        first = len(self._array) * WORDS_PER_PAGE
        self._native.add_page(len(self._array), mfn)
        self._array.append(mfn)
        if self._early:
            for port in range(first, first + WORDS_PER_PAGE):
                channel = self._early.pop(port, None)
                if channel is not None:
                    self.set_pending(channel)

    def take_over(self, channel: Channel) -> None:
        """The port was pending before the guest changed to this ABI."""
        self._early[channel.port] = channel

    def held_frames(self) -> Iterator[int]:
        """MFNs with a general and a writable reference each, as often as they are held."""
        yield from self._array
        for vcpu in self._domain.vcpus:
            if vcpu.event_control:
                yield vcpu.event_control >> 12

    def release(self) -> None:
        """See Delivery."""
        for mfn in self.held_frames():
            self._frames.put_page_and_type(mfn)
        self._array = []
        for vcpu in self._domain.vcpus:
            vcpu.event_control = 0
            vcpu.gate.event_tails[:] = [0] * EVTCHN_FIFO_MAX_QUEUES

    # -- bits of words --------------------------------------------------------------------------------------------------
    def _word(self, port: int) -> int:
        """Machine address of the port's word; 0 while there is none."""
        page = port // WORDS_PER_PAGE
        return (self._array[page] << 12) + port % WORDS_PER_PAGE * 4 if page < len(self._array) else 0

    def _value(self, port: int) -> int:
        """The port's word. One that is not there reads as masked and nothing else."""
        address = self._word(port)
        return self._doublewords[address >> 2] if address else MASKED

    def _set(self, address: int, bit: int) -> bool:
        """Atomically set a bit of the word at ``address``. -> its old value."""
        bit <<= (address & 4) * 8
        return bool(self._engine.set_bits(address & ~7, bit) & bit)

    def _clear(self, address: int, bit: int) -> None:
        self._engine.clear_bits(address & ~7, bit << (address & 4) * 8)

    # -- events ---------------------------------------------------------------------------------------------------------
    def opened(self, channel: Channel) -> None:
        """See Delivery."""
        self._native.priorities[channel.port] = 0

    def set_pending(self, channel: Channel) -> None:
        """See Delivery."""
        port = channel.port
        address = self._word(port)
        if not address:
            self._early[port] = channel
            return
        was_pending = self._set(address, PENDING)
        if not self._domain.vcpus[channel.vcpu_id].event_control:
            # The guest must not unmask before there is one, so there is nothing that it could miss.
            self._log(f"vCPU {channel.vcpu_id} has no control block for FIFO events")
        elif not self._doublewords[address >> 2] & MASKED and not self._set(address, LINKED):
            self._append(port, self._queues[channel.vcpu_id][self._priority(port)])
        if not was_pending:
            wake_pollers(self._domain, port)

    def _append(self, port: int, queue: Queue) -> None:
        """Put a port that was just marked LINKED at the queue's end."""
        number = int(self._native.queues[port])
        if number:
            last = self._queues[(number - 1) // EVTCHN_FIFO_MAX_QUEUES][(number - 1) % EVTCHN_FIFO_MAX_QUEUES]
            if last.tail == port:
                # It was consumed there, so that queue is empty; what comes next must not be linked to a word of another queue.
                last.tail = 0
        self._native.queues[port] = queue.number
        linked = bool(queue.tail) and self._link(self._word(queue.tail), port)
        queue.tail = port
        if linked:
            return
        vcpu = queue.vcpu
        control = vcpu.event_control
        self._doublewords[(control + HEADS_OFFSET >> 2) + queue.priority] = port
        if not self._set(control, 1 << queue.priority):
            mark_events_pending(vcpu)

    def _link(self, tail: int, port: int) -> bool:
        """Make the word at ``tail`` point to ``port``, unless the guest has consumed it. -> False: it has, and the queue is empty."""
        word = self._doublewords[tail >> 2]
        if not word & LINKED:
            return False
        for attempt in range(1 + LINK_ATTEMPTS):
            if not word & LINKED:
                break
            new = word & ~(BUSY | EVTCHN_FIFO_LINK_MASK) | port
            found = self._engine.compare_exchange32(tail, word, new)
            if found == word:
                return True
            word = found
            if not attempt:
                # From now on the guest does not unmask this port, so what it can still do to the word ends.
                self._set(tail, BUSY)
                word = self._doublewords[tail >> 2]
        self._clear(tail, BUSY)
        if word & LINKED:
            self._log(f"port {port} is lost: the word of the port before it changes all the time")
            return True
        return False

    def _log(self, text: str) -> None:
        self._domain.hypervisor.guest_log(self._domain.domid, f"event channels: {text}")

    def clear_pending(self, channel: Channel) -> None:
        """See Delivery. A linked word stays linked: the guest unlinks it and finds nothing pending."""
        self._early.pop(channel.port, None)
        address = self._word(channel.port)
        if address:
            self._clear(address, PENDING)

    def unmask(self, channel: Channel) -> None:
        """See Delivery."""
        address = self._word(channel.port)
        if address:
            self._clear(address, MASKED)
            if self._doublewords[address >> 2] & PENDING:
                self.set_pending(channel)

    def is_pending(self, port: int) -> bool:
        """See Delivery."""
        return bool(self._value(port) & PENDING)

    def is_masked(self, port: int) -> bool:
        """See Delivery."""
        return bool(self._value(port) & MASKED)

    def is_busy(self, port: int) -> bool:
        """See Delivery."""
        return bool(self._value(port) & LINKED)

    def set_priority(self, port: int, priority: int) -> None:
        """See Delivery. Events that are queued stay where they are."""
        if priority > EVTCHN_FIFO_PRIORITY_MIN:
            raise HypercallError(errno.EINVAL, f"priority {priority}")
        self._native.priorities[port] = 1 + priority

    def describe(self, port: int) -> str:
        """See Delivery."""
        word = self._value(port)
        link = f"linked {word & EVTCHN_FIFO_LINK_MASK}" if word & LINKED else "not linked"
        return f"FIFO, priority {self._priority(port)}, {link}"

    def _priority(self, port: int) -> int:
        return int(self._native.priorities[port] or 1 + EVTCHN_FIFO_PRIORITY_DEFAULT) - 1

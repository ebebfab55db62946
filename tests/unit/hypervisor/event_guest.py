"""A guest's side of event channels, driven by tests: event_channel_op with its structures, and consumers of both ABIs, written from the
public header as a guest kernel would. A consumer looks only where it was told to look, so an event never announced is never found."""

from __future__ import annotations

from ctypes import Structure
from typing import TypeVar

from pyxen.abi import event_channel as abi
from pyxen.abi.xen import HYPERVISOR_event_channel_op, shared_info, vcpu_info
from pyxen.hypervisor.dom0_interface import DOMID_SELF
from tests.unit.hypervisor.machine import SmallDomain

PENDING, MASKED, LINKED, BUSY = (
    1 << bit for bit in (abi.EVTCHN_FIFO_PENDING, abi.EVTCHN_FIFO_MASKED, abi.EVTCHN_FIFO_LINKED, abi.EVTCHN_FIFO_BUSY)
)
WORDS_PER_PAGE = 1024
#: PFNs: a control block for each vCPU, then pages of event words.
CONTROL_PFN, ARRAY_PFN = 1, 8

Argument = TypeVar("Argument", bound=Structure)


class EventGuest:
    """``small`` and the state that its kernel would keep."""

    def __init__(self, small: SmallDomain) -> None:
        self.small = small
        self.domid = small.domid
        self.channels = small.domain.event_channels
        self.doublewords = small.hypervisor.memory.doublewords
        self.octets = small.hypervisor.memory.octets
        self.words = small.words
        self.array_pages = 0
        self.fifo = False
        self._heads: dict[tuple[int, int], int] = {}
        self._ready: dict[int, int] = {}

    # -- hypercalls ------------------------------------------------------------------------------------------------------
    def op(self, command: int, argument: Argument) -> tuple[int, Argument]:
        """-> the result, and the structure as Xen left it."""
        address = self.small.write(self.small.at(0), bytes(argument))
        result = self.small.call(HYPERVISOR_event_channel_op, command, address)
        return result, type(argument).from_buffer_copy(self.small.read(address, len(bytes(argument))))

    def alloc_unbound(self, remote: int = DOMID_SELF, domid: int = DOMID_SELF) -> int:
        result, out = self.op(abi.EVTCHNOP_alloc_unbound, abi.evtchn_alloc_unbound(dom=domid, remote_dom=remote))
        return result or out.port

    def bind_interdomain(self, remote: int, port: int) -> int:
        result, out = self.op(abi.EVTCHNOP_bind_interdomain, abi.evtchn_bind_interdomain(remote_dom=remote, remote_port=port))
        return result or out.local_port

    def bind_virq(self, virq: int, vcpu: int = 0) -> int:
        result, out = self.op(abi.EVTCHNOP_bind_virq, abi.evtchn_bind_virq(virq=virq, vcpu=vcpu))
        return result or out.port

    def bind_ipi(self, vcpu: int = 0) -> int:
        result, out = self.op(abi.EVTCHNOP_bind_ipi, abi.evtchn_bind_ipi(vcpu=vcpu))
        return result or out.port

    def bind_pirq(self, pirq: int) -> int:
        return self.op(abi.EVTCHNOP_bind_pirq, abi.evtchn_bind_pirq(pirq=pirq))[0]

    def bind_vcpu(self, port: int, vcpu: int) -> int:
        return self.op(abi.EVTCHNOP_bind_vcpu, abi.evtchn_bind_vcpu(port=port, vcpu=vcpu))[0]

    def close(self, port: int) -> int:
        return self.op(abi.EVTCHNOP_close, abi.evtchn_close(port=port))[0]

    def send(self, port: int) -> int:
        return self.op(abi.EVTCHNOP_send, abi.evtchn_send(port=port))[0]

    def unmask(self, port: int) -> int:
        return self.op(abi.EVTCHNOP_unmask, abi.evtchn_unmask(port=port))[0]

    def status(self, port: int, domid: int = DOMID_SELF) -> tuple[int, abi.evtchn_status]:
        return self.op(abi.EVTCHNOP_status, abi.evtchn_status(dom=domid, port=port))

    def reset(self, domid: int = DOMID_SELF) -> int:
        result = self.op(abi.EVTCHNOP_reset, abi.evtchn_reset(dom=domid))[0]
        if not result:
            self.fifo, self.array_pages = False, 0
            self._heads, self._ready = {}, {}
        return result

    def set_priority(self, port: int, priority: int) -> int:
        return self.op(abi.EVTCHNOP_set_priority, abi.evtchn_set_priority(port=port, priority=priority))[0]

    def init_control(self, vcpu: int = 0, *, mfn: int | None = None, offset: int = 0) -> int:
        if mfn is None:
            mfn = self.small.mfns[CONTROL_PFN + vcpu]
            self.octets[mfn << 12 : mfn + 1 << 12] = bytes(4096)
        result, out = self.op(abi.EVTCHNOP_init_control, abi.evtchn_init_control(control_gfn=mfn, offset=offset, vcpu=vcpu))
        if not result:
            self.fifo = True
            assert out.link_bits == abi.EVTCHN_FIFO_LINK_BITS
        return result

    def expand_array(self, mfn: int | None = None, *, word: int = MASKED) -> int:
        """One more page, each word of it ``word``."""
        if mfn is None:
            mfn = self.small.mfns[ARRAY_PFN + self.array_pages]
            self.octets[mfn << 12 : mfn + 1 << 12] = word.to_bytes(4, "little") * WORDS_PER_PAGE
        result = self.op(abi.EVTCHNOP_expand_array, abi.evtchn_expand_array(array_gfn=mfn))[0]
        self.array_pages += not result
        return result

    def start_fifo(self, *, word: int = MASKED) -> None:
        """All vCPUs, and words for the first 1024 ports."""
        for vcpu in self.small.domain.vcpus:
            assert self.init_control(vcpu.vcpu_id) == 0
        assert self.expand_array(word=word) == 0

    # -- what the guest sees of a port, whichever ABI it uses ----------------------------------------------------------------
    def word_index(self, port: int) -> int:
        """Index of the port's event word in ``doublewords``."""
        return (self.small.mfns[ARRAY_PFN + port // WORDS_PER_PAGE] << 10) + port % WORDS_PER_PAGE

    def word(self, port: int) -> int:
        return self.doublewords[self.word_index(port)]

    def _bit(self, field: str, port: int) -> tuple[int, int]:
        return (self.small.domain.shared_info + getattr(shared_info, field).offset >> 3) + (port >> 6), 1 << (port & 63)

    def is_pending(self, port: int) -> bool:
        if self.fifo:
            return port < self.array_pages * WORDS_PER_PAGE and bool(self.word(port) & PENDING)
        index, bit = self._bit("evtchn_pending", port)
        return bool(self.words[index] & bit)

    def is_masked(self, port: int) -> bool:
        if self.fifo:
            return port >= self.array_pages * WORDS_PER_PAGE or bool(self.word(port) & MASKED)
        index, bit = self._bit("evtchn_mask", port)
        return bool(self.words[index] & bit)

    def mask(self, port: int) -> None:
        if self.fifo:
            self.doublewords[self.word_index(port)] |= MASKED
        else:
            index, bit = self._bit("evtchn_mask", port)
            self.words[index] |= bit

    def upcall_pending(self, vcpu: int) -> bool:
        return bool(self.octets[self.small.domain.vcpus[vcpu].info])

    # -- consumers ---------------------------------------------------------------------------------------------------------
    def begin_upcall(self, vcpu: int) -> None:
        """Take what the hypervisor announced, if it announced anything."""
        info = self.small.domain.vcpus[vcpu].info
        if self.octets[info]:
            self.octets[info] = 0
            if self.fifo:
                control = self._control(vcpu)
                self._ready[vcpu] = self._ready.get(vcpu, 0) | self.doublewords[control]
                self.doublewords[control] = 0

    def _control(self, vcpu: int) -> int:
        return self.small.mfns[CONTROL_PFN + vcpu] << 10

    def consume_one(self, vcpu: int) -> tuple[int, int, bool] | None:
        """Unlink the next event of the highest priority. -> (priority, port, whether it is to be handled); None: the queues are empty."""
        control, ready = self._control(vcpu), self._ready.get(vcpu, 0)
        ready |= self.doublewords[control]
        self.doublewords[control] = 0
        if not ready:
            self._ready[vcpu] = 0
            return None
        priority = (ready & -ready).bit_length() - 1
        port = self._heads.get((vcpu, priority), 0) or self.doublewords[control + 2 + priority]
        index = self.word_index(port)
        word = self.doublewords[index]
        self.doublewords[index] = word & ~(LINKED | abi.EVTCHN_FIFO_LINK_MASK)
        following = word & abi.EVTCHN_FIFO_LINK_MASK
        if not following:
            ready &= ~(1 << priority)
        self._ready[vcpu], self._heads[vcpu, priority] = ready, following
        due = word & PENDING and not word & MASKED
        if due:
            self.doublewords[index] &= ~PENDING
        return priority, port, bool(due)

    def reachable(self, vcpu: int) -> int:
        """How many events are linked to the queues' heads, as far as this consumer was told of them."""
        control, count = self._control(vcpu), 0
        ready = self._ready.get(vcpu, 0) | self.doublewords[control]
        for priority in range(abi.EVTCHN_FIFO_MAX_QUEUES):
            if ready >> priority & 1:
                port = self._heads.get((vcpu, priority), 0) or self.doublewords[control + 2 + priority]
                while port and count < WORDS_PER_PAGE:
                    count += 1
                    port = self.doublewords[self.word_index(port)] & abi.EVTCHN_FIFO_LINK_MASK
        return count

    def consume_fifo(self, vcpu: int) -> list[tuple[int, int]]:
        """One whole upcall. -> (priority, port) of the events handled."""
        self.begin_upcall(vcpu)
        handled = []
        for _ in range(WORDS_PER_PAGE):
            one = self.consume_one(vcpu)
            if one is None:
                return handled
            if one[2]:
                handled.append(one[:2])
        raise AssertionError("the queues have no end")

    def consume_two_level(self, vcpu: int) -> list[int]:
        """One whole upcall. -> the ports handled."""
        info = self.small.domain.vcpus[vcpu].info
        if not self.octets[info]:
            return []
        self.octets[info] = 0
        selector_index = info + vcpu_info.evtchn_pending_sel.offset >> 3
        selector, self.words[selector_index] = self.words[selector_index], 0
        handled = []
        for number in range(64):
            if selector >> number & 1:
                pending, _ = self._bit("evtchn_pending", number * 64)
                mask, _ = self._bit("evtchn_mask", number * 64)
                due = self.words[pending] & ~self.words[mask]
                self.words[pending] &= ~due
                handled += [number * 64 + bit for bit in range(64) if due >> bit & 1]
        return handled

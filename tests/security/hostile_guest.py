"""A guest that makes random hypercalls, chosen so that many of them get past the first checks: what PV and PVH guests have in common."""

from __future__ import annotations

import ctypes
import errno
import struct
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from typing import ClassVar

from pyxen.abi import compat, control, xen
from pyxen.abi.event_channel import (
    EVTCHNOP_alloc_unbound,
    EVTCHNOP_bind_interdomain,
    EVTCHNOP_bind_vcpu,
    EVTCHNOP_bind_virq,
    EVTCHNOP_status,
)
from pyxen.abi.grant_table import (
    GNTTABOP_cache_flush,
    GNTTABOP_copy,
    GNTTABOP_get_status_frames,
    GNTTABOP_map_grant_ref,
    GNTTABOP_set_version,
    GNTTABOP_setup_table,
    GNTTABOP_swap_grant_ref,
    GNTTABOP_transfer,
    GNTTABOP_unmap_and_replace,
    GNTTABOP_unmap_grant_ref,
    gnttab_copy,
    gnttab_get_status_frames,
    gnttab_map_grant_ref,
    gnttab_setup_table,
    gnttab_swap_grant_ref,
    gnttab_transfer,
    gnttab_unmap_and_replace,
    gnttab_unmap_grant_ref,
)
from pyxen.abi.hvm import hvm_op as hvm_abi
from pyxen.hypervisor import event_channel_op, grant_table_op, hypercall_table, memory_op, sched_op, vcpu_op, xen_version
from pyxen.hypervisor.domain import Domain
from pyxen.hypervisor.preemption import Preempted
from pyxen.hypervisor.vcpu import Vcpu
from tests.security.octets import Dice
from tests.unit.hypervisor.hvm_guest import SmallHvmDomain
from tests.unit.hypervisor.machine import MASK64, PAGE, SmallDomain

#: The pages that hold arguments; the guest never gives these frames away on purpose.
ARGUMENT_PAGES = 8
#: A hypercall that wants to be continued more often is left unfinished, as when a vCPU is destroyed.
MOST_CONTINUATIONS = 40

EDGES = (0, 1, 2, 3, 4, 7, 8, 255, 511, 512, 513, 4095, 4096, 0x7FEF, 0x7FF0, 0x7FF2, 0xFFFF)
WIDE_EDGES = (1 << 31, (1 << 31) - 1, (1 << 32) - 1, 1 << 32, 1 << 47, (1 << 47) - 1, 1 << 62, 1 << 63, MASK64, MASK64 - 7, MASK64 - PAGE)

_COMMANDS: dict[int, tuple[int, ...]] = {
    xen.HYPERVISOR_event_channel_op: tuple(event_channel_op._OPERATIONS),
    xen.HYPERVISOR_sched_op: tuple(sched_op._OPERATIONS),
    xen.HYPERVISOR_sched_op_compat: (0, 1, 2),
    xen.HYPERVISOR_vcpu_op: tuple(vcpu_op._OPERATIONS),
    xen.HYPERVISOR_grant_table_op: (*grant_table_op._QUERIES, *grant_table_op._LISTS, GNTTABOP_cache_flush),
    xen.HYPERVISOR_memory_op: tuple({*memory_op._OPERATIONS, *memory_op._HVM_OPERATIONS}),
    xen.HYPERVISOR_xen_version: tuple(xen_version._OPERATIONS),
    xen.HYPERVISOR_callback_op: (0, 1),
    xen.HYPERVISOR_physdev_op: tuple(range(32)),
    xen.HYPERVISOR_nmi_op: (0, 1),
    xen.HYPERVISOR_console_io: (0, 1),
    xen.HYPERVISOR_vm_assist: (0, 1),
    xen.HYPERVISOR_set_segment_base: (0, 1, 2, 3),
    xen.HYPERVISOR_set_debugreg: tuple(range(9)),
    xen.HYPERVISOR_get_debugreg: tuple(range(9)),
    xen.HYPERVISOR_hvm_op: tuple(value for name, value in vars(hvm_abi).items() if name.startswith("HVMOP_")),
}
#: Those that tell only Domain 0 anything, and the version that their structure begins with.
_CONTROL = (
    (xen.HYPERVISOR_domctl, control.XEN_DOMCTL_INTERFACE_VERSION),
    (xen.HYPERVISOR_sysctl, control.XEN_SYSCTL_INTERFACE_VERSION),
    (xen.HYPERVISOR_platform_op, control.XENPF_INTERFACE_VERSION),
)
#: Grant references in use.
REFERENCES = 12
_GRANT_STRUCTURES: dict[int, type[ctypes.Structure]] = {
    GNTTABOP_map_grant_ref: gnttab_map_grant_ref,
    GNTTABOP_unmap_grant_ref: gnttab_unmap_grant_ref,
    GNTTABOP_unmap_and_replace: gnttab_unmap_and_replace,
    GNTTABOP_copy: gnttab_copy,
    GNTTABOP_transfer: gnttab_transfer,
    GNTTABOP_swap_grant_ref: gnttab_swap_grant_ref,
    GNTTABOP_setup_table: gnttab_setup_table,
    GNTTABOP_get_status_frames: gnttab_get_status_frames,
}

Call = tuple[int, tuple[int, ...]]


class HostileGuest(ABC):
    """``log`` has the calls made, for a failure's report; guests that share one list have their calls in order. ``friend`` is the domain id
    of another hostile guest, with which it trades grants. ``dice`` decides everything and is replaced for each step."""

    #: Names of methods, each of which makes up a call.
    CALLS: ClassVar[tuple[str, ...]] = (
        "event_channel_op",
        "event_channel_op",
        "command",
        "command",
        "command",
        "memory_op",
        "grants",
        "grants",
        "context",
        "multicall",
        "anything",
    )
    dice: Dice
    vcpu: Vcpu

    def __init__(self, guest: SmallDomain | SmallHvmDomain, vcpu: Vcpu, victim: SmallDomain, *, friend: int, log: list[str] | None) -> None:
        self._domain_of_pages = guest
        self.vcpu = vcpu
        self.log: list[str] = [] if log is None else log
        self.friend = friend
        self.results: Counter[str] = Counter()
        self._domids = (0x7FF0, 0x7FF0, guest.domid, 0, victim.domid, 77, 0x7FF2, 0x7FF4)
        #: Numbers of frames, in groups that are equally likely.
        self._frames: tuple[tuple[int, ...], ...] = ()

    @property
    def domain(self) -> Domain:
        return self.vcpu.domain

    # -- layouts -----------------------------------------------------------------------------------------------------
    @property
    def _long(self) -> str:
        """Format of an unsigned long of the caller's."""
        return "I" if self.vcpu.narrow_caller else "Q"

    @property
    def _widest(self) -> int:
        return (1 << 32) - 1 if self.vcpu.narrow_caller else MASK64

    def _longs(self, values: Iterable[int]) -> bytes:
        return b"".join(struct.pack("<" + self._long, value & self._widest) for value in values)

    def _bytes(self, structure: ctypes.Structure) -> bytes:
        """As the caller's compiler lays it out."""
        return compat.translation(type(structure)).shorten(structure) if self.vcpu.narrow_caller else bytes(structure)

    # -- what the kinds do differently -------------------------------------------------------------------------------
    @abstractmethod
    def _address(self) -> int:
        """Mostly of mapped memory."""

    @abstractmethod
    def _argument_address(self, page: int, offset: int) -> int:
        """Linear address in one of the pages that hold arguments."""

    @abstractmethod
    def _argument_page(self, page: int) -> int | None:
        """Its machine address, None if the guest can't write there any more."""

    @abstractmethod
    def recover(self) -> None:
        """A guest that has lost the memory with its arguments would only read -EFAULT from now on."""

    @abstractmethod
    def memory_op(self) -> Call:
        """Reservations, and what else the kind has."""

    @abstractmethod
    def context(self) -> Call:
        """VCPUOP_initialise of the second vCPU."""

    @abstractmethod
    def _place_to_map(self) -> int:
        """host_addr of a grant operation."""

    # -- values ----------------------------------------------------------------------------------------------------
    def _frame(self) -> int:
        return self.dice.choice(self.dice.choice(self._frames))

    def _value(self) -> int:
        kind = self.dice.randrange(10)
        if kind < 4:
            return self.dice.randrange(12)
        if kind < 5:
            return self.dice.choice(EDGES)
        if kind < 6:
            return self.dice.choice(WIDE_EDGES)
        if kind < 7:
            return self._frame()
        if kind < 8:
            return self._address()
        if kind < 9:
            return self.dice.choice(self._domids)
        return self.dice.getrandbits(64)

    def _put(self, data: bytes) -> int:
        """Place an argument; now and then where it crosses a page, or nowhere. -> its address."""
        page = self.dice.randrange(ARGUMENT_PAGES - 1)
        offset = self.dice.choice((0, 0, 64, 1024, PAGE - 16, PAGE - 4))
        address, done = self._argument_address(page, offset), 0
        while done < len(data) and page < ARGUMENT_PAGES:
            part = data[done : done + PAGE - offset]
            machine = self._argument_page(page)
            if machine is not None:
                self._hypervisor_octets[machine + offset : machine + offset + len(part)] = part
            done, page, offset = done + len(part), page + 1, 0
        return self._address() if self.dice.random() < 0.03 else address

    @property
    def _hypervisor_octets(self) -> memoryview:
        return self.vcpu.hypervisor.memory.octets

    # -- calls -----------------------------------------------------------------------------------------------------
    def command(self) -> Call:
        """One of the hypercalls with sub-commands and a structure."""
        dice = self.dice
        if dice.random() < 0.05:
            number, version = dice.choice(_CONTROL)
            head = struct.pack("<II", dice.choice((1, 2, 5, 43, self._value() & 0xFFFFFFFF)), dice.choice((version, version, 0)))
            return number, (self._put(head + struct.pack("<H6x", dice.choice(self._domids)) + self._structure() * 3),)
        if dice.random() < 0.03:
            return xen.HYPERVISOR_set_timer_op, (self._value(),)
        number = dice.choice(tuple(_COMMANDS))
        command = dice.choice(_COMMANDS[number]) if dice.random() < 0.95 else self._value()
        structure = self._put(self._structure())
        if number in (xen.HYPERVISOR_vcpu_op, xen.HYPERVISOR_console_io):
            return number, (command, dice.choice((0, 1, 1, self._value())), structure)
        if number in (xen.HYPERVISOR_vm_assist, xen.HYPERVISOR_set_segment_base, xen.HYPERVISOR_set_debugreg):
            return number, (command, self._value())
        return number, (command, structure if dice.random() < 0.95 else self._value(), dice.choice((1, 1, 1, self._value())))

    def event_channel_op(self) -> Call:
        """Ports, domain ids and vCPUs where they belong."""
        command = self.dice.choice(_COMMANDS[xen.HYPERVISOR_event_channel_op])
        port, domid = self.dice.randrange(12), self.dice.choice(self._domids)
        fields = {
            EVTCHNOP_alloc_unbound: struct.pack("<HHI", self.dice.choice((0x7FF0, domid)), domid, 0),
            EVTCHNOP_bind_interdomain: struct.pack("<HHII", domid, 0, port, 0),
            EVTCHNOP_bind_virq: struct.pack("<III", self.dice.randrange(26), self.dice.choice((0, 0, 1, 2)), 0),
            EVTCHNOP_bind_vcpu: struct.pack("<II", port, self.dice.randrange(3)),
            EVTCHNOP_status: struct.pack("<HHI16x", self.dice.choice((0x7FF0, domid)), 0, port),
        }
        return xen.HYPERVISOR_event_channel_op, (command, self._put(fields.get(command, struct.pack("<I12x", port))))

    def _scribble_on_grants(self) -> None:
        """Write entries into its own table, as a guest can at any time."""
        dice, words = self.dice, self.vcpu.hypervisor.memory.words
        for table in self.domain.grant_table.frames[:1]:
            for _ in range(4):
                reference = dice.randrange(REFERENCES)
                flags = dice.choice((1, 1, 1, 1, 1, 1, 0, 2, 3, 5, 0x101, dice.getrandbits(16)))
                domid = dice.choice((*[self.friend] * 6, self.domain.domid, 0, 77))
                frame = self._frame()
                if dice.random() < 0.7:
                    words[(table << 9) + reference] = flags | domid << 16 | (frame & 0xFFFFFFFF) << 32
                else:  # as of version 2
                    words[(table << 9) + 2 * reference] = flags | domid << 16 | dice.getrandbits(32) << 32
                    words[(table << 9) + 2 * reference + 1] = frame & MASK64

    def grants(self) -> Call:
        self._scribble_on_grants()
        dice = self.dice
        command = dice.choice(tuple(_GRANT_STRUCTURES)) if dice.random() < 0.9 else GNTTABOP_set_version
        if command == GNTTABOP_set_version:
            return xen.HYPERVISOR_grant_table_op, (command, self._put(struct.pack("<I", dice.choice((1, 2, 2, 3)))), 1)
        count = dice.choice((1, 1, 2, 5))
        operations = b"".join(self._bytes(self._grant_operation(_GRANT_STRUCTURES[command])) for _ in range(count))
        return xen.HYPERVISOR_grant_table_op, (command, self._put(operations), self._count(count))

    def _grant_operation(self, layout: type[ctypes.Structure]) -> ctypes.Structure:
        """Each field by its name, with a value that could be meant."""
        dice, operation = self.dice, layout()
        where = self._place_to_map()
        values = {
            "host_addr": where if dice.random() < 0.8 else self._address(),
            "new_addr": dice.choice((0, where, self._address())),
            "dev_bus_addr": dice.choice((0, self._frame() << 12 & MASK64)),
            "flags": dice.choice((2, 2, 2, 6, 6, 18, 22, 3, 1, 7, dice.getrandbits(20)))
            if layout is not gnttab_copy
            else dice.randrange(4),
            "handle": dice.randrange(12),
            "mfn": self._frame(),
            "len": dice.choice((0, 8, 4096, 4097, 1)),
            "nr_frames": dice.choice((0, 1, 2, 64, 65, self._value() & 0xFFFFFFFF)),
            "frame_list": self._address(),
        }
        for field, *_ in layout._fields_:
            if field in ("dom", "domid"):
                setattr(operation, field, dice.choice((*[self.friend] * 6, 0x7FF0, self.domain.domid, dice.choice(self._domids))))
            elif field in ("ref", "ref_a", "ref_b"):
                setattr(operation, field, dice.randrange(REFERENCES) if dice.random() < 0.95 else self._value() & 0xFFFFFFFF)
            elif field in values:
                setattr(operation, field, values[field])
        if isinstance(operation, gnttab_copy):
            for end, bit in ((operation.source, 1), (operation.dest, 2)):
                by_reference = operation.flags & bit
                end.u.gmfn = dice.randrange(REFERENCES) if by_reference else self._frame()
                end.domid = self.friend if by_reference else 0x7FF0
                end.offset = dice.choice((0, 8, 4095, 4096))
        return operation

    def multicall(self) -> Call:
        """Calls in a list."""
        count = self.dice.choice((1, 4))
        entries = bytearray()
        for _ in range(count):
            number, arguments = self._made_up(self.dice.choice([name for name in self.CALLS if name != "multicall"]))
            entries += self._longs((number, 0, *arguments, *[0] * (6 - len(arguments))))
        return xen.HYPERVISOR_multicall, (self._put(bytes(entries)), self._count(count))

    def anything(self) -> Call:
        numbers = [entry.number for entry in hypercall_table.HYPERCALLS]
        number = self.dice.choice(numbers) if self.dice.random() < 0.9 else self._value()
        return number, tuple(self._value() for _ in range(6))

    def _structure(self) -> bytes:
        """Fields of 16, 32 and 64 bits with values that could be meant."""
        size = self.dice.choice((2, 4, 4, 4, 8, 8))
        form = {2: "H", 4: "I", 8: "Q"}[size]
        return b"".join(struct.pack("<" + form, self._value() & (1 << 8 * size) - 1) for _ in range(64 // size))

    def _count(self, count: int) -> int:
        return count if self.dice.random() < 0.9 else self.dice.choice((0, count + 600, 1 << 31 | count, (1 << 31) - 1, self._value()))

    def _done(self) -> int:
        return 0 if self.dice.random() < 0.6 else self._address()

    def _foreign(self) -> int:
        return (
            0x7FF0 if self.dice.random() < 0.9 else self.dice.choice((*self._domids, (self.domain.domid + 1) << 16 | 0x7FF0, self._value()))
        )

    # -- making them -------------------------------------------------------------------------------------------------
    def act(self, name: str | None = None) -> str:
        """One hypercall, made up by the method of that name or by any. -> how it was answered."""
        number, arguments = self._made_up(name or self.dice.choice(self.CALLS))
        arguments = tuple(argument & self._widest for argument in arguments)
        self.recover()
        called = hypercall_table.TABLE[number].name if number in hypercall_table.TABLE else number
        self.log.append(f"d{self.domain.domid}v{self.vcpu.vcpu_id}: {called}{tuple(map(hex, arguments))}")
        answer = _kind(make_hypercall(self.vcpu, number, arguments))
        self.results[answer] += 1
        return answer

    def _made_up(self, name: str) -> Call:
        call: Call = getattr(self, name)()
        return call

    @abstractmethod
    def scribble(self) -> None:
        """What a guest does to the hypervisor's structures without a hypercall."""


def _kind(result: int | None) -> str:
    if result is None:
        return "unfinished"
    return "done" if result >= 0 else errno.errorcode.get(-result, str(result))


def wait_for_turn(vcpu: Vcpu) -> None:
    """As ``execution`` does: while long work on a domain gives others the lock, its own vCPUs wait. Lock held."""
    while vcpu.domain.exclusive:
        vcpu.domain.exclusive_done.wait()


def make_hypercall(vcpu: Vcpu, number: int, arguments: tuple[int, ...]) -> int | None:
    """With the hypervisor's lock, and continued within reason. -> the result, None if it was left unfinished."""
    registers = [*arguments, *[0] * (6 - len(arguments))]
    for _ in range(MOST_CONTINUATIONS):
        with vcpu.hypervisor.lock:
            wait_for_turn(vcpu)
            try:
                return hypercall_table.call(vcpu, number, tuple(registers))
            except Preempted as continuation:
                registers[: len(continuation.arguments)] = continuation.arguments
    return None

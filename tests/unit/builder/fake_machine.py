"""A hypervisor of plain memory for the builder's tests: frames in a scattered order, a page walk, and a record of what was asked."""

from __future__ import annotations

import errno
import mmap
from dataclasses import dataclass, field

import numpy as np

from pyxen.hypervisor.dom0_interface import Frames, GuestRegisters, HypercallError

PAGE = 4096
MAP_NORESERVE = 0x4000
SHARED_INFO_MFN = 0xABC
NX = 1 << 63


@dataclass(frozen=True)
class Translation:
    mfn: int
    writable: bool
    executable: bool


@dataclass
class FakeMachine:
    """The part of Dom0Hypercalls that builds domains, for one domain (7)."""

    frames: int
    free: int | None = None
    domid: int = 7
    max_pages: int = 0
    given: Frames = field(default_factory=lambda: np.empty(0, np.uint64))
    p2m: Frames = field(default_factory=lambda: np.empty(0, np.uint64))
    grants: dict[int, tuple[int, int]] = field(default_factory=dict)
    ports: list[int] = field(default_factory=list)
    registers: GuestRegisters | None = None
    mapped: int = 0

    def __post_init__(self) -> None:
        # The kernel gives pages to it as they are touched, so 64 GiB are no problem.
        self.store = mmap.mmap(-1, self.frames * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
        self.memory = np.frombuffer(self.store, dtype=np.uint8).reshape(self.frames, PAGE)

    # -- hypercalls

    def set_max_memory(self, domid: int, pages: int) -> None:
        assert domid == self.domid
        self.max_pages = pages

    def populate_physmap(self, domid: int, count: int) -> Frames:
        assert domid == self.domid
        assert count <= self.max_pages
        if count > (self.free if self.free is not None else self.frames):
            raise HypercallError(errno.ENOMEM, "no free frames")
        # Neither consecutive nor ascending: 7919 is prime, so this visits each frame once.
        step = 7919 if self.frames % 7919 else 7907
        self.given = (np.arange(count, dtype=np.uint64) * np.uint64(step) + np.uint64(5)) % np.uint64(self.frames)
        return self.given

    def set_p2m(self, domid: int, mfns: Frames) -> None:
        assert domid == self.domid
        self.p2m = mfns

    def write_foreign(self, domid: int, mfns: Frames, data: bytes | memoryview) -> None:
        assert domid == self.domid
        content = np.frombuffer(data, dtype=np.uint8)
        frames = mfns.astype(np.int64)
        assert len(frames) == -(-len(content) // PAGE)
        whole = len(content) // PAGE
        self.memory[frames[:whole]] = content[: whole * PAGE].reshape(whole, PAGE)
        if len(content) % PAGE:
            self.memory[frames[whole], : len(content) % PAGE] = content[whole * PAGE :]

    def map_foreign(self, domid: int, mfn: int) -> memoryview:
        assert domid == self.domid
        self.mapped += 1
        return memoryview(self.memory[mfn])

    def unmap_foreign(self, domid: int, mfn: int) -> None:
        assert domid == self.domid
        self.mapped -= 1

    def shared_info_frame(self, domid: int) -> int:
        assert domid == self.domid
        return SHARED_INFO_MFN

    def evtchn_alloc_unbound(self, domid: int, remote_domid: int) -> int:
        assert domid == self.domid
        self.ports.append(remote_domid)
        return len(self.ports)

    def set_grant_entry(self, domid: int, reference: int, granted_domid: int, mfn: int) -> None:
        assert domid == self.domid
        self.grants[reference] = (granted_domid, mfn)

    def set_vcpu_context(self, domid: int, vcpu: int, registers: GuestRegisters) -> None:
        assert (domid, vcpu) == (self.domid, 0)
        self.registers = registers

    # -- the guest's view

    def entry(self, table_mfn: int, index: int) -> int:
        return int(self.memory[table_mfn].view(np.uint64)[index])

    def translate(self, address: int) -> Translation | None:
        """The page walk of the CPU, from the vCPU's CR3."""
        assert self.registers is not None
        mfn = self.registers.cr3_mfn
        writable, executable = True, True
        for shift in (39, 30, 21, 12):
            entry = self.entry(mfn, address >> shift & 511)
            if not entry & 1:
                return None
            assert entry & 0x80 == 0, "a large page"
            assert entry & 0x24 == 0x24, "user and accessed are set everywhere"
            writable &= bool(entry & 2)
            executable &= not entry & NX
            mfn = entry >> 12 & (1 << 40) - 1
        return Translation(mfn, writable, executable)

    def read(self, address: int, size: int) -> bytes:
        """Guest memory at a virtual address."""
        pieces = []
        while size:
            translation = self.translate(address)
            assert translation is not None, f"{address:#x} is not mapped"
            piece = min(size, PAGE - address % PAGE)
            pieces.append(self.memory[translation.mfn, address % PAGE : address % PAGE + piece].tobytes())
            address, size = address + piece, size - piece
        return b"".join(pieces)

    def pfn_content(self, pfn: int) -> bytes:
        return self.memory[int(self.given[pfn])].tobytes()

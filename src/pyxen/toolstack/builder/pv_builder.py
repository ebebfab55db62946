"""Fills an empty domain so that it can run: memory, kernel, ramdisk, P2M, page tables, start_info, first vCPU."""

from __future__ import annotations

import errno
from dataclasses import dataclass

import numpy as np

from pyxen.abi.grant_table import GNTTAB_RESERVED_CONSOLE, GNTTAB_RESERVED_XENSTORE
from pyxen.hypervisor.dom0_interface import Dom0Hypercalls, Frames, GuestRegisters, HypercallError
from pyxen.toolstack.builder.errors import HostMemoryError, MemoryTooSmallError
from pyxen.toolstack.builder.hypercall_page import hypercall_page
from pyxen.toolstack.builder.image_layout import ImageLayout, lay_out
from pyxen.toolstack.builder.kernel_image import KernelImage
from pyxen.toolstack.builder.loading import GuestMemory, maximum_pages
from pyxen.toolstack.builder.page_tables import PAGE_SIZE, PageTables
from pyxen.toolstack.builder.ramdisk import Ramdisk
from pyxen.toolstack.builder.start_info import Connections, encode_command_line, start_info_content
from pyxen.toolstack.timeline import ReachStage, Stage

_KIB_PER_PAGE = PAGE_SIZE >> 10


@dataclass(frozen=True)
class PvPlan:
    """A domain that can be built, all of it checked that can be checked without the hypervisor."""

    kernel: KernelImage
    ramdisk: Ramdisk | None
    command_line: bytes
    layout: ImageLayout


@dataclass(frozen=True)
class BuildResult(Connections):
    """What the rest of the toolstack needs of a built domain. Ports are the domain's."""

    layout: ImageLayout


def plan_pv_domain(kernel: KernelImage, ramdisk: Ramdisk | None, command_line: str, memory_kib: int) -> PvPlan:
    """Lays the domain out. Raises CommandLineError, RamdiskError, MemoryTooSmallError, KernelUnsupportedError."""
    encoded = encode_command_line(command_line)
    if memory_kib < _KIB_PER_PAGE:
        raise MemoryTooSmallError("a domain needs memory: give it some MiB", PAGE_SIZE)
    return PvPlan(kernel, ramdisk, encoded, lay_out(kernel, ramdisk, memory_kib // _KIB_PER_PAGE))


def build_pv_domain(
    hypercalls: Dom0Hypercalls,
    domid: int,
    plan: PvPlan,
    *,
    max_memory_kib: int | None = None,
    store_domid: int = 0,
    console_domid: int = 0,
    reached: ReachStage = lambda _: None,
) -> BuildResult:
    """Builds ``plan`` in the domain ``domid``, which exists, is paused and has no memory; it stays paused. ``max_memory_kib`` is how far
    it may balloon (by default what it starts with); ``reached`` is called with each stage done. Raises HostMemoryError, RamdiskError
    (the file changed), HypercallError; the domain is to be destroyed then."""
    return _PvBuilder(hypercalls, domid, plan, reached).build(max_memory_kib, store_domid, console_domid)


class _PvBuilder:
    """One build. The steps in ``build`` have that order because each uses what the ones before it did."""

    def __init__(self, hypercalls: Dom0Hypercalls, domid: int, plan: PvPlan, reached: ReachStage) -> None:
        self._hypercalls = hypercalls
        self._domid = domid
        self._plan = plan
        self._reached = reached
        self._layout = plan.layout
        self._frames: Frames = np.empty(0, dtype=np.uint64)
        self._memory = GuestMemory(hypercalls, domid, self._frames)

    def build(self, max_memory_kib: int | None, store_domid: int, console_domid: int) -> BuildResult:
        layout = self._layout
        self._frames = self._populate(max_memory_kib)
        self._reached(Stage.MEMORY)
        self._memory = GuestMemory(self._hypercalls, self._domid, self._frames)
        for segment in self._plan.kernel.segments:
            self._memory.load(segment.start - layout.virt_base, segment.data)
        if self._plan.kernel.notes.hypercall_page is not None:
            self._memory.write(layout.pfn_of(self._plan.kernel.notes.hypercall_page), hypercall_page())
        self._reached(Stage.KERNEL_LOADED)
        self._load_ramdisk()
        self._reached(Stage.RAMDISK_LOADED)
        self._hypercalls.set_p2m(self._domid, self._frames)
        self._memory.write(layout.p2m_pfns.start, self._frames.data.cast("B"))
        self._reached(Stage.P2M)
        self._write_page_tables()
        self._reached(Stage.PAGE_TABLES)
        connections = self._connect(store_domid, console_domid)
        ramdisk_size = self._plan.ramdisk.size if self._plan.ramdisk is not None else 0
        self._memory.write(layout.start_info_pfn, start_info_content(layout, connections, self._plan.command_line, ramdisk_size))
        self._hypercalls.set_vcpu_context(self._domid, 0, self._registers())
        self._reached(Stage.VCPU)
        return BuildResult(
            store_mfn=connections.store_mfn,
            store_port=connections.store_port,
            console_mfn=connections.console_mfn,
            console_port=connections.console_port,
            shared_info_mfn=connections.shared_info_mfn,
            layout=layout,
        )

    def _populate(self, max_memory_kib: int | None) -> Frames:
        count = self._layout.total_pages
        self._hypercalls.set_max_memory(self._domid, maximum_pages(count, max_memory_kib))
        try:
            frames = self._hypercalls.populate_physmap(self._domid, count)
        except HypercallError as error:
            if error.errno != errno.ENOMEM:
                raise
            raise HostMemoryError(
                f"the host has not enough free memory for a domain of {count >> 8} MiB: give it less, or destroy another domain"
            ) from error
        return frames

    def _load_ramdisk(self) -> None:
        if self._plan.ramdisk is None:
            return
        pfn = self._layout.ramdisk_pfns.start
        for chunk in self._plan.ramdisk.chunks():
            self._memory.write(pfn, chunk)
            pfn += len(chunk) // PAGE_SIZE

    def _write_page_tables(self) -> None:
        layout = self._layout
        tables = PageTables(layout.table_places, self._frames)
        read_only = (layout.table_pfns, layout.p2m_table_pfns)
        executable = self._executable_pfns()
        for mapping in layout.mappings:
            tables.map(mapping, executable=executable, read_only=read_only)
        self._memory.write(layout.table_pfns.start, tables.content(layout.tables))
        if layout.p2m_tables:
            self._memory.write(layout.p2m_table_pfns.start, tables.content(layout.p2m_tables))

    def _executable_pfns(self) -> list[range]:
        kernel = self._plan.kernel
        ranges = [code for segment in kernel.segments for code in segment.executable]
        if kernel.notes.hypercall_page is not None:
            ranges.append((kernel.notes.hypercall_page, kernel.notes.hypercall_page + PAGE_SIZE))
        return [range(self._layout.pfn_of(first), self._layout.pfn_of(last - 1) + 1) for first, last in ranges]

    def _connect(self, store_domid: int, console_domid: int) -> Connections:
        layout = self._layout
        store_mfn, console_mfn = int(self._frames[layout.store_pfn]), int(self._frames[layout.console_pfn])
        connections = Connections(
            shared_info_mfn=self._hypercalls.shared_info_frame(self._domid),
            store_mfn=store_mfn,
            store_port=self._hypercalls.evtchn_alloc_unbound(self._domid, store_domid),
            console_mfn=console_mfn,
            console_port=self._hypercalls.evtchn_alloc_unbound(self._domid, console_domid),
        )
        self._hypercalls.set_grant_entry(self._domid, GNTTAB_RESERVED_XENSTORE, store_domid, store_mfn)
        self._hypercalls.set_grant_entry(self._domid, GNTTAB_RESERVED_CONSOLE, console_domid, console_mfn)
        return connections

    def _registers(self) -> GuestRegisters:
        layout = self._layout
        return GuestRegisters(
            rip=self._plan.kernel.entry,
            rsp=layout.address_of(layout.stack_pfn) + PAGE_SIZE & (1 << 64) - 1,
            rsi=layout.address_of(layout.start_info_pfn),
            cr3_mfn=int(self._frames[layout.table_pfns.start]),
        )

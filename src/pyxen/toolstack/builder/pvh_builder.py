"""Fills an empty PVH domain so that it can run: memory, kernel, ramdisk, ACPI tables, start information, first vCPU."""

from __future__ import annotations

import errno
from dataclasses import dataclass

import numpy as np

from pyxen.abi.grant_table import GNTTAB_RESERVED_CONSOLE, GNTTAB_RESERVED_XENSTORE
from pyxen.abi.hvm import params
from pyxen.hypervisor.dom0_interface import Dom0Hypercalls, Frames, HypercallError
from pyxen.toolstack.builder.acpi_tables import AcpiTables
from pyxen.toolstack.builder.errors import HostMemoryError
from pyxen.toolstack.builder.loading import GuestMemory, maximum_pages
from pyxen.toolstack.builder.pvh_kernel import PvhKernel
from pyxen.toolstack.builder.pvh_layout import (
    ACPI_ADDRESS,
    CONSOLE_GFN,
    PAGE_SIZE,
    STORE_GFN,
    PvhLayout,
    lay_out,
    start_info_content,
)
from pyxen.toolstack.builder.ramdisk import Ramdisk
from pyxen.toolstack.builder.start_info import Connections, encode_command_line
from pyxen.toolstack.timeline import ReachStage, Stage


@dataclass(frozen=True)
class PvhPlan:
    """A domain that can be built, all of it checked that can be checked without the hypervisor."""

    kernel: PvhKernel
    ramdisk: Ramdisk | None
    command_line: bytes
    acpi: AcpiTables
    layout: PvhLayout


def plan_pvh_domain(kernel: PvhKernel, ramdisk: Ramdisk | None, command_line: str, memory_kib: int, max_vcpus: int) -> PvhPlan:
    """Lays the domain out. Raises CommandLineError, RamdiskError, MemoryTooSmallError."""
    encoded = encode_command_line(command_line)
    acpi = AcpiTables(ACPI_ADDRESS, max_vcpus)
    return PvhPlan(kernel, ramdisk, encoded, acpi, lay_out(kernel, ramdisk, encoded, memory_kib, len(acpi.content)))


def build_pvh_domain(
    hypercalls: Dom0Hypercalls,
    domid: int,
    plan: PvhPlan,
    *,
    max_memory_kib: int | None = None,
    store_domid: int = 0,
    console_domid: int = 0,
    reached: ReachStage = lambda _: None,
) -> Connections:
    """As ``build_pv_domain``."""
    return _PvhBuilder(hypercalls, domid, plan, reached).build(max_memory_kib, store_domid, console_domid)


class _PvhBuilder:
    """One build."""

    def __init__(self, hypercalls: Dom0Hypercalls, domid: int, plan: PvhPlan, reached: ReachStage) -> None:
        self._hypercalls = hypercalls
        self._domid = domid
        self._plan = plan
        self._reached = reached
        self._layout = plan.layout

    def build(self, max_memory_kib: int | None, store_domid: int, console_domid: int) -> Connections:
        layout, plan, hypercalls, domid = self._layout, self._plan, self._hypercalls, self._domid
        extra_pages = len(layout.acpi_gfns) + 2
        hypercalls.set_max_memory(domid, maximum_pages(layout.ram_pages, max_memory_kib) + extra_pages)
        memory = GuestMemory(hypercalls, domid, self._populate([layout.low_gfns, layout.high_gfns]))
        self._reached(Stage.MEMORY)
        for segment in plan.kernel.segments:
            memory.load(segment.start, segment.data)
        self._reached(Stage.KERNEL_LOADED)
        if plan.ramdisk is not None:
            address = layout.ramdisk_address
            for chunk in plan.ramdisk.chunks():
                memory.write(address >> 12, chunk)
                address += len(chunk)
        self._reached(Stage.RAMDISK_LOADED)
        memory.write(layout.start_info_address >> 12, start_info_content(layout, plan.command_line, plan.acpi.rsdp_address))
        hypercalls.write_foreign(domid, self._populate([layout.acpi_gfns]), plan.acpi.content)
        hypercalls.set_memory_map(domid, layout.memory_map)
        result = self._connect(store_domid, console_domid)
        hypercalls.set_hvm_context(domid, plan.kernel.entry, layout.start_info_address)
        self._reached(Stage.VCPU)
        return result

    def _populate(self, gfns: list[range]) -> Frames:
        wanted = np.concatenate([np.arange(part.start, part.stop, dtype=np.uint64) for part in gfns])
        try:
            return self._hypercalls.populate_guest_frames(self._domid, wanted)
        except HypercallError as error:
            if error.errno != errno.ENOMEM:
                raise
            raise HostMemoryError(
                f"the host has not enough free memory for a domain of {len(wanted) * PAGE_SIZE >> 20} MiB: "
                "give it less, or destroy another domain"
            ) from error

    def _connect(self, store_domid: int, console_domid: int) -> Connections:
        hypercalls, domid = self._hypercalls, self._domid
        store_mfn, console_mfn = (int(mfn) for mfn in self._populate([range(gfn, gfn + 1) for gfn in (STORE_GFN, CONSOLE_GFN)]))
        store_port = hypercalls.evtchn_alloc_unbound(domid, store_domid)
        console_port = hypercalls.evtchn_alloc_unbound(domid, console_domid)
        for index, value in (
            (params.HVM_PARAM_STORE_PFN, STORE_GFN),
            (params.HVM_PARAM_STORE_EVTCHN, store_port),
            (params.HVM_PARAM_CONSOLE_PFN, CONSOLE_GFN),
            (params.HVM_PARAM_CONSOLE_EVTCHN, console_port),
            (params.HVM_PARAM_PAE_ENABLED, 1),
        ):
            hypercalls.set_hvm_parameter(domid, index, value)
        hypercalls.set_grant_entry(domid, GNTTAB_RESERVED_XENSTORE, store_domid, store_mfn)
        hypercalls.set_grant_entry(domid, GNTTAB_RESERVED_CONSOLE, console_domid, console_mfn)
        return Connections(hypercalls.shared_info_frame(domid), store_mfn, store_port, console_mfn, console_port)

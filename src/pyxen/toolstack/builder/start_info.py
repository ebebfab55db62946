"""The page that tells a PV kernel what it got: struct start_info (public header xen.h)."""

from __future__ import annotations

from dataclasses import dataclass

from pyxen.abi import xen as abi_xen
from pyxen.toolstack.builder.errors import CommandLineError
from pyxen.toolstack.builder.image_layout import ImageLayout
from pyxen.toolstack.builder.page_tables import PAGE_SHIFT


@dataclass(frozen=True)
class Connections:
    """Frames (MFNs) and ports (the domain's) that join the domain to Xen, the store and the console."""

    shared_info_mfn: int
    store_mfn: int
    store_port: int
    console_mfn: int
    console_port: int


def encode_command_line(command_line: str) -> bytes:
    """CommandLineError when it does not fit in start_info or can't be represented."""
    encoded = command_line.encode("utf-8", "surrogateescape")
    if len(encoded) >= abi_xen.MAX_GUEST_CMDLINE:
        raise CommandLineError(
            f"the kernel's command line has {len(encoded)} bytes; Xen passes at most {abi_xen.MAX_GUEST_CMDLINE - 1}: shorten it"
        )
    if b"\0" in encoded:
        raise CommandLineError("the kernel's command line has a NUL character in it")
    return encoded


def start_info_content(layout: ImageLayout, connections: Connections, command_line: bytes, ramdisk_size: int) -> bytes:
    """The structure's bytes. ``ramdisk_size`` in bytes, 0 for none."""
    info = abi_xen.start_info()
    info.magic = abi_xen.START_INFO_MAGIC.encode()
    info.nr_pages = layout.total_pages
    info.shared_info = connections.shared_info_mfn << PAGE_SHIFT
    info.flags = abi_xen.SIF_VIRT_P2M_4TOOLS
    info.store_mfn = connections.store_mfn
    info.store_evtchn = connections.store_port
    info.console.domU.mfn = connections.console_mfn
    info.console.domU.evtchn = connections.console_port
    info.pt_base = layout.address_of(layout.table_pfns.start)
    info.nr_pt_frames = len(layout.tables)
    info.mfn_list = layout.p2m_address
    if layout.p2m_outside:
        info.first_p2m_pfn = layout.p2m_pfns.start
        info.nr_p2m_frames = len(layout.p2m_pfns) + len(layout.p2m_table_pfns)
    if ramdisk_size:
        info.mod_len = ramdisk_size
        if layout.ramdisk_mapped:
            info.mod_start = layout.address_of(layout.ramdisk_pfns.start)
        else:
            info.mod_start = layout.ramdisk_pfns.start
            info.flags |= abi_xen.SIF_MOD_START_PFN
    info.cmd_line = command_line
    return bytes(info)

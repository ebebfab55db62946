"""Memory reservations and maps of a domain (public header memory.h).

Memory sharing, paging to disk and memory access control (HVM only) have their call numbers here, but not their arguments.
"""

from __future__ import annotations

from ctypes import Structure, Union, c_uint16, c_uint32, c_uint64

from pyxen.abi.arch_x86_64 import guest_handle_t, xen_pfn_t, xen_ulong_t
from pyxen.abi.physdev import physdev_pci_device
from pyxen.abi.xen import domid_t

# --- HYPERVISOR_memory_op: the command is in bits 5:0, a continuation's progress above ----------------------------------------

XENMEM_increase_reservation = 0
XENMEM_decrease_reservation = 1
XENMEM_maximum_ram_page = 2  # returned value: highest MFN of the machine
XENMEM_current_reservation = 3  # memory_domain; returned value: pages
XENMEM_maximum_reservation = 4  # memory_domain; returned value: pages
XENMEM_machphys_mfn_list = 5
XENMEM_populate_physmap = 6
XENMEM_add_to_physmap = 7
XENMEM_memory_map = 9
XENMEM_machine_memory_map = 10
XENMEM_exchange = 11
XENMEM_machphys_mapping = 12
XENMEM_set_memory_map = 13
XENMEM_maximum_gpfn = 14  # memory_domain; returned value: highest GPFN in use
XENMEM_remove_from_physmap = 15
XENMEM_set_pod_target = 16
XENMEM_get_pod_target = 17
XENMEM_get_sharing_freed_pages = 18
XENMEM_get_sharing_shared_pages = 19
XENMEM_paging_op = 20
XENMEM_access_op = 21
XENMEM_sharing_op = 22
XENMEM_add_to_physmap_batch = 23
XENMEM_claim_pages = 24
XENMEM_machphys_compat_mfn_list = 25
XENMEM_get_vnumainfo = 26
XENMEM_reserved_device_memory_map = 27
XENMEM_acquire_resource = 28

# --- Reservations ------------------------------------------------------------------------------------------------------------

# memory_reservation.mem_flags: bits 7:0 the width of addresses, bits 15:8 a NUMA node plus 1, and these:
XENMEMF_populate_on_demand = 1 << 16
XENMEMF_exact_node_request = 1 << 17
XENMEMF_vnode = 1 << 18


def XENMEMF_address_bits(bits: int) -> int:
    """Flag: machine addresses of at most ``bits`` bits; 0 for no limit."""
    return bits


def XENMEMF_get_address_bits(mem_flags: int) -> int:
    """Width of machine addresses that the flags ask for; 0 for no limit."""
    return mem_flags & 0xFF


def XENMEMF_node(node: int) -> int:
    """Flag: prefer memory of NUMA node ``node``."""
    return (node + 1) << 8


def XENMEMF_get_node(mem_flags: int) -> int:
    """NUMA node that the flags ask for; 0xFF if none."""
    return ((mem_flags >> 8) - 1) & 0xFF


def XENMEMF_exact_node(node: int) -> int:
    """Build flags: only memory of NUMA node ``node``."""
    return XENMEMF_node(node) | XENMEMF_exact_node_request


class memory_reservation(Structure):
    """Argument of increase_reservation, decrease_reservation and populate_physmap."""

    _fields_ = [
        ("extent_start", guest_handle_t),  # array of xen_pfn_t: PFNs to fill, or GMFNs to free; Xen writes MFNs back
        ("nr_extents", xen_ulong_t),
        ("extent_order", c_uint32),  # pages per extent: 2 ** order
        ("mem_flags", c_uint32),  # XENMEMF_*
        ("domid", domid_t),
    ]


class memory_exchange(Structure):
    """Give memory back and get other memory for it, of other order or address width."""

    _fields_ = [
        ("in_", memory_reservation),
        ("out", memory_reservation),
        ("nr_exchanged", xen_ulong_t),  # in: 0; out: input extents done
    ]


class memory_domain(Structure):
    """Domain that a query is about."""

    _fields_ = [("domid", domid_t)]


class pod_target(Structure):
    """Populate-on-demand target and state of an HVM domain, in pages."""

    _fields_ = [
        ("target_pages", c_uint64),  # in
        ("tot_pages", c_uint64),  # out
        ("pod_cache_pages", c_uint64),  # out
        ("pod_entries", c_uint64),  # out
        ("domid", domid_t),  # in
    ]


# --- The machine-to-physical table -------------------------------------------------------------------------------------------


class machphys_mfn_list(Structure):
    """Ask for the frames of the table, one MFN for each 2 MB of it."""

    _fields_ = [
        ("max_extents", c_uint32),  # in
        ("extent_start", guest_handle_t),  # out: array of xen_pfn_t
        ("nr_extents", c_uint32),  # out
    ]


class machphys_mapping(Structure):
    """Where the table is mapped in the caller's address space."""

    _fields_ = [
        ("v_start", xen_ulong_t),
        ("v_end", xen_ulong_t),
        ("max_mfn", xen_ulong_t),
    ]


# --- The guest's physical address space ----------------------------------------------------------------------------------------

XENMAPSPACE_shared_info = 0
XENMAPSPACE_grant_table = 1
XENMAPSPACE_gmfn = 2
XENMAPSPACE_gmfn_range = 3
XENMAPSPACE_gmfn_foreign = 4
XENMAPSPACE_dev_mmio = 5

XENMAPIDX_grant_table_status = 0x80000000  # in idx: the status array, not the table


class add_to_physmap(Structure):
    """Put a page of a map space at a GPFN."""

    _fields_ = [
        ("domid", domid_t),
        ("size", c_uint16),  # pages, for gmfn_range
        ("space", c_uint32),  # XENMAPSPACE_*
        ("idx", xen_ulong_t),
        ("gpfn", xen_pfn_t),
    ]


class add_to_physmap_batch_extra(Union):
    """Owner of the pages, for XENMAPSPACE_gmfn_foreign."""

    _fields_ = [("foreign_domid", domid_t), ("res0", c_uint16)]


class add_to_physmap_batch(Structure):
    """Put several pages of a map space at GPFNs."""

    _fields_ = [
        ("domid", domid_t),
        ("space", c_uint16),  # XENMAPSPACE_*
        ("size", c_uint16),  # elements of the arrays
        ("u", add_to_physmap_batch_extra),
        ("idxs", guest_handle_t),  # array of xen_ulong_t
        ("gpfns", guest_handle_t),  # array of xen_pfn_t
        ("errs", guest_handle_t),  # out: array of int, negative error numbers
    ]


class remove_from_physmap(Structure):
    """Take a page out."""

    _fields_ = [("domid", domid_t), ("gpfn", xen_pfn_t)]


# --- Memory maps -------------------------------------------------------------------------------------------------------------


class memory_map(Structure):
    """Argument of memory_map and machine_memory_map."""

    _fields_ = [
        ("nr_entries", c_uint32),  # in: room in the buffer; out: entries written
        ("buffer", guest_handle_t),  # array of e820entry
    ]


class foreign_memory_map(Structure):
    """Argument of set_memory_map."""

    _fields_ = [("domid", domid_t), ("map", memory_map)]


# Types of e820entry, as ACPI numbers them.
E820_RAM = 1
E820_RESERVED = 2
E820_ACPI = 3
E820_NVS = 4
E820_UNUSABLE = 5


class e820entry(Structure):
    """Entry of a memory map: the 20-byte format of the BIOS call E820."""

    _pack_ = 1
    _fields_ = [
        ("addr", c_uint64),
        ("size", c_uint64),  # bytes
        ("type", c_uint32),  # E820_*
    ]


XENMEM_RDM_ALL = 1


class reserved_device_memory(Structure):
    """A range that devices claim for themselves."""

    _fields_ = [("start_pfn", xen_pfn_t), ("nr_pages", xen_ulong_t)]


class reserved_device_memory_map_dev(Union):
    """Device that the query is about."""

    _fields_ = [("pci", physdev_pci_device)]


class reserved_device_memory_map(Structure):
    """Ask which ranges must stay free."""

    _fields_ = [
        ("flags", c_uint32),  # in: XENMEM_RDM_ALL: for all devices
        ("nr_entries", c_uint32),  # in: room in the buffer; out: entries there are
        ("buffer", guest_handle_t),  # out: array of reserved_device_memory
        ("dev", reserved_device_memory_map_dev),  # in
    ]


# --- Resources of another domain ---------------------------------------------------------------------------------------------

XENMEM_resource_ioreq_server = 0
XENMEM_resource_grant_table = 1
XENMEM_resource_vmtrace_buf = 2

XENMEM_resource_grant_table_id_shared = 0
XENMEM_resource_grant_table_id_status = 1
XENMEM_resource_ioreq_server_frame_bufioreq = 0


class mem_acquire_resource(Structure):
    """Get frames that Xen holds for a domain, so that the toolstack can map them."""

    _fields_ = [
        ("domid", domid_t),  # in
        ("type", c_uint16),  # in: XENMEM_resource_*
        ("id", c_uint32),  # in
        ("nr_frames", c_uint32),  # in and out
        ("pad", c_uint32),
        ("frame", c_uint64),  # in: first one
        ("frame_list", guest_handle_t),  # array of xen_pfn_t; NULL asks for the size
    ]


# --- Virtual NUMA ------------------------------------------------------------------------------------------------------------


class vmemrange(Structure):
    """Memory of a virtual node: bytes from ``start`` up to, not including, ``end``."""

    _fields_ = [
        ("start", c_uint64),
        ("end", c_uint64),
        ("flags", c_uint32),
        ("nid", c_uint32),
    ]


class vnuma_topology_info_handle(Union):
    """A guest handle padded to 64 bits."""

    _fields_ = [("h", guest_handle_t), ("pad", c_uint64)]


class vnuma_topology_info(Structure):
    """Argument of get_vnumainfo."""

    _fields_ = [
        ("domid", domid_t),  # in
        ("pad", c_uint16),
        ("nr_vnodes", c_uint32),  # in and out, as the next two
        ("nr_vcpus", c_uint32),
        ("nr_vmemranges", c_uint32),
        ("vdistance", vnuma_topology_info_handle),  # out: array of unsigned int
        ("vcpu_to_vnode", vnuma_topology_info_handle),  # out: array of unsigned int
        ("vmemrange", vnuma_topology_info_handle),  # out: array of vmemrange
    ]

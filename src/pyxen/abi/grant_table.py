"""Grant tables, versions 1 and 2, and their operations (public header grant_table.h)."""

from __future__ import annotations

from ctypes import Structure, Union, c_int16, c_uint16, c_uint32, c_uint64

from pyxen.abi.arch_x86_64 import guest_handle_t, xen_pfn_t
from pyxen.abi.xen import domid_t

grant_ref_t = c_uint32
grant_handle_t = c_uint32
grant_status_t = c_uint16

# --- The table ---------------------------------------------------------------------------------------------------------------

GNTTAB_NR_RESERVED_ENTRIES = 8  # kept when the version changes; the toolstack fills in these two:
GNTTAB_RESERVED_CONSOLE = 0
GNTTAB_RESERVED_XENSTORE = 1

# Flags of an entry: its type ...
GTF_invalid = 0
GTF_permit_access = 1
GTF_accept_transfer = 2
GTF_transitive = 3
GTF_type_mask = 3

# ... what the granting guest says of a GTF_permit_access or GTF_transitive entry ...
GTF_readonly = 1 << 2
GTF_PWT = 1 << 5
GTF_PCD = 1 << 6
GTF_PAT = 1 << 7
GTF_sub_page = 1 << 8  # part of a page, for GNTTABOP_copy only

# ... and what Xen sets while it is mapped.
GTF_reading = 1 << 3
GTF_writing = 1 << 4

# Set by Xen in a GTF_accept_transfer entry: the guest must not change it in between.
GTF_transfer_committed = 1 << 2
GTF_transfer_completed = 1 << 3


class grant_entry_v1(Structure):
    """Entry of a version 1 table."""

    _fields_ = [
        ("flags", c_uint16),  # GTF_*
        ("domid", domid_t),  # to whom
        ("frame", c_uint32),  # GFN; after a transfer the new MFN
    ]


class grant_entry_header(Structure):
    """Common start of all forms of a version 2 entry."""

    _fields_ = [
        ("flags", c_uint16),  # GTF_*
        ("domid", domid_t),
    ]


class grant_entry_v2_full_page(Structure):
    """Grant of a whole page."""

    _fields_ = [
        ("hdr", grant_entry_header),
        ("pad0", c_uint32),
        ("frame", c_uint64),
    ]


class grant_entry_v2_sub_page(Structure):
    """Grant of ``length`` bytes from ``page_off`` (GTF_sub_page)."""

    _fields_ = [
        ("hdr", grant_entry_header),
        ("page_off", c_uint16),
        ("length", c_uint16),
        ("frame", c_uint64),
    ]


class grant_entry_v2_transitive(Structure):
    """Hands on a grant that ``trans_domid`` gave (GTF_transitive)."""

    _fields_ = [
        ("hdr", grant_entry_header),
        ("trans_domid", domid_t),
        ("pad0", c_uint16),
        ("gref", grant_ref_t),
    ]


class grant_entry_v2(Union):
    """Entry of a version 2 table; its reading and writing bits are in a separate array of grant_status_t."""

    _fields_ = [
        ("hdr", grant_entry_header),
        ("full_page", grant_entry_v2_full_page),
        ("sub_page", grant_entry_v2_sub_page),
        ("transitive", grant_entry_v2_transitive),
        ("spacer", c_uint32 * 4),
    ]


# --- HYPERVISOR_grant_table_op -----------------------------------------------------------------------------------------------

GNTTABOP_map_grant_ref = 0
GNTTABOP_unmap_grant_ref = 1
GNTTABOP_setup_table = 2
GNTTABOP_dump_table = 3
GNTTABOP_transfer = 4
GNTTABOP_copy = 5
GNTTABOP_query_size = 6
GNTTABOP_unmap_and_replace = 7
GNTTABOP_set_version = 8
GNTTABOP_get_status_frames = 9
GNTTABOP_get_version = 10
GNTTABOP_swap_grant_ref = 11
GNTTABOP_cache_flush = 12

# Status that Xen writes into each operation.
GNTST_okay = 0
GNTST_general_error = -1
GNTST_bad_domain = -2
GNTST_bad_gntref = -3
GNTST_bad_handle = -4
GNTST_bad_virt_addr = -5
GNTST_bad_dev_addr = -6
GNTST_no_device_space = -7
GNTST_permission_denied = -8
GNTST_bad_page = -9
GNTST_bad_copy_arg = -10
GNTST_address_too_big = -11
GNTST_eagain = -12
GNTST_no_space = -13

# Flags of GNTTABOP_map_grant_ref.
GNTMAP_device_map = 1 << 0  # for I/O devices: dev_bus_addr is returned
GNTMAP_host_map = 1 << 1  # for the CPU, at host_addr
GNTMAP_readonly = 1 << 2
GNTMAP_application_map = 1 << 3  # for user mode too
GNTMAP_contains_pte = 1 << 4  # host_addr is the machine address of an L1 entry, not a virtual address
GNTMAP_guest_avail_mask = 0xFFFF0000  # bits for the entry that are free for the guest


class gnttab_map_grant_ref(Structure):
    """Map a granted page."""

    _fields_ = [
        ("host_addr", c_uint64),  # in
        ("flags", c_uint32),  # in: GNTMAP_*
        ("ref", grant_ref_t),  # in
        ("dom", domid_t),  # in: who granted it
        ("status", c_int16),  # out: GNTST_*
        ("handle", grant_handle_t),  # out: needed for the unmap
        ("dev_bus_addr", c_uint64),  # out
    ]


class gnttab_unmap_grant_ref(Structure):
    """Undo a mapping; an address of 0 is left alone."""

    _fields_ = [
        ("host_addr", c_uint64),  # in
        ("dev_bus_addr", c_uint64),  # in
        ("handle", grant_handle_t),  # in
        ("status", c_int16),  # out
    ]


class gnttab_setup_table(Structure):
    """Make the table at least ``nr_frames`` pages and tell where they are."""

    _fields_ = [
        ("dom", domid_t),  # in
        ("nr_frames", c_uint32),  # in
        ("status", c_int16),  # out
        ("frame_list", guest_handle_t),  # out: array of xen_pfn_t
    ]


class gnttab_dump_table(Structure):
    """Write a domain's table to Xen's console."""

    _fields_ = [("dom", domid_t), ("status", c_int16)]


class gnttab_transfer(Structure):
    """Give a page to a domain that has a GTF_accept_transfer entry for it."""

    _fields_ = [
        ("mfn", xen_pfn_t),  # in
        ("domid", domid_t),  # in
        ("ref", grant_ref_t),  # in
        ("status", c_int16),  # out
    ]


# gnttab_copy.flags: the end in question is a grant reference, not a frame number.
GNTCOPY_source_gref = 1 << 0
GNTCOPY_dest_gref = 1 << 1


class gnttab_copy_ptr_u(Union):
    """Page of one end of a copy."""

    _fields_ = [("ref", grant_ref_t), ("gmfn", xen_pfn_t)]


class gnttab_copy_ptr(Structure):
    """One end of a copy."""

    _fields_ = [
        ("u", gnttab_copy_ptr_u),
        ("domid", domid_t),
        ("offset", c_uint16),  # bytes into the page
    ]


class gnttab_copy(Structure):
    """Copy bytes between two pages, by grant or by frame; neither end may cross its page."""

    _fields_ = [
        ("source", gnttab_copy_ptr),  # in
        ("dest", gnttab_copy_ptr),  # in
        ("len", c_uint16),  # in: bytes
        ("flags", c_uint16),  # in: GNTCOPY_*
        ("status", c_int16),  # out
    ]


class gnttab_query_size(Structure):
    """Ask for the present and the largest size of a table, in pages."""

    _fields_ = [
        ("dom", domid_t),  # in
        ("nr_frames", c_uint32),  # out
        ("max_nr_frames", c_uint32),  # out
        ("status", c_int16),  # out
    ]


class gnttab_unmap_and_replace(Structure):
    """Undo a mapping and move the mapping at ``new_addr`` in its place."""

    _fields_ = [
        ("host_addr", c_uint64),  # in
        ("new_addr", c_uint64),  # in
        ("handle", grant_handle_t),  # in
        ("status", c_int16),  # out
    ]


class gnttab_set_version(Structure):
    """Choose the version of the caller's table; Xen writes back what is in force."""

    _fields_ = [("version", c_uint32)]


class gnttab_get_status_frames(Structure):
    """Ask for the frames of the version 2 status array."""

    _fields_ = [
        ("nr_frames", c_uint32),  # in
        ("dom", domid_t),  # in
        ("status", c_int16),  # out
        ("frame_list", guest_handle_t),  # out: array of 64-bit frame numbers
    ]


class gnttab_get_version(Structure):
    """Ask for the version of a domain's table."""

    _fields_ = [
        ("dom", domid_t),  # in
        ("pad", c_uint16),
        ("version", c_uint32),  # out
    ]


class gnttab_swap_grant_ref(Structure):
    """Exchange the contents of two entries."""

    _fields_ = [
        ("ref_a", grant_ref_t),  # in
        ("ref_b", grant_ref_t),  # in
        ("status", c_int16),  # out
    ]


GNTTAB_CACHE_CLEAN = 1 << 0
GNTTAB_CACHE_INVAL = 1 << 1
GNTTAB_CACHE_SOURCE_GREF = 1 << 31


class gnttab_cache_flush_a(Union):
    """Page of a cache flush."""

    _fields_ = [("dev_bus_addr", c_uint64), ("ref", grant_ref_t)]


class gnttab_cache_flush(Structure):
    """Cache maintenance on part of a granted page."""

    _fields_ = [
        ("a", gnttab_cache_flush_a),
        ("offset", c_uint16),
        ("length", c_uint16),
        ("op", c_uint32),  # GNTTAB_CACHE_*
    ]


# Text for status -n.
GNTTABOP_error_msgs = (
    "okay",
    "undefined error",
    "unrecognised domain id",
    "invalid grant reference",
    "invalid mapping handle",
    "invalid virtual address",
    "invalid device address",
    "no spare translation slot in the I/O MMU",
    "permission denied",
    "bad page",
    "copy arguments cross page boundary",
    "page address size too large",
    "operation not done; try again",
    "out of space",
)

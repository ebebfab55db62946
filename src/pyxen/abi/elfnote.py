"""ELF notes with which a kernel describes itself to the domain builder (public header elfnote.h)."""

from __future__ import annotations

XEN_ELFNOTE_NAME = "Xen"  # owner name of the notes
XEN_GUEST_SECTION = "__xen_guest"  # section with the older form: KEY=value pairs, separated by commas

# Types of notes; "numeric" is 4 or 8 bytes, strings end with a NUL. In brackets: the key in the older form.
XEN_ELFNOTE_INFO = 0
XEN_ELFNOTE_ENTRY = 1  # numeric: virtual address [VIRT_ENTRY]
XEN_ELFNOTE_HYPERCALL_PAGE = 2  # numeric: virtual address [HYPERCALL_PAGE, there a page number]
XEN_ELFNOTE_VIRT_BASE = 3  # numeric [VIRT_BASE]
XEN_ELFNOTE_PADDR_OFFSET = 4  # numeric [ELF_PADDR_OFFSET]
XEN_ELFNOTE_XEN_VERSION = 5  # string [XEN_VER]
XEN_ELFNOTE_GUEST_OS = 6  # string [GUEST_OS]
XEN_ELFNOTE_GUEST_VERSION = 7  # string [GUEST_VER]
XEN_ELFNOTE_LOADER = 8  # string [LOADER]
XEN_ELFNOTE_PAE_MODE = 9  # string [PAE]
XEN_ELFNOTE_FEATURES = 10  # string: names separated by "|", "!" marks what the kernel must have [FEATURES]
XEN_ELFNOTE_BSD_SYMTAB = 11  # string: "yes" or "no" [BSD_SYMTAB]
XEN_ELFNOTE_HV_START_LOW = 12  # numeric: lowest start of the hypervisor's hole
XEN_ELFNOTE_L1_MFN_VALID = 13  # pairs of mask and value that tell a valid L1 entry
XEN_ELFNOTE_SUSPEND_CANCEL = 14  # numeric: 1 if a suspend can be cancelled
XEN_ELFNOTE_INIT_P2M = 15  # numeric: virtual address for the P2M list
XEN_ELFNOTE_MOD_START_PFN = 16  # numeric: 1 if the ramdisk need not be mapped
XEN_ELFNOTE_SUPPORTED_FEATURES = 17  # numeric: bitmap of XENFEAT_*
XEN_ELFNOTE_PHYS32_ENTRY = 18  # numeric: physical address of the PVH entry
XEN_ELFNOTE_MAX = XEN_ELFNOTE_PHYS32_ENTRY

# Notes in crash and core dumps.
XEN_ELFNOTE_CRASH_INFO = 0x1000001
XEN_ELFNOTE_CRASH_REGS = 0x1000002
XEN_ELFNOTE_DUMPCORE_NONE = 0x2000000
XEN_ELFNOTE_DUMPCORE_HEADER = 0x2000001
XEN_ELFNOTE_DUMPCORE_XEN_VERSION = 0x2000002
XEN_ELFNOTE_DUMPCORE_FORMAT_VERSION = 0x2000003

"""Hypercall numbers, virtual interrupts, MMU operations, shared info page and start information (public header xen.h)."""

from __future__ import annotations

from ctypes import Structure, Union, c_char, c_int8, c_uint8, c_uint16, c_uint32, c_uint64

from pyxen.abi.arch_x86_64 import XEN_LEGACY_MAX_VCPUS, arch_shared_info, arch_vcpu_info, guest_handle_t, xen_pfn_t, xen_ulong_t

domid_t = c_uint16

XEN_LATEST_INTERFACE_VERSION = 0x00040E00  # xen-compat.h

# --- Hypercalls: the number goes into RAX ------------------------------------------------------------------------------------

HYPERVISOR_set_trap_table = 0
HYPERVISOR_mmu_update = 1
HYPERVISOR_set_gdt = 2
HYPERVISOR_stack_switch = 3
HYPERVISOR_set_callbacks = 4
HYPERVISOR_fpu_taskswitch = 5
HYPERVISOR_sched_op_compat = 6
HYPERVISOR_platform_op = 7
HYPERVISOR_set_debugreg = 8
HYPERVISOR_get_debugreg = 9
HYPERVISOR_update_descriptor = 10
HYPERVISOR_memory_op = 12
HYPERVISOR_multicall = 13
HYPERVISOR_update_va_mapping = 14
HYPERVISOR_set_timer_op = 15
HYPERVISOR_event_channel_op_compat = 16
HYPERVISOR_xen_version = 17
HYPERVISOR_console_io = 18
HYPERVISOR_physdev_op_compat = 19
HYPERVISOR_grant_table_op = 20
HYPERVISOR_vm_assist = 21
HYPERVISOR_update_va_mapping_otherdomain = 22
HYPERVISOR_iret = 23
HYPERVISOR_vcpu_op = 24
HYPERVISOR_set_segment_base = 25
HYPERVISOR_mmuext_op = 26
HYPERVISOR_xsm_op = 27
HYPERVISOR_nmi_op = 28
HYPERVISOR_sched_op = 29
HYPERVISOR_callback_op = 30
HYPERVISOR_xenoprof_op = 31
HYPERVISOR_event_channel_op = 32
HYPERVISOR_physdev_op = 33
HYPERVISOR_hvm_op = 34
HYPERVISOR_sysctl = 35
HYPERVISOR_domctl = 36
HYPERVISOR_kexec_op = 37
HYPERVISOR_tmem_op = 38
HYPERVISOR_argo_op = 39
HYPERVISOR_xenpmu_op = 40
HYPERVISOR_dm_op = 41
HYPERVISOR_hypfs_op = 42

# Numbers for the architecture; on x86 number 0 of them is the machine-check call (xen-mca.h).
HYPERVISOR_arch_0 = 48
HYPERVISOR_arch_1 = 49
HYPERVISOR_arch_2 = 50
HYPERVISOR_arch_3 = 51
HYPERVISOR_arch_4 = 52
HYPERVISOR_arch_5 = 53
HYPERVISOR_arch_6 = 54
HYPERVISOR_arch_7 = 55

# --- Virtual interrupts ------------------------------------------------------------------------------------------------------

# Per vCPU: each vCPU binds its own.
VIRQ_TIMER = 0
VIRQ_DEBUG = 1
VIRQ_XENOPROF = 7
VIRQ_XENPMU = 13

# Global: bound once in a domain, first to vCPU 0.
VIRQ_CONSOLE = 2
VIRQ_DOM_EXC = 3  # a domain changed its state (created, shut down, died)
VIRQ_TBUF = 4
VIRQ_DEBUGGER = 6
VIRQ_CON_RING = 8
VIRQ_PCPU_STATE = 9
VIRQ_MEM_EVENT = 10
VIRQ_ARGO = 11
VIRQ_ENOMEM = 12
VIRQ_ARCH_0 = 16
VIRQ_ARCH_1 = 17
VIRQ_ARCH_2 = 18
VIRQ_ARCH_3 = 19
VIRQ_ARCH_4 = 20
VIRQ_ARCH_5 = 21
VIRQ_ARCH_6 = 22
VIRQ_ARCH_7 = 23
NR_VIRQS = 24

# --- Domain ids --------------------------------------------------------------------------------------------------------------

DOMID_FIRST_RESERVED = 0x7FF0
DOMID_SELF = 0x7FF0
DOMID_IO = 0x7FF1  # owner of I/O memory
DOMID_XEN = 0x7FF2  # owner of Xen's own frames that a guest may map
DOMID_COW = 0x7FF3  # owner of shared frames
DOMID_INVALID = 0x7FF4
DOMID_IDLE = 0x7FFF
DOMID_MASK = 0x7FFF

# --- HYPERVISOR_mmu_update: the command is in bits 1:0 of mmu_update.ptr ------------------------------------------------------

MMU_NORMAL_PT_UPDATE = 0
MMU_MACHPHYS_UPDATE = 1  # the entry of the M2P table for the frame at ptr
MMU_PT_UPDATE_PRESERVE_AD = 2  # keeps accessed and dirty bits that are set
MMU_PT_UPDATE_NO_TRANSLATE = 3


class mmu_update(Structure):
    """One request of HYPERVISOR_mmu_update."""

    _fields_ = [
        ("ptr", c_uint64),  # machine address of the entry, command in bits 1:0
        ("val", c_uint64),
    ]


# --- HYPERVISOR_mmuext_op ----------------------------------------------------------------------------------------------------

MMUEXT_PIN_L1_TABLE = 0
MMUEXT_PIN_L2_TABLE = 1
MMUEXT_PIN_L3_TABLE = 2
MMUEXT_PIN_L4_TABLE = 3
MMUEXT_UNPIN_TABLE = 4
MMUEXT_NEW_BASEPTR = 5
MMUEXT_TLB_FLUSH_LOCAL = 6
MMUEXT_INVLPG_LOCAL = 7
MMUEXT_TLB_FLUSH_MULTI = 8
MMUEXT_INVLPG_MULTI = 9
MMUEXT_TLB_FLUSH_ALL = 10
MMUEXT_INVLPG_ALL = 11
MMUEXT_FLUSH_CACHE = 12
MMUEXT_SET_LDT = 13
MMUEXT_NEW_USER_BASEPTR = 15
MMUEXT_CLEAR_PAGE = 16
MMUEXT_COPY_PAGE = 17
MMUEXT_FLUSH_CACHE_GLOBAL = 18
MMUEXT_MARK_SUPER = 19
MMUEXT_UNMARK_SUPER = 20


class mmuext_op_arg1(Union):
    """First argument of an extended MMU operation."""

    _fields_ = [
        ("mfn", xen_pfn_t),  # (un)pin, base pointers, clear and copy page, (un)mark super
        ("linear_addr", xen_ulong_t),  # INVLPG_*, SET_LDT
    ]


class mmuext_op_arg2(Union):
    """Second argument of an extended MMU operation."""

    _fields_ = [
        ("nr_ents", c_uint32),  # SET_LDT
        ("vcpumask", guest_handle_t),  # *_MULTI: bitmap of vCPUs
        ("src_mfn", xen_pfn_t),  # COPY_PAGE
    ]


class mmuext_op(Structure):
    """One request of HYPERVISOR_mmuext_op."""

    _fields_ = [
        ("cmd", c_uint32),  # MMUEXT_*
        ("arg1", mmuext_op_arg1),
        ("arg2", mmuext_op_arg2),
    ]


# --- Flags of HYPERVISOR_update_va_mapping: what to flush, and where ----------------------------------------------------------

UVMF_NONE = 0
UVMF_TLB_FLUSH = 1
UVMF_INVLPG = 2
UVMF_FLUSHTYPE_MASK = 3
UVMF_MULTI = 0 << 2  # or'ed with the address of a vCPU bitmap
UVMF_LOCAL = 0 << 2
UVMF_ALL = 1 << 2

# --- HYPERVISOR_console_io, HYPERVISOR_vm_assist ------------------------------------------------------------------------------

CONSOLEIO_write = 0
CONSOLEIO_read = 1

VMASST_CMD_enable = 0
VMASST_CMD_disable = 1
VMASST_TYPE_4gb_segments = 0
VMASST_TYPE_4gb_segments_notify = 1
VMASST_TYPE_writable_pagetables = 2
VMASST_TYPE_pae_extended_cr3 = 3
VMASST_TYPE_architectural_iopl = 4  # IOPL is kept in the guest's RFLAGS, not set by physdev_op
VMASST_TYPE_runstate_update_flag = 5  # XEN_RUNSTATE_UPDATE marks an update in progress
VMASST_TYPE_m2p_strict = 32  # no M2P table in user-mode page tables


class multicall_entry(Structure):
    """One call of HYPERVISOR_multicall; ``result`` is filled in by Xen."""

    _fields_ = [
        ("op", xen_ulong_t),  # HYPERVISOR_*
        ("result", xen_ulong_t),
        ("args", xen_ulong_t * 6),
    ]


# --- Shared info page --------------------------------------------------------------------------------------------------------

XEN_PVCLOCK_TSC_STABLE_BIT = 1 << 0  # time is monotonic between vCPUs
XEN_PVCLOCK_GUEST_STOPPED = 1 << 1


class vcpu_time_info(Structure):
    """Paravirtual clock of a vCPU.

    System time in ns = system_time + (((TSC - tsc_timestamp) << tsc_shift) * tsc_to_system_mul >> 32).
    """

    _fields_ = [
        ("version", c_uint32),  # odd while Xen writes the others
        ("pad0", c_uint32),
        ("tsc_timestamp", c_uint64),  # TSC at the last update
        ("system_time", c_uint64),  # ns since boot of the host, at the last update
        ("tsc_to_system_mul", c_uint32),  # 0.32 fixed point
        ("tsc_shift", c_int8),  # negative: right shift
        ("flags", c_uint8),  # XEN_PVCLOCK_*
        ("pad1", c_uint8 * 2),
    ]


class vcpu_info(Structure):
    """Per-vCPU part of the shared info page: 64 bytes."""

    _fields_ = [
        ("evtchn_upcall_pending", c_uint8),
        ("evtchn_upcall_mask", c_uint8),
        ("evtchn_pending_sel", xen_ulong_t),  # bit n: evtchn_pending[n] is not 0
        ("arch", arch_vcpu_info),
        ("time", vcpu_time_info),
    ]


class shared_info(Structure):
    """Page shared between Xen and a domain."""

    _fields_ = [
        ("vcpu_info", vcpu_info * XEN_LEGACY_MAX_VCPUS),
        ("evtchn_pending", xen_ulong_t * 64),
        ("evtchn_mask", xen_ulong_t * 64),
        ("wc_version", c_uint32),  # wall clock; odd while Xen writes the others
        ("wc_sec", c_uint32),  # Unix time when system time was 0, low half of the seconds
        ("wc_nsec", c_uint32),
        ("wc_sec_hi", c_uint32),
        ("arch", arch_shared_info),
    ]


# --- Start information -------------------------------------------------------------------------------------------------------

MAX_GUEST_CMDLINE = 1024

# start_info.flags
SIF_PRIVILEGED = 1 << 0
SIF_INITDOMAIN = 1 << 1
SIF_MULTIBOOT_MOD = 1 << 2  # mod_start is a list of multiboot modules
SIF_MOD_START_PFN = 1 << 3  # mod_start is a PFN
SIF_VIRT_P2M_4TOOLS = 1 << 4  # tools understand a linear P2M list
SIF_PM_MASK = 0xFF << 8


class start_info_console_domU(Structure):
    """Console of an unprivileged domain."""

    _fields_ = [("mfn", xen_pfn_t), ("evtchn", c_uint32)]


class start_info_console_dom0(Structure):
    """Console of Domain 0: offset and size in bytes of dom0_vga_console_info, from the start of start_info."""

    _fields_ = [("info_off", c_uint32), ("info_size", c_uint32)]


class start_info_console(Union):
    """Console of the domain."""

    _fields_ = [("domU", start_info_console_domU), ("dom0", start_info_console_dom0)]


class start_info(Structure):
    """What a PV domain finds at the address in RSI when it starts."""

    _fields_ = [
        # Filled in at boot and at resume.
        ("magic", c_char * 32),  # START_INFO_MAGIC
        ("nr_pages", c_uint64),
        ("shared_info", c_uint64),  # machine address
        ("flags", c_uint32),  # SIF_*
        ("store_mfn", xen_pfn_t),
        ("store_evtchn", c_uint32),
        ("console", start_info_console),
        # Filled in at boot only.
        ("pt_base", c_uint64),  # virtual address of the top-level page table
        ("nr_pt_frames", c_uint64),
        ("mfn_list", c_uint64),  # virtual address of the P2M list
        ("mod_start", c_uint64),  # virtual address of the ramdisk, or PFN with SIF_MOD_START_PFN
        ("mod_len", c_uint64),  # bytes
        ("cmd_line", c_char * MAX_GUEST_CMDLINE),
        ("first_p2m_pfn", c_uint64),
        ("nr_p2m_frames", c_uint64),
    ]


START_INFO_MAGIC = "xen-3.0-x86_64"  # "xen-<interface>-<architecture>"; fixed since Xen 3


class multiboot_mod_list(Structure):
    """One entry of a multiboot module list; an entry with mod_start 0 ends it. Addresses are relative to the list."""

    _fields_ = [
        ("mod_start", c_uint32),
        ("mod_end", c_uint32),  # inclusive
        ("cmdline", c_uint32),
        ("pad", c_uint32),
    ]


# --- Types of the control interfaces -----------------------------------------------------------------------------------------


class uuid(Structure):
    """UUID in big-endian byte order."""

    _fields_ = [("a", c_uint8 * 16)]


class xenctl_bitmap(Structure):
    """Bitmap that a control call passes by reference."""

    _fields_ = [("bitmap", guest_handle_t), ("nr_bits", c_uint32)]

"""x86-64 part of the ABI (public headers arch-x86/xen.h, arch-x86/xen-x86_64.h and arch-x86/cpuid.h)."""

from __future__ import annotations

from ctypes import Structure, _SimpleCData, c_uint8, c_uint16, c_uint32, c_uint64
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    _Integer = _SimpleCData[int]
else:
    _Integer = _SimpleCData


class guest_long(_Integer):
    """C's unsigned long and pointers, 64 bits. A type of its own because 32-bit callers have 32 bits in its place (``compat``).
    Derived from ctypes' own base, so that members of structures are plain integers."""

    _type_: ClassVar[str] = "L"


xen_pfn_t = guest_long
xen_ulong_t = guest_long
xen_callback_t = guest_long  # virtual address of a guest's entry point
guest_handle_t = guest_long  # a guest virtual address that a hypercall argument carries

XEN_LEGACY_MAX_VCPUS = 32  # vCPUs whose vcpu_info lies in the shared info page

# --- Segments: the last two pages of every GDT belong to Xen ------------------------------------------------------------------

FIRST_RESERVED_GDT_PAGE = 14
FIRST_RESERVED_GDT_BYTE = FIRST_RESERVED_GDT_PAGE * 4096
FIRST_RESERVED_GDT_ENTRY = FIRST_RESERVED_GDT_BYTE // 8

# Flat selectors that Xen puts into the reserved part. Everything runs in ring 3, kernel and user mode alike.
FLAT_RING3_CS32 = 0xE023
FLAT_RING3_CS64 = 0xE033
FLAT_RING3_DS32 = 0xE02B
FLAT_RING3_DS64 = 0x0000
FLAT_RING3_SS32 = 0xE02B
FLAT_RING3_SS64 = 0xE02B

FLAT_KERNEL_DS64 = FLAT_RING3_DS64
FLAT_KERNEL_DS32 = FLAT_RING3_DS32
FLAT_KERNEL_DS = FLAT_KERNEL_DS64
FLAT_KERNEL_CS64 = FLAT_RING3_CS64
FLAT_KERNEL_CS32 = FLAT_RING3_CS32
FLAT_KERNEL_CS = FLAT_KERNEL_CS64
FLAT_KERNEL_SS64 = FLAT_RING3_SS64
FLAT_KERNEL_SS32 = FLAT_RING3_SS32
FLAT_KERNEL_SS = FLAT_KERNEL_SS64

FLAT_USER_DS64 = FLAT_RING3_DS64
FLAT_USER_DS32 = FLAT_RING3_DS32
FLAT_USER_DS = FLAT_USER_DS64
FLAT_USER_CS64 = FLAT_RING3_CS64
FLAT_USER_CS32 = FLAT_RING3_CS32
FLAT_USER_CS = FLAT_USER_CS64
FLAT_USER_SS64 = FLAT_RING3_SS64
FLAT_USER_SS32 = FLAT_RING3_SS32
FLAT_USER_SS = FLAT_USER_SS64

# HYPERVISOR_set_segment_base: which base to set.
SEGBASE_FS = 0
SEGBASE_GS_USER = 1
SEGBASE_GS_KERNEL = 2
SEGBASE_GS_USER_SEL = 3  # loads a selector (bits 15:0) into the user's GS instead

# --- The part of the address space that a PV guest may not use ---------------------------------------------------------------

HYPERVISOR_VIRT_START = 0xFFFF800000000000
HYPERVISOR_VIRT_END = 0xFFFF880000000000
MACH2PHYS_VIRT_START = 0xFFFF800000000000  # read-only table of 64-bit PFNs, indexed by MFN
MACH2PHYS_VIRT_END = 0xFFFF804000000000
MACH2PHYS_NR_ENTRIES = (MACH2PHYS_VIRT_END - MACH2PHYS_VIRT_START) >> 3


def xen_pfn_to_cr3(pfn: int) -> int:
    """CR3 value whose page-table base is frame ``pfn``."""
    return pfn << 12


def xen_cr3_to_pfn(cr3: int) -> int:
    """Frame number of the page-table base in ``cr3``."""
    return cr3 >> 12


# --- Traps and vCPU state ----------------------------------------------------------------------------------------------------

# trap_info.flags: bits 1:0 are the descriptor privilege level, bit 2 masks event delivery on entry (like an interrupt gate).
TI_DPL_MASK = 3
TI_IF = 4


class trap_info(Structure):
    """Virtual IDT entry of HYPERVISOR_set_trap_table; an array ends with an entry whose address is 0."""

    _fields_ = [
        ("vector", c_uint8),
        ("flags", c_uint8),  # TI_*
        ("cs", c_uint16),
        ("address", c_uint64),
    ]


class iret_context(Structure):
    """Stack frame that HYPERVISOR_iret takes from the kernel's stack, lowest address first."""

    _fields_ = [
        ("rax", c_uint64),
        ("r11", c_uint64),
        ("rcx", c_uint64),
        ("flags", c_uint64),  # VGCF_in_syscall: discard r11, rcx, cs and ss
        ("rip", c_uint64),
        ("cs", c_uint64),
        ("rflags", c_uint64),
        ("rsp", c_uint64),
        ("ss", c_uint64),
    ]


class cpu_user_regs(Structure):
    """General registers and selectors of a vCPU (64-bit names only)."""

    _fields_ = [
        ("r15", c_uint64),
        ("r14", c_uint64),
        ("r13", c_uint64),
        ("r12", c_uint64),
        ("rbp", c_uint64),
        ("rbx", c_uint64),
        ("r11", c_uint64),
        ("r10", c_uint64),
        ("r9", c_uint64),
        ("r8", c_uint64),
        ("rax", c_uint64),
        ("rcx", c_uint64),
        ("rdx", c_uint64),
        ("rsi", c_uint64),
        ("rdi", c_uint64),
        ("error_code", c_uint32),  # private to Xen
        ("entry_vector", c_uint32),  # private to Xen
        ("rip", c_uint64),
        ("cs", c_uint16),
        ("_pad0", c_uint16 * 1),
        ("saved_upcall_mask", c_uint8),  # inverse of the virtual RFLAGS.IF
        ("_pad1", c_uint8 * 3),
        ("rflags", c_uint64),
        ("rsp", c_uint64),
        ("ss", c_uint16),
        ("_pad2", c_uint16 * 3),
        ("es", c_uint16),
        ("_pad3", c_uint16 * 3),
        ("ds", c_uint16),
        ("_pad4", c_uint16 * 3),
        ("fs", c_uint16),
        ("_pad5", c_uint16 * 3),
        ("gs", c_uint16),
        ("_pad6", c_uint16 * 3),
    ]


# vcpu_guest_context.flags; VGCF_in_syscall belongs to iret_context.flags.
VGCF_I387_VALID = 1 << 0
VGCF_IN_KERNEL = 1 << 2
VGCF_i387_valid = 1 << 0  # fpu_ctxt holds an FXSAVE image
VGCF_in_kernel = 1 << 2  # start in kernel mode
VGCF_failsafe_disables_events = 1 << 3
VGCF_syscall_disables_events = 1 << 4
VGCF_online = 1 << 5  # the vCPU is to run
VGCF_in_syscall = 1 << 8
VGCF_IN_SYSCALL = VGCF_in_syscall


class vcpu_guest_context_fpu_ctxt(Structure):
    """FXSAVE image."""

    _fields_ = [("x", c_uint8 * 512)]


class vcpu_guest_context(Structure):
    """Whole state of a PV vCPU, for VCPUOP_initialise and XEN_DOMCTL_{get,set}vcpucontext."""

    _fields_ = [
        ("fpu_ctxt", vcpu_guest_context_fpu_ctxt),
        ("flags", c_uint64),  # VGCF_*
        ("user_regs", cpu_user_regs),
        ("trap_ctxt", trap_info * 256),  # virtual IDT
        ("ldt_base", c_uint64),  # linear address
        ("ldt_ents", c_uint64),
        ("gdt_frames", c_uint64 * 16),  # MFNs
        ("gdt_ents", c_uint64),
        ("kernel_ss", c_uint64),  # virtual TSS: the stack for entries from user mode
        ("kernel_sp", c_uint64),
        ("ctrlreg", c_uint64 * 8),  # CR0..CR7; [1] is the user-mode CR3
        ("debugreg", c_uint64 * 8),  # DR0..DR7
        ("event_callback_eip", c_uint64),
        ("failsafe_callback_eip", c_uint64),
        ("syscall_callback_eip", c_uint64),
        ("vm_assist", c_uint64),  # bitmap of VMASST_TYPE_*
        ("fs_base", c_uint64),
        ("gs_base_kernel", c_uint64),
        ("gs_base_user", c_uint64),
    ]


class arch_vcpu_info(Structure):
    """x86 part of vcpu_info."""

    _fields_ = [
        ("cr2", guest_long),  # faulting address of the last page fault
        ("pad", guest_long),
    ]


class arch_shared_info(Structure):
    """x86 part of shared_info: where the guest keeps its P2M table, and why an NMI came."""

    _fields_ = [
        ("max_pfn", guest_long),  # valid entries of the P2M
        ("pfn_to_mfn_frame_list_list", xen_pfn_t),  # MFN; 0: not set up, all ones: use p2m_vaddr
        ("nmi_reason", guest_long),  # XEN_NMIREASON_* (nmi.h)
        ("p2m_cr3", guest_long),  # 0: the next two members are not valid
        ("p2m_vaddr", guest_long),  # linear P2M list
        ("p2m_generation", guest_long),  # odd while the guest changes the list's mapping
    ]


# --- Domain configuration (XEN_DOMCTL_createdomain) --------------------------------------------------------------------------

XEN_X86_EMU_LAPIC = 1 << 0
XEN_X86_EMU_HPET = 1 << 1
XEN_X86_EMU_PM = 1 << 2
XEN_X86_EMU_RTC = 1 << 3
XEN_X86_EMU_IOAPIC = 1 << 4
XEN_X86_EMU_PIC = 1 << 5
XEN_X86_EMU_VGA = 1 << 6
XEN_X86_EMU_IOMMU = 1 << 7
XEN_X86_EMU_PIT = 1 << 8
XEN_X86_EMU_USE_PIRQ = 1 << 9
XEN_X86_EMU_VPCI = 1 << 10
XEN_X86_EMU_ALL = (1 << 11) - 1

XEN_X86_MSR_RELAXED = 1 << 0  # unknown MSRs read as 0 and ignore writes instead of raising #GP
XEN_X86_MISC_FLAGS_MAX = XEN_X86_MSR_RELAXED


class arch_domainconfig(Structure):
    """x86 part of the domain configuration."""

    _fields_ = [
        ("emulation_flags", c_uint32),  # XEN_X86_EMU_*
        ("misc_flags", c_uint32),  # XEN_X86_MSR_*
    ]


XEN_CPUID_NO_SUBLEAF = 0xFFFFFFFF


class cpuid_leaf(Structure):
    """One leaf of a CPUID policy in serialised form."""

    _fields_ = [
        ("leaf", c_uint32),
        ("subleaf", c_uint32),  # XEN_CPUID_NO_SUBLEAF if the leaf has none
        ("a", c_uint32),
        ("b", c_uint32),
        ("c", c_uint32),
        ("d", c_uint32),
    ]


class msr_entry(Structure):
    """One MSR of an MSR policy in serialised form."""

    _fields_ = [
        ("idx", c_uint32),
        ("flags", c_uint32),  # must be 0
        ("val", c_uint64),
    ]


# --- CPUID (arch-x86/cpuid.h) ------------------------------------------------------------------------------------------------

# ud2a followed by "xen": in front of CPUID it asks Xen to emulate the instruction.
XEN_EMULATE_PREFIX = b"\x0f\x0bxen"

XEN_HVM_DEBUGCONS_IOPORT = 0xE9

XEN_CPUID_FIRST_LEAF = 0x40000000
XEN_CPUID_MAX_NUM_LEAVES = 5

# Leaf 0x40000000: EBX, ECX, EDX spell "XenVMMXenVMM".
XEN_CPUID_SIGNATURE_EBX = 0x566E6558
XEN_CPUID_SIGNATURE_ECX = 0x65584D4D
XEN_CPUID_SIGNATURE_EDX = 0x4D4D566E

# Leaf 0x40000002: ECX.
XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD = 1 << 0

# Leaf 0x40000004: EAX (HVM and PVH only).
XEN_HVM_CPUID_APIC_ACCESS_VIRT = 1 << 0
XEN_HVM_CPUID_X2APIC_VIRT = 1 << 1
XEN_HVM_CPUID_IOMMU_MAPPINGS = 1 << 2
XEN_HVM_CPUID_VCPU_ID_PRESENT = 1 << 3  # EBX holds the vCPU id
XEN_HVM_CPUID_DOMID_PRESENT = 1 << 4  # ECX holds the domain id
XEN_HVM_CPUID_EXT_DEST_ID = 1 << 5
XEN_HVM_CPUID_UPCALL_VECTOR = 1 << 6

# Leaf 0x40000005: EBX (PV only), width of machine addresses in bits.
XEN_CPUID_MACHINE_ADDRESS_WIDTH_MASK = 0xFF


def XEN_CPUID_LEAF(index: int) -> int:
    """Leaf number of Xen's ``index``-th information leaf (unless the base is moved for a guest that sees Viridian)."""
    return XEN_CPUID_FIRST_LEAF + index

"""Initial state of an HVM or PVH vCPU (public header hvm/hvm_vcpu.h)."""

from __future__ import annotations

from ctypes import Structure, Union, c_uint16, c_uint32, c_uint64


class vcpu_hvm_x86_32(Structure):
    """State for a start in 32-bit mode; attributes of segments as in a VMCS or VMCB."""

    _fields_ = [
        ("eax", c_uint32),
        ("ecx", c_uint32),
        ("edx", c_uint32),
        ("ebx", c_uint32),
        ("esp", c_uint32),
        ("ebp", c_uint32),
        ("esi", c_uint32),
        ("edi", c_uint32),
        ("eip", c_uint32),
        ("eflags", c_uint32),
        ("cr0", c_uint32),
        ("cr3", c_uint32),
        ("cr4", c_uint32),
        ("pad1", c_uint32),
        ("efer", c_uint64),
        ("cs_base", c_uint32),
        ("ds_base", c_uint32),
        ("ss_base", c_uint32),
        ("es_base", c_uint32),
        ("tr_base", c_uint32),
        ("cs_limit", c_uint32),
        ("ds_limit", c_uint32),
        ("ss_limit", c_uint32),
        ("es_limit", c_uint32),
        ("tr_limit", c_uint32),
        ("cs_ar", c_uint16),
        ("ds_ar", c_uint16),
        ("ss_ar", c_uint16),
        ("es_ar", c_uint16),
        ("tr_ar", c_uint16),
        ("pad2", c_uint16 * 3),
    ]


class vcpu_hvm_x86_64(Structure):
    """State for a start in 64-bit mode; segments are flat."""

    _fields_ = [
        ("rax", c_uint64),
        ("rcx", c_uint64),
        ("rdx", c_uint64),
        ("rbx", c_uint64),
        ("rsp", c_uint64),
        ("rbp", c_uint64),
        ("rsi", c_uint64),
        ("rdi", c_uint64),
        ("rip", c_uint64),
        ("rflags", c_uint64),
        ("cr0", c_uint64),
        ("cr3", c_uint64),
        ("cr4", c_uint64),
        ("efer", c_uint64),
    ]


VCPU_HVM_MODE_32B = 0
VCPU_HVM_MODE_64B = 1


class vcpu_hvm_context_cpu_regs(Union):
    """Registers, as the mode selects."""

    _fields_ = [("x86_32", vcpu_hvm_x86_32), ("x86_64", vcpu_hvm_x86_64)]


class vcpu_hvm_context(Structure):
    """Argument of VCPUOP_initialise in an HVM or PVH domain."""

    _fields_ = [
        ("mode", c_uint32),  # VCPU_HVM_MODE_*
        ("pad", c_uint32),
        ("cpu_regs", vcpu_hvm_context_cpu_regs),
    ]

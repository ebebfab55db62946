/*
 * Hypercalls by the inline `vmcall`: number in EAX; arguments in RDI, RSI, RDX, R10, R8 of 64-bit code, in EBX, ECX, EDX, ESI, EDI of 32-bit code
 * (arch-x86/xen-x86_64.h, xen-x86_32.h).
 */
#pragma once

#include "types.h"

#include <xen/event_channel.h>
#include <xen/grant_table.h>
#include <xen/hvm/hvm_op.h>
#include <xen/hvm/hvm_vcpu.h>
#include <xen/hvm/params.h>
#include <xen/memory.h>
#include <xen/physdev.h>
#include <xen/sched.h>
#include <xen/vcpu.h>
#include <xen/version.h>

#ifdef __x86_64__
#define HYPERCALL_BY(instruction, number, a1, a2, a3, a4)                                                 \
    ({                                                                                                    \
        register unsigned long r10_ asm("r10") = (unsigned long)(a4);                                     \
        unsigned long di_ = (unsigned long)(a1), si_ = (unsigned long)(a2), dx_ = (unsigned long)(a3);    \
        long result_;                                                                                     \
        asm volatile(instruction                                                                          \
                     : "=a"(result_), "+D"(di_), "+S"(si_), "+d"(dx_), "+r"(r10_)                         \
                     : "0"((unsigned long)(number))                                                       \
                     : "rcx", "r8", "r9", "r11", "memory");                                               \
        result_;                                                                                          \
    })
#else
#define HYPERCALL_BY(instruction, number, a1, a2, a3, a4)                                                 \
    ({                                                                                                    \
        unsigned long bx_ = (unsigned long)(a1), cx_ = (unsigned long)(a2), dx_ = (unsigned long)(a3);    \
        unsigned long si_ = (unsigned long)(a4);                                                          \
        long result_;                                                                                     \
        asm volatile(instruction                                                                          \
                     : "=a"(result_), "+b"(bx_), "+c"(cx_), "+d"(dx_), "+S"(si_)                          \
                     : "0"((unsigned long)(number))                                                       \
                     : "edi", "memory");                                                                  \
        result_;                                                                                          \
    })
#endif

#define HYPERCALL_ARGUMENTS(number, a1, a2, a3, a4, ...) HYPERCALL_BY("vmcall", number, a1, a2, a3, a4)
#define HYPERCALL(name, ...) HYPERCALL_ARGUMENTS(__HYPERVISOR_##name, __VA_ARGS__, 0, 0, 0, 0)

long hvm_set_parameter(u32 index, u64 value);
long hvm_get_parameter(u32 index, u64 *value); /* -> errno */
long hvm_upcall_vector(unsigned vcpu, u8 vector);

/* XENMEM_add_to_physmap, XENMEM_remove_from_physmap, and the reservation operations on one page (-> pages done). */
long physmap_add(unsigned space, unsigned long index, unsigned long gfn);
long physmap_remove(unsigned long gfn);
long physmap_populate(unsigned long gfn);
long physmap_decrease(unsigned long gfn);

/*
 * Hypercalls by the inline `syscall` instruction: number in RAX, arguments in RDI, RSI, RDX, R10, R8; RCX, R11 and the argument registers
 * are clobbered (arch-x86/xen-x86_64.h). The hypercall page is there too: hypercall_page_call().
 */
#pragma once

#include "types.h"

#include <xen/callback.h>
#include <xen/event_channel.h>
#include <xen/grant_table.h>
#include <xen/memory.h>
#include <xen/nmi.h>
#include <xen/physdev.h>
#include <xen/sched.h>
#include <xen/vcpu.h>
#include <xen/version.h>

static inline long hypercall(unsigned long number, unsigned long a1, unsigned long a2, unsigned long a3, unsigned long a4, unsigned long a5)
{
    register unsigned long r10 asm("r10") = a4;
    register unsigned long r8 asm("r8") = a5;
    long result;

    asm volatile("syscall"
                 : "=a"(result), "+D"(a1), "+S"(a2), "+d"(a3), "+r"(r10), "+r"(r8)
                 : "0"(number)
                 : "rcx", "r11", "r9", "memory");
    return result;
}

/* The same through the page that XEN_ELFNOTE_HYPERCALL_PAGE names: call hypercall_page + number * 32. */
extern char hypercall_page[];

static inline long hypercall_page_call(unsigned long number, unsigned long a1, unsigned long a2, unsigned long a3, unsigned long a4,
                                       unsigned long a5)
{
    register unsigned long r10 asm("r10") = a4;
    register unsigned long r8 asm("r8") = a5;
    void *stub = hypercall_page + number * 32;
    long result;

    asm volatile("call *%[stub]"
                 : "=a"(result), "+D"(a1), "+S"(a2), "+d"(a3), "+r"(r10), "+r"(r8)
                 : [stub] "0"(stub)
                 : "rcx", "r11", "r9", "memory");
    return result;
}

#define HYPERCALL_ARGUMENTS(a1, a2, a3, a4, a5, ...) \
    (unsigned long)(a1), (unsigned long)(a2), (unsigned long)(a3), (unsigned long)(a4), (unsigned long)(a5)
#define HYPERCALL(name, ...) hypercall(__HYPERVISOR_##name, HYPERCALL_ARGUMENTS(__VA_ARGS__, 0, 0, 0, 0, 0))

static inline long hypercall_set_trap_table(const struct trap_info *table)
{
    return HYPERCALL(set_trap_table, table);
}

static inline long hypercall_mmu_update(const struct mmu_update *requests, unsigned count, unsigned *done, unsigned foreign_domain)
{
    return HYPERCALL(mmu_update, requests, count, done, foreign_domain);
}

static inline long hypercall_mmuext_op(const struct mmuext_op *operations, unsigned count, unsigned *done, unsigned foreign_domain)
{
    return HYPERCALL(mmuext_op, operations, count, done, foreign_domain);
}

static inline long hypercall_set_gdt(const xen_pfn_t *frames, unsigned entries)
{
    return HYPERCALL(set_gdt, frames, entries);
}

static inline long hypercall_update_descriptor(u64 machine_address, u64 descriptor)
{
    return HYPERCALL(update_descriptor, machine_address, descriptor);
}

static inline long hypercall_stack_switch(unsigned long ss, unsigned long sp)
{
    return HYPERCALL(stack_switch, ss, sp);
}

static inline long hypercall_fpu_taskswitch(int set)
{
    return HYPERCALL(fpu_taskswitch, set);
}

static inline long hypercall_set_debugreg(int number, unsigned long value)
{
    return HYPERCALL(set_debugreg, number, value);
}

static inline unsigned long hypercall_get_debugreg(int number)
{
    return HYPERCALL(get_debugreg, number);
}

static inline long hypercall_memory_op(unsigned command, void *argument)
{
    return HYPERCALL(memory_op, command, argument);
}

static inline long hypercall_multicall(struct multicall_entry *calls, unsigned count)
{
    return HYPERCALL(multicall, calls, count);
}

static inline long hypercall_update_va_mapping(unsigned long va, u64 pte, unsigned long flags)
{
    return HYPERCALL(update_va_mapping, va, pte, flags);
}

static inline long hypercall_set_timer_op(u64 timeout)
{
    return HYPERCALL(set_timer_op, timeout);
}

static inline long hypercall_xen_version(unsigned command, void *argument)
{
    return HYPERCALL(xen_version, command, argument);
}

static inline long hypercall_console_io(unsigned command, unsigned count, void *buffer)
{
    return HYPERCALL(console_io, command, count, buffer);
}

static inline long hypercall_grant_table_op(unsigned command, void *arguments, unsigned count)
{
    return HYPERCALL(grant_table_op, command, arguments, count);
}

static inline long hypercall_vm_assist(unsigned command, unsigned type)
{
    return HYPERCALL(vm_assist, command, type);
}

static inline long hypercall_vcpu_op(int command, unsigned vcpu, void *argument)
{
    return HYPERCALL(vcpu_op, command, vcpu, argument);
}

static inline long hypercall_set_segment_base(unsigned which, unsigned long base)
{
    return HYPERCALL(set_segment_base, which, base);
}

static inline long hypercall_nmi_op(unsigned command, void *argument)
{
    return HYPERCALL(nmi_op, command, argument);
}

static inline long hypercall_sched_op(unsigned command, void *argument)
{
    return HYPERCALL(sched_op, command, argument);
}

static inline long hypercall_callback_op(unsigned command, const void *argument)
{
    return HYPERCALL(callback_op, command, argument);
}

static inline long hypercall_event_channel_op(unsigned command, void *argument)
{
    return HYPERCALL(event_channel_op, command, argument);
}

static inline long hypercall_physdev_op(unsigned command, void *argument)
{
    return HYPERCALL(physdev_op, command, argument);
}

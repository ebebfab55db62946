/* What the guest finds when it starts, and how it ends. */
#pragma once

#include "types.h"

#include <xen/arch-x86/hvm/start_info.h>

#define MAX_VCPUS 8

/* Registers exactly as they were at the first instruction (boot.S fills this in). */
struct boot_registers {
    u32 eax, ecx, edx, ebx, esp, ebp, esi, edi;
    u32 eflags, cr0, cr4, cs, ds, es, ss, efer;
};

extern struct boot_registers boot_registers;
extern struct hvm_start_info *start_info;
extern struct shared_info *shared_info;
extern u8 hypercall_page[]; /* filled before the program begins */
extern unsigned console_port, store_port;
extern char image_start[], image_end[], kernel_stack_top[];

/* Guest physical, and so linear, addresses without memory, for programs to map things at; the first one is shared_info's. */
#define HOLE 0xc0000000UL
#define SHARED_INFO_ADDRESS HOLE
#define FREE_HOLE (HOLE + 0x100000)

/* Every program defines these two. */
extern const char program_name[];
void program(void);

long shutdown(unsigned reason);
void finish(void) __attribute__((noreturn)); /* print RESULT PASS or FAIL and power off */
void *page_alloc(void);                      /* a zeroed page of the program's own, never freed */

static inline unsigned long gfn_of(const volatile void *address)
{
    return (unsigned long)address >> 12;
}

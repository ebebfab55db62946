/* Selectors of the guest's GDT; for C and for assembly. SYSCALL, SYSRET, SYSENTER and SYSEXIT expect them in this order. */
#pragma once

#define KERNEL_CS32 0x08
#define KERNEL_CS 0x10
#define KERNEL_DS 0x18
#define USER_CS32 0x23
#define USER_DS 0x2b
#define USER_CS 0x33
#define CODE16 0x40
#define DATA16 0x48
#define TSS_SELECTOR(vcpu) (0x50 + 16 * (vcpu))
#define SPARE_SELECTOR 0xd0 /* two entries of the program's own */
#define GDT_ENTRIES 32
#define GDT_LIMIT 0xff

/* The page, below 1 MiB, that start-up interrupts begin at. */
#define TRAMPOLINE 0x8000

/* Instructions that C has no words for, and the structures of segmentation. */
#pragma once

#include "types.h"

#define MSR_TSC 0x10
#define MSR_APIC_BASE 0x1b
#define MSR_SPEC_CTRL 0x48
#define MSR_MTRR_CAP 0xfe
#define MSR_SYSENTER_CS 0x174
#define MSR_SYSENTER_ESP 0x175
#define MSR_SYSENTER_EIP 0x176
#define MSR_MTRR_DEFAULT 0x2ff
#define MSR_PAT 0x277
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_X2APIC 0x800
#define MSR_HYPERCALL_PAGE 0x40000000
#define MSR_EFER 0xc0000080
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_CSTAR 0xc0000083
#define MSR_SFMASK 0xc0000084
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102

#define EFER_SCE 1
#define EFER_LME 0x100
#define EFER_LMA 0x400
#define EFER_NXE 0x800
#define CR0_PE 1UL
#define CR0_MP 2UL
#define CR0_EM 4UL
#define CR0_TS 8UL
#define CR0_NE 0x20UL
#define CR0_WP 0x10000UL
#define CR0_AM 0x40000UL
#define CR0_NW 0x20000000UL
#define CR0_CD 0x40000000UL
#define CR0_PG 0x80000000UL
#define CR4_TSD 4UL
#define CR4_DE 8UL
#define CR4_PSE 0x10UL
#define CR4_PAE 0x20UL
#define CR4_PGE 0x80UL
#define CR4_OSFXSR 0x200UL
#define CR4_OSXMMEXCPT 0x400UL
#define CR4_VMXE 0x2000UL
#define CR4_OSXSAVE 0x40000UL

#define CONTROL_REGISTER(number)                                                  \
    static inline unsigned long read_cr##number(void)                             \
    {                                                                             \
        unsigned long value;                                                      \
        asm volatile("mov %%cr" #number ", %0" : "=r"(value)::"memory");          \
        return value;                                                             \
    }                                                                             \
    static inline void write_cr##number(unsigned long value)                      \
    {                                                                             \
        asm volatile("mov %0, %%cr" #number ::"r"(value) : "memory");             \
    }
CONTROL_REGISTER(0)
CONTROL_REGISTER(2)
CONTROL_REGISTER(3)
CONTROL_REGISTER(4)

/* Of an MSR that is there; see msr_trap() for the others. */
static inline u64 rdmsr(u32 index)
{
    u32 low, high;

    asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index) : "memory");
    return (u64)high << 32 | low;
}

static inline void wrmsr(u32 index, u64 value)
{
    asm volatile("wrmsr" ::"c"(index), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}

static inline void cpuid(u32 leaf, u32 subleaf, u32 registers[4])
{
    asm volatile("cpuid" : "=a"(registers[0]), "=b"(registers[1]), "=c"(registers[2]), "=d"(registers[3]) : "0"(leaf), "2"(subleaf));
}

static inline u64 rdtsc(void)
{
    u32 low, high;

    asm volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}

struct table_pointer {
    u16 limit;
    unsigned long base;
} __attribute__((packed));

static inline void load_idt(const void *table, u16 limit)
{
    struct table_pointer pointer = {limit, (unsigned long)table};

    asm volatile("lidt %0" ::"m"(pointer) : "memory");
}

static inline void invalidate_page(const volatile void *address)
{
    asm volatile("invlpg (%0)" ::"r"(address) : "memory");
}

static inline void flush_tlb(void)
{
    write_cr3(read_cr3());
}

#ifdef __x86_64__
struct task_state {
    u32 reserved0;
    u64 sp[3], reserved1, ist[7], reserved2;
    u16 reserved3, io_map;
} __attribute__((packed));

static inline void task_state_init(struct task_state *task, unsigned long stack)
{
    memset(task, 0, sizeof(*task));
    task->sp[0] = stack;
    task->io_map = sizeof(*task);
}
#else
struct task_state {
    u32 link, sp0, ss0, sp1, ss1, sp2, ss2, cr3, ip, flags, ax, cx, dx, bx, sp, bp, si, di, es, cs, ss, ds, fs, gs, ldt;
    u16 trap, io_map;
} __attribute__((packed));

static inline void task_state_init(struct task_state *task, unsigned long stack)
{
    memset(task, 0, sizeof(*task));
    task->sp0 = stack;
    task->ss0 = 0x18; /* KERNEL_DS */
    task->cr3 = read_cr3(); /* which no switch stores */
    task->io_map = sizeof(*task);
}
#endif

extern u64 gdt[];

/* A system descriptor (a TSS, an LDT) in the GDT. */
static inline void descriptor_set_system(unsigned selector, unsigned long base, u32 limit, u8 type)
{
    gdt[selector / 8] = (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)type << 40 | (u64)(limit >> 16 & 0xf) << 48 |
                        (u64)(base >> 24 & 0xff) << 56;
#ifdef __x86_64__
    gdt[selector / 8 + 1] = base >> 32;
#endif
}

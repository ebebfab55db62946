/* Segment registers and descriptors. */
#pragma once

#include "types.h"

#define DESCRIPTOR_CODE64 0x00affb000000ffffUL /* P, DPL 3, L, execute/read, accessed */
#define DESCRIPTOR_CODE32 0x00cffb000000ffffUL
#define DESCRIPTOR_DATA32 0x00cff3000000ffffUL
#define DESCRIPTOR_DPL_MASK (3UL << 45)
#define DESCRIPTOR_P (1UL << 47)

static inline u64 descriptor_with_base(u64 descriptor, u32 base)
{
    return descriptor | (u64)(base & 0xffffff) << 16 | (u64)(base >> 24) << 56;
}

#define segment_read(name)                                       \
    ({                                                           \
        u16 selector_;                                           \
        asm volatile("mov %%" #name ", %0" : "=r"(selector_));   \
        selector_;                                               \
    })

/* Load a segment register. -> the record of the trap, if it gave one. */
#define segment_load(name, selector) TRAP_OF(MAY_FAULT("mov %w0, %%" #name)::"r"(selector) : "memory")

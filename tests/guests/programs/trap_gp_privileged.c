/* Instructions that Xen does not emulate for a PV kernel give #GP(0) at the instruction. */
#include "guest.h"

static u8 buffer[16];

#define refused(instruction, ...)                                                  \
    do {                                                                           \
        struct trap_record trap = TRAP_OF(MAY_FAULT(instruction) __VA_ARGS__);     \
        check_trap(trap, VECTOR_GP, 0, instruction);                               \
    } while (0)

PROGRAM(trap_gp_privileged)
{
    refused("hlt", ::: "memory");
    refused("cli", ::: "memory");
    refused("sti", ::: "memory");
    refused("lgdt %0", ::"m"(buffer) : "memory");
    refused("lidt %0", ::"m"(buffer) : "memory");
    refused("lldt %w0", ::"r"(0) : "memory");
    refused("ltr %w0", ::"r"(0) : "memory");
    refused("lmsw %w0", ::"r"(1) : "memory");
    refused("invlpg %0", ::"m"(buffer) : "memory");
    refused("swapgs", ::: "memory");
    refused("invd", ::: "memory");
    refused("rdpmc", ::"c"(0) : "rax", "rdx", "memory");
    refused("sysretq", ::: "memory");
    refused("mov %0, %%cr0", ::"r"(0UL) : "memory");
}

/* @modes 64
 * The guest's own page tables: #PF with its error codes, CR2, CR0.WP, NX, reserved bits, accessed and dirty bits, invalidation. */
#include "guest.h"

extern u64 page_directories[];

#define WINDOW 0xa0000000UL /* 2 MiB of the hole, given a table of its own */

static u64 *table;
static volatile u32 *const window = (volatile u32 *)WINDOW;

static void map(const void *page, u64 flags)
{
    table[0] = (unsigned long)page | flags;
    invalidate_page(window);
}

static void call_window(void)
{
    ((void (*)(void))WINDOW)();
}

extern const char user_read[], user_write[];
asm(".text\n"
    "user_read: mov $0xa0000000, %eax; mov (%rax), %ebx; ud2\n"
    "user_write: mov $0xa0000000, %eax; movl $5, (%rax); ud2\n");

static struct registers in_user_mode(const void *code)
{
    struct registers user;

    user_prepare(&user, code);
    user_run(&user);
    return user;
}

PROGRAM(page_rights)
{
    u8 *page = page_alloc();
    struct trap_record trap;
    struct registers user;

    table = page_alloc();
    page_directories[WINDOW >> 21] = (unsigned long)table | 7;
    flush_tlb();
    page[0] = 0xc3; /* ret */
    trap = TRAP_OF(MAY_FAULT("movl $1, (%0)")::"r"(window) : "memory");
    check_trap(trap, VECTOR_PF, PF_WRITE, "a write to what is not mapped");
    check_equal(trap.cr2, WINDOW, "CR2");
    trap = TRAP_OF(MAY_FAULT("movl (%0), %%eax")::"r"(WINDOW + 12) : "rax");
    check_trap(trap, VECTOR_PF, 0, "a read of what is not mapped");
    check_equal(trap.cr2, WINDOW + 12, "CR2");
    map(page, 1);
    check_equal(window[0] & 0xff, 0xc3, "a read of what is mapped read-only");
    check_equal(table[0] & 0x60, 0x20, "accessed, not dirty");
    check_trap(TRAP_OF(MAY_FAULT("movl $1, (%0)")::"r"(window) : "memory"), VECTOR_PF, PF_WRITE | PF_PRESENT, "a write to it");
    write_cr0(read_cr0() & ~CR0_WP);
    check_trap(TRAP_OF(MAY_FAULT("movl $0xc3, (%0)")::"r"(window) : "memory"), KIND_NONE, 0, "a write to it without CR0.WP");
    write_cr0(read_cr0() | CR0_WP);
    check_equal(table[0] & 0x60, 0x60, "accessed and dirty");
    check_trap(TRAP_OF(MAY_FAULT("movl $1, (%0)")::"r"(window) : "memory"), VECTOR_PF, PF_WRITE | PF_PRESENT, "and with it again");
    map(page, 1UL << 63 | 3);
    trap = TRAP_OF(MAY_FAULT("movl (%0), %%eax")::"r"(window) : "rax");
    check_trap(trap, VECTOR_PF, PF_RESERVED | PF_PRESENT, "bit 63 without EFER.NXE is reserved");
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
    flush_tlb();
    trap = TRAP_OF(MAY_FAULT("movl (%0), %%eax")::"r"(window) : "rax");
    check_trap(trap, KIND_NONE, 0, "with it it is not");
    trap = trap_of_call(call_window);
    check_trap(trap, VECTOR_PF, PF_FETCH | PF_PRESENT, "execution of an NX page");
    map(page, 3);
    check_trap(trap_of_call(call_window), KIND_NONE, 0, "execution of another");
    user = in_user_mode(user_read);
    check_equal(user.vector, VECTOR_PF, "a read of a kernel's page by user mode");
    check_equal(user.error, PF_USER | PF_PRESENT, "error code");
    map(page, 5);
    user = in_user_mode(user_read);
    check_equal(user.vector, VECTOR_UD, "a read of its own page");
    user = in_user_mode(user_write);
    check_equal(user.error, PF_USER | PF_WRITE | PF_PRESENT, "a write to a read-only page");
    map(page, 7);
    user = in_user_mode(user_write);
    check_equal(user.vector, VECTOR_UD, "a write to a writable one");
    check_equal(*(u32 *)page, 5, "it is there");
    map(page, 3);
    window[0] = 1;
    table[0] = (unsigned long)page_alloc() | 3;
    invalidate_page(window);
    check_equal(window[0], 0, "after invlpg the new page is seen");
    map((void *)FREE_HOLE, 3);
    check_equal(window[0], 0xffffffff, "a page without memory reads as ones");
    trap = TRAP_OF(MAY_FAULT("movl (%0), %%eax")::"r"(0x800000000000UL) : "rax");
    check_trap(trap, VECTOR_GP, 0, "an address that is not canonical");
}

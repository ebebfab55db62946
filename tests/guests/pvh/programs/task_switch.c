/* @modes pae 32
 * Task switches of 32-bit code: by a far call and IRET, by a jump there and back; what they save, load, and refuse. */
#include "guest.h"

extern const char called_task[], jumped_task[];
volatile u32 seen_flags, seen_ax, calls, jumps;

asm(".text\n"
    "called_task: mov %eax, seen_ax; pushf; pop seen_flags; incl calls; mov $0x77, %eax; iret; jmp called_task\n"
    "jumped_task: incl jumps; ljmp $0x50, $0; jmp jumped_task\n");

static struct task_state other;
static u8 stack[4096] __attribute__((aligned(16)));

static void prepare(const void *code)
{
    memset(&other, 0, sizeof(other));
    other.ip = (u32)code;
    other.sp = (u32)stack + sizeof(stack) - 16;
    other.flags = X86_EFLAGS_MBS;
    other.cs = KERNEL_CS;
    other.ss = other.ds = other.es = KERNEL_DS;
    other.cr3 = read_cr3();
    other.ax = 0x1234;
    other.io_map = sizeof(other);
    descriptor_set_system(SPARE_SELECTOR, (u32)&other, sizeof(other) - 1, 0x89);
}

static unsigned type_of(unsigned selector)
{
    return gdt[selector / 8] >> 40 & 0xff;
}

PROGRAM(task_switch)
{
    struct trap_record trap;

    prepare(called_task);
    asm volatile("lcall %0, $0" ::"i"(SPARE_SELECTOR) : "memory", "cc");
    check_equal(calls, 1, "a far call of a task");
    check_equal(seen_ax, 0x1234, "its registers come from its TSS");
    check(seen_flags & X86_EFLAGS_NT, "it is nested");
    check_equal(other.link & 0xffff, TSS_SELECTOR(0), "its link is the caller's task");
    check_equal(other.ax, 0x77, "its registers went back to its TSS");
    check_equal(type_of(SPARE_SELECTOR), 0x89, "it is not busy any more");
    check_equal(type_of(TSS_SELECTOR(0)), 0x8b, "the caller's is");
    asm volatile("lcall %0, $0" ::"i"(SPARE_SELECTOR) : "memory", "cc");
    check_equal(calls, 2, "once more, behind its IRET");
    check(read_cr0() & CR0_TS, "CR0.TS is set by a switch");
    asm volatile("clts");
    prepare(jumped_task);
    asm volatile("ljmp %0, $0" ::"i"(SPARE_SELECTOR) : "memory", "cc");
    check_equal(jumps, 1, "a jump to a task and back");
    check_equal(type_of(SPARE_SELECTOR), 0x89, "it is not busy");
    trap = TRAP_OF(MAY_FAULT("ljmp %0, $0")::"i"(TSS_SELECTOR(0)) : "memory");
    check_trap(trap, VECTOR_GP, TSS_SELECTOR(0), "a jump to the task that runs");
    descriptor_set_system(SPARE_SELECTOR, (u32)&other, 20, 0x89);
    trap = TRAP_OF(MAY_FAULT("ljmp %0, $0")::"i"(SPARE_SELECTOR) : "memory");
    check_trap(trap, VECTOR_TS, SPARE_SELECTOR, "a TSS that is too short");
    descriptor_set_system(SPARE_SELECTOR, (u32)&other, sizeof(other) - 1, 0x09);
    trap = TRAP_OF(MAY_FAULT("ljmp %0, $0")::"i"(SPARE_SELECTOR) : "memory");
    check_trap(trap, VECTOR_NP, SPARE_SELECTOR, "a TSS that is not present");
}

/* #AC(0): misaligned accesses with EFLAGS.AC, in user mode and in the kernel (which Xen runs in ring 3, with CR0.AM set). */
#include "guest.h"

USER_CODE(misaligned, "mov $0x401001, %ebx\n mov (%rbx), %eax\n syscall");
USER_CODE(octet, "mov $0x401001, %ebx\n mov (%rbx), %al\n mov 3(%rbx), %ecx\n syscall");
USER_CODE(unmapped, "mov $0x500001, %ebx\n mov (%rbx), %eax\n syscall");
USER_CODE(misaligned32, ".code32\n mov $0xe02b, %eax\n mov %eax, %ds\n movw 0x401001, %ax");

#define SET_AC "pushf; orl $0x40000, (%%rsp); popf\n"
#define CLEAR_AC "pushf; andl $~0x40000, (%%rsp); popf\n"

static bool handler_has_ac;

static void look(struct registers *registers)
{
    u64 flags;

    asm volatile("pushf; pop %0" : "=r"(flags));
    handler_has_ac = flags & X86_EFLAGS_AC;
    trap_remember(registers);
    registers->rflags &= ~X86_EFLAGS_AC;
}

PROGRAM(trap_ac)
{
    static u64 words[2];
    struct registers registers = user_registers();
    struct trap_record trap;
    u64 cr0;

    asm volatile("mov %%cr0, %0" : "=r"(cr0));
    check(cr0 & 0x40000, "CR0.AM is set");
    trap = TRAP_OF(SET_AC MAY_FAULT("movl 1(%0), %%eax") CLEAR_AC::"r"(words) : "rax", "memory", "cc");
    check_trap(trap, VECTOR_AC, 0, "kernel: a misaligned load");
    check(trap.registers.rflags & X86_EFLAGS_AC, "the frame has AC");
    trap = TRAP_OF(SET_AC MAY_FAULT("lock incq 4(%0)") CLEAR_AC::"r"(words) : "memory", "cc");
    check_trap(trap, VECTOR_AC, 0, "kernel: a misaligned locked operation");
    trap = TRAP_OF(SET_AC MAY_FAULT("movl %%eax, 4(%0)") CLEAR_AC::"r"(words) : "memory", "cc");
    check_equal(trap.kind, KIND_NONE, "kernel: an aligned store");
    trap = TRAP_OF(MAY_FAULT("movl 1(%0), %%eax")::"r"(words) : "rax", "memory");
    check_equal(trap.kind, KIND_NONE, "kernel: misaligned without AC");
    trap_set_handler(VECTOR_AC, look);
    trap_forget();
    asm volatile(SET_AC "movl 1(%0), %%eax\n" ::"r"(words) : "rax", "memory", "cc");
    check_trap(trap_record, VECTOR_AC, 0, "kernel: once more");
    check(!handler_has_ac, "the handler runs without AC");
    trap_set_handler(VECTOR_AC, NULL);

    user_init();
    registers.rflags |= X86_EFLAGS_AC;
    trap = user_run(misaligned, misaligned_end, registers);
    check_trap(trap, VECTOR_AC, 0, "user: a misaligned load");
    check_equal(trap.registers.rip, USER_CODE_ADDRESS + 5, "RIP at it");
    trap = user_run(octet, octet_end, registers);
    check_equal(trap.kind, KIND_SYSCALL, "user: aligned ones");
    trap = user_run(unmapped, unmapped_end, registers);
    check_trap(trap, VECTOR_PF, PF_USER, "user: a page fault goes first");
    trap = user_run_code(misaligned);
    check_equal(trap.kind, KIND_SYSCALL, "user: misaligned without AC");
    registers.cs = FLAT_USER_CS32;
    registers.ss = FLAT_USER_SS32;
    trap = user_run(misaligned32, misaligned32_end, registers);
    check_trap(trap, VECTOR_AC, 0, "32-bit user: a misaligned load");
}

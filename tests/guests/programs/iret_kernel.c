/* HYPERVISOR_iret to kernel mode: all registers, the upcall mask from IF, IOPL and VM dropped, TF honoured. */
#include "guest.h"

static struct registers frame(u64 rflags)
{
    struct registers registers = user_registers();

    registers.cs = FLAT_KERNEL_CS & ~3;
    registers.ss = FLAT_KERNEL_SS;
    registers.rflags = rflags | X86_EFLAGS_MBS;
    return registers;
}

static u64 landed_flags;

void registers_load(const struct registers *registers);

/* iret to the label below with these flags; give RFLAGS there. */
static u64 iret_with(u64 rflags)
{
    static struct registers registers;
    static u64 saved_rsp;

    registers = frame(rflags);
    asm volatile("push %%rbx; push %%rbp\n"
                 "mov %%rsp, %[saved]\n"
                 "lea 1f(%%rip), %%rax\n"
                 "mov %%rax, %[rip]\n"
                 "mov %%rsp, %[rsp]\n"
                 "lea %[registers], %%rdi\n"
                 "jmp registers_load\n"
                 "1: pushf\n"
                 "pop %[flags]\n"
                 "mov %[saved], %%rsp\n"
                 "cld\n"
                 "pop %%rbp; pop %%rbx\n"
                 : [saved] "+m"(saved_rsp), [rip] "=m"(registers.rip), [rsp] "=m"(registers.rsp), [flags] "=m"(landed_flags),
                   [registers] "+m"(registers)
                 :
                 : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "cc", "memory");
    return landed_flags;
}

static u64 landed[16];

static void check_all_registers(void)
{
    static struct registers registers;
    static u64 saved_rsp;

    registers = frame(0);
    registers.rax = 0xa0;
    registers.rbx = 0xa1;
    registers.rcx = 0xa2;
    registers.rdx = 0xa3;
    registers.rsi = 0xa4;
    registers.rdi = 0xa5;
    registers.rbp = 0xa6;
    registers.r8 = 0xa8;
    registers.r9 = 0xa9;
    registers.r10 = 0xaa;
    registers.r11 = 0xab;
    registers.r12 = 0xac;
    registers.r13 = 0xad;
    registers.r14 = 0xae;
    registers.r15 = 0xaf;
    asm volatile("push %%rbx; push %%rbp\n"
                 "mov %%rsp, %[saved]\n"
                 "lea 1f(%%rip), %%rax\n"
                 "mov %%rax, %[rip]\n"
                 "mov %%rsp, %[rsp]\n"
                 "lea %[registers], %%rdi\n"
                 "jmp registers_load\n"
                 "1: mov %%rax, landed_registers(%%rip)\n"
                 "mov %%rbx, landed_registers+8(%%rip)\n"
                 "mov %%rcx, landed_registers+16(%%rip)\n"
                 "mov %%rdx, landed_registers+24(%%rip)\n"
                 "mov %%rsi, landed_registers+32(%%rip)\n"
                 "mov %%rdi, landed_registers+40(%%rip)\n"
                 "mov %%rbp, landed_registers+48(%%rip)\n"
                 "mov %%r8, landed_registers+64(%%rip)\n"
                 "mov %%r9, landed_registers+72(%%rip)\n"
                 "mov %%r10, landed_registers+80(%%rip)\n"
                 "mov %%r11, landed_registers+88(%%rip)\n"
                 "mov %%r12, landed_registers+96(%%rip)\n"
                 "mov %%r13, landed_registers+104(%%rip)\n"
                 "mov %%r14, landed_registers+112(%%rip)\n"
                 "mov %%r15, landed_registers+120(%%rip)\n"
                 "mov %[saved], %%rsp\n"
                 "pop %%rbp; pop %%rbx\n"
                 ".pushsection .bss\n.balign 8\nlanded_registers: .skip 128\n.popsection\n"
                 : [saved] "+m"(saved_rsp), [rip] "=m"(registers.rip), [rsp] "=m"(registers.rsp), [registers] "+m"(registers)
                 :
                 : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "cc", "memory");
    asm volatile("lea landed_registers(%%rip), %%rsi; lea %0, %%rdi; mov $16, %%ecx; rep movsq"
                 : "=m"(landed)::"rsi", "rdi", "rcx", "memory");
    for (int i = 0; i < 16; i++)
        if (i != 7)
            check(landed[i] == 0xa0U + i, "register %d is loaded", i);
}

PROGRAM(iret_kernel)
{
    u64 flags;

    check_all_registers();
    flags = iret_with(0);
    check_equal(flags & ~X86_EFLAGS_ARITHMETIC, X86_EFLAGS_MBS | X86_EFLAGS_IF, "without IF: the real IF stays 1");
    check_equal(event_vcpu_info()->evtchn_upcall_mask, 1, "and upcalls are masked");
    iret_with(X86_EFLAGS_IF);
    check_equal(event_vcpu_info()->evtchn_upcall_mask, 0, "with IF they are unmasked");
    flags = iret_with(X86_EFLAGS_IF | X86_EFLAGS_IOPL);
    check_equal(flags & X86_EFLAGS_IOPL, 0, "IOPL is dropped");
    flags = iret_with(X86_EFLAGS_VM);
    check_equal(flags & X86_EFLAGS_VM, 0, "VM is dropped");
    flags = iret_with(X86_EFLAGS_ARITHMETIC);
    check_equal(flags & X86_EFLAGS_ARITHMETIC, X86_EFLAGS_ARITHMETIC, "the arithmetic flags are loaded");
    flags = iret_with(X86_EFLAGS_DF);
    check(flags & X86_EFLAGS_DF, "DF is loaded");
    flags = iret_with(X86_EFLAGS_AC);
    check(flags & X86_EFLAGS_AC, "AC is loaded");
    flags = iret_with(1UL << 21);
    check(flags & (1UL << 21), "ID is loaded");
    asm volatile("push $2; popf");

    trap_expect(VECTOR_DB);
    trap_forget();
    iret_with(X86_EFLAGS_TF);
    asm volatile("pushf; andl $~0x100, (%%rsp); popf" ::: "cc", "memory");
    check_equal(trap_record.kind, VECTOR_DB, "TF single-steps");
}

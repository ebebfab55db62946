/* The failsafe callback: iret with selectors or an address that the CPU refuses. */
#include "guest.h"

static struct trap_record last;
static unsigned calls;
static u64 resume_rip, resume_rsp;

static void on_failsafe(struct registers *registers)
{
    trap_remember(registers);
    last = trap_record;
    calls++;
    registers->rip = resume_rip;
    registers->rsp = resume_rsp;
    registers->cs = FLAT_KERNEL_CS & ~3;
    registers->ss = FLAT_KERNEL_SS;
    registers->rflags = X86_EFLAGS_MBS;
}

/* iret with this frame, which must end in the failsafe callback. -> its record. */
static struct trap_record iret_with(struct registers wanted)
{
    static struct registers registers;
    static u64 saved_rsp;

    registers = wanted;
    calls = 0;
    asm volatile("push %%rbx; push %%rbp\n"
                 "mov %%rsp, %[saved]\n"
                 "mov %%rsp, %[resume_rsp]\n"
                 "lea 1f(%%rip), %%rax\n"
                 "mov %%rax, %[resume_rip]\n"
                 "lea %[registers], %%rdi\n"
                 "jmp registers_load\n"
                 "1: mov %[saved], %%rsp\n"
                 "pop %%rbp; pop %%rbx\n"
                 : [saved] "+m"(saved_rsp), [resume_rsp] "=m"(resume_rsp), [resume_rip] "=m"(resume_rip), [registers] "+m"(registers)
                 :
                 : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "cc", "memory");
    return last;
}

static struct registers kernel_frame(void)
{
    static u8 stack[4096];
    struct registers registers = user_registers();

    registers.cs = FLAT_KERNEL_CS & ~3;
    registers.ss = FLAT_KERNEL_SS;
    registers.rip = (u64)iret_with;
    registers.rsp = (u64)(stack + sizeof(stack));
    return registers;
}

PROGRAM(failsafe)
{
    struct registers registers;
    struct trap_record trap;

    trap_set_handler(KIND_FAILSAFE, on_failsafe);
    segment_load(ds, 0);
    segment_load(fs, 0);
    registers = kernel_frame();
    registers.cs = 0x1230;
    trap = iret_with(registers);
    check_equal(calls, 1, "a CS that is not in the GDT: one failsafe callback");
    check_equal(trap.kind, KIND_FAILSAFE, "kind");
    check_equal(trap.registers.cs, 0x1230, "the frame has the bad CS");
    check_equal(trap.registers.rip, registers.rip, "and the RIP");
    check_equal(trap.registers.rsp, registers.rsp, "and the RSP");
    check_equal(failsafe_segments[0] & 0xffff & ~3, 0, "DS is null");
    check_equal(failsafe_segments[2] & 0xffff & ~3, 0, "FS is null");

    registers = kernel_frame();
    registers.ss = 0x1230;
    trap = iret_with(registers);
    check_equal(calls, 1, "a bad SS");
    check_equal(trap.registers.ss, 0x1233, "the frame has it, with RPL 3");
    registers = kernel_frame();
    registers.cs = 0;
    trap = iret_with(registers);
    check_equal(calls, 1, "a null CS");
    registers = kernel_frame();
    registers.rip = NON_CANONICAL;
    trap = iret_with(registers);
    check_equal(calls, 1, "a non-canonical RIP");
    check_equal(trap.registers.rip, NON_CANONICAL, "the frame has it");
    registers = kernel_frame();
    registers.cs = 0xe008;
    iret_with(registers);
    check_equal(calls, 1, "Xen's own CS");
    registers = kernel_frame();
    registers.ss = 0xe010;
    iret_with(registers);
    check_equal(calls, 1, "Xen's own SS");
    registers = kernel_frame();
    registers.cs = FLAT_KERNEL_SS & ~3;
    iret_with(registers);
    check_equal(calls, 1, "a data segment as CS");
    registers = kernel_frame();
    registers.ss = FLAT_KERNEL_CS;
    iret_with(registers);
    check_equal(calls, 1, "a code segment as SS");

    check_equal(callback_register(CALLBACKTYPE_failsafe, CALLBACKF_mask_events, entry_failsafe), 0, "failsafe with CALLBACKF_mask_events");
    registers = kernel_frame();
    registers.cs = 0x1230;
    registers.rflags |= X86_EFLAGS_IF;
    trap = iret_with(registers);
    check_equal(calls, 1, "called");
    check_equal(trap.upcall_mask, 1, "with upcalls masked");
    check_equal(trap.registers.saved_upcall_mask, 0, "and the mask before in the frame");

    user_init();
    registers = user_registers();
    registers.cs = 0x1233;
    trap = iret_with(registers);
    check_equal(calls, 1, "a bad CS on the way to user mode");
    check_equal(trap.registers.cs, 0x1233, "the frame shows user context (RPL 3)");
    check_equal(trap.registers.rsp, registers.rsp, "and the user's RSP");
}

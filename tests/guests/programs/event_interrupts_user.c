/* An event upcall interrupts user mode, runs on the kernel stack, and user mode goes on afterwards. */
#include "guest.h"

USER_CODE(spin, "1: incq 0x401000\n cmpq $0, 0x401008\n je 1b\n mov $0x77, %edi\n syscall");

static long port;
static struct registers interrupted;
static u8 mask_in_handler;

static void on_event(struct registers *registers)
{
    interrupted = *registers;
    mask_in_handler = event_vcpu_info()->evtchn_upcall_mask;
    event_upcall(registers);
    ((volatile u64 *)user_data)[1] = 1;
}

PROGRAM(event_interrupts_user)
{
    struct registers registers = user_registers();
    struct trap_record trap;

    user_init();
    port = event_bind_virq(VIRQ_TIMER, 0);
    trap_set_handler(KIND_EVENT, on_event);
    registers.rflags |= X86_EFLAGS_IF;
    registers.r13 = 0x1313;
    hypercall_set_timer_op(clock_now() + 10 * MILLISECONDS);
    trap = user_run(spin, spin_end, registers);
    check_equal(trap.kind, KIND_SYSCALL, "user mode went on after the upcall");
    check_equal(trap.registers.rdi, 0x77, "to its end");
    check_equal(trap.registers.r13, 0x1313, "with its registers");
    check_equal(event_counts[port], 1, "one timer event");
    check_equal(interrupted.cs, FLAT_USER_CS64, "the upcall's frame shows user context");
    check_equal(interrupted.rsp, registers.rsp, "and the user's stack");
    check_equal(interrupted.saved_upcall_mask, 0, "the mask before");
    check(interrupted.rflags & X86_EFLAGS_IF, "IF");
    check_equal(mask_in_handler, 1, "the upcall runs with upcalls masked");
    check(*(volatile u64 *)user_data > 1, "user mode ran meanwhile (%lu rounds)", *(u64 *)user_data);
}

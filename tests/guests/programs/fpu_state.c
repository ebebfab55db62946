/* x87 and SSE registers survive hypercalls, traps, upcalls and sleeping. */
#include "guest.h"

PROGRAM(fpu_state)
{
    static u64 in[4] = {0x1111111111111111, 0x2222222222222222, 0x3333333333333333, 0x4444444444444444}, out[4];
    static double x87 = 12345.678, back;
    static u32 mxcsr_in = 0x1fa0, mxcsr_out;
    static u16 control_in = 0x0f7f, control_out;

    asm volatile("fninit; fldcw %0; fldl %1; ldmxcsr %2" ::"m"(control_in), "m"(x87), "m"(mxcsr_in));
    asm volatile("movdqu %0, %%xmm0; movdqu %1, %%xmm15" ::"m"(in[0]), "m"(in[2]));
    TRAP_OF(MAY_FAULT("ud2")::: "memory");
    clock_sleep(5 * MILLISECONDS);
    hypercall_sched_op(SCHEDOP_yield, NULL);
    event_send(event_bind_ipi(0));
    events_enable();
    events_disable();
    asm volatile("movdqu %%xmm0, %0; movdqu %%xmm15, %1; stmxcsr %2; fstpl %3; fstcw %4"
                 : "=m"(out[0]), "=m"(out[2]), "=m"(mxcsr_out), "=m"(back), "=m"(control_out)::"memory");
    check(!memcmp(in, out, 16), "XMM0");
    check(!memcmp(in + 2, out + 2, 16), "XMM15");
    check_equal(mxcsr_out, mxcsr_in, "MXCSR");
    check(!memcmp(&x87, &back, 8), "ST0");
    check_equal(control_out, control_in, "the x87 control word");
}

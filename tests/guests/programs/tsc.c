/* RDTSC in kernel and user mode: never backwards. */
#include "guest.h"

USER_CODE(user_rdtsc, "rdtsc\n shl $32, %rdx\n or %rdx, %rax\n mov %rax, %rdi\n syscall");

PROGRAM(tsc)
{
    u64 last = rdtsc(), backwards = 0, before;
    struct trap_record trap;

    for (int i = 0; i < 50000; i++) {
        u64 now = rdtsc();

        backwards += now < last;
        last = now;
    }
    check_equal(backwards, 0, "50000 readings");
    before = last;
    clock_sleep(MILLISECONDS);
    check(rdtsc() > before, "it goes on while the vCPU sleeps");
    user_init();
    before = rdtsc();
    trap = user_run_code(user_rdtsc);
    check_equal(trap.kind, KIND_SYSCALL, "user mode may read it");
    check(trap.registers.rdi > before && trap.registers.rdi < rdtsc(), "and sees the same counter");
}

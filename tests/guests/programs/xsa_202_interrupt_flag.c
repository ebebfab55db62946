/* XSA-202: PV guests could mask the processor's interrupts. XSA-44, XSA-204: odd flags at the entry to the kernel. Whatever a guest does with IF,
 * by POPF, IRET, CLI with IOPL 1, or HYPERVISOR_iret, timer events still interrupt it. */
#include "guest.h"

static long port;

static void check_interrupted(const char *what)
{
    unsigned before = event_counts[port];
    u64 deadline = clock_now() + 2 * SECONDS;

    hypercall_set_timer_op(clock_now() + 2 * MILLISECONDS);
    while (event_counts[port] == before && clock_now() < deadline)
        asm volatile("pause");
    check(event_counts[port] > before, "XSA-202: interrupted %s", what);
}

PROGRAM(xsa_202_interrupt_flag)
{
    struct physdev_set_iopl iopl = {.iopl = 1};

    port = event_bind_virq(VIRQ_TIMER, 0);
    event_unmask_locally(port);
    events_enable();
    check_interrupted("ordinarily");
    asm volatile("pushfq\n andq $~0x200, (%%rsp)\n popfq" ::: "memory", "cc");
    check_interrupted("after POPF without IF");
    asm volatile("mov %%rsp, %%rcx\n mov %%ss, %%eax\n push %%rax\n push %%rcx\n pushq $2\n mov %%cs, %%eax\n push %%rax\n"
                 "lea 1f(%%rip), %%rax\n push %%rax\n iretq\n 1:" ::: "rax", "rcx", "memory", "cc");
    check_interrupted("after IRET without IF");
    hypercall_physdev_op(PHYSDEVOP_set_iopl, &iopl);
    asm volatile("sti" ::: "memory");
    check_interrupted("with IOPL 1 after STI");
    asm volatile("pushfq\n andq $~0x200, (%%rsp)\n orq $0x3000, (%%rsp)\n popfq" ::: "memory", "cc");
    check_interrupted("after POPF with IOPL 3 and without IF");
    iopl.iopl = 0;
    hypercall_physdev_op(PHYSDEVOP_set_iopl, &iopl);
}

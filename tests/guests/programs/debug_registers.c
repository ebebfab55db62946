/* set_debugreg, get_debugreg and mov to and from debug registers: values, reserved bits, addresses of Xen. */
#include "guest.h"

PROGRAM(debug_registers)
{
    u64 value;
    struct trap_record trap;

    check_equal(hypercall_get_debugreg(6), 0xffff0ff0, "DR6 at the start");
    check_equal(hypercall_get_debugreg(7), 0x400, "DR7 at the start");
    for (int i = 0; i < 4; i++)
        check(hypercall_get_debugreg(i) == 0, "DR%d is 0 at the start", i);
    for (int i = 0; i < 4; i++) {
        check(hypercall_set_debugreg(i, 0x1000 * (i + 1)) == 0, "set DR%d", i);
        check(hypercall_get_debugreg(i) == 0x1000UL * (i + 1), "get DR%d", i);
    }
    check_equal(hypercall_set_debugreg(0, XEN_PRIVATE), -XEN_EPERM, "an address of Xen in DR0");
    check_equal(hypercall_set_debugreg(3, NON_CANONICAL), -XEN_EPERM, "a non-canonical address in DR3");
    check_equal(hypercall_get_debugreg(0), 0x1000, "DR0 is unchanged");
    check_equal(hypercall_set_debugreg(6, 0x1234567800000000), -XEN_EINVAL, "upper bits of DR6");
    check_equal(hypercall_set_debugreg(7, 0x1234567800000000), -XEN_EINVAL, "upper bits of DR7");
    check_equal(hypercall_set_debugreg(7, 1 << 13), -XEN_EPERM, "DR7.GD");
    check_equal(hypercall_set_debugreg(7, 0x1 | 2 << 16), -XEN_EPERM, "an I/O breakpoint without CR4.DE");
    check_equal(hypercall_set_debugreg(6, 0), 0, "DR6 = 0");
    check_equal(hypercall_get_debugreg(6), 0xffff0ff0, "reads with its reserved bits");
    check_equal(hypercall_set_debugreg(7, 0xc000), 0, "reserved bits of DR7");
    check_equal(hypercall_get_debugreg(7) & 0xdc00, 0x400, "read as they must");
    check_equal(hypercall_get_debugreg(4), hypercall_get_debugreg(6), "DR4 is DR6 without CR4.DE");
    check_equal(hypercall_set_debugreg(8, 0), -XEN_ENODEV, "set DR8");
    check_equal(hypercall_set_debugreg(-1, 0), -XEN_ENODEV, "set DR-1");
    check((long)hypercall_get_debugreg(8) < 0, "get DR8");

    asm volatile("mov %%dr1, %0" : "=r"(value));
    check_equal(value, 0x2000, "mov from DR1 is emulated");
    trap = TRAP_OF(MAY_FAULT("mov %0, %%dr2")::"r"(0x7000UL) : "memory");
    check_equal(trap.kind, KIND_NONE, "mov to DR2 is emulated");
    check_equal(hypercall_get_debugreg(2), 0x7000, "and sets it");
    trap = TRAP_OF(MAY_FAULT("mov %0, %%dr7")::"r"(1UL << 32) : "memory");
    check_trap(trap, VECTOR_GP, 0, "mov of upper bits to DR7");
}

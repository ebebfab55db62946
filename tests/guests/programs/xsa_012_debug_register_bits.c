/* XSA-12: HYPERVISOR_set_debugreg with reserved bits of DR7 made the hypervisor fault. */
#include "guest.h"

PROGRAM(xsa_012_debug_register_bits)
{
    check(hypercall_set_debugreg(7, 1UL << 32) < 0, "XSA-12: DR7 bit 32");
    check(hypercall_set_debugreg(7, ~0UL) < 0, "XSA-12: DR7 with all bits");
    check(hypercall_set_debugreg(7, 1UL << 13) < 0, "DR7 general detect");
    check(hypercall_set_debugreg(6, ~0UL) < 0, "DR6 with all bits");
    check(hypercall_set_debugreg(7, 0xffffdfff) <= 0, "DR7 with all low bits: refused or cleaned");
    check_equal(hypercall_get_debugreg(7) & 0xd800, 0, "XSA-12: reserved bits are not kept");
    check(hypercall_set_debugreg(0, XEN_PRIVATE) < 0, "a breakpoint in Xen");
    check(hypercall_set_debugreg(0, NON_CANONICAL) < 0, "a breakpoint at a non-canonical address");
    check_equal(hypercall_set_debugreg(7, 0), 0, "clean DR7");
}

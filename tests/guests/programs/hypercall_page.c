/* The hypercall page and the inline `syscall` reach the same table, and the page keeps RCX and R11. */
#include "guest.h"

PROGRAM(hypercall_page)
{
    char extra[2][sizeof(xen_extraversion_t)] = {{0}};
    unsigned long filled = 0;
    long result;
    u64 rcx = 0x1122334455667788, r11 = 0x99aabbccddeeff00;

    for (int i = 0; i < 4096; i++)
        filled += !!hypercall_page[i];
    check(filled, "Xen filled the hypercall page");
    check_equal(hypercall_page_call(__HYPERVISOR_xen_version, XENVER_version, 0, 0, 0, 0), hypercall_xen_version(XENVER_version, NULL),
                "xen_version by both ways");
    check_equal(hypercall_page_call(__HYPERVISOR_xen_version, XENVER_extraversion, (unsigned long)extra[0], 0, 0, 0), 0, "with a buffer");
    hypercall_xen_version(XENVER_extraversion, extra[1]);
    check(!strcmp(extra[0], extra[1]), "the same extraversion by both ways: %s", extra[0]);
    check_equal(hypercall_page_call(11, 0, 0, 0, 0, 0), -XEN_ENOSYS, "an unused number by the page");

    asm volatile("mov %[r11_in], %%r11; mov %[rcx_in], %%rcx; call *%%rax; mov %%rcx, %[rcx_in]; mov %%r11, %[r11_in]"
                 : "=a"(result), [rcx_in] "+r"(rcx), [r11_in] "+r"(r11)
                 : "0"(hypercall_page + __HYPERVISOR_xen_version * 32), "D"(XENVER_version), "S"(0UL)
                 : "rcx", "r11", "rdx", "r10", "r8", "r9", "memory");
    check_equal(result, 0x00040011, "called with RCX and R11 in use");
    check_equal(rcx, 0x1122334455667788, "RCX is kept by the page");
    check_equal(r11, 0x99aabbccddeeff00, "R11 is kept by the page");
}

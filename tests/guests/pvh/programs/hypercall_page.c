/* @modes 64
 * The page of hypercall stubs (MSR 0x40000000), and hypercalls by both instructions, from ring 0 and from user mode. */
#include "guest.h"

static long through_page(void *page, unsigned number, unsigned long a1, unsigned long a2)
{
    void *stub = (u8 *)page + 32 * number;
    long result;

    asm volatile("call *%[stub]" : "=a"(result), "+D"(a1), "+S"(a2) : [stub] "r"(stub) : "rcx", "rdx", "r8", "r9", "r10", "r11", "memory");
    return result;
}

extern const char user_call[];
asm(".text\nuser_call: mov $17, %eax; xor %edi, %edi; vmcall; mov %rax, %rbx; vmmcall; ud2");

PROGRAM(hypercall_page)
{
    long version = HYPERCALL_BY("vmcall", __HYPERVISOR_xen_version, XENVER_version, 0, 0, 0);
    struct registers user;
    u8 *page = page_alloc();
    struct trap_record trap;

    check_equal(version, 4 << 16 | 17, "Xen 4.17, by vmcall");
    check_equal(HYPERCALL_BY("vmmcall", __HYPERVISOR_xen_version, XENVER_version, 0, 0, 0), version, "the same by vmmcall");
    memset(page, 0x5a, PAGE_SIZE);
    wrmsr(MSR_HYPERCALL_PAGE, (unsigned long)page);
    check_equal(through_page(page, __HYPERVISOR_xen_version, XENVER_version, 0), version, "the same through the page");
    check_equal(through_page(page, 60, 0, 0), -XEN_ENOSYS, "a number that no hypercall has");
    check_equal(page[32 * 17], 0xb8, "a stub begins with mov eax, number");
    check_equal(page[32 * __HYPERVISOR_iret], 0x0f, "iret's stub is ud2: it is not for such guests");
    check_equal(page[32 * __HYPERVISOR_iret + 1], 0x0b, "ud2");
    trap = TRAP_OF(MAY_FAULT("wrmsr")::"c"(MSR_HYPERCALL_PAGE), "a"((u32)(unsigned long)page | 1), "d"(0) : "memory");
    check_trap(trap, VECTOR_GP, 0, "a second page of hypercalls");
    trap = TRAP_OF(MAY_FAULT("wrmsr")::"c"(MSR_HYPERCALL_PAGE), "a"(FREE_HOLE), "d"(0) : "memory");
    check_trap(trap, VECTOR_GP, 0, "a page without memory");
    trap = TRAP_OF(MAY_FAULT("wrmsr")::"c"(MSR_HYPERCALL_PAGE), "a"(0), "d"(0x7fffffff) : "memory");
    check_trap(trap, VECTOR_GP, 0, "a page beyond all addresses");
    check_equal(HYPERCALL(mmu_update, 0, 0, 0, DOMID_SELF), -XEN_ENOSYS, "mmu_update is for PV guests");
    check_equal(HYPERCALL(set_trap_table, 0), -XEN_ENOSYS, "set_trap_table, too");
    check_equal(HYPERCALL(xen_version, XENVER_extraversion, 0x7ffffffff000), -XEN_EFAULT, "an address that is not mapped");
    user_prepare(&user, user_call);
    user_run(&user);
    check_equal(user.vector, VECTOR_UD, "user mode came to its end");
    check_equal(user.bx, -XEN_EPERM, "vmcall from user mode");
    check_equal(user.ax, -XEN_EPERM, "vmmcall from user mode");
}

/* XSA-213: a multicall with HYPERVISOR_iret inside went on in the wrong mode; now it ends there. Also: multicalls in multicalls, and roots that
 * change on the way. */
#include "guest.h"

#define LAST_RAX 0x5ead5678

USER_CODE(user_entry, "mov %rax, %rdi\n syscall");

static u64 resume_rip, resume_rsp;
static struct registers arrived;

static void come_back(struct registers *registers)
{
    arrived = *registers;
    registers->rip = resume_rip;
    registers->rsp = resume_rsp;
    registers->cs = FLAT_KERNEL_CS & ~3;
    registers->ss = FLAT_KERNEL_SS;
}

/* A multicall on a stack that has an iret frame, to `rip` with `cs`, or to the end of this function with RAX as it is then. */
static u64 multicall_with_frame(struct multicall_entry *calls, u64 count, u64 rip, u64 cs, u64 rsp)
{
    u64 result = __HYPERVISOR_multicall;

    asm volatile("lea 1f(%%rip), %%rcx\n"
                 "mov %%rcx, %[resume_rip]\n"
                 "mov %%rsp, %[resume_rsp]\n"
                 "test %[rip], %[rip]\n"
                 "cmovz %%rcx, %[rip]\n"
                 "test %[rsp], %[rsp]\n"
                 "cmovz %%rsp, %[rsp]\n"
                 "push %[ss]; push %[rsp]; push $2; push %[cs]; push %[rip]\n"
                 "push $0; push $0; push $0; push %[last]\n"
                 "syscall\n"
                 "1: mov %[resume_rsp], %%rsp\n"
                 : "+a"(result), [resume_rip] "+m"(resume_rip), [resume_rsp] "+m"(resume_rsp), [rip] "+b"(rip), "+D"(calls), "+S"(count),
                   [rsp] "+r"(rsp)
                 : [cs] "r"(cs), [ss] "i"(FLAT_KERNEL_SS), [last] "i"(LAST_RAX)
                 : "rcx", "rdx", "r8", "r9", "r10", "r11", "memory");
    return result;
}

static void check_iret(void)
{
    struct multicall_entry calls[] = {
        {.op = __HYPERVISOR_xen_version, .args = {XENVER_version}},
        {.op = __HYPERVISOR_iret},
        {.op = __HYPERVISOR_xen_version, .args = {XENVER_version}},
    };
    const u64 last = LAST_RAX;

    check_equal(multicall_with_frame(calls, 3, 0, FLAT_KERNEL_CS & ~3, 0), last, "XSA-213: an iret in a multicall returns, with its RAX");
    check((long)calls[0].result > 0, "the call before it is done");
    check_equal(calls[1].result, last, "its entry has that RAX, too");
    check_equal(calls[2].result, 0, "XSA-213: the call after it is not done");
    user_run_code(user_entry);
    trap_set_handler(KIND_SYSCALL, come_back);
    multicall_with_frame(calls, 3, USER_CODE_ADDRESS, FLAT_USER_CS64, USER_STACK_TOP - 64);
    trap_set_handler(KIND_SYSCALL, NULL);
    check_equal(arrived.rip, USER_CODE_ADDRESS + 5, "XSA-213: one that returns to user space is there");
    check_equal(arrived.rdi, last, "with its RAX");
    check_equal(calls[2].result, 0, "XSA-213: no hypercall is done in user mode");
}

PROGRAM(xsa_213_multicall_mode)
{
    u64 *page = page_alloc();
    static struct multicall_entry inner[2];
    struct mmuext_op base = {.cmd = MMUEXT_NEW_BASEPTR}, none = {.cmd = MMUEXT_NEW_USER_BASEPTR};
    struct multicall_entry calls[] = {
        {.op = __HYPERVISOR_xen_version, .args = {XENVER_version}},
        {.op = __HYPERVISOR_dm_op},
        {.op = __HYPERVISOR_xen_version, .args = {XENVER_version}},
        {.op = __HYPERVISOR_multicall, .args = {(u64)inner, 2}},
        {.op = __HYPERVISOR_mmuext_op, .args = {(u64)&none, 1, 0, DOMID_SELF}},
        {.op = __HYPERVISOR_mmuext_op, .args = {(u64)&base, 1, 0, DOMID_SELF}},
        {.op = __HYPERVISOR_update_va_mapping, .args = {(u64)page, make_pte(virt_to_mfn((void *)start_info->pt_base), PTE_DATA), 0}},
        {.op = ~0UL},
        {.op = 1UL << 32 | __HYPERVISOR_xen_version, .args = {XENVER_version}},
        {.op = __HYPERVISOR_xen_version, .args = {XENVER_version}},
    };

    user_init();
    base.arg1.mfn = virt_to_mfn((void *)start_info->pt_base);
    none.arg1.mfn = virt_to_mfn(user_root);
    for (int i = 0; i < 20; i++) {
        check(hypercall_multicall(calls, ARRAY_SIZE(calls)) == 0, "XSA-213: the list is done");
        check((long)calls[0].result > 0, "the version");
        check((long)calls[1].result < 0, "a call that does not exist");
        check_equal(calls[2].result, calls[0].result, "XSA-213: still in the kernel after it");
        check((long)calls[3].result < 0, "no multicall in a multicall");
        check_equal(calls[4].result, 0, "a user root in between");
        check_equal(calls[5].result, 0, "a kernel root in between");
        check((long)calls[6].result < 0, "XSA-213: no writable mapping of the root");
        check((long)calls[7].result < 0, "a number that is none");
        check_equal(calls[9].result, calls[0].result, "the last");
    }
    *page = 1;
    check_equal(hypercall_multicall((struct multicall_entry *)XEN_PRIVATE, 1), -XEN_EFAULT, "a list in Xen's memory");
    check_iret();
    check_equal(segment_read(cs), FLAT_KERNEL_CS, "XSA-213: the mode is right");
}

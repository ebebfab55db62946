/* SYSENTER in the guest's kernel keeps no stack pointer, so its frame goes to the top of the address space, if memory is mapped there. (As on
 * Intel's processors; AMD's have no SYSENTER in long mode.) */
#include "guest.h"

#define STACK_PAGES 4

static struct registers seen;
static u64 resume_rip;

static void resume(struct registers *registers)
{
    seen = *registers;
    registers->rip = resume_rip;
    registers->rsp = registers->rbx;
    registers->cs = FLAT_KERNEL_CS & ~3;
    registers->ss = FLAT_KERNEL_SS;
}

static void enter(unsigned kind, const char *what)
{
    memset(&seen, 0, sizeof(seen));
    trap_set_handler(kind, resume);
    asm volatile("lea 1f(%%rip), %%rax\n"
                 "mov %%rax, %0\n"
                 "mov %%rsp, %%rbx\n"
                 "mov $0x77, %%edi\n"
                 "sysenter\n"
                 "1:"
                 : "=m"(resume_rip)::"rax", "rbx", "rcx", "rdi", "r11", "memory");
    trap_set_handler(kind, NULL);
    check_equal(seen.kind, kind, what);
    check_equal(seen.rip, 0, "no RIP");
    check_equal(seen.rsp, 0, "no RSP");
    check_equal(seen.cs, 0, "CS says kernel context");
    check_equal(seen.ss, FLAT_KERNEL_SS, "SS");
    check_equal(seen.rdi, 0x77, "the other registers are as they were");
    check_equal(seen.error, 0, "no error code, or 0");
}

PROGRAM(sysenter_kernel)
{
    for (unsigned long page = 1; page <= STACK_PAGES; page++)
        map_anywhere(0UL - page * PAGE_SIZE, virt_to_mfn(page_alloc()), PTE_DATA);
    enter(VECTOR_GP, "without a callback: #GP");
    check_equal(callback_register(CALLBACKTYPE_sysenter, CALLBACKF_mask_events, entry_sysenter), 0, "register sysenter");
    enter(KIND_SYSENTER, "with one");
}

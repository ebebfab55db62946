/* @modes 64
 * Hypercalls that a 64-bit kernel makes from compatibility mode are those of 32-bit code, and so is the shared info page after them, until 64-bit code says otherwise. */
#include "guest.h"

/* In the lower 4 GiB, as all of the program: what compatibility mode reaches. */
static struct { u16 domid, pad; u32 index; u64 value; } parameter = {.domid = DOMID_SELF, .index = HVM_PARAM_CALLBACK_IRQ};
static struct { u16 domid; u32 gpfn; } narrow_removal = {.domid = DOMID_SELF};

long narrow_call(unsigned number, unsigned long first, unsigned long second);

asm(".text\n"
    "narrow_call:\n"
    "    push %rbx\n"
    "    mov %edi, %eax; mov %rsi, %rbx; mov %rdx, %rcx\n"
    "    push $0x08; push $1f; lretq\n"
    ".code32\n"
    "1:  vmcall\n"
    "    ljmp $0x10, $2f\n"
    ".code64\n"
    "2:  movslq %eax, %rax\n"
    "    pop %rbx; ret\n");

#define WIDE_CLOCK (*(volatile u32 *)((u8 *)shared_info + 3076))
#define NARROW_CLOCK (*(volatile u32 *)((u8 *)shared_info + 2308))

PROGRAM(compatibility_calls)
{
    u64 high = 0xabcd00000000;
    u32 seconds = WIDE_CLOCK;

    check(seconds > 1700000000, "the wall clock of 64-bit guests");
    check_equal(narrow_call(__HYPERVISOR_xen_version, high | XENVER_version, 0), HYPERCALL(xen_version, XENVER_version, 0), "a call without memory");
    check_equal(physmap_populate((FREE_HOLE >> 12) + 3), 1, "a page");
    narrow_removal.gpfn = (FREE_HOLE >> 12) + 3;
    check_equal(narrow_call(__HYPERVISOR_memory_op, XENMEM_remove_from_physmap, high | (unsigned long)&narrow_removal), 0, "a narrow structure");
    check_equal(*(volatile u32 *)(FREE_HOLE + 3 * PAGE_SIZE), 0xffffffff, "it is gone");
    check_equal(narrow_call(99, 0, 0), -XEN_ENOSYS, "a call that there is not");
    shared_info->wc_sec = 0;
    check_equal(narrow_call(__HYPERVISOR_hvm_op, HVMOP_set_param, (unsigned long)&parameter), 0, "the callback, set by 32-bit code");
    check(NARROW_CLOCK >= seconds && NARROW_CLOCK < seconds + 1000, "the wall clock of 32-bit guests");
    check_equal(hvm_set_parameter(HVM_PARAM_CALLBACK_IRQ, 0), 0, "and by 64-bit code");
    check(WIDE_CLOCK >= seconds && WIDE_CLOCK < seconds + 1000, "the wall clock of 64-bit guests again");
}

/* Single stepping through instructions that Xen emulates, and through ones that fault: one #DB each, behind it, as on the processor. */
#include "guest.h"

static unsigned steps;
static u64 step_rip[32];
static bool stop_next;

static void step(struct registers *registers)
{
    if (steps < ARRAY_SIZE(step_rip))
        step_rip[steps] = registers->rip;
    steps++;
    if (stop_next || steps >= ARRAY_SIZE(step_rip))
        registers->rflags &= ~X86_EFLAGS_TF;
}

static void skip_ud(struct registers *registers)
{
    registers->rip += 2;
}

static bool stepped_at(const char *place)
{
    for (unsigned i = 0; i < steps && i < ARRAY_SIZE(step_rip); i++)
        if (step_rip[i] == (u64)place)
            return true;
    return false;
}

PROGRAM(trap_db_emulated)
{
    extern char after_cpuid[], after_forced[], after_cr[], after_msr[], after_ud[], after_clts[];
    u32 eax = 0, ebx, ecx = 0x10, edx;
    u64 value;

    trap_set_handler(VECTOR_DB, step);
    trap_set_handler(VECTOR_UD, skip_ud);
    hypercall_set_debugreg(6, 0);
    asm volatile("pushf; orl $0x100, (%%rsp); popf\n nop\n"
                 "mov $1, %%eax\n cpuid\n.globl after_cpuid\nafter_cpuid: mov $1, %%eax\n" XEN_EMULATE_PREFIX "cpuid\n.globl after_forced\nafter_forced:\n"
                 "mov %%cr0, %[value]\n.globl after_cr\nafter_cr: mov $0xc0000100, %%ecx\n rdmsr\n.globl after_msr\nafter_msr: clts\n"
                 ".globl after_clts\nafter_clts: nop\n ud2\n.globl after_ud\nafter_ud: nop\n"
                 "pushf; andl $~0x100, (%%rsp); popf\n"
                 : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx), [value] "=r"(value)::"memory", "cc");
    check(stepped_at(after_cpuid), "after CPUID");
    check(stepped_at(after_forced), "after the CPUID with Xen's prefix");
    check(stepped_at(after_cr), "after a read of CR0");
    check(stepped_at(after_msr), "after RDMSR");
    check(stepped_at(after_clts), "after CLTS");
    check(stepped_at(after_ud + 1), "and going on after a fault");
    check(steps < ARRAY_SIZE(step_rip), "once each (%u)", steps);
    for (unsigned i = 1; i < steps && i < ARRAY_SIZE(step_rip); i++)
        check_report(step_rip[i] > step_rip[i - 1], __FILE__, __LINE__, "step %u goes forward", i);
    check(hypercall_get_debugreg(6) & 0x4000, "DR6.BS");

    /* An emulated page-table write. */
    u64 *pte = pte_of((unsigned long)page_alloc(), 1);
    extern char after_write[];

    hypercall_vm_assist(VMASST_CMD_enable, VMASST_TYPE_writable_pagetables);
    steps = 0;
    value = *pte;
    asm volatile("pushf; orl $0x100, (%%rsp); popf\n nop\n mov %[value], (%[pte])\n.globl after_write\nafter_write: nop\n"
                 "pushf; andl $~0x100, (%%rsp); popf\n" ::[value] "r"(value), [pte] "r"(pte) : "memory", "cc");
    check(stepped_at(after_write), "after an emulated page-table write");
    trap_set_handler(VECTOR_DB, NULL);
    trap_set_handler(VECTOR_UD, NULL);
}

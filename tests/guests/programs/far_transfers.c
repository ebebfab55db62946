/* Far jumps, calls and returns, and iret without a hypercall: flat code segments work, others give #GP or #NP with the selector. */
#include "guest.h"

struct far_pointer {
    u64 offset;
    u16 selector;
} __attribute__((packed));

static struct far_pointer target;

#define BAD_RETURN(name, selector)                                                                        \
    static void name(void)                                                                                \
    {                                                                                                     \
        asm volatile("push $" #selector "; lea 1f(%%rip), %%rax; push %%rax; lretq; 1:" ::: "rax", "memory"); \
    }

BAD_RETURN(return_to_xen, 0xe008)
BAD_RETURN(return_to_null, 0)
BAD_RETURN(return_to_data, 0xe02b)
BAD_RETURN(return_with_rpl_0, 0xe030)
BAD_RETURN(return_to_absent, 0x0b)
BAD_RETURN(return_to_gate, 0x13)

static u64 far_return_to(u16 selector)
{
    u64 result = 0;

    asm volatile("lea 1f(%%rip), %%rax\n"
                 "push %[selector]\n"
                 "push %%rax\n"
                 "lretq\n"
                 "1: mov $1, %[result]"
                 : [result] "+r"(result)
                 : [selector] "r"((u64)selector)
                 : "rax", "memory");
    return result;
}

static void jump_by_target(void)
{
    asm volatile("rex.w ljmp *%0" ::"m"(target) : "memory");
}

static void call_by_target(void)
{
    asm volatile("rex.w lcall *%0" ::"m"(target) : "memory");
}

static void iret_with_nt(void)
{
    asm volatile("mov %%rsp, %%rcx\n push $0xe02b; push %%rcx; pushf; push $0xe033; lea 1f(%%rip), %%rax; push %%rax\n"
                 "pushf; orl $0x4000, (%%rsp); popf\n iretq\n 1:" ::: "rax", "rcx", "memory", "cc");
}

static void check_iret(void)
{
    struct trap_record trap;
    u64 reached = 0, flags = 0;

    asm volatile("mov %%rsp, %%rcx\n"
                 "push %[ss]; push %%rcx; pushf; push %[cs]\n"
                 "lea 1f(%%rip), %%rax\n"
                 "push %%rax\n"
                 "iretq\n"
                 "1: mov $1, %[reached]\n"
                 "pushf; pop %[flags]"
                 : [reached] "+r"(reached), [flags] "+r"(flags)
                 : [ss] "r"((u64)FLAT_KERNEL_SS), [cs] "r"((u64)FLAT_KERNEL_CS)
                 : "rax", "rcx", "memory");
    check_equal(reached, 1, "iretq within the kernel");
    check_equal(flags & (X86_EFLAGS_IF | X86_EFLAGS_IOPL), X86_EFLAGS_IF, "IF and IOPL can't be changed by it");
    trap = trap_of_call(iret_with_nt);
    check_trap(trap, VECTOR_GP, 0, "iretq with NT set");
    check_equal(trap.registers.cs, FLAT_KERNEL_CS & ~3, "it has not happened");
    asm volatile("pushf; andl $~0x4000, (%%rsp); popf" ::: "cc", "memory");
}

static void check_returns(void)
{
    struct trap_record trap;

    check_equal(far_return_to(FLAT_KERNEL_CS), 1, "lretq to FLAT_KERNEL_CS");
    check_equal(segment_read(cs), FLAT_KERNEL_CS, "CS");
    trap = trap_of_call(return_to_xen);
    check_trap(trap, VECTOR_GP, 0xe008, "lretq to Xen's code segment");
    trap = trap_of_call(return_to_null);
    check_trap(trap, VECTOR_GP, 0, "lretq to a null selector");
    trap = trap_of_call(return_to_data);
    check_trap(trap, VECTOR_GP, 0xe028, "lretq to a data segment");
    trap = trap_of_call(return_with_rpl_0);
    check_trap(trap, VECTOR_GP, 0xe030, "lretq with RPL 0, above the kernel's own ring");
    trap = trap_of_call(return_to_absent);
    check_trap(trap, VECTOR_NP, 0x08, "lretq to a segment that is not present");
    trap = trap_of_call(return_to_gate);
    check_trap(trap, VECTOR_GP, 0x10, "lretq to no segment at all");
}

static void check_jumps(void)
{
    struct trap_record trap;
    u64 reached = 0, pushed_rip = 0, pushed_cs = 0, moved = 0, low = 0;

    asm volatile("lea 1f(%%rip), %%rax\n mov %%rax, %[target]\n rex.w ljmp *%[target]\n ud2\n 1: mov $1, %[reached]"
                 : [target] "+m"(target), [reached] "+r"(reached)::"rax", "memory");
    check_equal(reached, 1, "ljmp through memory");
    check_equal(segment_read(cs), FLAT_KERNEL_CS, "CS");
    asm volatile("lea 1f(%%rip), %%rax\n mov %%rax, %[target]\n mov %%rsp, %[moved]\n rex.w lcall *%[target]\n 2: jmp 3f\n"
                 "1: sub %%rsp, %[moved]\n mov (%%rsp), %[rip]\n mov 8(%%rsp), %[cs]\n lea 2b(%%rip), %%rax\n sub %%rax, %[rip]\n lretq\n"
                 "3: mov $2, %[reached]"
                 : [target] "+m"(target), [reached] "+r"(reached), [rip] "+r"(pushed_rip), [cs] "+r"(pushed_cs), [moved] "+r"(moved)
                 ::"rax", "memory");
    check_equal(reached, 2, "lcall through memory and back");
    check_equal(moved, 16, "it has pushed two quadwords");
    check_equal(pushed_rip, 0, "the return address");
    check_equal(pushed_cs, FLAT_KERNEL_CS, "and CS");
    target.selector = FLAT_KERNEL_CS & ~3;
    asm volatile("lea 1f(%%rip), %%rax\n mov %%rax, %[target]\n rex.w ljmp *%[target]\n 1: mov %%cs, %[low]"
                 : [target] "+m"(target), [low] "+r"(low)::"rax", "memory");
    check_equal(low & 0xffff, FLAT_KERNEL_CS, "a jump takes RPL 0, and CS shows ring 3");
    target = (struct far_pointer){NON_CANONICAL, FLAT_KERNEL_CS};
    trap = trap_of_call(jump_by_target);
    check_trap(trap, VECTOR_GP, 0, "ljmp to a non-canonical address");
    trap = trap_of_call(call_by_target);
    check_trap(trap, VECTOR_GP, 0, "lcall to a non-canonical address");
    target = (struct far_pointer){0, 0xe008};
    trap = trap_of_call(jump_by_target);
    check_trap(trap, VECTOR_GP, 0xe008, "ljmp to Xen's code segment");
    target.selector = 3;
    trap = trap_of_call(jump_by_target);
    check_trap(trap, VECTOR_GP, 0, "ljmp to a null selector");
    target.selector = 0x0b;
    trap = trap_of_call(call_by_target);
    check_trap(trap, VECTOR_NP, 0x08, "lcall to a segment that is not present");
    target.selector = FLAT_KERNEL_SS;
    trap = trap_of_call(call_by_target);
    check_trap(trap, VECTOR_GP, FLAT_KERNEL_SS & ~3, "lcall to a data segment");
    trap = trap_of_call(jump_by_target);
    check_trap(trap, VECTOR_GP, FLAT_KERNEL_SS & ~3, "ljmp to a data segment");
    trap = TRAP_OF(MAY_FAULT("rex.w ljmp *(%0)")::"r"(UNMAPPED) : "memory");
    check_trap(trap, VECTOR_PF, 0, "ljmp through an unmapped page");
    check_equal(trap.cr2, UNMAPPED, "CR2");
}

/* The kernel may run 32-bit code, and comes back by a far jump, direct or through memory. It lies where 32 bits reach, without a stack. */
#define LOW 0x405000UL
#define LOW_BACK "0x405080"
asm(".pushsection .rodata\n.globl low_code, low_code_end\n"
    "low_code: .code32\n mov $0x12345678, %eax\n mov %cs, %ebx\n test %edi, %edi\n jz 1f\n ljmp *0x405ff8\n 1: ljmp $0xe033, $" LOW_BACK "\n"
    ".org low_code + 0x80\n .code64\n jmp *0x405ff0\n low_code_end:\n.popsection");
extern const char low_code[], low_code_end[];

static void check_low(u8 *page, u64 through_memory)
{
    u64 *back = (u64 *)(page + 0xff0);
    u64 value = 0, selector = 0, form = through_memory;

    target = (struct far_pointer){LOW, FLAT_RING3_CS32};
    back[1] = (u64)FLAT_KERNEL_CS << 32 | (LOW + 0x80);
    asm volatile("lea 1f(%%rip), %%rax\n mov %%rax, (%[back])\n rex.w ljmp *%[target]\n 1:"
                 : "=&a"(value), "=&b"(selector), "+D"(form) : [back] "r"(back), [target] "m"(target) : "memory", "cc");
    check_equal(value, 0x12345678, "32-bit code of the kernel");
    check_equal(selector & 0xffff, FLAT_RING3_CS32, "CS there");
    check_equal(segment_read(cs), FLAT_KERNEL_CS, "and back");
}

PROGRAM(far_transfers)
{
    u64 *gdt = page_alloc();
    u8 *page = page_alloc();
    xen_pfn_t frame = virt_to_mfn(gdt);

    target.selector = FLAT_KERNEL_CS;
    gdt[1] = DESCRIPTOR_CODE64 & ~DESCRIPTOR_P;
    map_page(gdt, gdt, PTE_READ_ONLY);
    check_equal(hypercall_set_gdt(&frame, 3), 0, "set_gdt");
    check_returns();
    check_jumps();
    check_iret();
    user_init();
    memcpy(page, low_code, low_code_end - low_code);
    pte_write(user_pte(LOW), make_pte(virt_to_mfn(page), PTE_CODE | PTE_RW | PTE_US));
    check_equal(segment_load(ds, FLAT_RING3_DS32).kind, KIND_NONE, "DS, which a 64-bit kernel begins without");
    check_low(page, 0);
    check_low(page, 1);
}

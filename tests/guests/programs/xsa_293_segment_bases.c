/* XSA-293: FSGSBASE instructions let user space change what the context switch saved. CR4 bits that a guest may set; bases after mode switches;
 * non-canonical bases. */
#include "guest.h"

USER_CODE(write_base, "mov $0x401008, %rax\n wrgsbase %rax\n nop\n syscall");
USER_CODE(write_bad_base, "mov $0x8000000000000000, %rax\n wrfsbase %rax\n nop\n syscall");
USER_CODE(load_zero, "xor %eax, %eax\n mov %eax, %gs\n mov %eax, %fs\n syscall");

PROGRAM(xsa_293_segment_bases)
{
    u64 cr4, marker = 0x1122334455667788UL, seen;
    struct trap_record trap;

    user_init();
    check_equal(hypercall_set_segment_base(SEGBASE_GS_KERNEL, (u64)&marker), 0, "the kernel's GS base");
    asm volatile("mov %%gs:0, %0" : "=r"(seen));
    check_equal(seen, marker, "works");
    trap = TRAP_OF(MAY_FAULT("mov %%cr4, %0") : "=r"(cr4));
    check_equal(trap.kind, KIND_NONE, "read CR4");
    TRAP_OF(MAY_FAULT("mov %0, %%cr4")::"r"(cr4 | 1 << 16) : "memory");
    TRAP_OF(MAY_FAULT("mov %0, %%cr4")::"r"(~0UL) : "memory");
    TRAP_OF(MAY_FAULT("mov %0, %%cr4") : "=r"(seen));
    for (int i = 0; i < 3; i++) {
        trap = user_run_code(write_base);
        check(trap.kind == VECTOR_UD || trap.kind == KIND_SYSCALL, "XSA-293: WRGSBASE in user space, got %u", trap.kind);
        asm volatile("mov %%gs:0, %0" : "=r"(seen));
        check_equal(seen, marker, "XSA-293: the kernel's base is as before");
        trap = user_run_code(write_bad_base);
        check(trap.kind == VECTOR_UD || trap.kind == VECTOR_GP, "XSA-293: a non-canonical base, got %u", trap.kind);
        trap = user_run_code(load_zero);
        check_equal(trap.kind, KIND_SYSCALL, "null selectors in user space");
        asm volatile("mov %%gs:0, %0" : "=r"(seen));
        check_equal(seen, marker, "XSA-293: nor do they matter");
    }
    TRAP_OF(MAY_FAULT("mov %0, %%cr4")::"r"(cr4) : "memory");
    hypercall_set_segment_base(SEGBASE_GS_KERNEL, 0);
}

/* XSA-298: a call gate behind the limit of the LDT was emulated. Here: user space writes one where an LDT at address 0 would have it, and calls. */
#include "guest.h"

#define GATE_SELECTOR (0x1000 | 4 | 3)
#define GATE_PAGE 0x1000UL

/* What a 64-bit far call through memory with REX.W reads: ten octets on Intel's processors. */
USER_CODE(call_gate, "mov $0x401000, %ebx\n rex.w lcall *(%rbx)\n nop\n nop");

PROGRAM(xsa_298_ldt_limit)
{
    struct { u64 offset; u16 selector; } __attribute__((packed)) *pointer;
    u64 *gate = page_alloc();
    u64 target = (u64)entry_syscall;
    struct trap_record trap;

    user_init();
    gate[0] = (target & 0xffff) | (u64)FLAT_KERNEL_CS << 16 | 0xecUL << 40 | (target >> 16 & 0xffff) << 48;
    gate[1] = target >> 32;
    check_equal(map_page(gate, gate, PTE_READ_ONLY), 0, "the page that user space shows");
    map_anywhere(GATE_PAGE, virt_to_mfn(gate), PTE_READ_ONLY | PTE_US);
    pointer = (void *)user_data;
    pointer->selector = GATE_SELECTOR;
    trap = user_run_code(call_gate);
    check_trap(trap, VECTOR_GP, GATE_SELECTOR & ~3, "XSA-298: a far call through the LDT that is not there");
    check_equal(trap.registers.rip, USER_CODE_ADDRESS + 5, "at the call");
}

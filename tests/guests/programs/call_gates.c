/* Call gates in the GDT of a 64-bit domain: Xen lets them stand, as 32-bit domains need, with DPL 0, so that every use is #GP(selector). */
#include "guest.h"

#define GATE(target, flags) (0x00008c0000000000UL | (u64)(target) << 16 | (flags))
#define GATE_SELECTOR 0x13 /* entries 2 and 3 */

struct far_pointer {
    u32 offset;
    u16 selector;
} __attribute__((packed));

static struct far_pointer far_pointer = {.selector = GATE_SELECTOR};
static u64 *gdt;
static unsigned long gdt_address;

USER_CODE(user_call, "movl $0x401000, %eax\n lcall *(%rax)\n nop");
USER_CODE(user_jump, "movl $0x401000, %eax\n ljmp *(%rax)\n nop");

static long update(unsigned index, u64 value)
{
    return hypercall_update_descriptor(gdt_address + index * 8, value);
}

static void check_stand(void)
{
    check_equal(update(2, GATE(FLAT_KERNEL_CS, 0x5678) | 3UL << 45), 0, "a call gate to the kernel's flat code");
    check_equal(((volatile u64 *)gdt)[2], GATE(FLAT_KERNEL_CS, 0x5678), "stands with DPL 0");
    check_equal(update(2, GATE(0x08, 0) | 1UL << 45), 0, "one to a descriptor of the guest's own");
    check_equal(((volatile u64 *)gdt)[2], GATE(0x0b, 0), "its target has RPL 3");
    check_equal(update(2, GATE(0x0f, 0)), 0, "one to the LDT");
    check_equal(update(2, GATE(0xe008, 0)), -XEN_EINVAL, "one to Xen's code");
    check_equal(update(2, GATE(FLAT_USER_CS32, 0)), -XEN_EINVAL, "one to Xen's flat 32-bit code");
    check_equal(update(2, GATE(FLAT_KERNEL_CS, 0) | 1UL << 32), -XEN_EINVAL, "one with parameters");
    check_equal(update(2, 0x0000840000000000UL | (u64)FLAT_KERNEL_CS << 16), -XEN_EINVAL, "one of 16 bits");
    check_equal(update(2, GATE(FLAT_KERNEL_CS, 0)), 0, "the gate");
    check_equal(update(3, 0x0000800000000000UL), 0, "its second half, of type 0");
}

static void check_use(void)
{
    struct trap_record trap;

    trap = TRAP_OF(MAY_FAULT("lcall *(%0)")::"r"(&far_pointer) : "memory");
    check_trap(trap, VECTOR_GP, GATE_SELECTOR & ~3, "a call through it in the kernel");
    trap = TRAP_OF(MAY_FAULT("ljmp *(%0)")::"r"(&far_pointer) : "memory");
    check_trap(trap, VECTOR_GP, GATE_SELECTOR & ~3, "a jump");
    check_trap(segment_load(ds, GATE_SELECTOR), VECTOR_GP, GATE_SELECTOR & ~3, "a load of DS");
    *(struct far_pointer *)user_data = far_pointer;
    trap = user_run_code(user_call);
    check_trap(trap, VECTOR_GP, GATE_SELECTOR & ~3, "a call in user mode");
    check_equal(trap.registers.rip, USER_CODE_ADDRESS + 5, "RIP at the instruction");
    trap = user_run_code(user_jump);
    check_trap(trap, VECTOR_GP, GATE_SELECTOR & ~3, "a jump in user mode");
}

PROGRAM(call_gates)
{
    xen_pfn_t frame;

    gdt = page_alloc();
    frame = virt_to_mfn(gdt);
    gdt_address = (u64)frame << 12;
    user_init();
    gdt[1] = DESCRIPTOR_CODE64;
    gdt[2] = GATE(FLAT_KERNEL_CS, 0) | 3UL << 45;
    map_page(gdt, gdt, PTE_READ_ONLY);
    check_equal(hypercall_set_gdt(&frame, 8), 0, "a GDT with a call gate");
    check_equal(((volatile u64 *)gdt)[2], GATE(FLAT_KERNEL_CS, 0), "which gets DPL 0");
    check_stand();
    check_use();
}

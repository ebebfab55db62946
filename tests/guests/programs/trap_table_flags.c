/* The trap table's flags: bit 2 masks upcalls on entry; iret gives the old mask back. Re-registering and replacing entries. */
#include "guest.h"

PROGRAM(trap_table_flags)
{
    struct trap_record trap;

    trap_table_install(VECTOR_UD, 4);
    events_enable();
    trap = TRAP_OF(MAY_FAULT("ud2")::: "memory");
    check_trap(trap, VECTOR_UD, 0, "a gate with the mask flag");
    check_equal(trap.upcall_mask, 1, "the handler runs with upcalls masked");
    check_equal(trap.registers.saved_upcall_mask, 0, "the frame has the mask before");
    check(trap.registers.rflags & X86_EFLAGS_IF, "and IF");
    check_equal(event_vcpu_info()->evtchn_upcall_mask, 0, "iret restored it");
    trap_table_install(VECTOR_UD, 0);
    trap = TRAP_OF(MAY_FAULT("ud2")::: "memory");
    check_equal(trap.upcall_mask, 0, "without the flag upcalls stay on");
    events_disable();
    trap_table_install(VECTOR_UD, 4);
    trap = TRAP_OF(MAY_FAULT("ud2")::: "memory");
    check_equal(trap.registers.saved_upcall_mask, 1, "masked before, masked in the frame");
    check_equal(event_vcpu_info()->evtchn_upcall_mask, 1, "and masked after");

    struct trap_info bad[2] = {{.vector = 0x30, .cs = FLAT_KERNEL_CS, .address = NON_CANONICAL}};

    check_equal(hypercall_set_trap_table(bad), -XEN_EINVAL, "a non-canonical handler is refused");
    struct trap_info odd[2] = {{.vector = 0x31, .flags = 3, .cs = 0, .address = (unsigned long)vector_entry_points[0x31]}};

    check_equal(hypercall_set_trap_table(odd), 0, "a null code selector is accepted");
    trap_expect(0x31);
    trap = TRAP_OF("int $0x31" ::: "memory");
    check_equal(trap.kind, 0x31, "and 64-bit guests are entered at FLAT_KERNEL_CS all the same");
}

/* Loading every kind of selector: Xen's flat segments may be used, its own may not. */
#include "guest.h"

USER_CODE(null_ss, "xor %eax, %eax\n mov %eax, %ss\n syscall");
USER_CODE(load_flat, "mov $0xe02b, %eax\n mov %eax, %ds\n mov %eax, %es\n mov %eax, %ss\n mov %ds, %ebx\n syscall");

PROGRAM(selectors)
{
    struct trap_record trap;

    check_equal(segment_read(cs), FLAT_KERNEL_CS, "CS");
    check_equal(segment_read(ss), FLAT_KERNEL_SS, "SS");
    check_equal(segment_load(ds, FLAT_RING3_DS32).kind, KIND_NONE, "DS = FLAT_RING3_DS32");
    check_equal(segment_read(ds), FLAT_RING3_DS32, "reads back");
    check_equal(segment_load(es, FLAT_RING3_CS32).kind, KIND_NONE, "ES = FLAT_RING3_CS32 (a readable code segment)");
    check_equal(segment_load(ss, FLAT_KERNEL_SS).kind, KIND_NONE, "SS = FLAT_KERNEL_SS");
    check_trap(segment_load(ss, 0), VECTOR_GP, 0, "null SS");
    check_trap(segment_load(ss, FLAT_KERNEL_CS), VECTOR_GP, FLAT_KERNEL_CS & ~3, "SS = a code segment");
    check_trap(segment_load(ss, FLAT_KERNEL_SS & ~3), VECTOR_GP, FLAT_KERNEL_SS & ~3, "SS with RPL 0");
    check_trap(segment_load(ds, 0xe008), VECTOR_GP, 0xe008, "DS = Xen's code segment");
    check_trap(segment_load(ds, 0xe010), VECTOR_GP, 0xe010, "DS = Xen's data segment");
    check_trap(segment_load(ds, 0xe013), VECTOR_GP, 0xe010, "DS = Xen's data segment, RPL 3");
    check_trap(segment_load(ds, 0xe040), VECTOR_GP, 0xe040, "DS = Xen's TSS");
    check_trap(segment_load(es, 0x08), VECTOR_GP, 0x08, "ES = an empty entry");
    check_trap(segment_load(fs, 0xfff8), VECTOR_GP, 0xfff8, "FS = the last selector");
    check_trap(segment_load(gs, 0x0c), VECTOR_GP, 0x0c, "GS = an LDT selector without an LDT");
    check_equal(segment_load(fs, FLAT_RING3_DS32).kind, KIND_NONE, "FS = FLAT_RING3_DS32");
    check_equal(segment_load(gs, FLAT_RING3_DS32).kind, KIND_NONE, "GS = FLAT_RING3_DS32");
    check_equal(segment_load(fs, 0).kind, KIND_NONE, "FS = 0");
    check_equal(segment_load(gs, 3).kind, KIND_NONE, "GS = 3 (null with an RPL)");
    check_equal(segment_read(gs) & ~3, 0, "GS is null");
    segment_load(ds, 0);
    segment_load(es, 0);

    user_init();
    trap = user_run_code(null_ss);
    check_trap(trap, VECTOR_GP, 0, "null SS in user mode");
    trap = user_run_code(load_flat);
    check_equal(trap.kind, KIND_SYSCALL, "user loads flat data segments");
    check_equal(trap.registers.rbx & 0xffff, FLAT_USER_DS32, "DS");
}

/* XSA-105: the emulator did HLT, LGDT, LIDT and LMSW for user mode. XSA-106: software interrupts without a check of the gate. XSA-110: far branches
 * without privilege checks. XSA-192: task switches. XSA-196: software interrupts again. XSA-259: INT 80 without a handler.
 * XSA-298: call gates of user space's own. */
#include "guest.h"

USER_CODE(halt, "hlt");
USER_CODE(load_gdt, "lgdt (%rsp)");
USER_CODE(load_idt, "lidt (%rsp)");
USER_CODE(load_machine_status, "mov $0x1f, %eax\n lmsw %ax");
USER_CODE(load_task, "mov $0xe040, %eax\n ltr %ax");
USER_CODE(load_ldt, "mov $0xe048, %eax\n lldt %ax");
USER_CODE(read_msr, "mov $0xc0000080, %ecx\n rdmsr");
USER_CODE(write_msr, "mov $0xc0000080, %ecx\n xor %eax, %eax\n xor %edx, %edx\n wrmsr");
USER_CODE(read_cr0, "mov %cr0, %rax");
USER_CODE(write_cr3, "xor %eax, %eax\n mov %rax, %cr3");
USER_CODE(write_dr7, "xor %eax, %eax\n mov %rax, %db7");
USER_CODE(clear_task_switched, "clts");
USER_CODE(invalidate, "invlpg (%rsp)");
USER_CODE(write_back, "wbinvd");
USER_CODE(swap_gs, "swapgs");
USER_CODE(interrupt_page_fault, "int $14");
USER_CODE(interrupt_double_fault, "int $8");
USER_CODE(interrupt_80, "int $0x80");
USER_CODE(interrupt_82, "int $0x82");
USER_CODE(far_xen, "pushq $0xe008\n lea 1f(%rip), %rax\n push %rax\n lretq\n 1: nop");
USER_CODE(far_kernel, "pushq $0xe030\n lea 1f(%rip), %rax\n push %rax\n lretq\n 1: nop");
USER_CODE(far_task, "pushq $0xe040\n lea 1f(%rip), %rax\n push %rax\n lretq\n 1: nop");
USER_CODE(far_ldt, "pushq $0x7\n lea 1f(%rip), %rax\n push %rax\n lretq\n 1: nop");
USER_CODE(iret_xen, "pushq $0\n pushq %rsp\n pushfq\n pushq $0xe008\n pushq $0x400000\n iretq");
USER_CODE(far_gate32, ".code32\n ljmp $0x1b, $0x400000");
USER_CODE(far_call32, ".code32\n lcall $0xe008, $0x400000");

#define GP(code, error, what) check_trap(user_run_code(code), VECTOR_GP, error, what)

PROGRAM(xsa_105_user_privileged_instructions)
{
    struct registers registers = user_registers();

    user_init();
    GP(halt, 0, "XSA-105: hlt");
    GP(load_gdt, 0, "XSA-105: lgdt");
    GP(load_idt, 0, "XSA-105: lidt");
    GP(load_machine_status, 0, "XSA-105: lmsw");
    GP(load_task, 0, "XSA-105: ltr");
    GP(load_ldt, 0, "XSA-105: lldt");
    GP(read_msr, 0, "XSA-105: rdmsr");
    GP(write_msr, 0, "XSA-105: wrmsr");
    GP(read_cr0, 0, "XSA-105: mov from cr0");
    GP(write_cr3, 0, "XSA-105: mov to cr3");
    GP(write_dr7, 0, "XSA-105: mov to dr7");
    GP(clear_task_switched, 0, "XSA-105: clts");
    GP(invalidate, 0, "XSA-105: invlpg");
    GP(write_back, 0, "XSA-105: wbinvd");
    GP(swap_gs, 0, "XSA-105: swapgs");
    GP(interrupt_page_fault, 14 * 8 + 2, "XSA-106: int 14");
    GP(interrupt_double_fault, 8 * 8 + 2, "XSA-106: int 8");
    GP(interrupt_80, 0x80 * 8 + 2, "XSA-259: int 0x80 without a handler");
    GP(interrupt_82, 0x82 * 8 + 2, "XSA-196: int 0x82, the old hypercall vector");
    GP(far_xen, 0xe008, "XSA-110: far return to Xen's code segment");
    GP(far_kernel, 0xe030, "XSA-110: far return to the kernel's, RPL 0");
    GP(far_task, 0xe040, "XSA-192: far return to the task segment");
    GP(far_ldt, 4, "XSA-298: far return through an LDT that is not there");
    GP(iret_xen, 0xe008, "XSA-110: iret to Xen's code segment");
    registers.cs = FLAT_USER_CS32;
    registers.ss = FLAT_USER_SS32;
    check_trap(user_run(far_gate32, far_gate32_end, registers), VECTOR_GP, 0x18, "XSA-298: far jump through the guest's empty GDT");
    check_trap(user_run(far_call32, far_call32_end, registers), VECTOR_GP, 0xe008, "XSA-110: 32-bit far call to Xen's segment");
}

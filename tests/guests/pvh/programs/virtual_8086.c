/* @modes pae 32
 * Virtual-8086 mode: real-mode code under paging, in ring 3, ended by an interrupt through the IDT. A hypercall from there is refused. */
#include "guest.h"

extern const char code_8086[], code_8086_end[], back_from_8086[];
void run_8086(unsigned segment);

struct {
    u32 flags, ax, cs, ds;
} seen_8086;

asm(".text\n"
    "run_8086:\n"
    "    mov 4(%esp), %eax\n"
    "    pusha; mov %esp, stack_before_8086\n"
    "    push $0; push $0; push %eax; push %eax; push %eax; push $0xff0\n"
    "    push $0x23202; push %eax; push $0\n" /* VM, IOPL 3, IF, at its start */
    "    iretl\n"
    "back_from_8086:\n"
    "    mov %ss:8(%esp), %ecx; mov %ss:4(%esp), %edx; mov %ss:24(%esp), %ebx\n"
    "    mov $0x18, %esi; mov %esi, %ds; mov %esi, %es\n"
    "    mov %ecx, seen_8086; mov %eax, seen_8086 + 4; mov %edx, seen_8086 + 8; mov %ebx, seen_8086 + 12\n"
    "    mov stack_before_8086, %esp; popa; ret\n"
    ".code16\n"
    "code_8086:\n"
    "    mov $0x1234, %ax; add $1, %ax; mov %ax, 0x200\n"
    "    xor %bx, %bx; mov $100, %cx\n"
    "1:  add %cx, %bx; loop 1b\n"
    "    mov %bx, 0x204\n"
    "    push %bx; pushf; popf; pop %dx; mov %dx, 0x208\n"
    "    mov $17, %eax; vmcall; mov %eax, 0x20c\n"
    "    mov $0x4321, %ax\n"
    "    int $0x60\n"
    "code_8086_end:\n"
    ".code32\n"
    ".bss\n"
    "stack_before_8086: .skip 4\n"
    ".text\n");

PROGRAM(virtual_8086)
{
    u8 *low = (u8 *)TRAMPOLINE;

    gate_set(0x60, back_from_8086, KERNEL_CS32, 0xee, 0);
    for (unsigned i = 0; i < 3; i++) {
        memset(low, 0, PAGE_SIZE);
        memcpy(low, code_8086, code_8086_end - code_8086);
        run_8086(TRAMPOLINE >> 4);
        check(seen_8086.flags & X86_EFLAGS_VM, "it was in virtual-8086 mode");
        check_equal(seen_8086.cs & 0xffff, TRAMPOLINE >> 4, "its segment is an address");
        check_equal(seen_8086.ds & 0xffff, TRAMPOLINE >> 4, "so are those of data, which were put aside");
        check_equal(seen_8086.ax & 0xffff, 0x4321, "its registers");
        check_equal(*(u16 *)(low + 0x200), 0x1235, "arithmetic and a store");
        check_equal(*(u16 *)(low + 0x204), 5050, "a loop");
        check_equal(*(u16 *)(low + 0x208), 5050, "its stack");
        check_equal(*(int *)(low + 0x20c), -XEN_EPERM, "no hypercalls");
    }
    check_trap(TRAP_OF(MAY_FAULT("ud2")), VECTOR_UD, 0, "exceptions of the kernel work as before");
}

/* @modes 64
 * From long mode to compatibility mode, protected mode without paging and real mode, with interrupts there, and all the way back. */
#include "guest.h"

extern char real_mode_begin[], real_mode_end[];
void change_modes(void);

struct {
    u32 compatibility, no_paging_efer, protected_cr0, real_cr0, real_count, real_sum, back;
} seen;

asm(".text\n"
    "change_modes:\n"
    "    push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    "    mov %rsp, saved_stack\n"
    "    push $0x08; push $1f; lretq\n"
    ".code32\n"
    "1:  mov $0x12345678, %eax; .byte 0x40\n" /* inc eax here, a REX prefix in 64-bit code */
    "    mov %eax, seen\n"
    "    mov %cr0, %eax; and $0x7fffffff, %eax; mov %eax, %cr0\n"
    "    mov $0xc0000080, %ecx; rdmsr; mov %eax, seen + 4; and $~0x100, %eax; wrmsr\n"
    "    mov %cr4, %eax; and $~0x20, %eax; mov %eax, %cr4\n"
    "    mov %cr0, %eax; mov %eax, seen + 8\n"
    "    ljmp $0x40, $0x8000\n"
    ".code16\n"
    "real_mode_begin:\n"
    "    mov $0x48, %ax; mov %ax, %ds; mov %ax, %es; mov %ax, %ss\n"
    "    mov %cr0, %eax; and $~1, %eax; mov %eax, %cr0\n"
    "    ljmp $0x800, $2f - real_mode_begin\n"
    "2:  mov %cs, %ax; mov %ax, %ds; mov %ax, %ss; mov $0xf00, %sp\n"
    "    lidtl idt16 - real_mode_begin\n"
    "    mov %cr0, %eax; mov %eax, 0x800\n"
    "    int $0x60; int $0x60; int $0x60\n"
    "    xor %ax, %ax; mov $100, %cx\n"
    "3:  add %cx, %ax; loop 3b\n"
    "    mov %ax, 0x808\n"
    "    mov %cr0, %eax; or $1, %eax; mov %eax, %cr0\n"
    "    ljmpl $0x08, $from_real_mode\n"
    "handler16: push %ax; mov 0x804, %ax; inc %ax; mov %ax, 0x804; pop %ax; iret\n"
    ".balign 4\n"
    "idt16: .word 0x3ff; .long 0\n"
    "real_mode_end:\n"
    ".code32\n"
    "from_real_mode:\n"
    "    mov $0x18, %eax; mov %eax, %ds; mov %eax, %es; mov %eax, %ss\n"
    "    mov $mode_stack + 4000, %esp\n"
    "    call enter_mode\n"
    ".code64\n"
    "    mov saved_stack, %rsp\n"
    "    pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
    "    ret\n"
    ".bss\n"
    "saved_stack: .skip 8\n"
    "mode_stack: .skip 4096\n"
    ".text\n");
extern const char handler16[];

PROGRAM(modes)
{
    u8 *low = (u8 *)TRAMPOLINE;
    u32 *vector = (u32 *)(0x60 * 4UL);

    for (unsigned i = 0; i < 3; i++) {
        memcpy(low, real_mode_begin, real_mode_end - real_mode_begin);
        memset(low + 0x800, 0, 16);
        *vector = 0x800 << 16 | (u16)(handler16 - real_mode_begin);
        change_modes();
        traps_init();
        check_equal(seen.compatibility, 0x12345679, "compatibility mode executes 32-bit code");
        check_equal(seen.no_paging_efer & (EFER_LMA | EFER_LME), EFER_LME, "without paging EFER.LMA is off, LME stays");
        check_equal(seen.protected_cr0 & (CR0_PG | CR0_PE), CR0_PE, "protected mode without paging");
        check_equal(*(u32 *)(low + 0x800) & (CR0_PG | CR0_PE), 0, "real mode");
        check_equal(*(u16 *)(low + 0x804), 3, "interrupts through the table at address 0");
        check_equal(*(u16 *)(low + 0x808), 5050, "a loop in real mode");
        check_equal(rdmsr(MSR_EFER) & (EFER_LMA | EFER_LME), EFER_LMA | EFER_LME, "long mode again");
        check_trap(TRAP_OF(MAY_FAULT("ud2")), VECTOR_UD, 0, "exceptions work again");
    }
}

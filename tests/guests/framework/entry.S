/*
 * The entry points that Xen bounces to. Xen pushes {rcx, r11, [error code,] rip, cs, rflags, rsp, ss}; all of them are brought
 * to one layout, `struct registers` of trap.h, whose upper part is exactly what HYPERVISOR_iret takes.
 */
#define __HYPERVISOR_iret 23

#define KIND_EVENT     256
#define KIND_FAILSAFE  257
#define KIND_SYSCALL   258
#define KIND_SYSCALL32 259
#define KIND_SYSENTER  260

#define REGISTERS_SIZE (23 * 8)

        .text

        .macro entry_point name, kind, has_error_code
        .balign 16
        .globl \name
\name:
        pop     %rcx
        pop     %r11
        .if \has_error_code == 0
        push    $0
        .endif
        push    %rcx
        push    %r11
        push    %rax
        mov     $\kind, %eax
        jmp     entry_common
        .endm

        .altmacro
        .macro vector_entry vector
        .if (\vector == 8) || ((\vector >= 10) && (\vector <= 14)) || (\vector == 17) || (\vector == 21)
        entry_point entry_vector_\vector, \vector, 1
        .else
        entry_point entry_vector_\vector, \vector, 0
        .endif
        .pushsection .rodata
        .quad entry_vector_\vector
        .popsection
        .endm

        .pushsection .rodata
        .balign 8
        .globl vector_entry_points
vector_entry_points:
        .popsection
        .set vector, 0
        .rept 256
        vector_entry %vector
        .set vector, vector + 1
        .endr
        .noaltmacro

        entry_point entry_event, KIND_EVENT, 0
        entry_point entry_syscall, KIND_SYSCALL, 0
        entry_point entry_syscall32, KIND_SYSCALL32, 0
        entry_point entry_sysenter, KIND_SYSENTER, 0

/* The failsafe frame has DS, ES, FS and GS between R11 and RIP. */
        .balign 16
        .globl entry_failsafe
entry_failsafe:
        pop     %rcx
        pop     %r11
        pop     failsafe_segments + 0(%rip)
        pop     failsafe_segments + 8(%rip)
        pop     failsafe_segments + 16(%rip)
        pop     failsafe_segments + 24(%rip)
        push    $0
        push    %rcx
        push    %r11
        push    %rax
        mov     $KIND_FAILSAFE, %eax

entry_common:
        push    %rax
        mov     32(%rsp), %rax
        movq    $0, 32(%rsp)                    /* the slot of the error code is iret's flags word */
        push    %rax
        push    %rdi
        push    %rsi
        push    %rdx
        push    %r8
        push    %r9
        push    %r10
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        cld
        mov     %rsp, %rdi
        mov     %rsp, %rbx
        and     $-16, %rsp
        call    trap_dispatch
        mov     %rbx, %rsp

restore_registers:
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        pop     %r10
        pop     %r9
        pop     %r8
        pop     %rdx
        pop     %rsi
        pop     %rdi
        add     $16, %rsp                       /* error code, kind */
        mov     $__HYPERVISOR_iret, %eax
        syscall
        ud2

/* void registers_load(const struct registers *): leave the current context for good. */
        .globl registers_load
registers_load:
        mov     %rdi, %rsi
        sub     $REGISTERS_SIZE + 256, %rsp
        and     $-16, %rsp
        mov     %rsp, %rdi
        mov     $REGISTERS_SIZE / 8, %ecx
        rep     movsq
        jmp     restore_registers

/* void context_run(const struct registers *): load them; return to the caller when somebody calls context_leave(). */
        .globl context_run
context_run:
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        mov     %rsp, context_stack(%rip)
        jmp     registers_load

        .globl context_leave
context_leave:
        mov     context_stack(%rip), %rsp
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        ret

/* void guarded_call(void (*function)(void)): call it; the dispatcher resumes at guarded_call_end after a fault in it. */
        .globl guarded_call
        .globl guarded_call_end
guarded_call:
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        sub     $8, %rsp
        mov     %rsp, guarded_stack(%rip)
        call    *%rdi
guarded_call_end:
        movq    $0, guarded_stack(%rip)
        add     $8, %rsp
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        ret

        .bss
        .balign 8
        .globl failsafe_segments
failsafe_segments:
        .skip   32
context_stack:
        .skip   8
        .globl guarded_stack
guarded_stack:
        .skip   8

        .section .note.GNU-stack, "", @progbits

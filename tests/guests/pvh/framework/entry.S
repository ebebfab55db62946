/* The gates of the IDT. Every entry is brought to one layout, `struct registers` of trap.h. */
#include "segments.h"

        .text
        .altmacro
        .macro gate vector
        .balign 16
gate_\vector:
        .if !((\vector == 8) || ((\vector >= 10) && (\vector <= 14)) || (\vector == 17) || (\vector == 21))
        push    $0
        .endif
#ifdef __x86_64__
        pushq   $\vector
#else
        pushl   $\vector
#endif
        jmp     gate_common
        .pushsection .rodata
#ifdef __x86_64__
        .quad gate_\vector
#else
        .long gate_\vector
#endif
        .popsection
        .endm

        .pushsection .rodata
        .balign 8
        .globl gates
gates:
        .popsection
        .set vector, 0
        .rept 256
        gate %vector
        .set vector, vector + 1
        .endr
        .noaltmacro

#ifdef __x86_64__
gate_common:
        push    %rax
        push    %rcx
        push    %rdx
        push    %rbx
        push    %rbp
        push    %rsi
        push    %rdi
        push    %r8
        push    %r9
        push    %r10
        push    %r11
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
        .globl registers_restore
registers_restore:
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %r11
        pop     %r10
        pop     %r9
        pop     %r8
        pop     %rdi
        pop     %rsi
        pop     %rbp
        pop     %rbx
        pop     %rdx
        pop     %rcx
        pop     %rax
        add     $16, %rsp
        iretq

/* void user_enter(struct registers *): run them; return when user_leave is called. */
        .globl user_enter, user_leave
user_enter:
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        mov     %rsp, user_stack(%rip)
        mov     %rdi, %rsp
        jmp     registers_restore
user_leave:
        mov     user_stack(%rip), %rsp
        jmp     pop_and_return

/* void guarded_call(void (*function)(void)): the dispatcher leaves it by guarded_leave after a fault. */
        .globl guarded_call, guarded_leave
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
guarded_leave:
        mov     guarded_stack(%rip), %rsp
        movq    $0, guarded_stack(%rip)
        add     $8, %rsp
pop_and_return:
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        ret
#else
gate_common:
        pusha
        cld
        mov     %esp, %ebx
        push    %ebx
        call    trap_dispatch
        mov     %ebx, %esp
        .globl registers_restore
registers_restore:
        popa
        add     $8, %esp
        iret

        .globl user_enter, user_leave
user_enter:
        mov     4(%esp), %eax
        push    %ebx
        push    %ebp
        push    %esi
        push    %edi
        mov     %esp, user_stack
        mov     %eax, %esp
        jmp     registers_restore
user_leave:
        mov     user_stack, %esp
        jmp     pop_and_return

        .globl guarded_call, guarded_leave
guarded_call:
        mov     4(%esp), %eax
        push    %ebx
        push    %ebp
        push    %esi
        push    %edi
        mov     %esp, guarded_stack
        call    *%eax
guarded_leave:
        mov     guarded_stack, %esp
        movl    $0, guarded_stack
pop_and_return:
        pop     %edi
        pop     %esi
        pop     %ebp
        pop     %ebx
        ret
#endif

        .bss
        .balign 8
user_stack:
        .skip   8
        .globl guarded_stack
guarded_stack:
        .skip   8
        .section .note.GNU-stack, "", @progbits

/*
 * First instructions of a PVH micro-guest: from protected mode without paging, as Xen's note PHYS32_ENTRY promises it, into the mode that the program is
 * built for: long mode (64), PAE paging (PVH_PAE) or 32-bit paging. All of 4 GiB is mapped one to one, for user mode too.
 */
#include <xen/elfnote.h>

#include "segments.h"

#define MSR_EFER 0xc0000080
#define EFER_LME 0x100
#define CR0_PG_WP_NE 0x80010020
#define CR4_PSE 0x10
#define CR4_PAE 0x20
#define CR4_OSFXSR_OSXMMEXCPT 0x600
#define LARGE_PAGE 0x87                         /* present, writable, user, large */
#define TABLE 0x07

        .pushsection .note.Xen, "a", @note
        .balign 4
        .long 4, 4, XEN_ELFNOTE_PHYS32_ENTRY
        .asciz "Xen"
#ifdef PVH_ENTRY
        .long PVH_ENTRY
#else
        .long guest_entry
#endif
        .popsection

        .section .text.boot, "ax", @progbits
        .code32
        .globl _start
        .weak guest_entry                       /* a program may have another first instruction */
guest_entry:
_start:
        mov     %eax, boot_registers + 0x00
        mov     %ecx, boot_registers + 0x04
        mov     %edx, boot_registers + 0x08
        mov     %ebx, boot_registers + 0x0c
        mov     %esp, boot_registers + 0x10
        mov     %ebp, boot_registers + 0x14
        mov     %esi, boot_registers + 0x18
        mov     %edi, boot_registers + 0x1c
        mov     $kernel_stack_top, %esp
        pushf
        pop     boot_registers + 0x20
        mov     %cr0, %eax
        mov     %eax, boot_registers + 0x24
        mov     %cr4, %eax
        mov     %eax, boot_registers + 0x28
        movw    %cs, boot_registers + 0x2c
        movw    %ds, boot_registers + 0x30
        movw    %es, boot_registers + 0x34
        movw    %ss, boot_registers + 0x38
        mov     $MSR_EFER, %ecx
        rdmsr
        mov     %eax, boot_registers + 0x3c
        cld
        call    make_tables
        call    enter_mode
#ifdef __x86_64__
        .code64
#endif
        call    start
        ud2

        .code32
make_tables:
        xor     %ecx, %ecx
1:      mov     %ecx, %eax
#if defined(__x86_64__) || defined(PVH_PAE)
        shl     $21, %eax
        or      $LARGE_PAGE, %eax
        mov     %eax, page_directories(,%ecx,8)
        inc     %ecx
        cmp     $2048, %ecx
        jne     1b
        xor     %ecx, %ecx
2:      mov     %ecx, %eax
        shl     $12, %eax
        add     $page_directories, %eax
#ifdef __x86_64__
        or      $TABLE, %eax
#else
        or      $1, %eax
#endif
        mov     %eax, page_pointers(,%ecx,8)
        inc     %ecx
        cmp     $4, %ecx
        jne     2b
#ifdef __x86_64__
        movl    $page_pointers + TABLE, page_root
#endif
#else
        shl     $22, %eax
        or      $LARGE_PAGE, %eax
        mov     %eax, page_directories(,%ecx,4)
        inc     %ecx
        cmp     $1024, %ecx
        jne     1b
#endif
        ret

/* Paging, descriptor tables and segments of the mode; changes EAX, ECX, EDX. Returns in that mode. */
        .globl enter_mode
enter_mode:
        mov     %cr4, %eax
#if defined(__x86_64__) || defined(PVH_PAE)
        or      $CR4_PAE | CR4_OSFXSR_OSXMMEXCPT, %eax
#else
        or      $CR4_PSE | CR4_OSFXSR_OSXMMEXCPT, %eax
#endif
        mov     %eax, %cr4
        mov     $root_table, %eax
        mov     %eax, %cr3
#ifdef __x86_64__
        mov     $MSR_EFER, %ecx
        rdmsr
        or      $EFER_LME, %eax
        wrmsr
#endif
        lgdtl   gdt_pointer
        mov     %cr0, %eax
        or      $CR0_PG_WP_NE, %eax
        mov     %eax, %cr0
        ljmp    $KERNEL_CS, $1f
#ifdef __x86_64__
        .code64
1:      movslq  (%rsp), %rdx                    /* the caller pushed 4 octets */
        add     $4, %rsp
        mov     $KERNEL_DS, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        xor     %eax, %eax
        mov     %eax, %fs
        mov     %eax, %gs
        jmp     *%rdx
#else
1:      mov     $KERNEL_DS, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        xor     %eax, %eax
        mov     %eax, %fs
        mov     %eax, %gs
        ret
#endif

/* A further vCPU that VCPUOP_initialise started in the mode, with flat segments but no descriptor tables. */
        .globl vcpu_entry
vcpu_entry:
#ifdef __x86_64__
        lgdt    gdt_pointer
        mov     $KERNEL_DS, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        push    $KERNEL_CS
        push    $1f
        lretq
1:      mov     %rbx, %rdi
        call    smp_main
#else
        lgdtl   gdt_pointer
        mov     $KERNEL_DS, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        ljmp    $KERNEL_CS, $1f
1:      push    %ebx
        call    smp_main
#endif
        ud2

/* What a start-up interrupt begins with, copied to TRAMPOLINE: real mode. */
        .code16
        .globl trampoline, trampoline_end
trampoline:
        cli
        lgdtl   %cs:trampoline_gdt - trampoline
        mov     $1, %eax
        mov     %eax, %cr0
        ljmpl   $KERNEL_CS32, $trampoline32
        .balign 4
trampoline_gdt:
        .word   GDT_LIMIT
        .long   gdt
trampoline_end:

        .code32
trampoline32:
        mov     $KERNEL_DS, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     startup_stack, %esp
        call    enter_mode
#ifdef __x86_64__
        .code64
        mov     startup_number, %edi
        call    smp_main
#else
        pushl   startup_number
        call    smp_main
#endif
        ud2

        .data
        .balign 8
        .globl gdt, gdt_pointer
gdt:    .quad   0
        .quad   0x00cf9b000000ffff              /* KERNEL_CS32 */
#ifdef __x86_64__
        .quad   0x00af9b000000ffff              /* KERNEL_CS */
#else
        .quad   0x00cf9b000000ffff
#endif
        .quad   0x00cf93000000ffff              /* KERNEL_DS */
        .quad   0x00cffb000000ffff              /* USER_CS32 */
        .quad   0x00cff3000000ffff              /* USER_DS */
#ifdef __x86_64__
        .quad   0x00affb000000ffff              /* USER_CS */
#else
        .quad   0x00cffb000000ffff
#endif
        .quad   0x00cff3000000ffff              /* USER_DS again, where SYSEXIT expects it */
        .quad   0x00009b000000ffff              /* CODE16, DATA16: base 0 */
        .quad   0x000093000000ffff
        .fill   GDT_ENTRIES - 10, 8, 0
        .balign 8
        .word   0, 0, 0
gdt_pointer:
        .word   GDT_LIMIT
#ifdef __x86_64__
        .quad   gdt
#else
        .long   gdt
#endif

        .bss
        .balign 4096
#ifdef __x86_64__
        .set    root_table, page_root
        .globl  page_root
page_root:
        .skip   4096
#elif defined(PVH_PAE)
        .set    root_table, page_pointers
#else
        .set    root_table, page_directories
#endif
        .globl  root_table, page_pointers, page_directories
page_pointers:
        .skip   4096
page_directories:
        .skip   4 * 4096
        .skip   32768
        .globl  kernel_stack_top
kernel_stack_top:
        .section .note.GNU-stack, "", @progbits

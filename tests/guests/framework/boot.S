/* First instructions of every micro-guest, and the ELF notes that tell a domain builder how to start it. */
#include <xen/elfnote.h>

        .macro note type, content:vararg
        .pushsection .note.Xen, "a", @note
        .balign 4
        .long 2f - 1f, 4f - 3f, \type
1:      .asciz "Xen"
2:      .balign 4
3:      \content
4:      .balign 4
        .popsection
        .endm

        note XEN_ELFNOTE_GUEST_OS,       .asciz "pyxen-micro-guest"
        note XEN_ELFNOTE_GUEST_VERSION,  .asciz "1"
        note XEN_ELFNOTE_LOADER,         .asciz "generic"
        note XEN_ELFNOTE_XEN_VERSION,    .asciz "xen-3.0"
        note XEN_ELFNOTE_ENTRY,          .quad guest_entry
        note XEN_ELFNOTE_VIRT_BASE,      .quad VIRT_BASE
        note XEN_ELFNOTE_PADDR_OFFSET,   .quad 0
        note XEN_ELFNOTE_HYPERCALL_PAGE, .quad hypercall_page
        note XEN_ELFNOTE_PAE_MODE,       .asciz "yes"
        note XEN_ELFNOTE_FEATURES,       .asciz "mmu_pt_update_preserve_ad|highmem_assist|gnttab_map_avail_bits"

        .section .hypercall_page, "ax", @progbits
        .globl hypercall_page
hypercall_page:
        .fill 4096, 1, 0

/*
 * Keep every register as Xen left it in `boot_registers` (struct boot_registers of start.h) before touching any, then
 * go on to C on our own stack.
 */
        .section .text.boot, "ax", @progbits
        .globl _start
        .weak guest_entry                       /* a program may have another first instruction */
guest_entry:
_start:
        mov     %rax, boot_registers + 0x00(%rip)
        mov     %rcx, boot_registers + 0x08(%rip)
        mov     %rdx, boot_registers + 0x10(%rip)
        mov     %rbx, boot_registers + 0x18(%rip)
        mov     %rsp, boot_registers + 0x20(%rip)
        mov     %rbp, boot_registers + 0x28(%rip)
        mov     %rsi, boot_registers + 0x30(%rip)
        mov     %rdi, boot_registers + 0x38(%rip)
        mov     %r8,  boot_registers + 0x40(%rip)
        mov     %r9,  boot_registers + 0x48(%rip)
        mov     %r10, boot_registers + 0x50(%rip)
        mov     %r11, boot_registers + 0x58(%rip)
        mov     %r12, boot_registers + 0x60(%rip)
        mov     %r13, boot_registers + 0x68(%rip)
        mov     %r14, boot_registers + 0x70(%rip)
        mov     %r15, boot_registers + 0x78(%rip)
        pushfq                                  /* the bootstrap stack must already work */
        pop     %rax
        mov     %rax, boot_registers + 0x80(%rip)
        movw    %cs, boot_registers + 0x88(%rip)
        movw    %ss, boot_registers + 0x90(%rip)
        movw    %ds, boot_registers + 0x98(%rip)
        movw    %es, boot_registers + 0xa0(%rip)
        movw    %fs, boot_registers + 0xa8(%rip)
        movw    %gs, boot_registers + 0xb0(%rip)
        cld
        lea     kernel_stack_top(%rip), %rsp
        xor     %ebp, %ebp
        call    start
        ud2

        .bss
        .balign 4096
        .skip   32768
        .globl kernel_stack_top
kernel_stack_top:
        .balign 4096
        .skip   16384
        .globl trap_stack_top                   /* where Xen pushes frames that come from user mode */
trap_stack_top:

        .section .note.GNU-stack, "", @progbits

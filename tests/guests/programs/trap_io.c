/* in/out: #GP(0) until PHYSDEVOP_set_iopl or set_iobitmap allows them; then Xen emulates ports that the domain does not own. */
#include "guest.h"

USER_CODE(user_in, "in $0x80, %al\n mov %rax, %rdi\n syscall");

static struct trap_record port_in(u16 port)
{
    return TRAP_OF(MAY_FAULT("inb %%dx, %%al")::"d"(port), "a"(0) : "memory");
}

static long set_iopl(unsigned iopl)
{
    struct physdev_set_iopl argument = {.iopl = iopl};

    return hypercall_physdev_op(PHYSDEVOP_set_iopl, &argument);
}

static long set_iobitmap(u8 *bitmap, unsigned ports)
{
    struct physdev_set_iobitmap argument = {.nr_ports = ports};

    set_xen_guest_handle(argument.bitmap, bitmap);
    return hypercall_physdev_op(PHYSDEVOP_set_iobitmap, &argument);
}

PROGRAM(trap_io)
{
    static u8 bitmap[8192], buffer[4];
    struct trap_record trap;
    u32 value;

    trap = port_in(0x80);
    check_trap(trap, VECTOR_GP, 0, "inb");
    trap = TRAP_OF(MAY_FAULT("outl %%eax, %%dx")::"d"(0xcf8), "a"(0) : "memory");
    check_trap(trap, VECTOR_GP, 0, "outl");
    trap = TRAP_OF(MAY_FAULT("outb %%al, $0xe9")::"a"(0) : "memory");
    check_trap(trap, VECTOR_GP, 0, "outb to an immediate port");
    trap = TRAP_OF(MAY_FAULT("insb")::"d"(0x80), "D"(buffer) : "memory");
    check_trap(trap, VECTOR_GP, 0, "insb");
    trap = TRAP_OF(MAY_FAULT("outsb")::"d"(0x80), "S"(buffer) : "memory");
    check_trap(trap, VECTOR_GP, 0, "outsb");

    check_equal(set_iopl(4), -XEN_EINVAL, "IOPL 4");
    check_equal(set_iopl(1), 0, "IOPL 1");
    trap_forget();
    asm volatile("inb %%dx, %%al" : "=a"(value) : "d"(0x80), "0"(0));
    check_equal(value, 0xff, "inb from a port nobody owns reads ones");
    asm volatile("inl %%dx, %%eax" : "=a"(value) : "d"(0x1234), "0"(0));
    check_equal(value, 0xffffffff, "inl too");
    trap = TRAP_OF("outb %%al, $0x80" ::"a"(0x55) : "memory");
    check_equal(trap.kind, KIND_NONE, "outb is ignored");
    u64 flags;

    asm volatile("pushf; pop %0" : "=r"(flags));
    check_equal(flags & X86_EFLAGS_IOPL, 0, "PUSHF still shows IOPL 0");

    user_init();
    trap = user_run_code(user_in);
    check_trap(trap, VECTOR_GP, 0, "in from user mode with IOPL 1");
    check_equal(trap.registers.rip, USER_CODE_ADDRESS, "RIP at it");
    set_iopl(3);
    trap = user_run_code(user_in);
    check_equal(trap.kind, KIND_SYSCALL, "in from user mode with IOPL 3");
    check_equal(trap.registers.rdi & 0xff, 0xff, "reads ones");
    set_iopl(0);
    trap = port_in(0x80);
    check_trap(trap, VECTOR_GP, 0, "inb with IOPL 0 again");

    memset(bitmap, 0xff, sizeof(bitmap));
    bitmap[0x80 / 8] &= ~1;
    check_equal(set_iobitmap(bitmap, 65537), -XEN_EINVAL, "a bitmap of 65537 ports");
    check_equal(set_iobitmap(bitmap, 65536), 0, "a bitmap that allows port 0x80");
    trap = port_in(0x80);
    check_equal(trap.kind, KIND_NONE, "inb from the allowed port");
    trap = port_in(0x81);
    check_trap(trap, VECTOR_GP, 0, "inb from the next one");
    trap = TRAP_OF(MAY_FAULT("inw %%dx, %%ax")::"d"(0x80), "a"(0) : "memory");
    check_trap(trap, VECTOR_GP, 0, "inw that covers both");
    trap = user_run_code(user_in);
    check_equal(trap.kind, KIND_SYSCALL, "in from user mode by the bitmap");
    check_equal(set_iobitmap(NULL, 0), 0, "no bitmap");
    trap = port_in(0x80);
    check_trap(trap, VECTOR_GP, 0, "inb without a bitmap");
}

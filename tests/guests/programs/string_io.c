/* ins and outs, with and without REP: #GP(0) without permission, else emulated: counters, direction, address sizes, faults, single step. */
#include "guest.h"

USER_CODE(user_insb, "mov $0x401000, %edi\n mov $3, %ecx\n mov $0x80, %edx\n rep insb\n syscall");
USER_CODE(user32_outsb, ".code32\n mov $0xe02b, %eax\n mov %eax, %ds\n mov $0x401000, %esi\n mov $2, %ecx\n mov $0x80, %edx\n"
                        " rep outsb\n int $0x80");

static unsigned steps;

static void step(struct registers *registers)
{
    if (++steps == 6)
        registers->rflags &= ~X86_EFLAGS_TF;
}

static void set_iopl(unsigned iopl)
{
    struct physdev_set_iopl argument = {.iopl = iopl};

    check_equal(hypercall_physdev_op(PHYSDEVOP_set_iopl, &argument), 0, "set_iopl");
}

static void check_ins(u8 *buffer)
{
    unsigned long to = (unsigned long)buffer, count = 5;
    struct trap_record trap;

    memset(buffer, 0x11, 16);
    asm volatile("rep insb" : "+D"(to), "+c"(count) : "d"(0x80) : "memory");
    check_equal(to, (unsigned long)buffer + 5, "rep insb moves RDI");
    check_equal(count, 0, "and counts RCX");
    check(buffer[4] == 0xff && buffer[5] == 0x11, "five octets of ones");
    to = (unsigned long)buffer + 8;
    asm volatile("std; insl; cld" : "+D"(to) : "d"(0x80) : "memory");
    check_equal(to, (unsigned long)buffer + 4, "insl with DF moves RDI down");
    check(buffer[7] == 0x11 && buffer[8] == 0xff && buffer[11] == 0xff && buffer[12] == 0x11, "four octets");
    count = 0;
    to = UNMAPPED;
    asm volatile("rep insb" : "+D"(to), "+c"(count) : "d"(0x80) : "memory");
    check_equal(to, UNMAPPED, "a count of 0 does nothing");
    count = 100000;
    to = (unsigned long)buffer;
    trap = TRAP_OF(MAY_FAULT("rep insw") : "+D"(to), "+c"(count) : "d"(0x80) : "memory");
    check_trap(trap, VECTOR_PF, PF_WRITE, "rep insw beyond what is mapped");
    check_equal(trap.cr2 & ~1UL, to, "CR2 is where it has come to");
    check_equal((to - (unsigned long)buffer) / 2, 100000 - count, "counters agree");
    trap = TRAP_OF(MAY_FAULT("insb")::"D"(UNMAPPED), "d"(0x80) : "memory");
    check_trap(trap, VECTOR_PF, PF_WRITE, "insb to an unmapped page");
    check_equal(trap.cr2, UNMAPPED, "CR2");
    trap = TRAP_OF(MAY_FAULT("insb")::"D"(NON_CANONICAL), "d"(0x80) : "memory");
    check_trap(trap, VECTOR_GP, 0, "insb to a non-canonical address");
    trap = TRAP_OF(MAY_FAULT("insb")::"D"(XEN_PRIVATE), "d"(0x80) : "memory");
    check_trap(trap, VECTOR_GP, 0, "insb to Xen's memory");
}

static void check_outs(u8 *buffer)
{
    unsigned long from = (unsigned long)buffer, count = 3;
    struct trap_record trap;

    /* What goes to the CMOS index register can be read back. */
    buffer[0] = 1;
    buffer[1] = 2;
    buffer[2] = 0x2c;
    asm volatile("rep outsb" : "+S"(from), "+c"(count) : "d"(0x70) : "memory");
    check_equal(from, (unsigned long)buffer + 3, "rep outsb moves RSI");
    check_equal(count, 0, "and counts RCX");
    asm volatile("inb %%dx, %%al" : "=a"(count) : "d"(0x70), "0"(0));
    check_equal(count, 0x2c, "the last octet is in the register");
    from = (unsigned long)buffer;
    asm volatile("wrmsr" ::"c"(0xc0000100), "a"(1), "d"(0));
    asm volatile("fs outsb" : "+S"(from) : "d"(0x70) : "memory");
    asm volatile("wrmsr" ::"c"(0xc0000100), "a"(0), "d"(0));
    asm volatile("inb %%dx, %%al" : "=a"(count) : "d"(0x70), "0"(0));
    check_equal(count, 2, "a segment prefix counts");
    trap = TRAP_OF(MAY_FAULT("outsl")::"S"(UNMAPPED), "d"(0x80) : "memory");
    check_trap(trap, VECTOR_PF, 0, "outsl from an unmapped page");
    trap = TRAP_OF(MAY_FAULT("outsb")::"S"(NON_CANONICAL), "d"(0x80) : "memory");
    check_trap(trap, VECTOR_GP, 0, "outsb from a non-canonical address");
}

static void check_step(u8 *buffer)
{
    unsigned long to = (unsigned long)buffer, count = 3;

    trap_set_handler(VECTOR_DB, step);
    hypercall_set_debugreg(6, 0);
    asm volatile("pushf; orl $0x100, (%%rsp); popf\n rep insb\n nop\n nop\n nop" : "+D"(to), "+c"(count) : "d"(0x80) : "memory", "cc");
    check_equal(steps, 6, "single step: each element is one");
    check(hypercall_get_debugreg(6) & 0x4000, "DR6.BS");
    trap_set_handler(VECTOR_DB, NULL);
}

static void check_breakpoint(void)
{
    struct trap_record trap;

    asm volatile("mov %0, %%cr4" ::"r"(8UL));
    check_equal(hypercall_set_debugreg(0, 0x80), 0, "DR0 = a port");
    check_equal(hypercall_set_debugreg(6, 0), 0, "DR6");
    check_equal(hypercall_set_debugreg(7, 0x20003), 0, "DR7: I/O with CR4.DE");
    trap_expect(VECTOR_DB);
    trap = TRAP_OF("outb %%al, $0x80" ::"a"(0) : "memory");
    check_trap(trap, VECTOR_DB, 0, "an I/O breakpoint");
    check_equal(hypercall_get_debugreg(6) & 15, 1, "DR6.B0");
    trap = TRAP_OF("outb %%al, $0x81" ::"a"(0) : "memory");
    check_equal(trap.kind, KIND_NONE, "not for the next port");
    trap_unexpect(VECTOR_DB);
    hypercall_set_debugreg(7, 0);
    asm volatile("mov %0, %%cr4" ::"r"(0UL));
}

PROGRAM(string_io)
{
    static u8 page[2 * PAGE_SIZE] page_aligned;
    struct registers registers = user_registers();
    struct trap_record trap;
    u32 value;

    trap = TRAP_OF(MAY_FAULT("rep insb")::"D"(page), "c"(1), "d"(0x80) : "memory");
    check_trap(trap, VECTOR_GP, 0, "rep insb with IOPL 0");
    trap = TRAP_OF(MAY_FAULT("outsw")::"S"(page), "d"(0x80) : "memory");
    check_trap(trap, VECTOR_GP, 0, "outsw with IOPL 0");
    set_iopl(1);
    map_page(page + PAGE_SIZE, page + PAGE_SIZE, 0);
    check_ins(page);
    check_outs(page);
    check_step(page);
    check_breakpoint();
    asm volatile("outl %%eax, %%dx" ::"a"(0x80001234), "d"(0xcf8));
    asm volatile("inl %%dx, %%eax" : "=a"(value) : "d"(0xcf8), "0"(0));
    check_equal(value, 0x80001234, "PCI's address register holds what is written");
    asm volatile("inl %%dx, %%eax" : "=a"(value) : "d"(0xcfc), "0"(0));
    check_equal(value, 0xffffffff, "and there is nothing behind it");

    user_init();
    trap = user_run_code(user_insb);
    check_trap(trap, VECTOR_GP, 0, "user: rep insb with IOPL 1");
    set_iopl(3);
    user_data[3] = 0x11;
    trap = user_run_code(user_insb);
    check_equal(trap.kind, KIND_SYSCALL, "user: rep insb with IOPL 3");
    check(user_data[2] == 0xff && user_data[3] == 0x11, "three octets");
    trap_table_install(0x80, 3);
    registers.cs = FLAT_USER_CS32;
    registers.ss = FLAT_USER_SS32;
    trap = user_run(user32_outsb, user32_outsb_end, registers);
    check_trap(trap, 0x80, 0, "32-bit user: rep outsb");
    check_equal(trap.registers.rsi, USER_DATA_ADDRESS + 2, "ESI");
    set_iopl(0);
}

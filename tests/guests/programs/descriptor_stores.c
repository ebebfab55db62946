/* SGDT, SIDT, SLDT, STR and SMSW: Xen does not give PV guests UMIP, so they work at every level, and show Xen's tables and selectors. */
#include "guest.h"

#define STORES \
    "sgdt 0x401100\n sidt 0x401110\n sldt %ebx\n str %esi\n smsw %edx\n"

USER_CODE(user_stores, STORES "syscall");
USER_CODE(user32_stores, ".code32\n mov $0xe02b, %eax\n mov %eax, %ds\n sgdt 0x401100\n sidt 0x401110\n sldt %ebx\n str %esi\n smsw %edx\n int $0x80");

struct table {
    u16 limit;
    u64 base;
} __attribute__((packed));

static bool in_xen(u64 address)
{
    return address >= 0xffff800000000000 && address < 0xffff880000000000;
}

static void check_selectors(u64 ldt, u64 task, u64 machine_status)
{
    check_equal(ldt & 0xffff, 0, "SLDT: no LDT");
    check_equal(task & 0xffff, 0xe040, "STR: Xen's task");
    check_equal(machine_status & 0x33, 0x33, "SMSW: PE, MP, ET, NE");
}

PROGRAM(descriptor_stores)
{
    struct table gdt, idt;
    struct registers registers = user_registers();
    struct trap_record trap;
    u64 ldt = 0, task = 0, machine_status = 0, *table = page_alloc();
    u32 eax = 7, ebx, ecx = 0, edx;

    asm volatile(XEN_EMULATE_PREFIX "cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
    check(!(ecx & 4), "CPUID does not show UMIP");
    asm volatile("sgdt %0" : "=m"(gdt));
    asm volatile("sidt %0" : "=m"(idt));
    asm volatile("sldt %0; str %1; smsw %2" : "=r"(ldt), "=r"(task), "=r"(machine_status));
    check_equal(gdt.limit, 0xefff, "SGDT: the limit");
    check(in_xen(gdt.base), "the GDT is in Xen's range: 0x%lx", gdt.base);
    check_equal(idt.limit, 0xfff, "SIDT: the limit");
    check(in_xen(idt.base), "the IDT is in Xen's range: 0x%lx", idt.base);
    check_selectors(ldt, task, machine_status);
    map_page(table, table, PTE_READ_ONLY);
    check_equal(mmuext(MMUEXT_SET_LDT, (unsigned long)table, 512), 0, "SET_LDT");
    asm volatile("sldt %0" : "=r"(ldt));
    check_equal(ldt & 0xffff, 0xe050, "SLDT: Xen's entry for it");
    check_equal(mmuext(MMUEXT_SET_LDT, 0, 0), 0, "no LDT");

    user_init();
    trap = user_run_code(user_stores);
    check_equal(trap.kind, KIND_SYSCALL, "user mode too");
    check_selectors(trap.registers.rbx, trap.registers.rsi, trap.registers.rdx);
    check(!memcmp(user_data + 0x100, &gdt, sizeof(gdt)) && !memcmp(user_data + 0x110, &idt, sizeof(idt)), "the same tables");
    trap_table_install(0x80, 3);
    registers.cs = FLAT_USER_CS32;
    registers.ss = FLAT_USER_SS32;
    trap = user_run(user32_stores, user32_stores_end, registers);
    check_trap(trap, 0x80, 0, "32-bit user mode");
    check_selectors(trap.registers.rbx, trap.registers.rsi, trap.registers.rdx);
    check(!memcmp(user_data + 0x100, &gdt, 6), "the lower half of the same table");
}

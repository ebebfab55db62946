/* 32-bit user space: segment bases, limits, expand-down and types, far jumps, calls, returns and loads of all selectors by the processor. */
#include "guest.h"

#define LDT_SELECTOR(index) ((index) << 3 | 7)
#define TO_TEXT(x) #x
#define TEXT(x) TO_TEXT(x)

/* Entries of the LDT. Data segments begin at the data page. */
enum { SMALL = 1, READ_ONLY, DOWN, EXECUTE_ONLY, ABSENT, SHORT_CODE, CODE16, CONFORMING, EMPTY };

#define LOAD(index, seg) "mov $" #index " * 8 + 7, %eax\n mov %eax, %" #seg "\n"
#define FLAT_DS ".code32\n mov $0xe02b, %eax\n mov %eax, %ds\n mov %eax, %es\n"
USER_CODE(within, FLAT_DS LOAD(1, fs) " mov %fs:12, %ebx\n int $0x80");
USER_CODE(beyond, FLAT_DS LOAD(1, fs) " mov %fs:13, %ebx");
USER_CODE(stack_limit, FLAT_DS LOAD(1, ss) " mov $16, %esp\n push %eax\n push $0x77\n mov $18, %esp\n push %eax");
USER_CODE(write_read_only, FLAT_DS LOAD(2, ds) " mov 0, %ebx\n mov %ebx, 0");
USER_CODE(down_inside, FLAT_DS LOAD(3, ds) " mov 0x100, %ebx\n int $0x80");
USER_CODE(down_below, FLAT_DS LOAD(3, ds) " mov 0xff, %ebx");
USER_CODE(load_execute_only, FLAT_DS LOAD(4, es));
USER_CODE(load_absent, FLAT_DS LOAD(5, gs));
USER_CODE(load_absent_ss, FLAT_DS LOAD(5, ss));
USER_CODE(load_empty, FLAT_DS LOAD(9, ds));
USER_CODE(load_null_ss, FLAT_DS "xor %eax, %eax\n mov %eax, %ss");
USER_CODE(null_ds, FLAT_DS "xor %eax, %eax\n mov %eax, %ds\n mov %ds, %ecx\n mov 0x401000, %ebx");
USER_CODE(write_code, FLAT_DS "mov %cs:0x401000, %ebx\n mov %ebx, %cs:0x401000");
USER_CODE(load_pointers, FLAT_DS "movl $0x1234, 0x401800\n movw $0x0f, 0x401804\n lfs 0x401800, %ebx\n lgs 0x401800, %ecx\n lds 0x401800, %edx\n"
                         " mov %fs, %esi\n mov %gs, %edi\n mov %ds, %ebp\n int $0x80");
USER_CODE(jump_direct, FLAT_DS "ljmp $0xe033, $0x400017\n .byte 0, 0, 0, 0\n .code64\n nop\n nop\n nop\n nop\n mov %cs, %ebx\n syscall");
USER_CODE(call_back, FLAT_DS "lcall $0x47, $0x400030\n mov %cs, %ecx\n int $0x80\n .org call_back + 0x30\n mov %cs, %ebx\n mov (%esp), %esi\n lret");
USER_CODE(call_xen, FLAT_DS "lcall $0xe008, $0");
USER_CODE(call_data, FLAT_DS "lcall $0xe02b, $0");
USER_CODE(call_absent, FLAT_DS "lcall $0x2f, $0");
USER_CODE(call_beyond, FLAT_DS "lcall $0x37, $0x10000");
USER_CODE(call_empty, FLAT_DS "lcall $0x4f, $0");
USER_CODE(jump_memory, FLAT_DS "movl $0x400040, 0x401800\n movw $0xe033, 0x401804\n ljmp *0x401800\n .org jump_memory + 0x40\n .code64\n mov %cs, %ebx\n"
                       " syscall");
USER_CODE(call_xen64, "movq $0, 0x401800\n movw $0xe008, 0x401804\n lcall *0x401800");
USER_CODE(return_xen64, "push $0xe008\n push $0\n lretq");
USER_CODE(iret_ring0, "push $0xe02b\n push $0x403f00\n pushf\n push $0xe008\n push $0x400000\n iretq");
USER_CODE(iret_iopl, "push $0xe02b\n push $0x403f00\n push $0x3002\n push $0xe033\n push $1f\n 1: nop");
USER_CODE(run_short_code, ".code32\n nop\n nop\n nop\n nop\n nop");

static struct registers registers32;

#define run(name) user_run(name, name##_end, registers32)

static u64 data_segment(u64 access, u32 limit, bool small_pages)
{
    u64 value = (u64)(limit & 0xffff) | (u64)(limit >> 16 & 15) << 48 | access << 40 | 1UL << 54 | (u64)small_pages << 55;

    return descriptor_with_base(value, USER_DATA_ADDRESS);
}

static void set_ldt(u64 *table)
{
    table[SMALL] = data_segment(0xf3, 15, false);
    table[READ_ONLY] = data_segment(0xf1, 0xfff, false);
    table[DOWN] = data_segment(0xf7, 0xff, false);
    table[EXECUTE_ONLY] = DESCRIPTOR_CODE32 & ~(2UL << 40);
    table[ABSENT] = DESCRIPTOR_CODE32 & ~DESCRIPTOR_P;
    table[SHORT_CODE] = (DESCRIPTOR_CODE32 & ~(0xfUL << 48 | 1UL << 55 | 0xffff)) | 0x0002 | 0x4UL << 52 | USER_CODE_ADDRESS << 16;
    table[CODE16] = DESCRIPTOR_CODE32 & ~(1UL << 54);
    table[CONFORMING] = DESCRIPTOR_CODE32 | 4UL << 40;
    map_page(table, table, PTE_READ_ONLY);
    check_equal(mmuext(MMUEXT_SET_LDT, (unsigned long)table, 16), 0, "SET_LDT");
}

static void check_limits(void)
{
    struct trap_record trap;

    *(u32 *)(user_data + 12) = 0xabcd;
    trap = run(within);
    check_trap(trap, 0x80, 0, "the last doubleword of a segment of 16 octets");
    check_equal(trap.registers.rbx, 0xabcd, "is the one at its base + 12");
    trap = run(beyond);
    check_trap(trap, VECTOR_GP, 0, "one octet beyond it");
    trap = run(stack_limit);
    check_trap(trap, VECTOR_SS, 0, "a push beyond the limit of SS");
    check_equal(*(u32 *)(user_data + 8), 0x77, "after pushes within it");
    check_equal(trap.registers.rsp, 18, "ESP as before");
    trap = run(write_read_only);
    check_trap(trap, VECTOR_GP, 0, "a store into a read-only segment");
    trap = run(down_inside);
    check_trap(trap, 0x80, 0, "expand-down: above the limit");
    trap = run(down_below);
    check_trap(trap, VECTOR_GP, 0, "expand-down: at the limit");
    trap = run(null_ds);
    check_trap(trap, VECTOR_GP, 0, "a load through a null DS");
    check_equal(trap.registers.rcx & 0xffff, 0, "which reads 0");
    trap = run(write_code);
    check_trap(trap, VECTOR_GP, 0, "a store through CS");
    registers32.cs = LDT_SELECTOR(SHORT_CODE);
    registers32.rip = 0;
    trap = run(run_short_code);
    check_trap(trap, VECTOR_GP, 0, "code beyond the limit of CS");
    check_equal(trap.registers.rip, 3, "EIP at it");
    registers32.cs = FLAT_USER_CS32;
    registers32.rip = USER_CODE_ADDRESS;
}

static void check_loads(void)
{
    struct trap_record trap;

    check_trap(run(load_execute_only), VECTOR_GP, EXECUTE_ONLY << 3 | 4, "ES = execute-only code");
    check_trap(run(load_absent), VECTOR_NP, ABSENT << 3 | 4, "GS = not present");
    trap = run(load_absent_ss);
    check_trap(trap, VECTOR_GP, ABSENT << 3 | 4, "SS = code, not present");
    check_trap(run(load_empty), VECTOR_GP, EMPTY << 3 | 4, "DS = an empty entry");
    check_trap(run(load_null_ss), VECTOR_GP, 0, "SS = null");
    trap = run(load_pointers);
    check_trap(trap, 0x80, 0, "lfs, lgs, lds");
    check(trap.registers.rbx == 0x1234 && trap.registers.rcx == 0x1234 && trap.registers.rdx == 0x1234, "offsets");
    check(trap.registers.rsi == 0x0f && trap.registers.rdi == 0x0f && trap.registers.rbp == 0x0f, "selectors");
}

static void check_far(void)
{
    struct trap_record trap;

    trap = run(jump_direct);
    check_equal(trap.kind, KIND_SYSCALL, "ljmp to 64-bit code");
    check_equal(trap.registers.rbx & 0xffff, FLAT_USER_CS64, "CS");
    trap = run(jump_memory);
    check_equal(trap.kind, KIND_SYSCALL, "ljmp through memory to 64-bit code");
    trap = run(call_back);
    check_trap(trap, 0x80, 0, "lcall to a conforming segment and lret");
    check_equal(trap.registers.rbx & 0xffff, LDT_SELECTOR(CONFORMING), "CS there");
    check_equal(trap.registers.rcx & 0xffff, FLAT_USER_CS32, "CS back");
    check_trap(run(call_xen), VECTOR_GP, 0xe008, "lcall to Xen's code segment");
    check_trap(run(call_data), VECTOR_GP, 0xe028, "lcall to a data segment");
    check_trap(run(call_absent), VECTOR_NP, ABSENT << 3 | 4, "lcall to a segment that is not present");
    check_trap(run(call_beyond), VECTOR_GP, 0, "lcall beyond a limit");
    check_trap(run(call_empty), VECTOR_GP, EMPTY << 3 | 4, "lcall to an empty entry");
    check_trap(user_run_code(call_xen64), VECTOR_GP, 0xe008, "64-bit: lcall to Xen's code segment");
    check_trap(user_run_code(return_xen64), VECTOR_GP, 0xe008, "64-bit: lretq to it");
    check_trap(user_run_code(iret_ring0), VECTOR_GP, 0xe008, "64-bit: iretq to it");
}

PROGRAM(user32_segments)
{
    user_init();
    trap_table_install(0x80, 3);
    registers32 = user_registers();
    registers32.cs = FLAT_USER_CS32;
    registers32.ss = FLAT_USER_SS32;
    set_ldt(page_alloc());
    check_limits();
    check_loads();
    check_far();
}

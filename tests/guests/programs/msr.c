/* MSRs of a PV kernel: a few can be read or written, all others give #GP(0). */
#include "guest.h"

static struct trap_record read_msr(u32 index, u64 *value)
{
    u32 low = 0, high = 0;
    struct trap_record trap = TRAP_OF(MAY_FAULT("rdmsr") : "+a"(low), "+d"(high) : "c"(index) : "memory");

    *value = (u64)high << 32 | low;
    return trap;
}

static struct trap_record write_msr(u32 index, u64 value)
{
    return TRAP_OF(MAY_FAULT("wrmsr")::"c"(index), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}

PROGRAM(msr)
{
    static const u32 unknown[] = {0xdeadbeef, 0x00000765, 0xc0011fff, 0x4b564d00};
    static const u32 ignored[] = {0x8b, 0x79, 0xe7, 0xe8, 0x199, 0x19a, 0x1a0, 0x1b0};
    static const u32 bases[] = {0xc0000100, 0xc0000101, 0xc0000102};
    u64 value, before, tsc;

    check_equal(read_msr(0xc0000080, &value).kind, KIND_NONE, "EFER can be read");
    check_equal(value & 0xd01, 0xd01, "SCE, LME, LMA and NXE are set");
    for (size_t i = 0; i < ARRAY_SIZE(unknown); i++) {
        struct trap_record trap = read_msr(unknown[i], &value);

        check(trap.kind == VECTOR_GP && trap.error == 0, "rdmsr 0x%x is #GP(0), is %u", unknown[i], trap.kind);
        trap = write_msr(unknown[i], 0);
        check(trap.kind == VECTOR_GP && trap.error == 0, "wrmsr 0x%x is #GP(0), is %u", unknown[i], trap.kind);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bases); i++) {
        check(read_msr(bases[i], &before).kind == KIND_NONE, "rdmsr 0x%x", bases[i]);
        check(write_msr(bases[i], 0x123456789000).kind == KIND_NONE, "wrmsr 0x%x", bases[i]);
        read_msr(bases[i], &value);
        check(value == 0x123456789000, "0x%x has it", bases[i]);
        check(write_msr(bases[i], NON_CANONICAL).kind == VECTOR_GP, "wrmsr 0x%x of a non-canonical address is #GP", bases[i]);
        write_msr(bases[i], before);
    }
    for (size_t i = 0; i < ARRAY_SIZE(ignored); i++)
        check(write_msr(ignored[i], ~0UL).kind == KIND_NONE, "wrmsr 0x%x is ignored", ignored[i]);
    check(read_msr(0x1a0, &value).kind == KIND_NONE && value == (1 | 1 << 11 | 1 << 12 | 1 << 23), "MISC_ENABLE: 0x%lx", value);
    check(read_msr(0x345, &value).kind == KIND_NONE && value == 0, "PERF_CAPABILITIES: none");
    check_equal(write_msr(0x345, 0).kind, VECTOR_GP, "which can't be written");
    tsc = rdtsc();
    check_equal(read_msr(0x10, &value).kind, KIND_NONE, "the TSC can be read as an MSR");
    check(value >= tsc, "and goes on");
    check_equal(write_msr(0xc0000081, 0).kind, VECTOR_GP, "STAR is Xen's");
    check_equal(write_msr(0xc0000082, 0).kind, VECTOR_GP, "LSTAR is Xen's");
    check_equal(read_msr(0xc0000082, &value).kind, VECTOR_GP, "and can't be read");
    check_equal(write_msr(0x1b, 0).kind, VECTOR_GP, "APIC_BASE can't be written");
}

/* @modes 64
 * Model-specific registers: the values at the start, what may be written, what faults (reserved bits, unknown registers). */
#include "guest.h"

static struct trap_record try_write(u32 index, u64 value)
{
    return TRAP_OF(MAY_FAULT("wrmsr")::"c"(index), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}

static struct trap_record try_read(u32 index)
{
    return TRAP_OF(MAY_FAULT("rdmsr")::"c"(index) : "rax", "rdx", "memory");
}

static void keeps(u32 index, u64 value, const char *what)
{
    u64 before = rdmsr(index);

    check_equal(try_write(index, value).kind, KIND_NONE, what);
    check_equal(rdmsr(index), value, what);
    wrmsr(index, before);
}

static void refuses(u32 index, u64 value, const char *what)
{
    check_equal(try_write(index, value).kind, VECTOR_GP, what);
}

PROGRAM(msrs)
{
    static const u32 unknown[] = {0x0ff, 0x3f1, 0x480, 0x4b564d00, 0x40000001, 0x400000ff, 0xc0010117, 0xc0000105, 0xffffffff};
    u64 first, cap = rdmsr(MSR_MTRR_CAP);

    check_equal(rdmsr(MSR_PAT), 0x0007040600070406, "PAT at the start");
    keeps(MSR_PAT, 0x0107040600070406, "PAT");
    refuses(MSR_PAT, 2, "a memory type that does not exist in the PAT");
    refuses(MSR_PAT, 8ULL << 56, "another one");
    check_equal(cap & 0xff, 8, "variable ranges of memory types");
    keeps(0x200, 0x80000006, "base of a variable range");
    keeps(0x201, 0xf80000800, "mask of a variable range");
    refuses(0x200, 0x80000002, "a memory type that does not exist in a range");
    refuses(0x201, 1ULL << 60, "a range beyond the processor's addresses");
    keeps(0x250, 0x0606060606060600, "a fixed range");
    refuses(0x250, 0x0606060606060602, "a memory type that does not exist in a fixed range");
    refuses(MSR_MTRR_CAP, cap, "the capabilities can't be written");
    keeps(MSR_MTRR_DEFAULT, 0xc00, "default type");
    refuses(MSR_MTRR_DEFAULT, 0x1000, "a reserved bit of the default type");
    check_equal(rdmsr(MSR_EFER), EFER_LME | EFER_LMA, "EFER");
    keeps(MSR_EFER, EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE, "EFER.SCE, NXE");
    refuses(MSR_EFER, EFER_LMA, "EFER.LME off while paging is on");
    refuses(MSR_EFER, EFER_LME | EFER_LMA | 1 << 12, "EFER.SVME");
    refuses(MSR_EFER, EFER_LME | EFER_LMA | 1 << 1, "a reserved bit of EFER");
    refuses(MSR_EFER, EFER_LME | EFER_LMA | 1ULL << 40, "another one");
    keeps(MSR_STAR, 0x0023001000000000, "STAR");
    keeps(MSR_LSTAR, 0xffff800000001234, "LSTAR");
    refuses(MSR_LSTAR, 0x0000800000000000, "LSTAR that is not canonical");
    keeps(MSR_CSTAR, 0x12345678, "CSTAR");
    refuses(MSR_CSTAR, 0x8000000000000000, "CSTAR that is not canonical");
    keeps(MSR_SFMASK, 0x47700, "SFMASK");
    keeps(MSR_FS_BASE, 0x7fffffffe000, "FS base");
    refuses(MSR_FS_BASE, 0x0000800000000000, "FS base that is not canonical");
    keeps(MSR_GS_BASE, 0xffffffff80000000, "GS base");
    keeps(MSR_KERNEL_GS_BASE, 0x1234, "kernel GS base");
    refuses(MSR_KERNEL_GS_BASE, 1ULL << 47, "kernel GS base that is not canonical");
    keeps(MSR_SYSENTER_CS, KERNEL_CS, "SYSENTER_CS");
    keeps(MSR_SYSENTER_EIP, 0x1234, "SYSENTER_EIP");
    refuses(MSR_SYSENTER_ESP, 0x0000800000000000, "SYSENTER_ESP that is not canonical");
    check_equal(rdmsr(MSR_APIC_BASE), APIC_ADDRESS | APIC_ENABLED | 0x100, "APIC base: enabled, boot processor");
    refuses(MSR_APIC_BASE, APIC_ADDRESS | APIC_X2, "x2APIC without enable");
    refuses(MSR_APIC_BASE, APIC_ADDRESS | APIC_ENABLED | 0x101, "a reserved bit of the APIC base");
    refuses(0x802, 0, "x2APIC registers while it is no x2APIC");
    check_equal(try_read(0x802).kind, VECTOR_GP, "nor can they be read");
    refuses(MSR_SPEC_CTRL, 1ULL << 20, "a reserved bit of SPEC_CTRL");
    check_equal(try_read(MSR_TSC).kind, KIND_NONE, "the TSC");
    first = rdmsr(MSR_TSC);
    check(rdtsc() - first < 1ULL << 32 && rdtsc() > first, "it is that of RDTSC");
    for (unsigned i = 0; i < ARRAY_SIZE(unknown); i++) {
        check_equal(try_read(unknown[i]).kind, VECTOR_GP, "read of a register that is not there");
        check_equal(try_write(unknown[i], 0).kind, VECTOR_GP, "write of a register that is not there");
    }
}

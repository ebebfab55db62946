/* XSA-108: the x2APIC's MSRs end where its registers end. XSA-269, XSA-351, XSA-444: MSRs that let a guest trace branches into memory, read the processor's energy
 * counters, or set breakpoints masks, are not there. XSA-60: CR0.CD is the guest's own affair. */
#include "guest.h"

static unsigned read_of(u32 index)
{
    return TRAP_OF(MAY_FAULT("rdmsr")::"c"(index) : "rax", "rdx", "memory").kind;
}

static unsigned write_of(u32 index, u64 value)
{
    return TRAP_OF(MAY_FAULT("wrmsr")::"c"(index), "a"((u32)value), "d"((u32)(value >> 32)) : "memory").kind;
}

PROGRAM(xsa_108_msr_ranges)
{
    static const u32 energy[] = {0x606, 0x610, 0x611, 0x619, 0x639, 0x641, 0x64d, 0xc0010299, 0xc001029a, 0xc001029b};
    static const u32 masks[] = {0xc0011019, 0xc001101a, 0xc001101b, 0xc0011027};
    unsigned readable = 0;
    u64 started = clock_now();

    for (unsigned mode = 0; mode < 2; mode++) {
        readable = 0;
        for (u32 index = 0x800; index < 0xc00; index++) {
            unsigned kind = read_of(index);

            if (kind == KIND_NONE)
                readable++;
            if (index >= 0x840)
                check_equal(kind, VECTOR_GP, "a register beyond the x2APIC's");
            else if (kind != KIND_NONE && kind != VECTOR_GP)
                check(false, "register 0x%x gives trap %u", index, kind);
        }
        check(mode ? readable > 20 && readable < 64 : !readable, "%u registers of the range can be read", readable);
        for (u32 index = 0x840; index < 0xc00; index++)
            if (write_of(index, 0) != VECTOR_GP)
                check(false, "register 0x%x can be written", index);
        apic_use_x2();
    }
    check_equal(write_of(0x1d9, 0xc0), VECTOR_GP, "DEBUGCTL: branch trace store");
    check_equal(write_of(0x600, 0x1000), VECTOR_GP, "its area");
    for (unsigned i = 0; i < ARRAY_SIZE(energy); i++)
        check_equal(read_of(energy[i]), VECTOR_GP, "a counter of energy");
    for (unsigned i = 0; i < ARRAY_SIZE(masks); i++) {
        check_equal(read_of(masks[i]), VECTOR_GP, "an address mask of breakpoints");
        check_equal(write_of(masks[i], 0xfff), VECTOR_GP, "it can't be written");
    }
    write_cr0(read_cr0() | CR0_CD);
    asm volatile("wbinvd");
    write_cr0(read_cr0() & ~CR0_CD);
    check(clock_now() - started < 5 * SECONDS, "none of it takes long");
}

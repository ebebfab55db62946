/* XSA-108: x2APIC MSR reads reached other pages of the hypervisor. XSA-193: segment bases by WRMSR without a canonical check. XSA-253: writes
 * leaked memory. XSA-269: DEBUGCTL let guests use the branch trace store. XSA-333: MISC_ENABLE crashed the host where it does not exist.
 * XSA-351: power MSRs told what others compute. XSA-444: AMD's breakpoint address masks. XSA-279: INVPCID and INVLPG of odd addresses. */
#include "guest.h"

static struct trap_record read_msr(u32 msr, u64 *value)
{
    u32 low = 0, high = 0;
    struct trap_record trap = TRAP_OF(MAY_FAULT("rdmsr") : "+a"(low), "+d"(high) : "c"(msr) : "memory");

    *value = (u64)high << 32 | low;
    return trap;
}

static unsigned write_msr(u32 msr, u64 value)
{
    return TRAP_OF(MAY_FAULT("wrmsr")::"c"(msr), "a"((u32)value), "d"((u32)(value >> 32)) : "memory").kind;
}

PROGRAM(xsa_108_model_specific_registers)
{
    static const u32 secret[] = {0x606, 0x610, 0x611, 0x613, 0x614, 0x618, 0x619, 0x639, 0x641, 0x64d, 0xc0010299, 0xc001029a, 0xc001029b, 0x621,
                                 0x3a, 0x48, 0x1c9, 0x1db, 0x1dc, 0x174, 0x175, 0x176, 0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0x1b};
    static const u64 bad_bases[] = {NON_CANONICAL, 0xffff7fffffffffffUL, XEN_PRIVATE, HYPERVISOR_VIRT_START};
    static const u32 bases[] = {0xc0000100, 0xc0000101, 0xc0000102};
    u64 value;
    struct {
        u64 pcid, address;
    } descriptor = {0, NON_CANONICAL};

    for (u32 msr = 0x800; msr < 0xc00; msr++)
        if (read_msr(msr, &value).kind != VECTOR_GP)
            check(false, "XSA-108: RDMSR 0x%x gives 0x%lx", msr, value);
    check(true, "XSA-108: x2APIC registers can't be read");
    for (size_t i = 0; i < ARRAY_SIZE(secret); i++) {
        struct trap_record trap = read_msr(secret[i], &value);

        check(trap.kind == VECTOR_GP || value == 0, "XSA-351: RDMSR 0x%x gives 0x%lx", secret[i], value);
        check(write_msr(secret[i], ~0UL) == VECTOR_GP, "XSA-351: WRMSR 0x%x", secret[i]);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bases); i++)
        for (size_t j = 0; j < ARRAY_SIZE(bad_bases); j++) {
            check_equal(write_msr(bases[i], bad_bases[j]), VECTOR_GP, "XSA-193: a segment base outside of the guest's addresses");
            check(hypercall_set_segment_base(i, bad_bases[j]) < 0, "XSA-193: the same by set_segment_base");
        }
    check_equal(write_msr(0x1d9, 1 << 6 | 1 << 7), VECTOR_GP, "XSA-269: DEBUGCTL with TR and BTS");
    check_equal(write_msr(0x1d9, 1), VECTOR_GP, "XSA-269: DEBUGCTL with LBR");
    check(read_msr(0x1a0, &value).kind == KIND_NONE || value == 0, "XSA-333: RDMSR MISC_ENABLE");
    write_msr(0x1a0, ~0UL);
    write_msr(0x1a0, 0);
    check(read_msr(0x1a0, &value).kind == KIND_NONE || value == 0, "XSA-333: and it can still be read");
    for (u32 msr = 0xc0011019; msr <= 0xc0011027; msr++)
        if (msr <= 0xc001101b || msr == 0xc0011027)
            check_equal(write_msr(msr, ~0UL), VECTOR_GP, "XSA-444: a breakpoint address mask");
    for (int i = 0; i < 500; i++)
        write_msr(0xc0000000 + i, i);
    check(true, "XSA-253: many writes");
    write_msr(0xc0000100, 0);
    write_msr(0xc0000101, 0);
    write_msr(0xc0000102, 0);
    check(TRAP_OF(MAY_FAULT("invpcid (%0), %1")::"r"(&descriptor), "r"(0UL) : "memory").kind != KIND_NONE, "XSA-279: INVPCID is not the guest's");
    TRAP_OF(MAY_FAULT("invlpg (%0)")::"r"(NON_CANONICAL) : "memory");
    mmuext(MMUEXT_INVLPG_LOCAL, NON_CANONICAL, 0);
    check_equal(mmuext(MMUEXT_INVLPG_ALL, 0xffff7fffffffffffUL, 0), 0, "XSA-279: INVLPG_ALL of a non-canonical address does nothing");
}

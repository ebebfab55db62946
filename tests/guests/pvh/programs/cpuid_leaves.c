/* @modes 64
 * The leaves of Xen for HVM guests (arch-x86/cpuid.h), and what the processor's own leaves say of the local APIC. */
#include "guest.h"

PROGRAM(cpuid_leaves)
{
    u32 leaf[4], identifier[4] = {0};
    struct vcpu_info *info = event_vcpu_info(0);

    cpuid(1, 0, leaf);
    check(leaf[2] >> 31, "the bit of hypervisors");
    check(leaf[2] >> 21 & 1, "x2APIC");
    check(leaf[2] >> 24 & 1, "TSC deadline timer");
    check(leaf[3] >> 9 & 1, "local APIC");
    check_equal(leaf[1] >> 24, apic_read(APIC_ID) >> 24, "APIC id of leaf 1 and of the register");
    cpuid(0x40000000, 0, leaf);
    check(leaf[0] >= 0x40000004, "leaves up to 0x%x", leaf[0]);
    memcpy(identifier, &leaf[1], 12);
    check(!strcmp((char *)identifier, "XenVMMXenVMM"), "identification");
    cpuid(0x40000001, 0, leaf);
    check_equal(leaf[0], HYPERCALL(xen_version, XENVER_version, 0), "version, as of xen_version");
    cpuid(0x40000002, 0, leaf);
    check_equal(leaf[0], 1, "pages of hypercalls");
    check_equal(leaf[1], MSR_HYPERCALL_PAGE, "the MSR that places them");
    check_equal(leaf[2] & 0xffff0000, 0, "no features that 4.17 does not know");
    cpuid(0x40000003, 0, leaf);
    check_equal(leaf[2] / 1000 * 1000 != 0, 1, "the TSC has a frequency");
    cpuid(0x40000003, 1, leaf);
    /* vcpu_info's is adjusted by up to 250 ppm. */
    check(leaf[2] / 1000 - info->time.tsc_to_system_mul / 1000 + leaf[2] / 1000000 < leaf[2] / 500000, "multiplier 0x%x, as 0x%x in vcpu_info", leaf[2],
          info->time.tsc_to_system_mul);
    check_equal((signed char)leaf[3], info->time.tsc_shift, "shift, as in vcpu_info");
    cpuid(0x40000004, 0, leaf);
    check(leaf[0] & 1 << 3, "EBX is a vCPU's id");
    check_equal(leaf[1], 0, "that of the first vCPU");
    check(leaf[0] & 1 << 4, "ECX is a domain's id");
    check(leaf[2] && leaf[2] < 0x7ff0, "domain %u", leaf[2]);
    check_equal(leaf[0] & ~0x3fu, 0, "no bits that 4.17 does not know");
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) & ~(u64)APIC_ENABLED);
    cpuid(1, 0, leaf);
    check_equal(leaf[3] >> 9 & 1, 0, "no local APIC when it is off");
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | APIC_ENABLED);
    cpuid(1, 0, leaf);
    check_equal(leaf[3] >> 9 & 1, 1, "it is back");
}

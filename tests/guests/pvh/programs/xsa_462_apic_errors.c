/* XSA-462: an error of the local APIC whose own interrupt has a vector that is an error, too. XSA-121: parts of its registers that are not there. XSA-412: its page
 * is nobody's memory when it is off. */
#include "guest.h"

#define ERROR 0x66

PROGRAM(xsa_462_apic_errors)
{
    volatile u8 *octets = (volatile u8 *)APIC_ADDRESS;

    interrupt_expect(ERROR);
    apic_enable();
    apic_write(APIC_LVT_ERROR, 5);
    apic_send(ICR_SELF | 3, 0);
    apic_write(APIC_ESR, 0);
    check_equal(apic_read(APIC_ESR) & 0x40, 0x40, "an illegal vector was received, and there is no end of it but this");
    apic_write(APIC_ESR, 0);
    check_equal(apic_read(APIC_ESR), 0, "no error since");
    apic_write(APIC_LVT_ERROR, ERROR);
    interrupts_on();
    apic_send(ICR_SELF | 3, 0);
    check_equal(interrupt_counts[ERROR], 1, "the interrupt of an error");
    apic_send(ICR_SELF | 4, 0);
    check_equal(interrupt_counts[ERROR], 1, "one for two of a kind");
    apic_write(APIC_ESR, 0);
    apic_send(ICR_SELF | 4, 0);
    check_equal(interrupt_counts[ERROR], 2, "another one when the first was seen");
    interrupts_off();
    apic_write(APIC_LVT_ERROR, APIC_MASKED);

    for (unsigned offset = 0; offset < 0x400; offset += 16) {
        u64 wide = *(volatile u64 *)(octets + offset);
        u32 beside = *(volatile u32 *)(octets + offset + 4);

        if (beside && beside != 0xffffffff)
            check(false, "octets beside register 0x%x: 0x%x", offset, beside);
        if (wide >> 32 && wide >> 32 != 0xffffffff)
            check(false, "wide read of register 0x%x: 0x%lx", offset, wide);
    }
    check_equal(octets[APIC_VERSION], 0x14, "an octet of the version");
    octets[APIC_SVR] = 0;
    check_equal(apic_read(APIC_SVR), 0x1ff, "a write of one octet has no effect");
    *(volatile u64 *)(octets + APIC_TPR) = 0xf0f0f0f0f0f0f0f0;
    check_equal(apic_read(APIC_TPR) & ~0xffu, 0, "nor has a wide one on what is beside");
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) & ~(u64)APIC_ENABLED);
    for (unsigned offset = 0; offset < PAGE_SIZE; offset += 256) {
        *(volatile u32 *)(octets + offset) = 0x1234;
        check_equal(*(volatile u32 *)(octets + offset), 0xffffffff, "off, its page is a hole");
    }
}

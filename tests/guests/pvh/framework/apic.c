#include "apic.h"

#include "processor.h"

bool apic_is_x2(void)
{
    return rdmsr(MSR_APIC_BASE) & APIC_X2;
}

u32 apic_read(unsigned reg)
{
    if (apic_is_x2())
        return rdmsr(MSR_X2APIC + reg / 16);
    return *(volatile u32 *)(APIC_ADDRESS + reg);
}

void apic_write(unsigned reg, u32 value)
{
    if (apic_is_x2())
        wrmsr(MSR_X2APIC + reg / 16, value);
    else
        *(volatile u32 *)(APIC_ADDRESS + reg) = value;
}

void apic_enable(void)
{
    apic_write(APIC_SVR, 0x1ff);
}

void apic_use_x2(void)
{
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | APIC_X2);
}

void apic_send(u32 command, u32 destination)
{
    if (apic_is_x2()) {
        wrmsr(MSR_X2APIC + APIC_ICR / 16, (u64)destination << 32 | command);
        return;
    }
    apic_write(APIC_ICR_HIGH, destination << 24);
    apic_write(APIC_ICR, command);
}

void apic_end_of_interrupt(void)
{
    apic_write(APIC_EOI, 0);
}

bool apic_bit(unsigned first, unsigned vector)
{
    return apic_read(first + vector / 32 * 16) >> vector % 32 & 1;
}

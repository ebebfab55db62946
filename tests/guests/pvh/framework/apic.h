/* The local APIC, by memory and as x2APIC. */
#pragma once

#include "types.h"

enum {
    APIC_ID = 0x20,
    APIC_VERSION = 0x30,
    APIC_TPR = 0x80,
    APIC_PPR = 0xa0,
    APIC_EOI = 0xb0,
    APIC_LDR = 0xd0,
    APIC_DFR = 0xe0,
    APIC_SVR = 0xf0,
    APIC_ISR = 0x100,
    APIC_TMR = 0x180,
    APIC_IRR = 0x200,
    APIC_ESR = 0x280,
    APIC_ICR = 0x300,
    APIC_ICR_HIGH = 0x310,
    APIC_LVT_TIMER = 0x320,
    APIC_LVT_LINT0 = 0x350,
    APIC_LVT_ERROR = 0x370,
    APIC_TIMER_INITIAL = 0x380,
    APIC_TIMER_CURRENT = 0x390,
    APIC_TIMER_DIVIDE = 0x3e0,
    APIC_SELF_IPI = 0x3f0,
};

#define APIC_ADDRESS 0xfee00000UL
#define APIC_MASKED 0x10000
#define APIC_PERIODIC 0x20000
#define APIC_DEADLINE 0x40000
#define APIC_ENABLED 0x800
#define APIC_X2 0x400

/* Bits of the interrupt command register. */
#define ICR_LOWEST 0x100
#define ICR_NMI 0x400
#define ICR_INIT 0x4500 /* asserted */
#define ICR_STARTUP 0x600
#define ICR_LOGICAL 0x800
#define ICR_SELF 0x40000
#define ICR_ALL 0x80000
#define ICR_OTHERS 0xc0000

u32 apic_read(unsigned reg); /* in whichever mode the APIC is */
void apic_write(unsigned reg, u32 value);
void apic_enable(void); /* by software, with spurious vector 0xff */
bool apic_is_x2(void);
void apic_use_x2(void);
void apic_send(u32 command, u32 destination);
void apic_end_of_interrupt(void);
bool apic_bit(unsigned first, unsigned vector); /* of the ISR, TMR or IRR */

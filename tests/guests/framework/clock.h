/* Xen's paravirtual clock. */
#pragma once

#include "types.h"

#define MICROSECONDS 1000UL
#define MILLISECONDS 1000000UL
#define SECONDS 1000000000UL

static inline u64 rdtsc(void)
{
    u32 low, high;

    asm volatile("rdtsc" : "=a"(low), "=d"(high));
    return ((u64)high << 32) | low;
}

/* Nanoseconds of system time now, as vcpu_time_info says: system_time + scaled (tsc - tsc_timestamp). */
u64 clock_now(void);
u64 clock_read(const volatile struct vcpu_time_info *time);

/* a * b / c without overflow in between; the quotient must fit. */
static inline u64 multiply_divide(u64 a, u64 b, u64 c)
{
    u64 low, high;

    asm("mulq %[b]\n divq %[c]" : "=a"(low), "=&d"(high) : "0"(a), [b] "r"(b), [c] "r"(c) : "cc");
    return low;
}

/* Sleep with SCHEDOP_poll and no ports. */
void clock_sleep(u64 nanoseconds);

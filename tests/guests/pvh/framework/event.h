/* Event channels (2-level ABI), and Xen's clock. */
#pragma once

#include "types.h"

#define MICROSECONDS 1000ULL
#define MILLISECONDS 1000000ULL
#define SECONDS 1000000000ULL

void events_init(void);
struct vcpu_info *event_vcpu_info(unsigned vcpu);
void event_set_vcpu_info(unsigned vcpu, struct vcpu_info *info); /* after VCPUOP_register_vcpu_info */

extern volatile unsigned event_upcalls[8]; /* by vCPU */
extern volatile unsigned event_counts[1024];
void event_take(unsigned vcpu); /* what an upcall's handler does: count and clear the pending, unmasked ports */

bool event_pending(unsigned port);
void event_clear(unsigned port);
void event_mask(unsigned port);
void event_unmask_locally(unsigned port);

long event_alloc_unbound(unsigned remote_domain); /* -> port or -errno, as all of these */
long event_bind_interdomain(unsigned domain, unsigned remote_port);
long event_bind_virq(unsigned virq, unsigned vcpu);
long event_bind_ipi(unsigned vcpu);
long event_bind_vcpu(unsigned port, unsigned vcpu);
long event_send(unsigned port);
long event_close(unsigned port);

u64 clock_now(void);
void clock_sleep(u64 nanoseconds);              /* by SCHEDOP_poll */
#define WAIT_FOR(condition)                                                  \
    ({                                                                       \
        u64 deadline_ = clock_now() + 5 * SECONDS;                           \
        while (!(condition) && clock_now() < deadline_)                      \
            asm volatile("pause" ::: "memory");                              \
        (condition);                                                         \
    })

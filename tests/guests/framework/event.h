/* Event channels (2-level ABI) on vCPU 0. */
#pragma once

#include "types.h"

#include <xen/event_channel.h>

#include "trap.h"

void events_init(void);
struct vcpu_info *event_vcpu_info(void);
void event_set_vcpu_info(struct vcpu_info *vcpu_info); /* after VCPUOP_register_vcpu_info */

/* Upcalls are masked when a program starts. */
static inline void events_disable(void)
{
    event_vcpu_info()->evtchn_upcall_mask = 1;
    barrier();
}

void events_enable(void);
void events_forget(void); /* take back the vCPU's pending upcall (not the ports' pending bits) */

/* How many upcalls there were, and how often each port was found pending in them. */
extern volatile unsigned event_upcalls;
extern volatile unsigned event_counts[4096];
extern struct registers event_interrupted; /* the frame of the last upcall */

void event_upcall(struct registers *registers);

bool event_pending(unsigned port);
void event_clear(unsigned port);
bool event_masked(unsigned port);
void event_mask(unsigned port);
void event_unmask_locally(unsigned port); /* clears the mask bit without telling Xen */

long event_alloc_unbound(unsigned remote_domain); /* -> port or -errno, as all of these */
long event_bind_interdomain(unsigned domain, unsigned remote_port);
long event_bind_virq(unsigned virq, unsigned vcpu);
long event_bind_ipi(unsigned vcpu);
long event_send(unsigned port);
long event_close(unsigned port);
long event_unmask(unsigned port); /* EVTCHNOP_unmask */
long event_status(unsigned port, struct evtchn_status *status);

/* Wait (SCHEDOP_poll) until the port is pending or `nanoseconds` have passed. -> pending. */
bool event_wait(unsigned port, u64 nanoseconds);

/* Further vCPUs. They share the trap record and the console: let the first do the checks. */
#pragma once

#include "types.h"

#include <xen/hvm/hvm_vcpu.h>

typedef void smp_function_t(unsigned vcpu);

void smp_start(unsigned vcpu, smp_function_t *function);             /* by VCPUOP_initialise and VCPUOP_up */
void smp_start_by_ipi(unsigned vcpu, smp_function_t *function);      /* by INIT and start-up interrupts */
bool smp_arrived(unsigned vcpu);                                     /* within 5 seconds */
bool smp_finished(unsigned vcpu);                                    /* the function has returned, within 5 seconds */
void vcpu_context(unsigned vcpu, struct vcpu_hvm_context *context);  /* what smp_start() gives to VCPUOP_initialise */

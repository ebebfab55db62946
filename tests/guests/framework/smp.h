/* More vCPUs: bring them up to run a function, and keep them in step. */
#pragma once

#include "types.h"

#define SMP_MAX_VCPUS 8

typedef void smp_function_t(unsigned vcpu);

/* Let a vCPU run `function(vcpu)` on a stack of its own, with the trap table of vCPU 0; then it goes down. It shares trap_record with all. */
void smp_start(unsigned vcpu, smp_function_t *function);

/* Start vCPUs 1..count-1 with a function, run it here too, and wait for all. False if one did not end in `seconds`. */
bool smp_run(unsigned count, smp_function_t *function, unsigned seconds);
bool smp_finished(unsigned vcpu);

/* The vCPU that asks: by the stack it is on. */
unsigned smp_vcpu(void);

/* At the start of an upcall, in a program that handles events on several vCPUs: take back what made it. -> the vCPU. */
unsigned smp_take_upcall(void);

/* All of `count` vCPUs meet here. They spin: meant for short waits. */
void smp_barrier(unsigned count);

/* One turn of a wait for another vCPU: pauses, and now and then lets another thread of the host run. */
void smp_relax(unsigned *turns);

/* `rounds` times the number after "scale=" on the command line: programs do little in a quick run of all tests, and much when asked to. */
u64 smp_scaled(u64 rounds);

/* Pseudo-random numbers, each vCPU with a state of its own (not 0). */
static inline u64 smp_random(u64 *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

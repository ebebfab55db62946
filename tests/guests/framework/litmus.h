/*
 * Litmus tests: the vCPUs walk through an array of cells at the same time, each doing its part of the test at each cell; what they read
 * is looked at afterwards. x86-TSO (Owens, Sarkar, Sewell) is the reference.
 */
#pragma once

#include "smp.h"

#define LITMUS_CELLS 1024
#define LITMUS_OUTCOMES 16
#define LITMUS_THREADS 4

/* The variables of one round, each in a cache line of its own, and the registers of each thread after it. */
struct litmus_cell {
    volatile u64 x __attribute__((aligned(128)));
    volatile u64 y __attribute__((aligned(128)));
    struct {
        volatile u64 a, b;
    } registers[LITMUS_THREADS] __attribute__((aligned(128)));
};

struct litmus {
    const char *name;
    unsigned threads;
    void (*parts[LITMUS_THREADS])(struct litmus_cell *cell, u64 *a, u64 *b);
    unsigned (*outcome)(const struct litmus_cell *cell); /* -> a number below LITMUS_OUTCOMES */
    u32 forbidden;                                       /* bit mask of outcomes that TSO rules out */
    u32 relaxed;                                         /* outcomes that no interleaving of whole instructions gives, but TSO does */
};

/*
 * Run it, print the histogram, and check that nothing forbidden came and that the vCPUs met: that there were walks through the cells with
 * more than one outcome. (If one vCPU is through before another begins, all cells have the same.) The rounds of these walks are counted.
 */
void litmus_run(const struct litmus *test, u64 rounds);

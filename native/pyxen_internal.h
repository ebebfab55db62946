/*
 * Shared by pyxen's own C files.
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#ifndef PYXEN_INTERNAL_H
#define PYXEN_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "pyxen_gate.h"
#include "pyxen_state.h"

#define PYXEN_REQUEST_KICK 1u
#define PYXEN_REQUEST_WORK 2u      /* other threads have put something into `work` */
#define PYXEN_REQUEST_TRAP 8u      /* this CPU has made an access that a debug register watches */
#define PYXEN_REQUEST_INJECT 16u   /* the block asks for an injection or an interrupt window */
#define PYXEN_REQUEST_BROADCAST 4u /* this CPU has written to frames that others hold code of */

/* The most vCPUs of one machine. The ids 1..254 fit into the writers' map; the rest share PYXEN_MANY. */
#define PYXEN_MAX_CPUS 4096
#define PYXEN_MANY 255

enum pyxen_work_kind {
    PYXEN_WORK_INVALIDATE, /* drop the code translated from [offset, offset + size) */
    PYXEN_WORK_PROTECT,    /* another CPU translates from this frame: notice your stores to it from now on, and own up to past ones */
};

struct pyxen_work {
    uint64_t offset;
    uint32_t size;
    enum pyxen_work_kind kind;
};

struct pyxen_work_list {
    struct pyxen_work *items;
    unsigned used, room;
};

struct pyxen_machine {
    uint8_t *memory;
    uint64_t bytes, frames;
    uint16_t *code_holders; /* per frame: how many CPUs hold code translated from it */
    uint8_t *writers;       /* per frame: which CPU may store to it without a check: 0 none, an id, or PYXEN_MANY */
    pthread_mutex_t lock;   /* protects cpus */
    struct pyxen_cpu *cpus[PYXEN_MAX_CPUS];
};

struct pyxen_cpu {
    struct pyxen_machine *machine;
    struct pyxen_state *state;
    struct pyxen_gate *gate; /* NULL: everything is the hypervisor's */
    struct uc_struct *uc;
    uint32_t requests; /* atomic */
    uint32_t cpl;
    bool deprivileged, exit_on_cpuid;
    uint8_t id;
    uint32_t watch_hits;  /* DR6 bits of the instruction that is being run alone */
    bool running_alone;   /* it is run again, by itself, since an access of it is watched */
    const uint32_t *physical_map; /* of the guest; NULL: its physical addresses are the machine's */
    uint64_t physical_frames;
    uint64_t *code_frames; /* bitmap: frames that this CPU is counted for in code_holders */
    pthread_mutex_t work_lock;
    struct pyxen_work_list work;      /* from other threads; under work_lock */
    struct pyxen_work_list broadcast; /* this CPU's stores that the others have to hear of */
};

struct CPUX86State;
void pyxen_update_hflags(struct CPUX86State *env, uint32_t cpl);
/* After an exit. True: it has been served, the guest goes on. */
bool pyxen_gate_serve(struct pyxen_cpu *p, struct CPUX86State *env);
void pyxen_request(struct pyxen_cpu *p, uint32_t request);
bool pyxen_debug_trap(struct pyxen_cpu *p);
bool pyxen_injection_wanted(const struct pyxen_cpu *p);
bool pyxen_inject(struct pyxen_cpu *p);
void pyxen_leave_at_boundary(struct pyxen_cpu *p, uint32_t reason);
void pyxen_do_work(struct pyxen_cpu *p);
void pyxen_free_work(struct pyxen_cpu *p);
void pyxen_cpu_reset_fpu(struct pyxen_cpu *p);
void pyxen_machine_add(struct pyxen_machine *m, struct pyxen_cpu *p);
void pyxen_machine_remove(struct pyxen_machine *m, struct pyxen_cpu *p);

#endif

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
#include <sys/types.h>
#include <time.h>

#include "pyxen_gate.h"
#include "pyxen_state.h"

#define PYXEN_REQUEST_KICK 1u
#define PYXEN_REQUEST_WORK 2u      /* other threads have put something into `work` */
#define PYXEN_REQUEST_TRAP 8u      /* this CPU has made an access that a debug register watches */
#define PYXEN_REQUEST_INJECT 16u   /* the block asks for an injection or an interrupt window */
#define PYXEN_REQUEST_DROP_CODE 32u /* what the blocks were translated for is no longer so */
#define PYXEN_REQUEST_EVENTS 64u   /* the gate is to look for events, and at the one-shot timer; what it can't do is a kick */
#define PYXEN_REQUEST_FLUSH 128u   /* of the TLB, by another CPU of the domain */
#define PYXEN_REQUEST_BROADCAST 4u /* this CPU has written to frames that others hold code of */

/* The most vCPUs of one machine. The ids 1..254 fit into the writers' map; the rest share PYXEN_MANY. */
#define PYXEN_MAX_CPUS 4096
#define PYXEN_MANY 255

struct pyxen_work {
    uint64_t offset; /* drop the code translated from [offset, offset + size) */
    uint32_t size;
};


struct pyxen_work_list {
    struct pyxen_work *items;
    unsigned used, room;
};

/* See pyxen_lock.c. */
struct pyxen_lock {
    uint32_t held, waiters, hungry, releases; /* atomic */
    char *owner;                              /* atomic: of a variable that each thread has */
    uint32_t depth;
};

struct pyxen_machine {
    struct pyxen_lock hypervisor; /* taken before the others here */
    uint8_t *memory;
    uint64_t bytes, frames;
    uint64_t clock_tsc, clock_ns, clock_multiplier; /* see pyxen_machine_set_clock */
    uint16_t *code_holders; /* per frame: how many CPUs hold code translated from it */
    uint8_t *writers;       /* per frame: which CPU may store to it without a check: 0 none, an id, or PYXEN_MANY */
    pthread_mutex_t lock;   /* protects cpus, together with question_lock: to change it takes both, to look at it either */
    struct pyxen_cpu *cpus[PYXEN_MAX_CPUS];
    int used; /* of cpus: none from here on */
    /* Held by the CPU that wants no unchecked stores to `question_frame` any more, until all that made some have said that they check. */
    pthread_mutex_t question_lock;
    uint64_t question_frame, question; /* atomic; `question` counts them */
    const void *alone; /* atomic: the domain of which only the holder of question_lock executes; NULL: none */
    uint32_t references;    /* atomic: the owner's and each CPU's; a collector may finalise them in any order */
    struct pyxen_cpu *dead; /* freed ones, under lock: a thread may be about to look whether its CPU is halted */
};

/* What an SSE instruction may change, as it was before it. */
struct pyxen_sse_before {
    uint8_t xmm[16][16];
    uint64_t gpr[16], cc_src, cc_dst, cc_src2;
};

struct pyxen_cpu {
    struct pyxen_machine *machine;
    struct pyxen_state *state;
    struct pyxen_gate *gate; /* NULL: everything is the hypervisor's */
    struct uc_struct *uc;
    uint32_t requests; /* atomic */
    uint32_t halted, entered; /* atomic: never to run again; a thread is in pyxen_cpu_run */
    struct pyxen_cpu *next_dead;
    uint32_t cpl;
    struct pyxen_sse_before sse_before;
    uint32_t runs;                        /* modulo 2**32 */
    uint64_t look_started, look_wanted;   /* when this CPU was last looked at, whether it is at rest, in ns; and wanted_ns() then */
    uint32_t code_limit; /* of CS, in the blocks that were translated with one */
    bool deprivileged, exit_on_cpuid;
    bool only_events;     /* PYXEN_EXIT_KICK: nobody has kicked it, there may be events */
    timer_t alarm;        /* of pyxen_timer.c */
    pid_t alarm_thread;   /* that it wakes; 0: there is no alarm */
    uint8_t id;
    uint32_t watch_hits;  /* DR6 bits of the instruction that is being run alone */
    bool running_alone;   /* it is run again, by itself, since an access of it is watched */
    bool entry_changed;   /* of the page table, between being read and having its bits set */
    uint8_t operand[8] __attribute__((aligned(8))); /* of a locked operation in two pages (pyxen_atomic.c) */
    uint8_t *operand_parts[2];
    int operand_in_first, operand_size;   /* octets; size 0: none is under way */
    bool still;                           /* atomic: it waits while another is alone */
    const uint32_t *physical_map; /* of the guest; NULL: its physical addresses are the machine's */
    uint64_t physical_frames;
    uint32_t flushes_wanted, flushes_done; /* by other CPUs; atomic, modulo 2**32 */
    uint64_t *code_frames; /* bitmap: frames that this CPU is counted for in code_holders */
    pthread_mutex_t work_lock;
    struct pyxen_work_list work;      /* from other threads; under work_lock */
    pthread_mutex_t run_lock;         /* protects running; who holds it while that is false may change this CPU's TLB */
    bool running;
    uint64_t answered;                /* the last of the machine's questions that this CPU has answered; atomic */
    struct pyxen_work_list broadcast; /* this CPU's stores that the others have to hear of */
};

struct CPUX86State;
void pyxen_update_hflags(struct CPUX86State *env, uint32_t cpl);
void pyxen_set_block_defaults(struct pyxen_cpu *p);
void pyxen_load_block(struct pyxen_cpu *p, struct CPUX86State *env);
void pyxen_store_block(struct pyxen_cpu *p, const struct CPUX86State *env);
void pyxen_record_exit(struct pyxen_cpu *p, uint32_t reason, uint32_t instruction_length, uint64_t qualification);
/* After an exit. True: it has been served, the guest goes on. */
bool pyxen_gate_serve(struct pyxen_cpu *p, struct CPUX86State *env);
int pyxen_lock_try(struct pyxen_lock *lock);
bool pyxen_lock_try_shortly(struct pyxen_lock *lock);
/* Offsets in vcpu_info, of 64-bit guests. */
enum { INFO_PENDING = 0, INFO_MASK = 1, INFO_SELECTOR = 8, INFO_CR2 = 16 };
/* Parts of the gate. */
bool pyxen_is_canonical(uint64_t address);
bool pyxen_is_guest_address(uint64_t address);
/* What an argument of a hypercall points to, for reading. Not NULL only if `size` octets lie in the same page. */
const uint8_t *pyxen_argument(struct pyxen_cpu *p, uint64_t address, unsigned size);
uint8_t *pyxen_translate(struct pyxen_cpu *p, uint64_t root, uint64_t address, bool write, unsigned size);
void pyxen_set_root(struct pyxen_cpu *p, struct CPUX86State *env, uint64_t root);
/* Hypercalls that change only registers. False: there is no such one, or Python has to look. */
bool pyxen_register_hypercall(struct pyxen_cpu *p, struct CPUX86State *env, uint64_t number, const uint64_t *arguments, uint64_t *result);
bool pyxen_paging_hypercall(struct pyxen_cpu *p, struct CPUX86State *env);
/* Those of all kinds of guests. */
bool pyxen_simple_hypercall(struct pyxen_cpu *p, uint64_t number, const uint64_t *arguments, uint64_t *result);
bool pyxen_cpuid(struct pyxen_cpu *p, struct CPUX86State *env);
bool pyxen_event_channel_hypercall(struct pyxen_cpu *p, const uint64_t *arguments);
bool pyxen_vcpu_hypercall(struct pyxen_cpu *p, const uint64_t *arguments, uint64_t *result);
/* The vCPU does not sleep; if it is another one, in the guest, have it look for events. Lock held. */
void pyxen_attend(struct pyxen_cpu *p, struct pyxen_gate *target);
/* HVM vCPUs: an exit, but for kicks; then what is to be injected. False: it is Python's. */
bool pyxen_hvm_serve(struct pyxen_cpu *p, struct CPUX86State *env);
bool pyxen_hvm_deliver_pending(struct pyxen_cpu *p, struct CPUX86State *env);
const uint8_t *pyxen_hvm_place(struct pyxen_cpu *p, uint64_t address, unsigned size);
/* In memory, of a guest physical address that may be read; PYXEN_NO_ADDRESS: there is no memory. */
#define PYXEN_NO_ADDRESS UINT64_MAX
uint64_t pyxen_machine_address(const struct pyxen_cpu *p, uint64_t address);
int pyxen_apic_pending(struct pyxen_cpu *p);
void pyxen_apic_acknowledge(struct pyxen_gate *g, unsigned vector);
void pyxen_apic_request(struct pyxen_cpu *p, struct pyxen_gate *target, unsigned vector);
bool pyxen_apic_write(struct pyxen_cpu *p, uint32_t number, uint64_t value);
/* Of the block's `injection`: the guest has not taken it yet. */
#define PYXEN_EVENT_VALID (1u << 31)
/* The one-shot timer (pyxen_timer.c). */
bool pyxen_timer_look(struct pyxen_cpu *p);
bool pyxen_timer_set(struct pyxen_cpu *p, uint64_t deadline);
bool pyxen_timer_start(struct pyxen_cpu *p, uint64_t ns);
int64_t pyxen_timer_left(const struct pyxen_cpu *p);
void pyxen_timer_free(struct pyxen_cpu *p);
/* A write of the kernel's to a present, read-only page. PYXEN_TABLE_UNKNOWN: Python has to look. */
enum pyxen_table_write { PYXEN_NO_TABLE, PYXEN_TABLE_WRITTEN, PYXEN_TABLE_UNKNOWN };
enum pyxen_table_write pyxen_emulate_table_write(struct pyxen_cpu *p, struct CPUX86State *env);
/* With the hypervisor's lock in between. False: it is not to be had, or others are at work on the domain. */
struct pyxen_paging;
bool pyxen_begin_paging(struct pyxen_cpu *p, struct pyxen_paging *w);
void pyxen_end_paging(struct pyxen_paging *w);
/* The hypervisor has written to a frame. */
void pyxen_frame_written(struct pyxen_cpu *p, uint64_t frame);
void pyxen_request(struct pyxen_cpu *p, uint32_t request);
bool pyxen_debug_trap(struct pyxen_cpu *p);
bool pyxen_injection_wanted(const struct pyxen_cpu *p);
bool pyxen_inject(struct pyxen_cpu *p);
void pyxen_leave_at_boundary(struct pyxen_cpu *p, uint32_t reason);
void pyxen_do_work(struct pyxen_cpu *p);
void pyxen_free_work(struct pyxen_cpu *p);
/* The machine's question_lock; meanwhile what others want of this CPU is answered. */
void pyxen_begin_question(struct pyxen_cpu *p);
void pyxen_stand_still(struct pyxen_cpu *p);
bool pyxen_flush_remotely(struct pyxen_cpu *p, struct pyxen_cpu *other);
void pyxen_flush_as_asked(struct pyxen_cpu *p);
void pyxen_operand_abandoned(struct pyxen_cpu *p); /* an exception came in between */
/* Leave with PYXEN_EXIT_INTERNAL_ERROR. */
void pyxen_internal_error(struct CPUX86State *env, uint64_t what, uintptr_t retaddr) __attribute__((noreturn));
void pyxen_cpu_reset_fpu(struct pyxen_cpu *p);
void pyxen_machine_add(struct pyxen_machine *m, struct pyxen_cpu *p);
void pyxen_machine_remove(struct pyxen_machine *m, struct pyxen_cpu *p);
void pyxen_machine_put(struct pyxen_machine *m);

#endif

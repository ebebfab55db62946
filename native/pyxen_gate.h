/*
 * The gate: the hypervisor's hot paths, in C, so that they need neither Python nor its lock.
 *
 * The block is shared with Python (src/pyxen/hypervisor/gate.py): it holds what Xen keeps of a vCPU and these paths need. It belongs to the
 * vCPU's thread; others touch it only while the vCPU is not in the guest. What is about memory management is under the hypervisor's lock.
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#ifndef PYXEN_GATE_H
#define PYXEN_GATE_H

#include <stdbool.h>
#include <stdint.h>

#include "pyxen_frames.h"

#define PYXEN_GATE_SEGMENTS 4
#define PYXEN_GATE_HYPERCALLS 64
#define PYXEN_GATE_WRITES 64
#define PYXEN_GATE_CPUID 64
#define PYXEN_GATE_QUEUES 16
#define PYXEN_APIC_WORDS 4

struct pyxen_gate_trap {
    uint64_t address; /* 0: no handler */
    uint32_t dpl, masks_events;
};

/* A segment that descriptors.py has checked for a return to user mode. */
struct pyxen_gate_segment {
    uint64_t base;
    uint32_t selector; /* 0: empty */
    uint32_t limit, attributes, pad;
};

/* An instruction that has written a page table, as page_table_writes.py has decoded it; at RIP modulo PYXEN_GATE_WRITES. */
struct pyxen_gate_write {
    uint8_t code[15], length; /* 0: empty */
    uint8_t operation, size;  /* octets */
    uint8_t source, source_shift; /* number of the register; 16: the immediate */
    uint32_t pad;
    uint64_t immediate;
};

/* An answer of the vCPU's CPUID policy; at (leaf + leaf / 2^26 + 8 * subleaf) modulo PYXEN_GATE_CPUID. Only leaf 7 has subleaves. */
struct pyxen_gate_cpuid {
    uint32_t leaf, subleaf, known, pad;
    uint32_t registers[4]; /* EAX, EBX, ECX, EDX */
};

/* The local APIC of an HVM vCPU; see pyxen_apic.c. */
struct pyxen_apic {
    uint64_t base;
    uint32_t registers[64];            /* by their offset / 16, those that keep what is written */
    uint64_t requests[PYXEN_APIC_WORDS], services[PYXEN_APIC_WORDS];
};

/* What the vCPUs of a domain have in common; under the hypervisor's lock. */
struct pyxen_gate_domain {
    struct pyxen_frames *frames;
    uint64_t domid, vcpus;
    uint64_t per_domain_entry; /* of its L4 tables */
    uint64_t exclusive;        /* work on its memory is half done, and no vCPU of it may see that */
    uint64_t vm_assist;
    uint64_t shared_info;      /* machine address */
    uint64_t event_abi;        /* 0: Python's; 1: 2-level; 2: FIFO */
    const uint16_t *event_ipis; /* per port: 1 + the vCPU whose IPI it is; 0: it is no IPI's */
    /* Of the FIFO ABI: the frames of the event array. Per port: 1 + its priority, 0 for the default; and 1 + 16 * vCPU + priority of the
       queue that it was appended to last, or 0. */
    uint64_t event_pages_used;
    const uint32_t *event_pages;
    const uint8_t *event_priorities;
    uint16_t *event_queues;
    uint64_t narrow;           /* shared info is that of 32-bit code */
    uint64_t callback_vector;  /* HVM: of event upcalls, 0 for none */
    struct pyxen_gate_write writes[PYXEN_GATE_WRITES];
};

struct pyxen_gate {
    uint64_t enabled;
    uint64_t kernel_mode;
    uint64_t kernel_root, user_root; /* machine addresses of L4 tables; 0: none */
    uint64_t kernel_sp, kernel_ss;
    uint64_t gs_base_other;          /* of the mode the vCPU is not in */
    uint64_t info;                   /* machine address of vcpu_info */
    uint64_t event_callback, syscall_callback, syscall_masks_events;
    uint64_t cr0;                    /* as the guest sees it */
    uint64_t nmi_pending, nmi_active;
    uint64_t architectural_iopl, iopl;
    uint64_t ldt_start, ldt_end;     /* linear addresses of the vCPU's LDT area */
    uint64_t system_calls, page_faults, upcalls, table_writes, cpuids;
    uint64_t cpuid_faulting;
    uint64_t events_sent, timer_events, interrupt_flags, registers;
    struct pyxen_gate_domain *domain;
    struct pyxen_gate *next;         /* the domain's vCPUs, in a ring */
    struct pyxen_cpu *cpu;           /* set when it is attached */
    uint64_t vcpu_id;
    uint64_t in_guest;               /* set with the lock held, cleared without it */
    uint64_t flush_clock;            /* see pyxen_frames.h; no translation in its TLB is older */
    uint64_t flushes;
    uint64_t blocked, online;
    int64_t polled;                  /* Vcpu.polled_port; 0: it does not poll */
    uint64_t timer_port;             /* of VIRQ_TIMER; 0: it is not bound */
    uint64_t timer_deadline;         /* system time; 0: the one-shot timer is not armed */
    uint64_t timer_native;           /* see pyxen_timer.c */
    uint64_t event_control;          /* machine address of the control block of the FIFO ABI; 0: none */
    uint32_t event_tails[PYXEN_GATE_QUEUES]; /* ports; 0: none */
    uint64_t is_hvm;
    uint64_t upcall_vector;          /* HVM: of its own; 0: the domain's */
    struct pyxen_apic apic;
    uint64_t hypercalls[PYXEN_GATE_HYPERCALLS];
    struct pyxen_gate_segment code[PYXEN_GATE_SEGMENTS], stack[PYXEN_GATE_SEGMENTS];
    struct pyxen_gate_trap traps[256];
    struct pyxen_gate_cpuid cpuid[PYXEN_GATE_CPUID];
};

#endif

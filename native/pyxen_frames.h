/*
 * What frames are used for, as Python (src/pyxen/hypervisor/frame_table.py) and C see it: one entry per frame in each array.
 *
 * Under the hypervisor's lock.
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#ifndef PYXEN_FRAMES_H
#define PYXEN_FRAMES_H

#include <stdbool.h>
#include <stdint.h>

#define PYXEN_TYPE_L1 1
#define PYXEN_TYPE_L4 4
#define PYXEN_TYPE_WRITABLE 6
#define PYXEN_FLAG_PINNED 1

/* Tables that are checked or given up in one go; more of them is work that Python knows how to interrupt. */
#define PYXEN_TABLES_AT_ONCE 64

struct pyxen_frames {
    uint32_t *counts;
    uint8_t *types;
    uint32_t *type_counts;
    uint64_t *stamps;
    uint8_t *flags;
    uint16_t *owners;
    uint64_t clock;
    uint64_t m2p_entry;
};

struct pyxen_machine;
struct pyxen_cpu;
struct pyxen_gate;

/* One piece of work on the page tables of a domain. */
struct pyxen_paging {
    struct pyxen_machine *machine;
    struct pyxen_frames *frames;
    struct pyxen_gate *gate;  /* of one of the domain's vCPUs */
    struct pyxen_cpu *caller; /* the vCPU whose run this is in, or NULL */
    int tables;               /* that may still be checked or given up */
};

/* Whether it has a reference to spare for the domain. */
bool pyxen_may_refer_to(const struct pyxen_paging *w, uint64_t mfn);
/* Each does all or nothing. False: refused, or not a plain case; Python's way finds out which. */
bool pyxen_get_page_and_type(struct pyxen_paging *w, uint64_t mfn, unsigned type);
bool pyxen_put_page_and_type(struct pyxen_paging *w, uint64_t mfn);
void pyxen_undo_page_and_type(struct pyxen_paging *w, uint64_t mfn); /* of a moment ago */
bool pyxen_write_entry(struct pyxen_paging *w, uint64_t address, uint64_t entry, bool preserve_accessed);
bool pyxen_exchange_entry(struct pyxen_paging *w, uint64_t address, uint64_t old, uint64_t entry); /* if it still is `old` */
bool pyxen_write_word(struct pyxen_paging *w, uint64_t address, uint64_t value); /* of a frame that may be writable */
/* PageTables.l1_entry_address. 0: there is none. */
uint64_t pyxen_l1_entry_address(struct pyxen_paging *w, uint64_t address);
/* The vCPUs in the set, by their place in the ring; not the caller's while another is in the guest. */
bool pyxen_flush_vcpus(struct pyxen_paging *w, bool (*wanted)(const struct pyxen_gate *gate, uint64_t argument), uint64_t argument);

#endif

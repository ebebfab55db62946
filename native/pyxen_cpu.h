/*
 * The functions that libpyxen-engine exports to Python. See native/README.md for the model.
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#ifndef PYXEN_CPU_H
#define PYXEN_CPU_H

#include <stddef.h>
#include <stdint.h>

#include "pyxen_state.h"

#define PYXEN_EXPORT __attribute__((visibility("default")))

struct pyxen_machine;
struct pyxen_cpu;
struct pyxen_gate;
struct pyxen_lock;

/* Fills `layout` with PYXEN_ENGINE_VERSION, sizeof(struct pyxen_state) and the offset of each field, in order; returns how many. */
PYXEN_EXPORT int pyxen_layout(uint32_t *layout, int room);

PYXEN_EXPORT struct pyxen_machine *pyxen_machine_new(void *memory, uint64_t bytes);
PYXEN_EXPORT void pyxen_machine_free(struct pyxen_machine *machine);

/* What is needed of Python's C interface: the library is not linked with it. */
struct pyxen_interpreter {
    void *(*save_thread)(void);           /* PyEval_SaveThread */
    void (*restore_thread)(void *thread); /* PyEval_RestoreThread */
    int (*check_signals)(void);           /* PyErr_CheckSignals */
    void (*set_error)(void *type, const char *message); /* PyErr_SetString */
    void *(*truth)(long value);           /* PyBool_FromLong */
    void *(*pointer)(void *capsule, const char *name); /* PyCapsule_GetPointer */
    void *runtime_error;                  /* PyExc_RuntimeError */
};
/* Once, before the first lock is taken. */
PYXEN_EXPORT void pyxen_set_interpreter(const struct pyxen_interpreter *interpreter);

/*
 * The hypervisor's lock. The next three are called with Python's interpreter lock, which is given up for as long as they wait; when a
 * signal's handler raises meanwhile they end without the lock. enter and exit are built-in methods of Python's (METH_NOARGS, METH_FASTCALL)
 * of a capsule with the lock. restore: as if taken `depth` times; 0 if an exception is set.
 */
PYXEN_EXPORT struct pyxen_lock *pyxen_machine_lock(struct pyxen_machine *machine);
PYXEN_EXPORT void *pyxen_lock_enter(void *capsule, void *unused);
PYXEN_EXPORT void *pyxen_lock_exit(void *capsule, void *const *exception, ssize_t count);
PYXEN_EXPORT int pyxen_lock_restore(struct pyxen_lock *lock, uint32_t depth);
PYXEN_EXPORT int pyxen_lock_owned(struct pyxen_lock *lock);
PYXEN_EXPORT int pyxen_lock_release(struct pyxen_lock *lock); /* not 0: the caller does not hold it */
PYXEN_EXPORT uint32_t pyxen_lock_release_all(struct pyxen_lock *lock); /* -> how many times the caller held it */
PYXEN_EXPORT int pyxen_machine_has_code(struct pyxen_machine *machine, uint64_t mfn);
/* System time: `ns` when the counter read `tsc`, and `multiplier` / 2**32 for each tick since. No vCPU is in its guest. 0: there is none. */
PYXEN_EXPORT void pyxen_machine_set_clock(struct pyxen_machine *machine, uint64_t tsc, uint64_t ns, uint64_t multiplier);
/* Atomic against running guests. `address` is physical, inside memory and a multiple of 8: the caller has checked. */
PYXEN_EXPORT uint64_t pyxen_machine_set_bits(struct pyxen_machine *machine, uint64_t address, uint64_t mask);
PYXEN_EXPORT uint64_t pyxen_machine_clear_bits(struct pyxen_machine *machine, uint64_t address, uint64_t mask);
/* -> the old value: `expected` if it was replaced. */
PYXEN_EXPORT uint32_t pyxen_machine_compare_exchange32(struct pyxen_machine *machine, uint64_t address, uint32_t expected, uint32_t value);
PYXEN_EXPORT int pyxen_machine_compare_exchange(struct pyxen_machine *machine, uint64_t address, uint64_t expected, uint64_t value);

/* `state` belongs to the caller and must outlive the vCPU. NULL, and *error an engine error number, if there is not enough memory. */
PYXEN_EXPORT struct pyxen_cpu *pyxen_cpu_new(struct pyxen_machine *machine, struct pyxen_state *state, uint32_t flags,
                                             uint32_t code_bytes, int *error);
PYXEN_EXPORT void pyxen_cpu_free(struct pyxen_cpu *cpu);
PYXEN_EXPORT void pyxen_cpu_halt(struct pyxen_cpu *cpu);
PYXEN_EXPORT int pyxen_cpu_run(struct pyxen_cpu *cpu);
PYXEN_EXPORT void pyxen_cpu_kick(struct pyxen_cpu *cpu);
/* As a kick, but what the gate can deliver does not leave the guest. */
PYXEN_EXPORT void pyxen_cpu_notify(struct pyxen_cpu *cpu);
/* The one-shot timer is Python's from now on. */
PYXEN_EXPORT void pyxen_cpu_stop_alarm(struct pyxen_cpu *cpu);
PYXEN_EXPORT void pyxen_cpu_flush_tlb_page(struct pyxen_cpu *cpu, uint64_t address);
PYXEN_EXPORT void pyxen_cpu_invalidate_frame(struct pyxen_cpu *cpu, uint64_t mfn);
/* See pyxen_physical.c. The table must outlive the vCPU or the next call. NULL: physical addresses are the machine's. */
PYXEN_EXPORT void pyxen_cpu_set_physical_map(struct pyxen_cpu *cpu, const uint32_t *map, uint64_t frames);
PYXEN_EXPORT void pyxen_cpu_read_fpu(struct pyxen_cpu *cpu, uint8_t *image);
PYXEN_EXPORT int pyxen_cpu_write_fpu(struct pyxen_cpu *cpu, const uint8_t *image);
PYXEN_EXPORT void pyxen_cpu_cpuid(struct pyxen_cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t *registers);
/* `gate` belongs to the caller and must outlive the vCPU. Not 0: it is of another layout. */
PYXEN_EXPORT int pyxen_gate_attach(struct pyxen_cpu *cpu, struct pyxen_gate *gate, uint64_t size);
/* What the gate makes of the exit that the block says it has. Not 0: it is served. */
PYXEN_EXPORT int pyxen_cpu_serve(struct pyxen_cpu *cpu);
/* FrameTable.validate, or devalidate, of a page table of the vCPU's domain. 0: nothing was done, it is not a plain case. */
PYXEN_EXPORT int pyxen_frames_table(struct pyxen_gate *gate, uint64_t mfn, uint32_t level, int validates);
PYXEN_EXPORT uint64_t pyxen_tsc(void);

#endif

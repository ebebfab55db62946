/*
 * Data breakpoints of DR0-3. They are traps: the access is made, and #DB follows its instruction. So an instruction whose access is
 * watched is given up before the access and run again in a block of its own; the block's end then raises the trap. After MOV SS it waits
 * for the end of one more instruction; if that leaves the guest or faults, the trap is lost: it would be the hypervisor's.
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/exec-all.h"
#include "uc_priv.h"

#include "pyxen_hooks.h"
#include "pyxen_internal.h"

/* Which accesses debug register `n` watches, as BP_MEM_*; 0 if it is off or no data breakpoint. */
static int watched_by(const CPUX86State *env, int n)
{
    uint64_t dr7 = env->dr[7];

    if (!(dr7 >> (n * 2) & 3)) {
        return 0;
    }
    switch (dr7 >> (DR7_TYPE_SHIFT + n * 4) & 3) {
    case DR7_TYPE_DATA_WR:
        return BP_MEM_WRITE;
    case DR7_TYPE_DATA_RW:
        return BP_MEM_ACCESS;
    default:
        return 0;
    }
}

/* The bytes that it watches: a length that is a power of two, and the address aligned to it. */
static void watched_range(const CPUX86State *env, int n, uint64_t *start, uint64_t *size)
{
    uint64_t length = env->dr[7] >> (DR7_LEN_SHIFT + n * 4) & 3;

    *size = length == 2 ? 8 : length + 1;
    *start = env->dr[n] & ~(*size - 1);
}

int pyxen_watched_accesses(CPUState *cs, uint64_t page)
{
    CPUX86State *env = cs->env_ptr;
    int accesses = 0;
    int n;

    if (likely(!(env->dr[7] & 0xff))) {
        return 0;
    }
    for (n = 0; n < 4; n++) {
        if ((env->dr[n] & TARGET_PAGE_MASK) == page) {
            accesses |= watched_by(env, n);
        }
    }
    return accesses;
}

void pyxen_check_watchpoints(CPUState *cs, uint64_t address, uint64_t size, int access, uintptr_t retaddr)
{
    CPUX86State *env = cs->env_ptr;
    struct pyxen_cpu *p = cs->uc->pyxen;
    uint32_t hits = 0;
    int n;

    for (n = 0; n < 4; n++) {
        uint64_t start, length;

        watched_range(env, n, &start, &length);
        if ((watched_by(env, n) & access) && address < start + length && start < address + size) {
            hits |= 1u << n;
        }
    }
    if (!hits) {
        return;
    }
    if (p->running_alone) {
        p->watch_hits |= hits;
        pyxen_request(p, PYXEN_REQUEST_TRAP);
        return;
    }
    p->running_alone = true;
    cs->cflags_next_tb = 1 | CF_PARALLEL;
    if (retaddr) {
        cpu_restore_state(cs, retaddr, true);
    }
    cpu_loop_exit_noexc(cs);
}

/* At the end of the block that the instruction was run in. True: the trap is raised, or waits (`watch_hits` is kept). */
bool pyxen_debug_trap(struct pyxen_cpu *p)
{
    CPUState *cs = p->uc->cpu;
    CPUX86State *env = cs->env_ptr;
    uint32_t hits = p->watch_hits;

    if (hits && (env->hflags & HF_INHIBIT_IRQ_MASK)) {
        cs->cflags_next_tb = 1 | CF_LAST_IO; /* one instruction, in a block that nothing else runs */
        return true;
    }
    __atomic_fetch_and(&p->requests, ~PYXEN_REQUEST_TRAP, __ATOMIC_SEQ_CST);
    p->watch_hits = 0;
    p->running_alone = false;
    if (!hits) {
        return false; /* the instruction faulted after the access */
    }
    env->dr[6] |= hits;
    env->exception_is_int = 0;
    env->error_code = 0;
    cs->exception_index = EXCP01_DB;
    return true;
}

/*
 * pyxen's virtual CPU on top of the engine's translator: load the shared block, run until an exit, store it back.
 *
 * Compiled inside the engine (see native/build.py), so it sees CPUX86State by name. One struct pyxen_cpu is one engine instance
 * with one CPU in it; a vCPU is run by one thread at a time, and only the functions that say so may be called from others.
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#include "qemu/osdep.h"
#include <malloc.h>
#include <sys/mman.h>
#include "cpu.h"
#include "exec/cpu_ldst.h"
#include "exec/exec-all.h"
#include "exec/helper-proto.h"
#include "exec/ram_addr.h"
#include "qemu/timer.h"
#include "sysemu/cpus.h"
#include "tcg/tcg.h"
#include "uc_priv.h"
#include "unicorn/x86.h"

#include "pyxen_cpu.h"
#include "pyxen_hooks.h"
#include "pyxen_internal.h"

/* Between two looks whether a CPU has left the guest. */
#define HALT_POLL_US 50

/* A CPU is at rest if it has taken less than this share of the time since the last look, at least so long ago. */
#define RUNS_BETWEEN_LOOKS 32
#define REST_NS 4000000000ull
#define IDLE_SHARE 20
/* Translated code that a CPU at rest keeps. */
#define CODE_AT_REST (2u << 20)

/* The engine's creation touches process-wide tables. */
static pthread_mutex_t creation_lock = PTHREAD_MUTEX_INITIALIZER;

static void set_cpu_features(CPUX86State *env)
{
    /* What the translator can do, minus what a guest would only lose by: XSAVE, of which there is nothing but x87 and SSE state,
       MONITOR, and ERMS (rep movsb is a byte a step here). */
    env->features[FEAT_1_ECX] |= CPUID_EXT_MOVBE | CPUID_EXT_RDRAND;
    env->features[FEAT_1_ECX] &= ~(CPUID_EXT_XSAVE | CPUID_EXT_OSXSAVE | CPUID_EXT_MONITOR | CPUID_EXT_AVX | CPUID_EXT_HYPERVISOR);
    env->features[FEAT_8000_0001_EDX] |= CPUID_EXT2_RDTSCP | CPUID_EXT2_PDPE1GB;
    env->features[FEAT_8000_0001_ECX] |= CPUID_EXT3_ABM;
    env->features[FEAT_7_0_EBX] = CPUID_7_0_EBX_FSGSBASE | CPUID_7_0_EBX_BMI1 | CPUID_7_0_EBX_BMI2 | CPUID_7_0_EBX_ADX |
                                  CPUID_7_0_EBX_SMEP | CPUID_7_0_EBX_SMAP;
    env->features[FEAT_7_0_ECX] = 0;
    env->features[FEAT_7_0_EDX] = 0;
    env->features[FEAT_XSAVE] = 0;
}

static uc_err create_engine(struct pyxen_cpu *p, uint32_t code_bytes)
{
    struct pyxen_machine *m = p->machine;
    uc_engine *uc;
    uc_err err;

    err = uc_open(UC_ARCH_X86, UC_MODE_64, &uc);
    if (err) {
        return err;
    }
    p->uc = uc;
    uc->pyxen = p;
    uc->cpu_model = UC_CPU_X86_WESTMERE;
    uc->tcg_buffer_size = code_bytes;
    err = uc_mem_map_ptr(uc, 0, m->bytes, UC_PROT_ALL, m->memory);
    if (err) {
        return err;
    }
    uc->pyxen_ram = uc->mapped_blocks[0];
    uc->pyxen_ram_bytes = m->bytes;
    if (memory_region_get_ram_addr(uc->pyxen_ram) != 0) {
        return UC_ERR_MAP; /* frames are counted by offset into the block */
    }
    uc->use_exits = 1;     /* and there are none: no address is special */
    uc->nested_level = 1;  /* as within uc_emu_start: the index of the jump buffer, plus one */
    uc->emulation_done = false;
    set_cpu_features(uc->cpu->env_ptr);
    return UC_ERR_OK;
}

PYXEN_EXPORT struct pyxen_cpu *pyxen_cpu_new(struct pyxen_machine *machine, struct pyxen_state *state, uint32_t flags,
                                             uint32_t code_bytes, int *error)
{
    struct pyxen_cpu *p = calloc(1, sizeof(*p));
    CPUX86State *env;

    *error = UC_ERR_NOMEM;
    if (!p) {
        return NULL;
    }
    p->machine = machine;
    __atomic_add_fetch(&machine->references, 1, __ATOMIC_RELAXED);
    p->state = state;
    p->deprivileged = flags & PYXEN_CPU_DEPRIVILEGED;
    p->exit_on_cpuid = flags & PYXEN_CPU_EXIT_ON_CPUID;
    pthread_mutex_init(&p->work_lock, NULL);
    pthread_mutex_init(&p->run_lock, NULL);
    p->code_frames = calloc((machine->frames + 63) / 64, sizeof(uint64_t));
    pthread_mutex_lock(&creation_lock);
    *error = p->code_frames ? create_engine(p, code_bytes) : UC_ERR_NOMEM;
    pthread_mutex_unlock(&creation_lock);
    if (*error) {
        pyxen_cpu_free(p);
        return NULL;
    }
    pyxen_machine_add(machine, p);
    env = p->uc->cpu->env_ptr;
    pyxen_set_block_defaults(p);
    pyxen_load_block(p, env);
    pyxen_cpu_reset_fpu(p);
    return p;
}

/* From any thread, also while it runs: it leaves the guest, and no run enters it again. Returns when it has left. */
PYXEN_EXPORT void pyxen_cpu_halt(struct pyxen_cpu *p)
{
    __atomic_store_n(&p->halted, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&p->entered, __ATOMIC_SEQ_CST)) {
        pyxen_request(p, PYXEN_REQUEST_KICK);
        usleep(HALT_POLL_US);
    }
}

PYXEN_EXPORT void pyxen_cpu_free(struct pyxen_cpu *p)
{
    struct pyxen_machine *m = p->machine;

    pyxen_cpu_halt(p);
    pyxen_timer_free(p);
    pyxen_machine_remove(m, p);
    if (p->uc) {
        pthread_mutex_lock(&creation_lock);
        pyxen_all_code_dropped(p->uc);
        uc_close(p->uc);
        pthread_mutex_unlock(&creation_lock);
    }
    pyxen_free_work(p);
    free(p->code_frames);
    pthread_mutex_destroy(&p->run_lock);
    pthread_mutex_destroy(&p->work_lock);
    pthread_mutex_lock(&m->lock);
    p->next_dead = m->dead;
    m->dead = p;
    pthread_mutex_unlock(&m->lock);
    pyxen_machine_put(m);
}

static void set_running(struct pyxen_cpu *p, bool running)
{
    pthread_mutex_lock(&p->run_lock);
    p->running = running;
    pthread_mutex_unlock(&p->run_lock);
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

/* For how long this thread has run or wanted to: on a busy host, a vCPU that hardly gets to run is not one that idles. */
static uint64_t wanted_ns(void)
{
    FILE *file = fopen("/proc/thread-self/schedstat", "re");
    unsigned long long ran, waited;
    uint64_t wanted = UINT64_MAX; /* for ever, if it cannot be known */

    if (file) {
        if (fscanf(file, "%llu %llu", &ran, &waited) == 2) {
            wanted = ran + waited;
        }
        fclose(file);
    }
    return wanted;
}

/* A guest translates tens of megabytes while it boots, and needs little of it when it idles: then all of it goes back to the host. */
static void drop_code_at_rest(struct pyxen_cpu *p)
{
    TCGContext *t = p->uc->tcg_ctx;
    uint64_t now = now_ns(), elapsed = now - p->look_started;
    uintptr_t start = ROUND_UP((uintptr_t)t->code_gen_buffer, getpagesize());
    uintptr_t end = (uintptr_t)t->code_gen_ptr & -(uintptr_t)getpagesize();
    uint64_t wanted, busy;

    if (elapsed < REST_NS || end < start + CODE_AT_REST) {
        return;
    }
    wanted = wanted_ns();
    busy = wanted - p->look_wanted; /* wrong, once, if another thread has taken over */
    if (p->look_started && wanted != UINT64_MAX && busy < elapsed / IDLE_SHARE) {
        tb_flush(p->uc->cpu);
        madvise((void *)start, end - start, MADV_DONTNEED);
        malloc_trim(0);
    }
    p->look_started = now;
    p->look_wanted = wanted;
}

PYXEN_EXPORT int pyxen_cpu_run(struct pyxen_cpu *p)
{
    uc_engine *uc;
    CPUState *cs;
    CPUX86State *env;
    int reason;

    __atomic_store_n(&p->entered, 1, __ATOMIC_SEQ_CST);
    if (unlikely(__atomic_load_n(&p->halted, __ATOMIC_SEQ_CST))) {
        __atomic_store_n(&p->entered, 0, __ATOMIC_SEQ_CST);
        return PYXEN_EXIT_KICK; /* of the rest, nothing may be there any more */
    }
    uc = p->uc;
    cs = uc->cpu;
    env = cs->env_ptr;
    set_running(p, true);
    pyxen_stand_still(p);
    if (unlikely(++p->runs % RUNS_BETWEEN_LOOKS == 0)) {
        drop_code_at_rest(p);
    }
    pyxen_load_block(p, env);
    do {
        cs->exception_index = -1;
        cs->halted = 0;
        cs->exit_request = 0;
        uc->size_recur_mem = 0;
        uc->invalid_error = UC_ERR_OK;
        if (unlikely(env->eflags & RF_MASK)) {
            /* RF covers one instruction; the translator would ignore the breakpoints of a whole block. */
            cs->cflags_next_tb = 1 | CF_PARALLEL;
        }
        cpu_exec(uc, cs);
        if (unlikely(uc->invalid_error != UC_ERR_OK)) {
            pyxen_record_exit(p, PYXEN_EXIT_INTERNAL_ERROR, 0, uc->invalid_error);
        }
    } while (p->gate && pyxen_gate_serve(p, env));
    if (__atomic_load_n(&p->requests, __ATOMIC_RELAXED) & (PYXEN_REQUEST_WORK | PYXEN_REQUEST_BROADCAST)) {
        pyxen_do_work(p); /* the CPU may now sleep for long; the others should not wait for it */
    }
    set_running(p, false);
    pyxen_store_block(p, env);
    reason = p->state->exit_reason;
    __atomic_store_n(&p->entered, 0, __ATOMIC_RELEASE);
    return reason;
}

void pyxen_request(struct pyxen_cpu *p, uint32_t request)
{
    __atomic_fetch_or(&p->requests, request, __ATOMIC_SEQ_CST);
    __atomic_store_n(&cpu_neg(p->uc->cpu)->icount_decr.u16.high, (uint16_t)-1, __ATOMIC_SEQ_CST);
}

PYXEN_EXPORT void pyxen_cpu_kick(struct pyxen_cpu *p)
{
    pyxen_request(p, PYXEN_REQUEST_KICK);
}

PYXEN_EXPORT void pyxen_cpu_notify(struct pyxen_cpu *p)
{
    pyxen_request(p, PYXEN_REQUEST_EVENTS);
}

PYXEN_EXPORT void pyxen_cpu_flush_tlb_page(struct pyxen_cpu *p, uint64_t address)
{
    pthread_mutex_lock(&p->run_lock); /* another CPU may be looking at the same entries (pyxen_code.c) */
    tlb_flush_page(p->uc->cpu, address);
    pthread_mutex_unlock(&p->run_lock);
}

PYXEN_EXPORT void pyxen_cpu_cpuid(struct pyxen_cpu *p, uint32_t leaf, uint32_t subleaf, uint32_t *registers)
{
    cpu_x86_cpuid(p->uc->cpu->env_ptr, leaf, subleaf, &registers[0], &registers[1], &registers[2], &registers[3]);
}

PYXEN_EXPORT uint64_t pyxen_tsc(void)
{
    return cpu_get_host_ticks();
}

/*
 * The hypervisor's lock: recursive, and one that Python and the gate hold alike.
 *
 * Who finds it free takes it, also before those that wait, so that short holders do not pay for a change of threads each time. Who has
 * waited for PATIENCE_NS is hungry: while anybody is, only hungry ones get it.
 *
 * Never wait for it while holding Python's interpreter lock. The reverse is allowed: its holder may wait for that one.
 *
 * A `with` of Python takes it by pyxen_lock_enter and gives it back by pyxen_lock_exit: C functions, since where Python code runs a handler
 * of a signal may raise, and an exception between the lock and the `with` that gives it back would leave it taken for ever.
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#include "qemu/osdep.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>

#include "pyxen_cpu.h"
#include "pyxen_internal.h"

#define PATIENCE_NS 500000
/* How often (of PATIENCE_NS) a waiter in Python looks whether a signal has come that did not interrupt its sleep. */
#define SLEEPS 100
/* How often the gate looks before it leaves the wait to Python: a few microseconds. */
#define LOOKS 64

static __thread char of_this_thread;
static struct pyxen_interpreter python;

static int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

static bool take(struct pyxen_lock *lock, uint32_t depth)
{
    uint32_t free = 0;

    if (!__atomic_compare_exchange_n(&lock->held, &free, 1, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
        return false;
    }
    __atomic_store_n(&lock->owner, &of_this_thread, __ATOMIC_RELAXED);
    lock->depth = depth;
    return true;
}

int pyxen_lock_owned(struct pyxen_lock *lock)
{
    return __atomic_load_n(&lock->owner, __ATOMIC_RELAXED) == &of_this_thread;
}

int pyxen_lock_try(struct pyxen_lock *lock)
{
    if (pyxen_lock_owned(lock)) {
        lock->depth++;
        return true;
    }
    return !__atomic_load_n(&lock->hungry, __ATOMIC_SEQ_CST) && take(lock, 1);
}

/* For a thread in a run: whoever holds the lock may be waiting for it to leave the guest, so it must not wait for long. */
bool pyxen_lock_try_shortly(struct pyxen_lock *lock)
{
    int i;

    for (i = 0; i < LOOKS && !pyxen_lock_try(lock); i++) {
        __builtin_ia32_pause();
    }
    return i < LOOKS;
}

/* False: a signal has come, or may have. */
static bool wait_patiently(struct pyxen_lock *lock, uint32_t depth)
{
    const struct timespec patience = { 0, PATIENCE_NS };
    int64_t end = now_ns() + PATIENCE_NS;
    bool hungry = false, taken = false, interrupted = false;
    int sleeps = 0;

    __atomic_add_fetch(&lock->waiters, 1, __ATOMIC_SEQ_CST);
    while (!interrupted) {
        uint32_t releases = __atomic_load_n(&lock->releases, __ATOMIC_SEQ_CST);

        taken = (hungry || !__atomic_load_n(&lock->hungry, __ATOMIC_SEQ_CST)) && take(lock, depth);
        if (taken) {
            break;
        }
        if (!hungry && now_ns() >= end) {
            hungry = true;
            __atomic_add_fetch(&lock->hungry, 1, __ATOMIC_SEQ_CST);
        } else {
            interrupted = (syscall(SYS_futex, &lock->releases, FUTEX_WAIT_PRIVATE, releases, &patience, NULL, 0) && errno == EINTR)
                || ++sleeps == SLEEPS;
        }
    }
    __atomic_sub_fetch(&lock->hungry, hungry, __ATOMIC_SEQ_CST);
    __atomic_sub_fetch(&lock->waiters, 1, __ATOMIC_SEQ_CST);
    return taken;
}

PYXEN_EXPORT void pyxen_set_interpreter(const struct pyxen_interpreter *interpreter)
{
    python = *interpreter;
}

int pyxen_lock_restore(struct pyxen_lock *lock, uint32_t depth)
{
    for (;;) {
        void *thread = python.save_thread();
        bool taken = wait_patiently(lock, depth);

        python.restore_thread(thread);
        if (taken) {
            return 1;
        }
        if (python.check_signals()) {
            return 0;
        }
    }
}

void *pyxen_lock_enter(void *capsule, void *unused)
{
    struct pyxen_lock *lock = python.pointer(capsule, NULL);

    return pyxen_lock_try(lock) || pyxen_lock_restore(lock, 1) ? python.truth(1) : NULL;
}

void *pyxen_lock_exit(void *capsule, void *const *exception, ssize_t count)
{
    if (pyxen_lock_release(python.pointer(capsule, NULL))) {
        python.set_error(python.runtime_error, "cannot release a lock that is not held");
        return NULL;
    }
    return python.truth(0);
}

uint32_t pyxen_lock_release_all(struct pyxen_lock *lock)
{
    uint32_t depth = lock->depth;

    __atomic_store_n(&lock->owner, NULL, __ATOMIC_RELAXED);
    __atomic_store_n(&lock->held, 0, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&lock->waiters, __ATOMIC_SEQ_CST)) {
        int woken = __atomic_load_n(&lock->hungry, __ATOMIC_SEQ_CST) ? INT_MAX : 1; /* whom it is refused sleeps on */

        __atomic_add_fetch(&lock->releases, 1, __ATOMIC_SEQ_CST);
        syscall(SYS_futex, &lock->releases, FUTEX_WAKE_PRIVATE, woken, NULL, NULL, 0);
    }
    return depth;
}

int pyxen_lock_release(struct pyxen_lock *lock)
{
    if (!pyxen_lock_owned(lock)) {
        return -1;
    }
    if (--lock->depth == 0) {
        pyxen_lock_release_all(lock);
    }
    return 0;
}

PYXEN_EXPORT struct pyxen_lock *pyxen_machine_lock(struct pyxen_machine *m)
{
    return &m->hypervisor;
}

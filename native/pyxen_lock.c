/*
 * The hypervisor's lock: recursive, and one that Python and the gate hold alike.
 *
 * Who finds it free takes it, also before those that wait, so that short holders do not pay for a change of threads each time. Who has
 * waited for PATIENCE_NS is hungry: while anybody is, only hungry ones get it.
 *
 * Never wait for it while holding Python's interpreter lock. The reverse is allowed: its holder may wait for that one.
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
/* How often the gate looks before it leaves the wait to Python: a few microseconds. */
#define LOOKS 64

static __thread char of_this_thread;

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

void pyxen_lock_wait(struct pyxen_lock *lock, uint32_t depth)
{
    const struct timespec patience = { 0, PATIENCE_NS };
    int64_t end = now_ns() + PATIENCE_NS;
    bool hungry = false;

    __atomic_add_fetch(&lock->waiters, 1, __ATOMIC_SEQ_CST);
    for (;;) {
        uint32_t releases = __atomic_load_n(&lock->releases, __ATOMIC_SEQ_CST);

        if ((hungry || !__atomic_load_n(&lock->hungry, __ATOMIC_SEQ_CST)) && take(lock, depth)) {
            break;
        }
        if (!hungry && now_ns() >= end) {
            hungry = true;
            __atomic_add_fetch(&lock->hungry, 1, __ATOMIC_SEQ_CST);
        } else {
            syscall(SYS_futex, &lock->releases, FUTEX_WAIT_PRIVATE, releases, &patience, NULL, 0);
        }
    }
    __atomic_sub_fetch(&lock->hungry, hungry, __ATOMIC_SEQ_CST);
    __atomic_sub_fetch(&lock->waiters, 1, __ATOMIC_SEQ_CST);
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

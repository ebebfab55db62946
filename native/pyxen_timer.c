/*
 * The one-shot timer of a vCPU in the guest: a timer of the host's whose signal goes to the vCPU's own thread, which then leaves the
 * translated code at the next boundary of a block. So neither Python nor another thread has to run for a tick.
 *
 * The deadline is in the gate's block. While timer_native is set, it is the vCPU's thread's, in the guest; Python takes it over when the vCPU
 * goes to sleep. To change whose it is takes the hypervisor's lock.
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#include "qemu/osdep.h"
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>

#include "pyxen_cpu.h"
#include "pyxen_gate.h"
#include "pyxen_internal.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static pthread_once_t handled = PTHREAD_ONCE_INIT;
static int alarm_signal; /* 0: there is none */

static void on_alarm(int number, siginfo_t *information, void *context)
{
    struct pyxen_cpu *p = information->si_code == SI_TIMER ? information->si_ptr : NULL;

    if (p && !__atomic_load_n(&p->halted, __ATOMIC_RELAXED)) {
        pyxen_request(p, PYXEN_REQUEST_EVENTS);
    }
}

/* The first signal from the middle of the real-time ones that nobody has a handler for. */
static void handle_alarms(void)
{
    struct sigaction wanted = { .sa_sigaction = on_alarm, .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK }, found;
    int number;

    sigemptyset(&wanted.sa_mask);
    for (number = (SIGRTMIN + SIGRTMAX) / 2; number <= SIGRTMAX; number++) {
        if (!sigaction(number, NULL, &found) && found.sa_handler == SIG_DFL && !sigaction(number, &wanted, NULL)) {
            alarm_signal = number;
            return;
        }
    }
}

/* A timer for this thread. */
static bool has_alarm(struct pyxen_cpu *p)
{
    static __thread pid_t this_thread;
    struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID };

    if (!this_thread) {
        this_thread = syscall(SYS_gettid);
    }
    if (p->alarm_thread == this_thread) {
        return true;
    }
    pyxen_timer_free(p);
    pthread_once(&handled, handle_alarms);
    event.sigev_signo = alarm_signal;
    event.sigev_value.sival_ptr = p;
    event.sigev_notify_thread_id = this_thread;
    if (!alarm_signal || timer_create(CLOCK_MONOTONIC, &event, &p->alarm)) {
        return false;
    }
    p->alarm_thread = this_thread;
    return true;
}

void pyxen_timer_free(struct pyxen_cpu *p)
{
    if (p->alarm_thread) {
        timer_delete(p->alarm);
        p->alarm_thread = 0;
    }
}

/* GuestTime.now. */
static uint64_t system_time(const struct pyxen_machine *m)
{
    return m->clock_ns + (uint64_t)((unsigned __int128)(pyxen_tsc() - m->clock_tsc) * m->clock_multiplier >> 32);
}

/* An alarm in `ns`. False: there is none to be had. */
bool pyxen_timer_start(struct pyxen_cpu *p, uint64_t ns)
{
    const struct itimerspec delay = { .it_value = { ns / 1000000000, ns % 1000000000 } };

    return has_alarm(p) && !timer_settime(p->alarm, 0, &delay, NULL);
}

/* Nanoseconds until the timer is due. */
int64_t pyxen_timer_left(const struct pyxen_cpu *p)
{
    return (int64_t)(p->gate->timer_deadline - system_time(p->machine));
}

PYXEN_EXPORT void pyxen_cpu_stop_alarm(struct pyxen_cpu *p)
{
    const struct itimerspec never = { 0 };

    if (p->alarm_thread) {
        timer_settime(p->alarm, 0, &never, NULL);
    }
}

/* `deadline` in system time, 0 for none. By the vCPU's thread, in the guest. False: Python has to do it. */
bool pyxen_timer_set(struct pyxen_cpu *p, uint64_t deadline)
{
    struct pyxen_gate *g = p->gate;
    uint64_t now;

    if (!p->machine->clock_multiplier) {
        return false;
    }
    if (!g->timer_native && g->timer_deadline) { /* Python's, until we have the lock */
        if (!pyxen_lock_try_shortly(&p->machine->hypervisor)) {
            return false;
        }
        g->timer_native = 1;
        pyxen_lock_release(&p->machine->hypervisor);
    }
    now = system_time(p->machine);
    if (deadline > now) {
        if (!pyxen_timer_start(p, deadline - now)) {
            return false;
        }
    } else if (deadline) {
        pyxen_request(p, PYXEN_REQUEST_EVENTS);
    }
    g->timer_native = 1;
    g->timer_deadline = deadline;
    return true;
}

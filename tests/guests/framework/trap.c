#include "trap.h"

#include "check.h"
#include "console.h"
#include "event.h"
#include "hypercall.h"
#include "start.h"
#include "user.h"

#define KINDS 261

struct trap_record trap_record;

static u64 expected[(KINDS + 63) / 64];
static trap_handler_t *handlers[KINDS];

extern const struct {
    u64 fault, resume;
} exception_table_start[], exception_table_end[];

extern u64 guarded_stack;
extern char guarded_call_end[];
void guarded_call(void (*function)(void));

void trap_expect(unsigned kind)
{
    expected[kind / 64] |= 1UL << (kind % 64);
}

void trap_unexpect(unsigned kind)
{
    expected[kind / 64] &= ~(1UL << (kind % 64));
}

void trap_set_handler(unsigned kind, trap_handler_t *handler)
{
    handlers[kind] = handler;
}

void trap_forget(void)
{
    memset(&trap_record, 0, sizeof(trap_record));
    trap_record.kind = KIND_NONE;
}

void trap_remember(const struct registers *registers)
{
    struct vcpu_info *vcpu = event_vcpu_info();

    trap_record.kind = registers->kind;
    trap_record.error = registers->error;
    trap_record.count++;
    trap_record.cr2 = vcpu->arch.cr2;
    trap_record.upcall_mask = vcpu->evtchn_upcall_mask;
    trap_record.registers = *registers;
}

struct trap_record trap_of_call(void (*function)(void))
{
    trap_forget();
    guarded_call(function);
    return trap_record;
}

void trap_unexpected(const struct registers *registers)
{
    checks_failed++;
    print("FAIL unexpected trap %lu, error 0x%lx, cr2 0x%lx, rip 0x%lx, cs 0x%x, rflags 0x%lx, rsp 0x%lx, ss 0x%lx\n", registers->kind,
          registers->error, event_vcpu_info()->arch.cr2, registers->rip, registers->cs, registers->rflags, registers->rsp, registers->ss);
    print("rax %lx rbx %lx rcx %lx rdx %lx rsi %lx rdi %lx rbp %lx r8 %lx r9 %lx r10 %lx r11 %lx\n", registers->rax, registers->rbx,
          registers->rcx, registers->rdx, registers->rsi, registers->rdi, registers->rbp, registers->r8, registers->r9, registers->r10,
          registers->r11);
    finish();
}

/* entry.S calls this for every bounce. When it returns, the registers are loaded by HYPERVISOR_iret. */
void trap_dispatch(struct registers *registers)
{
    bool from_user = (registers->cs & 3) == 3;

    if (handlers[registers->kind]) {
        handlers[registers->kind](registers);
        return;
    }
    if (registers->kind == KIND_EVENT) {
        event_upcall(registers);
        return;
    }
    if (from_user) {
        user_stopped(registers);
        return;
    }
    for (size_t i = 0; &exception_table_start[i] < exception_table_end; i++)
        if (exception_table_start[i].fault == registers->rip) {
            trap_remember(registers);
            registers->rip = exception_table_start[i].resume;
            return;
        }
    if (guarded_stack) {
        trap_remember(registers);
        registers->rip = (u64)guarded_call_end;
        registers->rsp = guarded_stack;
        registers->cs = FLAT_KERNEL_CS & ~3;
        registers->ss = FLAT_KERNEL_SS;
        registers->rflags &= ~(X86_EFLAGS_TF | X86_EFLAGS_AC);
        return;
    }
    if (expected[registers->kind / 64] & (1UL << (registers->kind % 64))) {
        trap_remember(registers);
        return;
    }
    trap_unexpected(registers);
}

void trap_table_install(unsigned vector, u8 flags)
{
    struct trap_info table[2] = {
        {.vector = vector, .flags = flags, .cs = FLAT_KERNEL_CS, .address = (unsigned long)vector_entry_points[vector]},
    };

    if (hypercall_set_trap_table(table))
        check(false, "set_trap_table for vector %u", vector);
}

long callback_register(unsigned type, unsigned flags, const void *address)
{
    struct callback_register argument = {.type = type, .flags = flags, .address = (unsigned long)address};

    return hypercall_callback_op(CALLBACKOP_register, &argument);
}

void traps_fill(struct trap_info *table)
{
    for (unsigned vector = 0; vector < 32; vector++)
        table[vector] = (struct trap_info){
            .vector = vector,
            .flags = vector == VECTOR_BP || vector == VECTOR_OF ? 3 : 0,
            .cs = FLAT_KERNEL_CS,
            .address = (unsigned long)vector_entry_points[vector],
        };
}

void traps_init(void)
{
    static struct trap_info table[33];

    traps_fill(table);
    hypercall_set_trap_table(table);
    callback_register(CALLBACKTYPE_event, 0, entry_event);
    callback_register(CALLBACKTYPE_failsafe, 0, entry_failsafe);
    callback_register(CALLBACKTYPE_syscall, 0, entry_syscall);
    hypercall_stack_switch(FLAT_KERNEL_SS, (unsigned long)trap_stack_top);
}

#include "trap.h"

#include "apic.h"
#include "check.h"
#include "console.h"
#include "processor.h"
#include "start.h"

#define TRAP_STACK 16384

struct trap_record trap_record;
volatile unsigned interrupt_counts[256];

static u8 expected[256];
static trap_handler_t *handlers[256];
static u8 trap_stacks[MAX_VCPUS][TRAP_STACK] __attribute__((aligned(16)));
static u8 user_stack[PAGE_SIZE] page_aligned;

extern const struct {
    unsigned long fault, resume;
} exception_table_start[], exception_table_end[];
extern unsigned long guarded_stack;
void guarded_call(void (*function)(void));
void guarded_leave(void) __attribute__((noreturn));
void user_enter(struct registers *registers);
void user_leave(void) __attribute__((noreturn));

struct gate {
    u16 low, selector;
    u8 stack, type;
    u16 middle;
#ifdef __x86_64__
    u32 high, reserved;
#endif
} __attribute__((packed));

static struct gate idt[256] __attribute__((aligned(16)));
static struct task_state tasks[MAX_VCPUS];

void trap_set_handler(unsigned vector, trap_handler_t *handler)
{
    handlers[vector] = handler;
}

void trap_expect(unsigned vector)
{
    expected[vector] = true;
}

static void count_interrupt(struct registers *registers)
{
    __atomic_fetch_add(&interrupt_counts[registers->vector], 1, __ATOMIC_SEQ_CST);
    apic_end_of_interrupt();
}

void interrupt_expect(unsigned vector)
{
    handlers[vector] = count_interrupt;
}

void trap_forget(void)
{
    memset(&trap_record, 0, sizeof(trap_record));
    trap_record.kind = KIND_NONE;
}

void trap_remember(const struct registers *registers)
{
    trap_record.kind = registers->vector;
    trap_record.error = registers->error;
    trap_record.cr2 = read_cr2();
    trap_record.count++;
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
    print("FAIL unexpected trap %u, error 0x%lx, cr2 0x%lx, ip 0x%lx, cs 0x%x, flags 0x%lx, ax 0x%lx\n", (unsigned)registers->vector,
          (unsigned long)registers->error, read_cr2(), (unsigned long)registers->ip, (unsigned)registers->cs, (unsigned long)registers->flags,
          (unsigned long)registers->ax);
    finish();
}

static struct registers *user_registers;

void user_run(struct registers *registers)
{
    struct registers frame = *registers;

    user_registers = registers;
    user_enter(&frame);
    user_registers = NULL;
}

void user_prepare(struct registers *registers, const void *code)
{
    memset(registers, 0, sizeof(*registers));
    registers->ip = (unsigned long)code;
    registers->cs = USER_CS;
    registers->ss = USER_DS;
    registers->sp = (unsigned long)user_stack + sizeof(user_stack) - 64;
    registers->flags = X86_EFLAGS_MBS;
}

/* entry.S calls this for every gate. */
void trap_dispatch(struct registers *registers)
{
    if (handlers[registers->vector]) {
        handlers[registers->vector](registers);
        return;
    }
    if ((registers->cs & 3) && user_registers) {
        trap_remember(registers);
        *user_registers = *registers;
        user_leave();
    }
    for (size_t i = 0; &exception_table_start[i] < exception_table_end; i++)
        if (exception_table_start[i].fault == registers->ip) {
            trap_remember(registers);
            registers->ip = exception_table_start[i].resume;
            return;
        }
    if (guarded_stack) {
        trap_remember(registers);
        guarded_leave();
    }
    if (!expected[registers->vector])
        trap_unexpected(registers);
    trap_remember(registers);
}

void gate_set(unsigned vector, const void *address, unsigned selector, u8 type, u8 stack)
{
    unsigned long where = (unsigned long)address;
    struct gate gate = {.low = where, .middle = where >> 16, .selector = selector, .type = type, .stack = stack};

#ifdef __x86_64__
    gate.high = where >> 32;
#endif
    idt[vector] = gate;
}

void traps_load(unsigned vcpu)
{
    struct task_state *task = &tasks[vcpu];

    task_state_init(task, (unsigned long)trap_stacks[vcpu] + TRAP_STACK);
    descriptor_set_system(TSS_SELECTOR(vcpu), (unsigned long)task, sizeof(*task) - 1, 0x89);
    load_idt(idt, sizeof(idt) - 1);
    asm volatile("ltr %w0" ::"r"(TSS_SELECTOR(vcpu)));
}

void traps_init(void)
{
    for (unsigned vector = 0; vector < 256; vector++)
        gate_set(vector, gates[vector], KERNEL_CS, vector == VECTOR_BP || vector == VECTOR_OF ? 0xee : 0x8e, 0);
    traps_load(0);
}

#include "smp.h"

#include "apic.h"
#include "check.h"
#include "event.h"
#include "hypercall.h"
#include "processor.h"
#include "start.h"
#include "trap.h"

#define STACK_SIZE 16384

extern char trampoline[], trampoline_end[], vcpu_entry[];

unsigned long startup_stack;
unsigned startup_number;

static u8 stacks[MAX_VCPUS][STACK_SIZE] __attribute__((aligned(16)));
static smp_function_t *functions[MAX_VCPUS];
static volatile bool arrived[MAX_VCPUS], finished[MAX_VCPUS];

void __attribute__((noreturn)) smp_main(unsigned vcpu)
{
    traps_load(vcpu);
    arrived[vcpu] = true;
    functions[vcpu](vcpu);
    finished[vcpu] = true;
    for (;;)
        HYPERCALL(vcpu_op, VCPUOP_down, vcpu);
}

static unsigned long stack_of(unsigned vcpu)
{
    return (unsigned long)stacks[vcpu] + STACK_SIZE - 64;
}

void vcpu_context(unsigned vcpu, struct vcpu_hvm_context *context)
{
    memset(context, 0, sizeof(*context));
#ifdef __x86_64__
    struct vcpu_hvm_x86_64 *registers = &context->cpu_regs.x86_64;

    context->mode = VCPU_HVM_MODE_64B;
    registers->rip = (u64)vcpu_entry;
    registers->rsp = stack_of(vcpu);
    registers->rbx = vcpu;
    registers->efer = EFER_LME | EFER_LMA;
#else
    struct vcpu_hvm_x86_32 *registers = &context->cpu_regs.x86_32;

    context->mode = VCPU_HVM_MODE_32B;
    registers->eip = (u32)vcpu_entry;
    registers->esp = stack_of(vcpu);
    registers->ebx = vcpu;
    registers->cs_limit = registers->ds_limit = registers->ss_limit = registers->es_limit = 0xffffffff;
    registers->cs_ar = 0xc9b;
    registers->ds_ar = registers->ss_ar = registers->es_ar = 0xc93;
    registers->tr_ar = 0x8b;
    registers->tr_limit = 0x67;
#endif
    registers->cr0 = read_cr0();
    registers->cr3 = read_cr3();
    registers->cr4 = read_cr4();
}

void smp_start(unsigned vcpu, smp_function_t *function)
{
    static struct vcpu_hvm_context context;

    functions[vcpu] = function;
    arrived[vcpu] = finished[vcpu] = false;
    vcpu_context(vcpu, &context);
    if (HYPERCALL(vcpu_op, VCPUOP_initialise, vcpu, &context))
        check(false, "initialise vCPU %u", vcpu);
    if (HYPERCALL(vcpu_op, VCPUOP_up, vcpu))
        check(false, "bring up vCPU %u", vcpu);
}

void smp_start_by_ipi(unsigned vcpu, smp_function_t *function)
{
    functions[vcpu] = function;
    arrived[vcpu] = finished[vcpu] = false;
    memcpy((void *)TRAMPOLINE, trampoline, trampoline_end - trampoline);
    startup_stack = stack_of(vcpu);
    startup_number = vcpu;
    apic_send(ICR_INIT, 2 * vcpu);
    apic_send(ICR_STARTUP | TRAMPOLINE >> 12, 2 * vcpu);
    apic_send(ICR_STARTUP | TRAMPOLINE >> 12, 2 * vcpu); /* a second one means nothing */
    if (!smp_arrived(vcpu))
        check(false, "vCPU %u starts", vcpu);
}

bool smp_arrived(unsigned vcpu)
{
    return WAIT_FOR(arrived[vcpu]);
}

bool smp_finished(unsigned vcpu)
{
    return WAIT_FOR(finished[vcpu]);
}

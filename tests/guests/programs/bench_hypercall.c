/* @bench
 * Nanoseconds for the operations that dominate a guest's dealings with Xen. `BENCH name ns` lines; a program for make bench. */
#include "guest.h"

#include "bench.h"

USER_CODE(user_syscalls, "1: syscall\n dec %ebx\n jnz 1b\n ud2");
USER_CODE(user_null, "syscall");

static u8 window[PAGE_SIZE] page_aligned;
static unsigned user_calls;

static void skip_ud(struct registers *registers)
{
    registers->rip += 2;
}

static void count_syscall(struct registers *registers)
{
    user_calls++;
    registers->flags = VGCF_in_syscall;
}

PROGRAM(bench_hypercall)
{
    u64 entry[2] = {make_pte(virt_to_mfn(page_alloc()), PTE_DATA), make_pte(virt_to_mfn(page_alloc()), PTE_DATA)};
    struct multicall_entry calls[32];
    struct mmu_update updates[64];
    long loop = event_alloc_unbound(DOMID_SELF), other = event_bind_interdomain(DOMID_SELF, loop);
    struct registers registers = user_registers();
    u64 start;

    BENCH("hypercall_unknown", 5000, hypercall(11, 0, 0, 0, 0, 0));
    BENCH("hypercall_xen_version", 5000, hypercall_xen_version(XENVER_version, NULL));
    BENCH("hypercall_yield", 2000, hypercall_sched_op(SCHEDOP_yield, NULL));
    for (int i = 0; i < 32; i++)
        calls[i] = (struct multicall_entry){.op = __HYPERVISOR_xen_version};
    BENCH("multicall_of_32", 300, hypercall_multicall(calls, 32));
    BENCH("update_va_mapping", 2000, hypercall_update_va_mapping((unsigned long)window, entry[i_ & 1], UVMF_INVLPG));
    for (int i = 0; i < 64; i++)
        updates[i] = (struct mmu_update){.ptr = pte_machine_address(pte_of((unsigned long)window, 1)), .val = entry[i & 1]};
    BENCH("mmu_update_of_1", 2000, hypercall_mmu_update(updates, 1, NULL, DOMID_SELF));
    BENCH_UNITS("mmu_update_entry", 200, ARRAY_SIZE(updates), hypercall_mmu_update(updates, 64, NULL, DOMID_SELF));
    hypercall_vm_assist(VMASST_CMD_enable, VMASST_TYPE_writable_pagetables);
    BENCH("pte_write_emulated", 500, *(volatile u64 *)pte_of((unsigned long)window, 1) = entry[i_ & 1]);
    BENCH("new_baseptr", 500, mmuext(MMUEXT_NEW_BASEPTR, virt_to_mfn((void *)start_info->pt_base), 0));
    trap_set_handler(VECTOR_UD, skip_ud);
    BENCH("exception_and_iret", 2000, asm volatile("ud2"));
    trap_set_handler(VECTOR_UD, NULL);
    event_clear(other);
    events_enable();
    BENCH("event_upcall_and_iret", 1000, event_send(loop));
    events_disable();
    user_init();
    BENCH("user_round_trip", 500, user_run_code(user_null));
    trap_set_handler(KIND_SYSCALL, count_syscall);
    registers.rbx = 5000;
    start = clock_now();
    user_run(user_syscalls, user_syscalls_end, registers);
    print("BENCH user_syscall_and_iret %lu ns\n", (clock_now() - start) / 5000);
    check_equal(user_calls, 5000, "user system calls counted");
    trap_set_handler(KIND_SYSCALL, NULL);
    start = clock_now();
    asm volatile("mov $20000000, %%ecx\n1: add $3, %%eax\n xor %%eax, %%edx\n dec %%ecx\n jnz 1b" ::: "eax", "ecx", "edx", "cc");
    print("BENCH integer_loop %lu million instructions per second\n", 80000000UL * 1000 / (clock_now() - start));
}

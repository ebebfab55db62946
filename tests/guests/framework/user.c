#include "user.h"

#include "check.h"
#include "event.h"
#include "hypercall.h"
#include "paging.h"
#include "start.h"

u64 *user_root;
u8 *user_data;

static u8 *user_code;
static u64 *user_l1;
static bool running;

void context_run(const struct registers *registers);
void context_leave(void) __attribute__((noreturn));

static void link_table(u64 *parent, unsigned index, const void *table)
{
    if (pte_write(&parent[index], make_pte(virt_to_mfn(table), PTE_TABLE)))
        check(false, "link a user page table");
}

u64 *user_pte(unsigned long address)
{
    return &user_l1[(address >> 12) & 511];
}

void user_init(void)
{
    u64 *l3 = table_alloc(), *l2 = table_alloc();

    user_root = table_alloc();
    user_l1 = table_alloc();
    user_code = page_alloc();
    user_data = page_alloc();

    /* Bottom up while the tables are plain pages; pinning the root makes Xen validate the whole tree. */
    pte_write(user_pte(USER_CODE_ADDRESS), make_pte(virt_to_mfn(user_code), PTE_CODE | PTE_US));
    pte_write(user_pte(USER_DATA_ADDRESS), make_pte(virt_to_mfn(user_data), PTE_DATA | PTE_US));
    pte_write(user_pte(USER_STACK_TOP - 1), make_pte(virt_to_mfn(page_alloc()), PTE_DATA | PTE_US));
    link_table(l2, (USER_CODE_ADDRESS >> 21) & 511, user_l1);
    link_table(l3, 0, l2);
    link_table(user_root, 0, l3);
    check_equal(mmuext(MMUEXT_PIN_L4_TABLE, virt_to_mfn(user_root), 0), 0, "pin the user root");
    check_equal(mmuext(MMUEXT_NEW_USER_BASEPTR, virt_to_mfn(user_root), 0), 0, "NEW_USER_BASEPTR");
    /* The kernel sees user space too, as kernels do. */
    link_table((u64 *)start_info->pt_base, 0, l3);
}

struct registers user_registers(void)
{
    return (struct registers){
        .rip = USER_CODE_ADDRESS,
        .cs = FLAT_USER_CS64,
        .rflags = X86_EFLAGS_MBS,
        .rsp = USER_STACK_TOP - 64,
        .ss = FLAT_USER_SS64,
    };
}

struct trap_record user_run(const char *code, const char *code_end, struct registers registers)
{
    memcpy(user_code, code, code_end - code);
    trap_forget();
    running = true;
    context_run(&registers);
    return trap_record;
}

void user_stopped(struct registers *registers)
{
    struct vcpu_info *vcpu = event_vcpu_info();

    if (!running)
        trap_unexpected(registers);
    running = false;
    trap_remember(registers);
    vcpu->evtchn_upcall_mask = 1;
    context_leave();
}

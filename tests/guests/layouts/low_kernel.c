/*
 * A kernel in the lower half of the address space, in the manner of small test kernels and library operating systems: no ENTRY, VIRT_BASE or
 * PADDR_OFFSET among its notes, one address space for kernel and user code, console and store by their rings without events of its own.
 * The last line that it prints is "Test result: SUCCESS" or "Test result: FAILURE".
 */
#include "hypercall.h"

#include <xen/io/console.h>
#include <xen/io/xs_wire.h>
#include <xen/elfnote.h>

#define P 1UL
#define RW 2UL
#define US 4UL
#define AD 0x60UL
#define RETURN_VECTOR 0x20

asm(".macro note type, content:vararg\n"
    ".pushsection .note.Xen, \"a\", @note\n .balign 4\n .long 2f - 1f, 4f - 3f, \\type\n"
    "1: .asciz \"Xen\"\n2: .balign 4\n3: \\content\n4: .balign 4\n .popsection\n .endm\n"
    "note 6, .asciz \"low-kernel\"\n"                                        /* GUEST_OS */
    "note 7, .asciz \"0\"\n"                                                 /* GUEST_VERSION */
    "note 8, .asciz \"generic\"\n"                                           /* LOADER */
    "note 2, .quad hypercall_page\n"                                         /* HYPERCALL_PAGE */
    "note 5, .asciz \"xen-3.0\"\n"                                           /* XEN_VERSION */
    "note 10, .asciz \"!writable_page_tables|pae_pgdir_above_4gb\"\n"        /* FEATURES */
    "note 9, .asciz \"yes\"\n"                                               /* PAE_MODE */
    ".pushsection .hypercall_page, \"ax\", @progbits\n .globl hypercall_page\n hypercall_page: .fill 4096, 1, 0xc3\n .popsection\n"
    ".pushsection .text.boot, \"ax\", @progbits\n .globl _start\n"
    "_start: mov %rsi, start_info\n mov $stack + 16384, %esp\n call kernel\n ud2\n"
    /* int $0x20 from user code: back to who called enter_user(). */
    "return_to_kernel: mov kernel_stack_pointer, %rsp\n pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n ret\n"
    "enter_user: push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n mov %rsp, kernel_stack_pointer\n"
    "push $0xe02b; push $user_stack + 4096; pushf; push $0xe033; push $user_code; push $0; jmp hypercall_page + 23 * 32\n"
    "user_code: mov %cs, %eax\n mov %eax, user_saw\n push %rax\n int $0x20\n"
    ".popsection\n");

struct start_info *start_info;
u8 stack[16384] page_aligned, user_stack[PAGE_SIZE] page_aligned;
u64 kernel_stack_pointer;
u32 user_saw;
static u8 shared_page[PAGE_SIZE] page_aligned;
static struct xencons_interface *console;
static struct xenstore_domain_interface *store;
static unsigned failures;

extern char return_to_kernel[];
void enter_user(void);

void *memcpy(void *to, const void *from, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        ((u8 *)to)[i] = ((const u8 *)from)[i];
    return to;
}

static void *mfn_to_virt(unsigned long mfn)
{
    return (void *)(machine_to_phys_mapping[mfn] << 12);
}

static void notify(unsigned port)
{
    struct evtchn_send send = {.port = port};

    HYPERCALL(event_channel_op, EVTCHNOP_send, &send);
}

static void put(const char *text)
{
    size_t length = 0;

    while (text[length])
        length++;
    HYPERCALL(console_io, CONSOLEIO_write, length, text);
    for (size_t i = 0; i < length; i++) {
        while (console->out_prod - *(volatile u32 *)&console->out_cons == sizeof(console->out))
            HYPERCALL(sched_op, SCHEDOP_yield, 0);
        console->out[console->out_prod % sizeof(console->out)] = text[i];
        barrier();
        console->out_prod++;
    }
    notify(start_info->console.domU.evtchn);
    while (*(volatile u32 *)&console->out_cons != console->out_prod)
        HYPERCALL(sched_op, SCHEDOP_yield, 0);
}

static void check(bool holds, const char *what)
{
    failures += !holds;
    put(holds ? "ok " : "FAIL ");
    put(what);
    put("\n");
}

static bool is(const char *text, const char *beginning)
{
    while (*beginning)
        if (*text++ != *beginning++)
            return false;
    return true;
}

/* XS_READ of "domid", waiting by SCHEDOP_poll. */
static void check_store(void)
{
    struct xsd_sockmsg request = {.type = XS_READ, .len = 6}, reply = {0};
    struct sched_poll poll = {.nr_ports = 1};
    evtchn_port_t port = start_info->store_evtchn;
    char message[22];
    unsigned taken = 0;

    set_xen_guest_handle(poll.ports, &port);
    memcpy(message, &request, 16);
    memcpy(message + 16, "domid", 6);
    for (unsigned i = 0; i < sizeof(message); i++)
        store->req[(store->req_prod + i) % XENSTORE_RING_SIZE] = message[i];
    barrier();
    store->req_prod += sizeof(message);
    notify(port);
    while (taken < 16 || taken < 16 + reply.len) {
        while (*(volatile u32 *)&store->rsp_prod == store->rsp_cons) {
            ((struct shared_info *)shared_page)->evtchn_pending[port / 64] &= ~(1UL << port % 64);
            if (*(volatile u32 *)&store->rsp_prod == store->rsp_cons)
                HYPERCALL(sched_op, SCHEDOP_poll, &poll);
        }
        char octet = store->rsp[store->rsp_cons % XENSTORE_RING_SIZE];

        barrier();
        store->rsp_cons++;
        if (taken < 16)
            ((char *)&reply)[taken] = octet;
        else if (taken == 16)
            check(octet >= '1' && octet <= '9', "the store says which domain this is");
        taken++;
    }
    check(reply.type == XS_READ, "a reply of the store");
}

void kernel(void)
{
    struct trap_info traps[] = {{.vector = RETURN_VECTOR, .flags = 3 | 4, .cs = 0xe033, .address = (u64)return_to_kernel}, {0}};
    struct mmuext_op user_root = {.cmd = MMUEXT_NEW_USER_BASEPTR};
    struct sched_shutdown end = {.reason = SHUTDOWN_poweroff};
    u64 cr3, *table;

    console = mfn_to_virt(start_info->console.domU.mfn);
    store = mfn_to_virt(start_info->store_mfn);
    put("low kernel\n");
    check((u8)hypercall_page[0] == 0x51, "the hypercall page is filled in");
    check(hypercall_page_call(__HYPERVISOR_xen_version, XENVER_version, 0, 0, 0, 0) >> 16 == 4, "a call through it");
    check(is(start_info->magic, "xen-3.0-x86_64"), "start_info");
    check(HYPERCALL(set_trap_table, traps) == 0, "set_trap_table");
    check(HYPERCALL(stack_switch, 0xe02b, stack + 8192) == 0, "stack_switch");
    asm volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%fs; mov %0, %%gs" ::"r"(0xe02b));
    asm volatile("mov %%cr3, %0" : "=r"(cr3));
    table = (u64 *)start_info->pt_base;
    check(mfn_to_virt(cr3 >> 12) == table, "CR3 is the root that start_info names");
    for (int level = 4; level > 1; level--) {
        check(table[0] & P && table[0] & US, "a table for address 0");
        table = mfn_to_virt((table[0] & 0x000ffffffffff000UL) >> 12);
    }
    check(table[1] & P && table[2] & RW, "pages 1 and 2 are mapped");
    check(HYPERCALL(update_va_mapping, 0, 0, UVMF_INVLPG) == 0 && !table[0], "page 0 can be unmapped");
    user_root.arg1.mfn = cr3 >> 12;
    check(HYPERCALL(mmuext_op, &user_root, 1, 0, DOMID_SELF) == 0, "one root for kernel and user code");
    check(HYPERCALL(update_va_mapping, shared_page, start_info->shared_info | AD | RW | P, UVMF_INVLPG) == 0, "shared_info");
    enter_user();
    check((user_saw & 3) == 3, "user code");
    check(!(table[(u64)user_stack >> 12] & P) || *(u64 *)(user_stack + 4088) == user_saw, "on its stack");
    if (is((const char *)start_info->cmd_line, "store"))
        check_store();
    put(failures ? "Test result: FAILURE\n" : "Test result: SUCCESS\n");
    for (;;)
        HYPERCALL(sched_op, SCHEDOP_shutdown, &end);
}

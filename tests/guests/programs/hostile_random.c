/* @expect any
 * @timeout 20
 * Random page-table edits, hypercalls and instructions, from a seed ("seed=N" on the command line, else 1), until something ends the domain. Whatever
 * happens, it happens to this domain only; the watchdog sees that it ends. */
#include "guest.h"

#define ROUNDS 4000

static u64 state = 1;
static u8 arguments[2 * PAGE_SIZE] page_aligned;
static u8 code[PAGE_SIZE] page_aligned;
static void *pages[12];

static u64 dice(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static u64 pick_frame(void)
{
    switch (dice() % 8) {
    case 0:
        return dice() % 0x10000;
    case 1:
        return start_info->shared_info >> 12;
    case 2:
        return dice() >> (dice() % 64);
    case 3:
        return (*pte_of((unsigned long)pages[0], 1 + dice() % 4) & PTE_FRAME) >> 12;
    default:
        return virt_to_mfn(pages[dice() % ARRAY_SIZE(pages)]);
    }
}

static u64 pick_value(void)
{
    static const u64 edges[] = {0, 1, 2, 7, 8, 255, 511, 512, 4095, 4096, DOMID_SELF, 0x7fffffff, 0x80000000, ~0U, NON_CANONICAL, XEN_PRIVATE, ~0UL};

    switch (dice() % 6) {
    case 0:
        return edges[dice() % ARRAY_SIZE(edges)];
    case 1:
        return pick_frame();
    case 2:
        return (u64)arguments + dice() % sizeof(arguments);
    case 3:
        return make_pte(pick_frame(), PTE_P | (dice() & (0xfff | PTE_NX)));
    case 4:
        return dice() % 32;
    default:
        return dice() >> (dice() % 64);
    }
}

static void fill_arguments(void)
{
    u64 *words = (u64 *)(arguments + (dice() % 2 ? 0 : PAGE_SIZE - 64));

    for (int i = 0; i < 16; i++)
        words[i] = dice() % 3 ? pick_value() : (pick_value() << 32 | (u32)pick_value());
}

static void random_hypercall(void)
{
    static const u8 numbers[] = {1, 2, 3, 4, 5, 8, 9, 10, 12, 13, 14, 15, 17, 18, 20, 21, 22, 24, 25, 26, 28, 30, 32, 33, 34};
    unsigned number = dice() % 8 ? numbers[dice() % ARRAY_SIZE(numbers)] : dice() % 64;

    fill_arguments();
    hypercall(number, dice() % 2 ? dice() % 16 : pick_value(), dice() % 2 ? (u64)arguments : pick_value(),
              dice() % 2 ? dice() % 4 : pick_value(), dice() % 2 ? DOMID_SELF : pick_value(), pick_value());
}

static void random_entry(void)
{
    u64 *page = pages[dice() % ARRAY_SIZE(pages)];
    static const unsigned commands[] = {MMUEXT_PIN_L1_TABLE, MMUEXT_PIN_L2_TABLE, MMUEXT_PIN_L3_TABLE, MMUEXT_PIN_L4_TABLE, MMUEXT_UNPIN_TABLE};

    switch (dice() % 5) {
    case 0:
        map_page(page, page, dice() % 2 ? PTE_DATA : PTE_READ_ONLY);
        break;
    case 1:
        mmuext(commands[dice() % ARRAY_SIZE(commands)], pick_frame(), 0);
        break;
    case 2:
        page[dice() % 512] = pick_value();
        break;
    case 3:
        pte_write(pte_of((unsigned long)page, dice() % 64 ? 1 : 2 + dice() % 3), pick_value());
        break;
    default:
        pte_write(&page[dice() % 512], make_pte(pick_frame(), PTE_TABLE & dice()));
    }
}

static void random_code(void)
{
    for (int i = 0; i < 24; i++)
        code[i] = dice();
    static const u8 openings[][2] = {{0x0f, 0x22}, {0x0f, 0x20}, {0x0f, 0x30}, {0x0f, 0x32}, {0x0f, 0x01}, {0x0f, 0x00}, {0x8e, 0xd0}, {0xcd, 0x80},
                                     {0x0f, 0xae}, {0x0f, 0xc7}, {0x48, 0xcf}, {0xcb, 0x90}, {0x0f, 0x23}, {0xe4, 0x60}, {0x6e, 0x6c}, {0xf1, 0xcc}};

    memcpy(code, openings[dice() % ARRAY_SIZE(openings)], dice() % 3 ? 2 : 1);
    ((void (*)(void))code)();
}

static void random_action(void)
{
    /* Random code seldom leaves a usable stack, so the other two come first for long enough. */
    unsigned choice = dice() % 200;

    if (choice == 0)
        random_code();
    else if (choice < 100)
        random_hypercall();
    else
        random_entry();
}

PROGRAM(hostile_random)
{
    struct sched_watchdog watchdog = {.timeout = 3};
    const char *seed = strstr((const char *)start_info->cmd_line, "seed=");
    unsigned faults = 0;

    if (seed)
        for (state = 0, seed += 5; *seed >= '0' && *seed <= '9'; seed++)
            state = state * 10 + *seed - '0';
    print("seed %lu\n", state);
    state = (state + 1) * 0x9e3779b97f4a7c15UL;
    hypercall_sched_op(SCHEDOP_watchdog, &watchdog);
    hypercall_vm_assist(VMASST_CMD_enable, VMASST_TYPE_writable_pagetables);
    map_page(code, code, PTE_CODE | PTE_RW);
    for (size_t i = 0; i < ARRAY_SIZE(pages); i++)
        pages[i] = page_alloc();
    for (int i = 0; i < ROUNDS; i++)
        faults += trap_of_call(random_action).kind != KIND_NONE;
    shutdown(SHUTDOWN_crash);
}

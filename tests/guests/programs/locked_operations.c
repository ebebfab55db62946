/* @vcpus 2
 * @timeout 60
 * Every locked read-modify-write of two vCPUs at the same place loses nothing: all widths, aligned, unaligned, across a cache line, across two
 * pages (of frames that are not neighbours). */
#include "guest.h"

static u8 window[2 * PAGE_SIZE] page_aligned;
static u64 rounds;
static volatile u8 *place;
static volatile u64 seen[2]; /* how often a vCPU found that the other had been there since its own last operation */
static u64 wrong[2], token[2];

/* The plain type of each width, and its mask. */
#define TYPE_b u8
#define TYPE_w u16
#define TYPE_l u32
#define TYPE_q u64
#define BITS(s) (8 * sizeof(TYPE_##s))

/* Runs `body` as often as asked for, and counts the rounds in which the other vCPU wrote in between. */
#define WORKER(name, s, ...)                                      \
    static void name##_##s(unsigned vcpu)                         \
    {                                                             \
        volatile TYPE_##s *at = (volatile TYPE_##s *)place;       \
        TYPE_##s last, mine = (TYPE_##s)1 << (vcpu ? BITS(s) - 1 : 0); \
        u64 bit = vcpu ? BITS(s) - 1 : 0, met = 0;                \
                                                                  \
        (void)mine, (void)bit;                                    \
        smp_barrier(2);                                           \
        last = *at;                                               \
        for (u64 round = 0; round < rounds; round++) {            \
            met += *at != last;                                   \
            __VA_ARGS__;                                          \
            last = *at;                                           \
        }                                                         \
        seen[vcpu] += met;                                     \
    }

/* Operations that count up by one. */
#define COUNTER(name, s, text) WORKER(name, s, asm volatile(text : "+m"(*at) : "r"((TYPE_##s)1) : "cc"))
#define COUNTERS(s)                                              \
    COUNTER(add, s, "lock add" #s " %1, %0")                     \
    COUNTER(add_immediate, s, "lock add" #s " $1, %0")           \
    COUNTER(sub, s, "lock sub" #s " $-1, %0")                    \
    COUNTER(adc, s, "stc\n lock adc" #s " $0, %0")               \
    COUNTER(sbb, s, "clc\n lock sbb" #s " $-1, %0")              \
    COUNTER(inc, s, "lock inc" #s " %0")                         \
    COUNTER(dec, s, "lock dec" #s " %0")                         \
    WORKER(xadd, s, {                                            \
        TYPE_##s one = 1;                                        \
        asm volatile("lock xadd" #s " %1, %0" : "+m"(*at), "+r"(one)::"cc"); \
    })                                                           \
    WORKER(cmpxchg, s, {                                         \
        TYPE_##s old = *at, next;                                \
        bool done;                                               \
        do {                                                     \
            next = old + 1;                                      \
            asm volatile("lock cmpxchg" #s " %3, %0" : "+m"(*at), "+a"(old), "=@ccz"(done) : "r"(next) : "cc"); \
        } while (!done);                                         \
    })

/* Operations on single bits: each vCPU sets and clears its own, and nobody else may change it. */
#define BIT_PAIR(name, s, set, clear)                                       \
    WORKER(name, s, {                                                       \
        asm volatile(set : "+m"(*at) : "r"(mine), "r"((TYPE_##s)~mine) : "cc");   \
        wrong[vcpu] += !(*at & mine);                                       \
        asm volatile(clear : "+m"(*at) : "r"(mine), "r"((TYPE_##s)~mine) : "cc"); \
        wrong[vcpu] += !!(*at & mine);                                      \
    })
#define BITS_OF(s)                                                          \
    BIT_PAIR(or_and, s, "lock or" #s " %1, %0", "lock and" #s " %2, %0")    \
    BIT_PAIR(xor, s, "lock xor" #s " %1, %0", "lock xor" #s " %1, %0")

/* As above with a bit number; the carry tells the old value. */
#define BIT_TEST(name, s, set, clear)                                       \
    WORKER(name, s, {                                                       \
        bool was;                                                           \
        asm volatile("lock " set #s " %2, %0" : "+m"(*at), "=@ccc"(was) : "r"((TYPE_##s)bit)); \
        wrong[vcpu] += was;                                                 \
        asm volatile("lock " clear #s " %2, %0" : "+m"(*at), "=@ccc"(was) : "r"((TYPE_##s)bit)); \
        wrong[vcpu] += !was;                                                \
    })
#define BIT_TESTS(s)                                                        \
    BIT_TEST(bts_btr, s, "bts", "btr")                                      \
    BIT_TEST(btc, s, "btc", "btc")

/* Exchanges: three tokens, one in memory and one with each vCPU, never become two of a kind. XCHG locks by itself. */
#define EXCHANGES(s) WORKER(xchg, s, {                                      \
        TYPE_##s held = token[vcpu];                                        \
        asm volatile("xchg" #s " %1, %0" : "+m"(*at), "+r"(held));          \
        token[vcpu] = held;                                                 \
    })

/* NOT and NEG: an even number of them in all, so a lost one shows as the inverse. */
#define INVERSIONS(s)                                                       \
    WORKER(not, s, {                                                        \
        asm volatile("lock not" #s " %0" : "+m"(*at));                      \
        asm volatile("lock not" #s " %0" : "+m"(*at));                      \
    })                                                                      \
    WORKER(neg, s, {                                                        \
        asm volatile("lock neg" #s " %0" : "+m"(*at)::"cc");                \
        asm volatile("lock neg" #s " %0" : "+m"(*at)::"cc");                \
        asm volatile("lock neg" #s " %0" : "+m"(*at)::"cc");                \
    })

#define EACH_WIDTH(what) what(b) what(w) what(l) what(q)
EACH_WIDTH(COUNTERS)
EACH_WIDTH(BITS_OF)
EACH_WIDTH(EXCHANGES)
EACH_WIDTH(INVERSIONS)
BIT_TESTS(w)
BIT_TESTS(l)
BIT_TESTS(q)

/* cmpxchg8b and cmpxchg16b: both halves count, always alike. */
#define PAIRED(name, type, text)                                                                                \
    static void name(unsigned vcpu)                                                                             \
    {                                                                                                           \
        struct {                                                                                                \
            volatile type a, b;                                                                                 \
        } *at = (void *)place;                                                                                  \
        u64 met = 0;                                                                                            \
                                                                                                                \
        smp_barrier(2);                                                                                         \
        for (u64 round = 0; round < rounds; round++) {                                                          \
            type old_a = round, old_b = round; /* a guess: the first comparison gives the pair as it is */      \
            bool done;                                                                                          \
                                                                                                                \
            for (unsigned attempt = 0;; attempt++) {                                                            \
                asm volatile("lock " text " %0"                                                                 \
                             : "+m"(*at), "+a"(old_a), "+d"(old_b), "=@ccz"(done)                               \
                             : "b"((type)(old_a + 1)), "c"((type)(old_b + 1)));                                 \
                wrong[vcpu] += old_a != old_b;                                                                  \
                if (done)                                                                                       \
                    break;                                                                                      \
                met += attempt > 0;                                                                             \
            }                                                                                                   \
        }                                                                                                       \
        seen[vcpu] += met;                                                                                   \
    }

PAIRED(cmpxchg8b, u32, "cmpxchg8b")
PAIRED(cmpxchg16b, u64, "cmpxchg16b")

enum kind { COUNTS, COUNTS_DOWN, RESTORES, TOKENS, NEGATES, PAIRS };

struct operation {
    const char *name;
    smp_function_t *worker;
    unsigned bytes;
    enum kind kind;
};

#define OPERATIONS(s)                                                                                                              \
    {"add " #s, add_##s, sizeof(TYPE_##s), COUNTS}, {"add immediate " #s, add_immediate_##s, sizeof(TYPE_##s), COUNTS},            \
        {"sub " #s, sub_##s, sizeof(TYPE_##s), COUNTS}, {"adc " #s, adc_##s, sizeof(TYPE_##s), COUNTS},                            \
        {"sbb " #s, sbb_##s, sizeof(TYPE_##s), COUNTS}, {"inc " #s, inc_##s, sizeof(TYPE_##s), COUNTS},                            \
        {"dec " #s, dec_##s, sizeof(TYPE_##s), COUNTS_DOWN}, {"xadd " #s, xadd_##s, sizeof(TYPE_##s), COUNTS},                     \
        {"cmpxchg " #s, cmpxchg_##s, sizeof(TYPE_##s), COUNTS}, {"or, and " #s, or_and_##s, sizeof(TYPE_##s), RESTORES},           \
        {"xor " #s, xor_##s, sizeof(TYPE_##s), RESTORES}, {"xchg " #s, xchg_##s, sizeof(TYPE_##s), TOKENS},                        \
        {"not " #s, not_##s, sizeof(TYPE_##s), RESTORES}, {"neg " #s, neg_##s, sizeof(TYPE_##s), NEGATES},
#define TEST_OPERATIONS(s) \
    {"bts, btr " #s, bts_btr_##s, sizeof(TYPE_##s), RESTORES}, {"btc " #s, btc_##s, sizeof(TYPE_##s), RESTORES},

static const struct operation operations[] = {
    EACH_WIDTH(OPERATIONS)
    TEST_OPERATIONS(w) TEST_OPERATIONS(l) TEST_OPERATIONS(q)
    {"cmpxchg8b", cmpxchg8b, 8, PAIRS},
    {"cmpxchg16b", cmpxchg16b, 16, PAIRS},
};

static const struct {
    const char *name;
    unsigned offset; /* of an operand of 8 octets; a smaller one is moved up, so that it still crosses what it has to */
    bool crosses;
} places[] = {
    {"aligned", 256, false},
    {"unaligned", 257, false},
    {"across a cache line", 64 - 1, true},
    {"across two pages", PAGE_SIZE - 1, true},
};

static u64 content(unsigned bytes)
{
    u64 value = 0;

    memcpy(&value, (const void *)place, bytes < 8 ? bytes : 8);
    return value;
}

static void run(const struct operation *operation, unsigned where)
{
    unsigned counted = operation->kind == PAIRS ? operation->bytes / 2 : operation->bytes;
    u64 mask = counted < 8 ? (1UL << counted * 8) - 1 : ~0UL;
    u64 start = operation->kind == TOKENS ? 7 : operation->kind == NEGATES ? 1 : 0, wanted = 0, got;

    place = window + places[where].offset;
    memset((void *)place, 0, operation->bytes);
    memcpy((void *)place, &start, operation->bytes < 8 ? operation->bytes : 8);
    wrong[0] = wrong[1] = 0;
    seen[0] = seen[1] = 0;
    token[0] = 1;
    token[1] = 2;
    if (!smp_run(2, operation->worker, 600)) {
        check(false, "%s %s: vCPU 1 did not end", operation->name, places[where].name);
        return;
    }
    got = content(operation->bytes);
    switch (operation->kind) {
    case COUNTS:
    case PAIRS:
        wanted = 2 * rounds;
        break;
    case COUNTS_DOWN:
        wanted = -(2 * rounds);
        break;
    case RESTORES:
        wanted = start;
        break;
    case TOKENS:
        got = got * token[0] * token[1] * 100 + got + token[0] + token[1];
        wanted = 7 * 1 * 2 * 100 + 7 + 1 + 2;
        mask = ~0UL;
        break;
    case NEGATES:
        wanted = 1; /* three times as many as rounds, by each of two: an even number */
        break;
    }
    if ((got & mask) != (wanted & mask) || wrong[0] || wrong[1])
        check(false, "%s, %s: 0x%lx instead of 0x%lx; %lu and %lu wrong in between", operation->name, places[where].name, got & mask,
              wanted & mask, wrong[0], wrong[1]);
    print("MET %s, %s: %lu %lu of %lu\n", operation->name, places[where].name, seen[0], seen[1], rounds);
}

PROGRAM(locked_operations)
{
    u8 *first = page_alloc(), *second = page_alloc();

    map_page(window, second, PTE_DATA);
    map_page(window + PAGE_SIZE, first, PTE_DATA);
    for (unsigned where = 0; where < ARRAY_SIZE(places); where++) {
        rounds = smp_scaled(places[where].crosses ? 500 : 2000);
        for (unsigned i = 0; i < ARRAY_SIZE(operations); i++) {
            if (where && (operations[i].bytes == 1 || operations[i].bytes == 16))
                continue; /* one octet is always aligned, and cmpxchg16b must be */
            run(&operations[i], where);
        }
        check(true, "%s", places[where].name);
    }
}

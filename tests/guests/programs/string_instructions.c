/* rep movs and rep stos across page faults: registers tell how far they came, what was done is done, and they can be resumed. */
#include "guest.h"

static u8 window[3 * PAGE_SIZE] page_aligned;

/* rep movsb. -> the trap; the registers as they were left. */
static struct trap_record copy(const void *from, void *to, u64 *count, bool backwards)
{
    u64 source = (u64)from, target = (u64)to;
    struct trap_record trap;

    if (backwards)
        trap = TRAP_OF("std\n" MAY_FAULT("rep movsb") "cld" : "+S"(source), "+D"(target), "+c"(*count)::"memory", "cc");
    else
        trap = TRAP_OF(MAY_FAULT("rep movsb") : "+S"(source), "+D"(target), "+c"(*count)::"memory");
    return trap;
}

PROGRAM(string_instructions)
{
    u8 *source = page_alloc(), *pages[3];
    struct trap_record trap;
    u64 count, target, wrong = 0;

    for (int i = 0; i < 3; i++) {
        pages[i] = page_alloc();
        map_page(window + i * PAGE_SIZE, pages[i], PTE_DATA);
    }
    for (unsigned i = 0; i < PAGE_SIZE; i++)
        source[i] = i * 7 + 3;
    map_frame(window + PAGE_SIZE, 0, 0);

    count = 1000;
    trap = copy(source, window + PAGE_SIZE - 600, &count, false);
    check_trap(trap, VECTOR_PF, PF_WRITE, "a copy that runs into an unmapped page");
    check_equal(trap.cr2, (u64)window + PAGE_SIZE, "CR2 is the first byte that can't be written");
    check_equal(trap.registers.rcx, 400, "RCX: 400 bytes are left");
    check_equal(trap.registers.rdi, (u64)window + PAGE_SIZE, "RDI");
    check_equal(trap.registers.rsi, (u64)source + 600, "RSI");
    check(!memcmp(pages[0] + PAGE_SIZE - 600, source, 600), "600 bytes are there");

    count = 1000;
    trap = copy(window + PAGE_SIZE - 100, pages[2], &count, false);
    check_trap(trap, VECTOR_PF, 0, "a copy whose source runs into an unmapped page");
    check_equal(trap.registers.rcx, 900, "RCX");
    check(!memcmp(pages[2], pages[0] + PAGE_SIZE - 100, 100), "what could be read was copied");

    count = 1000;
    trap = copy(source + 999, window + 2 * PAGE_SIZE + 499, &count, true);
    check_trap(trap, VECTOR_PF, PF_WRITE, "backwards into an unmapped page");
    check_equal(trap.registers.rcx, 500, "RCX");
    check_equal(trap.cr2, (u64)window + 2 * PAGE_SIZE - 1, "CR2");
    check(trap.registers.rflags & X86_EFLAGS_DF, "DF in the frame");
    check(!memcmp(pages[2], source + 500, 500), "500 bytes are there");

    target = (u64)window + PAGE_SIZE - 64;
    count = 100;
    trap = TRAP_OF(MAY_FAULT("rep stosq") : "+D"(target), "+c"(count) : "a"(0x1122334455667788UL) : "memory");
    check_trap(trap, VECTOR_PF, PF_WRITE, "rep stosq into an unmapped page");
    check_equal(trap.registers.rcx, 92, "RCX counts words");
    for (int i = 0; i < 8; i++)
        wrong += ((u64 *)(pages[0] + PAGE_SIZE - 64))[i] != 0x1122334455667788UL;
    check_equal(wrong, 0, "eight words are there");

    map_page(window + PAGE_SIZE, pages[1], PTE_DATA);
    count = PAGE_SIZE;
    trap = copy(source, window + PAGE_SIZE / 2, &count, false);
    check(trap.kind == KIND_NONE && !count, "a copy across two mapped pages");
    check(!memcmp(pages[0] + PAGE_SIZE / 2, source, PAGE_SIZE / 2) && !memcmp(pages[1], source + PAGE_SIZE / 2, PAGE_SIZE / 2), "is right");
    memcpy(pages[0], source, 256);
    count = 200;
    copy(window, window + 1, &count, false);
    for (int i = 0; i < 201; i++)
        wrong += pages[0][i] != source[0];
    check_equal(wrong, 0, "an overlapping copy repeats its first byte");
    memcpy(pages[0], source, 256);
    count = 200;
    copy(window + 199, window + 200, &count, true);
    check(!memcmp(pages[0] + 1, source, 200), "backwards it moves");
    count = 0;
    trap = copy((void *)UNMAPPED, (void *)UNMAPPED, &count, false);
    check_equal(trap.kind, KIND_NONE, "nothing is touched when RCX is 0");
    map_page(window, pages[0], PTE_READ_ONLY);
    count = 5;
    trap = copy(source, window, &count, false);
    check_trap(trap, VECTOR_PF, PF_PRESENT | PF_WRITE, "into a read-only page");
    check_equal(count, 5, "nothing was done");
}

/* The victim of tests/security/test_two_domains.py, a process of a Linux guest: victim DISK.
 *
 * One process sums 8 MiB of its memory and the whole disk, through the page cache and now and then from the medium, for ever:
 *     SUM <memory> <disk> <passes that read the medium>
 * The other sleeps for 5 ms again and again, and says twice a second how long it was away at most:
 *     BEAT <CLOCK_MONOTONIC, ns> <time-stamp counter> <longest gap by the clock, ns> <longest gap in ticks of the counter>
 * The counter is the processor's, which nothing that a host program does can hold up. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MEMORY_WORDS (1UL << 20)
#define CHUNK_WORDS 8192
#define FRESH_EVERY 16
#define NAP_NS 5000000L
#define REPORT_NS 500000000UL

static uint64_t clock_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000UL + now.tv_nsec;
}

static uint64_t counter(void)
{
    uint32_t low, high;

    __asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high)::"memory");
    return (uint64_t)high << 32 | low;
}

/* Every octet counts, and its place. */
static uint64_t sum_words(const uint64_t *words, uint64_t first, uint64_t count)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < count; i++)
        sum += words[i] * (2 * (first + i) + 1);
    return sum;
}

static uint64_t sum_disk(int disk)
{
    static uint64_t chunk[CHUNK_WORDS];
    uint64_t sum = 0, first = 0;
    ssize_t got;

    while ((got = pread(disk, chunk, sizeof(chunk), first * 8)) > 0) {
        sum += sum_words(chunk, first, got / 8);
        first += got / 8;
    }
    return got < 0 ? 0 : sum;
}

static void say(const char *line)
{
    /* One write: what two processes print does not mix. */
    if (write(1, line, strlen(line)) < 0)
        exit(1);
}

static void check_for_ever(const char *path)
{
    uint64_t *memory = malloc(MEMORY_WORDS * 8), state = 88172645463325252UL;
    int disk = open(path, O_RDONLY);
    char line[128];

    if (disk < 0 || !memory) {
        perror(path);
        exit(1);
    }
    for (uint64_t i = 0; i < MEMORY_WORDS; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        memory[i] = state;
    }
    for (unsigned pass = 0;; pass++) {
        if (!(pass % FRESH_EVERY))
            posix_fadvise(disk, 0, 0, POSIX_FADV_DONTNEED);
        snprintf(line, sizeof(line), "SUM %016lx %016lx %u\n", sum_words(memory, 0, MEMORY_WORDS), sum_disk(disk), 1 + pass / FRESH_EVERY);
        say(line);
    }
}

static void beat_for_ever(void)
{
    uint64_t clock = clock_ns(), ticks = counter(), reported = clock, longest_clock = 0, longest_ticks = 0;
    char line[128];

    for (;;) {
        struct timespec nap = {.tv_nsec = NAP_NS};
        uint64_t next_clock, next_ticks;

        nanosleep(&nap, NULL);
        next_clock = clock_ns();
        next_ticks = counter();
        if (next_clock - clock > longest_clock)
            longest_clock = next_clock - clock;
        if (next_ticks - ticks > longest_ticks)
            longest_ticks = next_ticks - ticks;
        clock = next_clock;
        ticks = next_ticks;
        if (clock - reported >= REPORT_NS) {
            snprintf(line, sizeof(line), "BEAT %lu %lu %lu %lu\n", clock, ticks, longest_clock, longest_ticks);
            say(line);
            reported = clock;
            longest_clock = longest_ticks = 0;
        }
    }
}

int main(int count, char **arguments)
{
    if (count != 2)
        return 2;
    if (fork())
        check_for_ever(arguments[1]);
    beat_for_ever();
}

/* Rates of a disk, without the guest's page cache: disk DEVICE SECONDS. Each line: BENCH name value unit. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SMALL = 4096, LARGE = 1 << 18, JOBS = 8 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static unsigned long long random_state = 88172645463325252ULL;

static unsigned long long next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

/* How many transfers of so many bytes are done in the time. */
static long transfers(int disk, off_t size, char *buffer, size_t bytes, int writes, int random, int syncs, double seconds)
{
    double end = now() + seconds;
    off_t at = 0;
    long done = 0;
    while (now() < end) {
        if (random)
            at = next_random() % (size / bytes) * bytes;
        else if ((at += bytes) + (off_t)bytes > size)
            at = 0;
        ssize_t moved = writes ? pwrite(disk, buffer, bytes, at) : pread(disk, buffer, bytes, at);
        if (moved != (ssize_t)bytes || (syncs && fsync(disk))) {
            perror("disk");
            exit(1);
        }
        done++;
    }
    return done;
}

/* The same by several processes at once. */
static long at_once(int disk, off_t size, char *buffer, int writes, double seconds)
{
    long *done = mmap(NULL, JOBS * sizeof *done, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), sum = 0;
    for (int job = 0; job < JOBS; job++)
        if (!fork()) {
            random_state += job * 7919;
            done[job] = transfers(disk, size, buffer, SMALL, writes, 1, 0, seconds);
            _exit(0);
        }
    while (wait(NULL) > 0)
        ;
    for (int job = 0; job < JOBS; job++)
        sum += done[job];
    return sum;
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    double seconds = atof(argv[2]);
    int disk = open(argv[1], O_RDWR | O_DIRECT);
    off_t size = lseek(disk, 0, SEEK_END);
    char *buffer = aligned_alloc(SMALL, LARGE);
    if (disk < 0 || size < LARGE || !buffer) {
        perror(argv[1]);
        return 1;
    }
    for (int i = 0; i < LARGE; i++)
        buffer[i] = i * 31;
    printf("BENCH disk_read_sequential %.2f MB/s\n", transfers(disk, size, buffer, LARGE, 0, 0, 0, seconds) * (LARGE / 1e6) / seconds);
    printf("BENCH disk_write_sequential %.2f MB/s\n", transfers(disk, size, buffer, LARGE, 1, 0, 0, seconds) * (LARGE / 1e6) / seconds);
    printf("BENCH disk_read_4k_random %.0f 1/s\n", transfers(disk, size, buffer, SMALL, 0, 1, 0, seconds) / seconds);
    printf("BENCH disk_write_4k_random %.0f 1/s\n", transfers(disk, size, buffer, SMALL, 1, 1, 0, seconds) / seconds);
    printf("BENCH disk_read_4k_random_by_8 %.0f 1/s\n", at_once(disk, size, buffer, 0, seconds) / seconds);
    printf("BENCH disk_write_4k_random_by_8 %.0f 1/s\n", at_once(disk, size, buffer, 1, seconds) / seconds);
    printf("BENCH disk_write_4k_and_flush %.0f 1/s\n", transfers(disk, size, buffer, SMALL, 1, 1, 1, seconds) / seconds);
    printf("BENCH_END\n");
    return 0;
}

/* bench.c's computations without a kernel: run(which, count, results). */
#define main bench_main
#include "bench.c"
#undef main

static uint8_t source[1 << 16] __attribute__((aligned(64))), target[1 << 16] __attribute__((aligned(64)));

enum { SHA256, INT_LOOP, MEMCPY };

void run(long which, uint64_t n, uint32_t *results)
{
    uint64_t x = 88172645463325252ull, y = 1;
    if (which == SHA256)
        for (uint64_t i = 0; i < n; i++) sha_blk(results, source + (i * 64 & 0xffff));
    else if (which == INT_LOOP) {
        asm volatile("1: mov %0,%%rax\n shl $13,%%rax\n xor %%rax,%0\n lea 7(%1,%0,1),%1\n ror $5,%1\n add %1,%0\n dec %2\n jnz 1b"
                     : "+r"(x), "+r"(y), "+r"(n) :: "rax", "cc");
        results[0] = x ^ y;
    } else
        for (uint64_t k = 0; k < n; k++)
            for (long i = 0; i < 1 << 16; i += 64)
                asm volatile("movdqu (%0), %%xmm0; movdqu 16(%0), %%xmm1; movdqu 32(%0), %%xmm2; movdqu 48(%0), %%xmm3\n"
                             "movaps %%xmm0, (%1); movaps %%xmm1, 16(%1); movaps %%xmm2, 32(%1); movaps %%xmm3, 48(%1)"
                             :: "r"(source + i), "r"(target + i) : "memory", "xmm0", "xmm1", "xmm2", "xmm3");
}

asm(".globl _start\n_start: call run\n syscall\n");

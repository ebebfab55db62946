/* Long runs of one instruction: a translator must not run out of anything over them, since what it writes then is the host's memory. */
#include "guest.h"

#define RUN(instruction) ".rept 700\n" instruction "\n.endr\n"

PROGRAM(hostile_long_blocks)
{
    static u8 buffer[64];

    asm volatile(RUN("fldz") "fninit" ::: "memory");
    asm volatile(RUN("fld1; fstp %%st(0)") ::: "memory");
    asm volatile(RUN("mov %0, %%fs")::"r"(0) : "memory");
    asm volatile(RUN("mov %0, %%gs")::"r"(0) : "memory");
    asm volatile(RUN("lock cmpxchg %%ecx, (%0)")::"r"(buffer), "a"(0), "c"(0) : "memory", "cc");
    asm volatile(RUN("cmpxchg8b (%0)")::"r"(buffer), "a"(0), "d"(0), "b"(0), "c"(0) : "memory", "cc");
    asm volatile(RUN("bts %1, (%0)")::"r"(buffer), "r"(5UL) : "memory", "cc");
    asm volatile(RUN("rcl $3, %%eax")::: "rax", "cc");
    asm volatile(RUN("shld $3, %%eax, (%0)")::"r"(buffer) : "memory", "cc");
    asm volatile(RUN("paddb %%xmm1, %%xmm2") RUN("pshufd $1, %%xmm1, %%xmm2") RUN("pcmpestri $1, %%xmm1, %%xmm2")::: "rcx", "cc");
    asm volatile(RUN("pextrb $1, %%xmm1, %%eax") RUN("cvtsi2sd %%eax, %%xmm1") RUN("maskmovq %%mm0, %%mm1") "emms" ::"D"(buffer) : "rax", "memory");
    asm volatile("push %%rbp; mov %%rsp, %%rbp\n" RUN("enter $0, $31; leave") "pop %%rbp"::: "memory");
    check(true, "everything has been run");
}

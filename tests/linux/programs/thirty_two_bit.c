/*
 * A 32-bit process of Linux without a C library: system calls by int 0x80 and by the kernel's own entry (sysenter or syscall), thread-local
 * storage through a descriptor of its own, signals and their return, SSE and x87, 16-bit code in a segment of its LDT.
 * Prints one line for each, and "all done" at the end; stops at the first that goes wrong.
 */
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;

enum { SYS_EXIT = 1, SYS_FORK = 2, SYS_WRITE = 4, SYS_WAITPID = 7, SYS_GETPID = 20, SYS_KILL = 37, SYS_MODIFY_LDT = 123, SYS_MPROTECT = 125,
       SYS_RT_SIGACTION = 174, SYS_SET_THREAD_AREA = 243, SIGUSR1 = 10, SIGSEGV = 11, AT_SYSINFO = 32 };

static u32 vsyscall;

static int call(u32 number, u32 a, u32 b, u32 c)
{
    int result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
    return result;
}

/* The kernel's entry for the processor, whose address the auxiliary vector has. */
static int fast_call(u32 number, u32 a, u32 b, u32 c)
{
    int result;
    __asm__ volatile("call *%[entry]" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c), [entry] "S"(vsyscall) : "memory");
    return result;
}

static u32 length(const char *text)
{
    u32 count = 0;
    while (text[count])
        count++;
    return count;
}

static void say(const char *text)
{
    call(SYS_WRITE, 1, (u32)text, length(text));
}

static void check(int right, const char *what)
{
    say(right ? "ok " : "WRONG ");
    say(what);
    say("\n");
    if (!right)
        call(SYS_EXIT, 1, 0, 0);
}

/* -- signals -- */
static volatile u32 signals, fault_address;
struct action { void (*handler)(int, u32 *, u32 *); u32 flags; void (*restorer)(void); u32 mask[2]; };

__asm__("restore: mov $173, %eax; int $0x80");
extern void restore(void);

static void on_signal(int number, u32 *information, u32 *context)
{
    signals++;
    if (number == SIGSEGV) {
        fault_address = information[3];
        context[5 + 14] += 2; /* EIP in the ucontext: past a two-byte instruction */
    }
}

static int rt_sigaction(int number)
{
    struct action action = {on_signal, 0x04000004, restore, {0, 0}};
    int result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(SYS_RT_SIGACTION), "b"(number), "c"(&action), "d"(0), "S"(8) : "memory");
    return result;
}

/* -- thread-local storage -- */
struct descriptor { u32 entry, base, limit, flags; };
static u32 storage[4] = {0x11111111, 0x22222222, 0x33333333, 0x44444444};

static int thread_storage(void)
{
    struct descriptor wanted = {-1, (u32)storage, 0xfffff, 0x51}; /* 32-bit, limit in pages, usable */
    u32 value;
    if (call(SYS_SET_THREAD_AREA, (u32)&wanted, 0, 0))
        return 0;
    __asm__ volatile("mov %w1, %%gs; mov %%gs:8, %0" : "=r"(value) : "r"(wanted.entry * 8 + 3));
    return value == 0x33333333;
}

/* -- floating point, kept over system calls and switches -- */
static int floating(void)
{
    volatile float a[4] = {1, 2, 3, 4};
    volatile double half = 0.5;
    float result[4];
    double root;
    __asm__ volatile("movups %0, %%xmm3" : : "m"(a));
    for (int i = 0; i < 50; i++) {
        int child = call(SYS_FORK, 0, 0, 0);
        if (child == 0) {
            __asm__ volatile("xorps %xmm3, %xmm3");
            call(SYS_EXIT, 0, 0, 0);
        }
        call(SYS_WAITPID, child, 0, 0);
    }
    __asm__ volatile("addps %%xmm3, %%xmm3; movups %%xmm3, %0" : "=m"(result));
    __asm__ volatile("fldl %1; fsqrt; fstpl %0" : "=m"(root) : "m"(half));
    return result[0] == 2 && result[3] == 8 && root > 0.70710 && root < 0.70711;
}

/* -- 16-bit code, in a segment of the LDT -- */
/* mov ax, 0x1234; add ax, 1; a far return with 32-bit operands. */
static u8 short_code[] __attribute__((aligned(4096))) = {0xb8, 0x34, 0x12, 0x05, 0x01, 0x00, 0x66, 0xcb};

static int sixteen_bits(void)
{
    struct descriptor wanted = {2, (u32)short_code, sizeof(short_code) - 1, 0x44}; /* code, 16-bit, usable */
    struct { u32 offset; u16 selector; } target = {0, 2 * 8 + 7};
    u32 result = 0xabcd0000;
    if (call(SYS_MPROTECT, (u32)short_code, 4096, 7) || call(SYS_MODIFY_LDT, 1, (u32)&wanted, sizeof(wanted)))
        return 0;
    for (int i = 0; i < 100; i++)
        __asm__ volatile("lcall *%1" : "+a"(result) : "m"(target) : "memory");
    return result == 0xabcd1235;
}

__attribute__((used)) static void begin(u32 *stack)
{
    u32 *at = stack + stack[0] + 2;
    while (*at++)
        ;
    for (; at[0]; at += 2)
        if (at[0] == AT_SYSINFO)
            vsyscall = at[1];
    check(call(SYS_GETPID, 0, 0, 0) > 0, "int 0x80");
    check(vsyscall != 0, "the kernel names its entry");
    int same = 1;
    for (int i = 0; i < 1000; i++)
        same &= fast_call(SYS_GETPID, 0, 0, 0) == call(SYS_GETPID, 0, 0, 0);
    check(same, "a thousand calls by the kernel's entry");
    check(rt_sigaction(SIGUSR1) == 0 && rt_sigaction(SIGSEGV) == 0, "handlers");
    fast_call(SYS_KILL, call(SYS_GETPID, 0, 0, 0), SIGUSR1, 0);
    check(signals == 1, "a signal and the return from it");
    __asm__ volatile("mov $0xffff0000, %%ecx; movb %%al, (%%ecx)" : : : "ecx", "memory");
    check(signals == 2 && fault_address == 0xffff0000, "a fault in a kernel's address");
    check(thread_storage(), "thread-local storage");
    check(floating(), "SSE and x87 over forks");
    check(sixteen_bits(), "16-bit code in a segment of the LDT");
    say("all done\n");
    call(SYS_EXIT, 0, 0, 0);
}

__asm__(".globl _start; _start: mov %esp, %eax; and $-16, %esp; sub $12, %esp; push %eax; call begin");

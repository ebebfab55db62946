/* XSA-52, XSA-165: the FPU and SSE state of a new vCPU held another's. XSA-172: FIP, FDP and FOP leaked. XSA-267: lazy switching.
 * XSA-53: XRSTOR of a malformed area. XSA-54: XSETBV with a bad value. XSA-220: PKRU and bound registers. XSA-66: FBLD. XSA-190: CR0.TS and EM. */
#include "guest.h"

static u8 area[1024] __attribute__((aligned(64)));

PROGRAM(xsa_053_fpu_instructions)
{
    struct trap_record trap;
    unsigned set = 0;
    u64 lines[4] = {0};

    memset(area, 0, sizeof(area));
    asm volatile("fxsave64 (%0)" ::"r"(area) : "memory");
    check_equal(*(u16 *)(area + 6), 0, "XSA-172: FOP");
    check_equal(*(u64 *)(area + 8), 0, "XSA-52: FIP");
    check_equal(*(u64 *)(area + 16), 0, "XSA-172: FDP");
    for (int i = 32; i < 32 + 8 * 16 + 16 * 16; i++)
        set += area[i] != 0;
    check_equal(set, 0, "XSA-165: ST and XMM registers are clear at the start");
    memset(area, 0xff, sizeof(area));
    trap = TRAP_OF(MAY_FAULT("xrstor (%0)")::"r"(area), "a"(~0U), "d"(~0U) : "memory");
    check(trap.kind == VECTOR_UD || trap.kind == VECTOR_GP, "XSA-53: xrstor of a malformed area, got %u", trap.kind);
    trap = TRAP_OF(MAY_FAULT("fxrstor64 (%0)")::"r"(area) : "memory");
    check_trap(trap, VECTOR_GP, 0, "XSA-53: fxrstor with reserved bits of MXCSR");
    for (unsigned index = 0; index < 3; index++) {
        static const u64 values[] = {0, 2, 4, 7, ~0UL, 1UL << 63};

        for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
            trap = TRAP_OF(MAY_FAULT("xsetbv")::"a"((u32)values[i]), "d"((u32)(values[i] >> 32)), "c"(index) : "memory");
            check(trap.kind == VECTOR_UD || trap.kind == VECTOR_GP || values[i] == 7, "XSA-54: xsetbv %u, 0x%lx", index, values[i]);
        }
    }
    trap = TRAP_OF(MAY_FAULT(".byte 0x0f, 0x01, 0xee")::"a"(0), "c"(0), "d"(0) : "memory");
    check(trap.kind == VECTOR_UD, "XSA-220: rdpkru");
    asm volatile("fninit\n fbld (%0)\n fbstp (%1)\n fninit" ::"r"(lines), "r"(lines + 2) : "memory");
    check_equal(lines[2], 0, "XSA-66: fbld of zero");
    hypercall_fpu_taskswitch(1);
    check_trap(TRAP_OF(MAY_FAULT("fnop")::: "memory"), VECTOR_NM, 0, "XSA-190: x87 with TS");
    hypercall_fpu_taskswitch(1);
    check_trap(TRAP_OF(MAY_FAULT("movups (%0), %%xmm0")::"r"(area) : "memory"), VECTOR_NM, 0, "XSA-190: SSE with TS");
    hypercall_fpu_taskswitch(1);
    check_trap(TRAP_OF(MAY_FAULT("fxsave (%0)")::"r"(area) : "memory"), VECTOR_NM, 0, "XSA-267: fxsave with TS");
    hypercall_fpu_taskswitch(0);
    check_equal(TRAP_OF(MAY_FAULT("fnop")::: "memory").kind, KIND_NONE, "without TS");
}

/*
 * Small looks at the instruction at RIP, for what the translator no longer knows when a fault is raised.
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/cpu_ldst.h"
#include "exec/exec-all.h"
#include "uc_priv.h"

#include "pyxen_hooks.h"
#include "pyxen_internal.h"

#define LONGEST_INSTRUCTION 15
/* A push or pop moves RSP by at most this much (ENTER and far calls included). */
#define STACK_REACH 64

/* The bytes at RIP, as many as can be had without a fault. */
static int fetch(CPUX86State *env, uint8_t *bytes)
{
    uint64_t address = env->segs[R_CS].base + env->eip;
    int mmu_idx = cpu_mmu_index(env, true);
    uint64_t cr2 = env->cr[2]; /* a look at a page that is not there must not be seen */
    uint8_t *host = NULL;
    int n;

    for (n = 0; n < LONGEST_INSTRUCTION; n++) {
        if (!host || ((address + n) & ~TARGET_PAGE_MASK) == 0) {
            host = tlb_vaddr_to_host(env, address + n, MMU_INST_FETCH, mmu_idx);
            if (!host) {
                break;
            }
            host -= n;
        }
        bytes[n] = host[n];
    }
    env->cr[2] = cr2;
    memset(bytes + n, 0, LONGEST_INSTRUCTION - n);
    return n;
}

bool pyxen_at_bytes(CPUX86State *env, const uint8_t *wanted, int count)
{
    uint8_t bytes[LONGEST_INSTRUCTION];

    return fetch(env, bytes) >= count && memcmp(bytes, wanted, count) == 0;
}

static bool moves_the_stack(uint8_t opcode, bool two_bytes, uint8_t modrm)
{
    if (two_bytes) {
        return opcode == 0xa0 || opcode == 0xa1 || opcode == 0xa8 || opcode == 0xa9; /* push, pop fs and gs */
    }
    switch (opcode) {
    case 0x50 ... 0x5f: /* push, pop */
    case 0x68:
    case 0x6a:
    case 0x8f:
    case 0x9c: /* pushf, popf */
    case 0x9d:
    case 0xc2: /* ret, enter, leave, far ret, call, iret */
    case 0xc3:
    case 0xc8:
    case 0xc9:
    case 0xca:
    case 0xcb:
    case 0xcf:
    case 0xe8:
        return true;
    case 0xff:
        return (modrm >> 3 & 7) == 2 || (modrm >> 3 & 7) == 3 || (modrm >> 3 & 7) == 6; /* call, far call, push */
    default:
        return false;
    }
}

static bool has_no_modrm_operand(uint8_t opcode)
{
    return (opcode >= 0xa0 && opcode <= 0xaf) || (opcode >= 0x6c && opcode <= 0x6f) || opcode == 0xd7; /* moffs, string, xlat: DS, ES */
}

static bool is_legacy_prefix(uint8_t byte)
{
    switch (byte) {
    case 0x26: /* ES CS SS DS: no effect in 64-bit code */
    case 0x2e:
    case 0x36:
    case 0x3e:
    case 0x66:
    case 0x67:
    case 0xf0:
    case 0xf2:
    case 0xf3:
        return true;
    default:
        return false;
    }
}

/* Whether the 64-bit instruction at RIP accesses `address` through SS: its own push or pop, or an operand based on RSP or RBP. */
bool pyxen_is_stack_access(CPUX86State *env, uint64_t address)
{
    uint8_t bytes[LONGEST_INSTRUCTION + 8] = { 0 };
    bool extended_base = false, two_bytes = false;
    uint8_t opcode, modrm;
    int n = 0;

    fetch(env, bytes);
    for (; n < LONGEST_INSTRUCTION; n++) {
        if (bytes[n] == 0x64 || bytes[n] == 0x65) {
            return false; /* FS, GS */
        }
        if (!is_legacy_prefix(bytes[n])) {
            break;
        }
    }
    if ((bytes[n] & 0xf0) == 0x40) {
        extended_base = bytes[n++] & 1;
    } else if (bytes[n] == 0xc5) { /* VEX: the opcode is one of 0f's, all with a ModR/M byte */
        n += 2;
        two_bytes = true;
    } else if (bytes[n] == 0xc4) {
        extended_base = !(bytes[n + 1] & 0x20);
        n += 3;
        two_bytes = true;
    }
    if (bytes[n] == 0x0f && !two_bytes) {
        two_bytes = true;
        n++;
        if (bytes[n] == 0x38 || bytes[n] == 0x3a) {
            n++;
        }
    }
    opcode = bytes[n];
    modrm = bytes[n + 1];
    if (moves_the_stack(opcode, two_bytes, modrm) && address + STACK_REACH - env->regs[R_ESP] < 2 * STACK_REACH) {
        return true;
    }
    if ((!two_bytes && has_no_modrm_operand(opcode)) || modrm >> 6 == 3 || extended_base) {
        return false;
    }
    if ((modrm & 7) == 4) { /* the base is in the SIB byte */
        uint8_t base = bytes[n + 2] & 7;

        return base == R_ESP || (base == R_EBP && modrm >> 6 != 0);
    }
    return (modrm & 7) == R_EBP && modrm >> 6 != 0;
}

/* MOVUPS, MOVUPD, MOVDQU to memory: the translator stores them in two halves. */
static bool is_unaligned_store(CPUX86State *env)
{
    uint8_t bytes[LONGEST_INSTRUCTION + 8] = { 0 };
    uint8_t repeat = 0;
    int n;

    fetch(env, bytes);
    for (n = 0; is_legacy_prefix(bytes[n]) || bytes[n] == 0x64 || bytes[n] == 0x65; n++) {
        repeat = bytes[n] == 0xf2 || bytes[n] == 0xf3 ? bytes[n] : repeat;
    }
    n += (bytes[n] & 0xf0) == 0x40 && (env->hflags & HF_CS64_MASK);
    return bytes[n] == 0x0f && ((bytes[n + 1] == 0x11 && !repeat) || (bytes[n + 1] == 0x7f && repeat == 0xf3));
}

/* A page fault of such a store's upper half, which goes first, is one of the whole store: at its first octet in that page. In a page's last
   15 octets it may as well be the lower half that faults, and the address stays. */
void pyxen_correct_fault_address(CPUState *cs, uint64_t address, bool is_store, uintptr_t retaddr)
{
    CPUX86State *env = cs->env_ptr;
    int error_code = env->error_code, index = cs->exception_index;
    unsigned offset = address & ~TARGET_PAGE_MASK;

    if (is_store && index == EXCP0E_PAGE && retaddr && offset <= TARGET_PAGE_SIZE - 16) {
        cpu_restore_state(cs, retaddr, true);
        if (is_unaligned_store(env)) {
            env->cr[2] = address - MIN(offset, 8);
        }
        env->error_code = error_code;
        cs->exception_index = index;
    }
}

/* Fixed-width names and small helpers used everywhere. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <xen/xen.h>
#include <xen/errno.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t s64;

#define PAGE_SIZE 4096UL
#define PAGE_MASK (~(PAGE_SIZE - 1))
#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#define page_aligned __attribute__((aligned(4096)))
#define barrier() asm volatile("" ::: "memory")

#define X86_EFLAGS_CF 0x00000001UL
#define X86_EFLAGS_MBS 0x00000002UL
#define X86_EFLAGS_TF 0x00000100UL
#define X86_EFLAGS_IF 0x00000200UL
#define X86_EFLAGS_DF 0x00000400UL
#define X86_EFLAGS_IOPL 0x00003000UL
#define X86_EFLAGS_NT 0x00004000UL
#define X86_EFLAGS_RF 0x00010000UL
#define X86_EFLAGS_VM 0x00020000UL
#define X86_EFLAGS_AC 0x00040000UL
#define X86_EFLAGS_ARITHMETIC 0x000008d5UL

#define X86_CR0_TS 0x00000008UL

/* Addresses that no guest can own: outside the canonical range, and inside the range that Xen keeps. */
#define NON_CANONICAL 0x0000800000000000UL
#define XEN_PRIVATE 0xffff828000000000UL
#define UNMAPPED 0x0000123456789000UL

void *memcpy(void *to, const void *from, size_t bytes);
void *memset(void *to, int value, size_t bytes);
int memcmp(const void *a, const void *b, size_t bytes);
size_t strlen(const char *text);
int strcmp(const char *a, const char *b);
int strncmp(const char *a, const char *b, size_t bytes);
const char *strstr(const char *text, const char *part);

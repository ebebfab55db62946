/* Output over the xencons ring, and over HYPERVISOR_console_io as a second way (to the hypervisor's log). */
#pragma once

#include <stdarg.h>

#include "types.h"

void console_init(void);
void console_write(const char *text, size_t bytes);
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));
size_t format_arguments(char *buffer, size_t size, const char *format, va_list arguments);
size_t format_text(char *buffer, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));

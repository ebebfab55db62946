/* What benchmarks share: BENCH lines, and numbers from the command line. */
#pragma once

#include "clock.h"
#include "console.h"
#include "start.h"

/* Run the statement so often (its own counter is i_) and print nanoseconds for each `units` that one of them does. */
#define BENCH_UNITS(name, rounds, units, ...)                                                       \
    do {                                                                                            \
        u64 start_ = clock_now();                                                                   \
        for (unsigned i_ = 0; i_ < (rounds); i_++) {                                                \
            __VA_ARGS__;                                                                            \
        }                                                                                           \
        print("BENCH %s %lu ns\n", name, (clock_now() - start_) / ((u64)(rounds) * (units)));       \
    } while (0)
#define BENCH(name, rounds, ...) BENCH_UNITS(name, rounds, 1, __VA_ARGS__)

/* The number after "name=" on the command line; 0 without one. */
static inline unsigned command_line_number(const char *option)
{
    const char *digit = strstr((const char *)start_info->cmd_line, option);
    unsigned number = 0;

    if (digit)
        for (digit += strlen(option); *digit >= '0' && *digit <= '9'; digit++)
            number = number * 10 + (unsigned)(*digit - '0');
    return number;
}

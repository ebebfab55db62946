/* The assertions. A failed one is reported and the program goes on; `RESULT` is FAIL if there was any. */
#pragma once

#include "types.h"

extern unsigned checks_failed;

void check_report(bool passed, const char *file, int line, const char *format, ...) __attribute__((format(printf, 4, 5)));
void check_numbers(bool passed, const char *file, int line, const char *what, u64 got, const char *relation, u64 wanted);

/* check(condition, "format", ...): the text says what must hold. */
#define check(condition, ...) check_report(condition, __FILE__, __LINE__, __VA_ARGS__)

/* check_equal(got, wanted, "what"): numbers of any width, compared as 64-bit values. */
#define check_equal(got, wanted, what)                                                     \
    do {                                                                                   \
        u64 got_ = (u64)(got), wanted_ = (u64)(wanted);                                    \
        check_numbers(got_ == wanted_, __FILE__, __LINE__, what, got_, "==", wanted_);     \
    } while (0)

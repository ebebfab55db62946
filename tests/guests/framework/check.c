#include "check.h"

#include "console.h"

unsigned checks_failed;

static const char *base_name(const char *path)
{
    const char *name = path;

    for (; *path; path++)
        if (*path == '/')
            name = path + 1;
    return name;
}

void check_report(bool passed, const char *file, int line, const char *format, ...)
{
    char text[256];
    va_list arguments;

    va_start(arguments, format);
    format_arguments(text, sizeof(text), format, arguments);
    va_end(arguments);
    if (passed) {
        print("ok %s\n", text);
        return;
    }
    checks_failed++;
    print("FAIL %s:%d %s\n", base_name(file), line, text);
}

void check_numbers(bool passed, const char *file, int line, const char *what, u64 got, const char *relation, u64 wanted)
{
    if (passed)
        check_report(true, file, line, "%s", what);
    else
        check_report(false, file, line, "%s: got 0x%llx (%lld), wanted %s 0x%llx (%lld)", what, (unsigned long long)got, (long long)got,
                     relation, (unsigned long long)wanted, (long long)wanted);
}

/* print() and what it consists of, for all kinds of guests. */
#include "console.h"

struct output {
    char *next, *end;
    size_t length;
};

static void put(struct output *output, char character)
{
    if (output->next < output->end)
        *output->next++ = character;
    output->length++;
}

/* Divide in place; -> the remainder. In 32-bit steps, which 32-bit code can do without a library. */
static unsigned divide(u64 *value, unsigned base)
{
    u32 high = *value >> 32, low = *value, remainder = high % base;

    asm("divl %[base]" : "+a"(low), "+d"(remainder) : [base] "r"(base) : "cc");
    *value = (u64)(high / base) << 32 | low;
    return remainder;
}

static void put_number(struct output *output, u64 value, unsigned base, bool negative, int width, char fill)
{
    char digits[24];
    int count = 0;

    do {
        digits[count++] = "0123456789abcdef"[divide(&value, base)];
    } while (value);
    if (negative)
        digits[count++] = '-';
    for (; width > count; width--)
        put(output, fill);
    while (count)
        put(output, digits[--count]);
}

/* %d %u %x %c %s %p %%, with `l`, a width and zero fill. */
size_t format_arguments(char *buffer, size_t size, const char *format, va_list arguments)
{
    struct output output = {buffer, buffer + size - 1, 0};

    for (; *format; format++) {
        int longs = 0;
        char fill = ' ';
        int width = 0;

        if (*format != '%') {
            put(&output, *format);
            continue;
        }
        if (*++format == '0')
            fill = '0';
        while (*format >= '0' && *format <= '9')
            width = width * 10 + *format++ - '0';
        while (*format == 'l') {
            longs++;
            format++;
        }
        switch (*format) {
        case 'd': {
            s64 value = longs > 1 ? va_arg(arguments, long long) : longs ? va_arg(arguments, long) : va_arg(arguments, int);

            put_number(&output, value < 0 ? -(u64)value : (u64)value, 10, value < 0, width, fill);
            break;
        }
        case 'u':
        case 'x': {
            u64 value = longs > 1 ? va_arg(arguments, unsigned long long)
                        : longs   ? va_arg(arguments, unsigned long)
                                  : va_arg(arguments, unsigned);

            put_number(&output, value, *format == 'u' ? 10 : 16, false, width, fill);
            break;
        }
        case 'p':
            put_number(&output, (unsigned long)va_arg(arguments, void *), 16, false, width, fill);
            break;
        case 'c':
            put(&output, va_arg(arguments, int));
            break;
        case 's': {
            const char *text = va_arg(arguments, const char *);

            while (*text)
                put(&output, *text++);
            break;
        }
        default:
            put(&output, *format);
        }
    }
    *output.next = 0;
    return output.next - buffer;
}

size_t format_text(char *buffer, size_t size, const char *format, ...)
{
    va_list arguments;
    size_t length;

    va_start(arguments, format);
    length = format_arguments(buffer, size, format, arguments);
    va_end(arguments);
    return length;
}

void print(const char *format, ...)
{
    char line[512];
    va_list arguments;
    size_t length;

    va_start(arguments, format);
    length = format_arguments(line, sizeof(line), format, arguments);
    va_end(arguments);
    console_write(line, length);
}

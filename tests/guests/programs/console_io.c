/* HYPERVISOR_console_io from an unprivileged domain: a release build of Xen refuses, a debug build writes to its log. */
#include "guest.h"

PROGRAM(console_io)
{
    char text[] = "console_io: written by a micro-guest\n", buffer[16];
    long result = hypercall_console_io(CONSOLEIO_write, sizeof(text) - 1, text);

    check(result == 0 || result == -XEN_EPERM, "write is 0 or -EPERM, is %ld", result);
    check_equal(hypercall_console_io(CONSOLEIO_read, sizeof(buffer), buffer), -XEN_EPERM, "read is refused");
    result = hypercall_console_io(77, 0, NULL);
    check(result == -XEN_ENOSYS || result == -XEN_EPERM, "an unknown command is refused, is %ld", result);
    if (hypercall_console_io(CONSOLEIO_write, 0, text) == 0)
        check(hypercall_console_io(CONSOLEIO_write, 8, (void *)UNMAPPED) == -XEN_EFAULT, "a bad buffer is -EFAULT");
}

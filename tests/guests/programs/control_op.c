/* domctl, sysctl and platform_op are Domain 0's: first -EFAULT, then -EACCES for another version of the interface, only then -EPERM. */
#include "guest.h"

struct head { u32 command, version; u16 domain; u8 rest[134]; };

static long call(unsigned int number, u32 command, u32 version, u16 domain)
{
    static struct head head;

    head = (struct head){.command = command, .version = version, .domain = domain};
    return hypercall(number, (unsigned long)&head, 0, 0, 0, 0);
}

PROGRAM(control_op)
{
    static const struct { unsigned int number; u32 version; const char *name; } interfaces[] = {
        {__HYPERVISOR_domctl, 0x15, "domctl"}, {__HYPERVISOR_sysctl, 0x15, "sysctl"}, {__HYPERVISOR_platform_op, 0x03000001, "platform_op"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(interfaces); i++) {
        unsigned int number = interfaces[i].number;
        u32 version = interfaces[i].version;

        check_equal(hypercall(number, 0, 0, 0, 0, 0), -XEN_EFAULT, interfaces[i].name);
        for (u32 other = version - 2; other < version; other++)
            check_equal(call(number, 2, other, 0), -XEN_EACCES, interfaces[i].name);
        check_equal(call(number, 2, version + 1, 0), -XEN_EACCES, interfaces[i].name);
        for (u32 command = 0; command < 100; command++)
            check_equal(call(number, command, version, 0), -XEN_EPERM, interfaces[i].name);
    }
    check_equal(call(__HYPERVISOR_domctl, 2, 0x15, 0x1234), -XEN_ESRCH, "a domain that is not there");
    check_equal(call(__HYPERVISOR_domctl, 1, 0x15, 0x1234), -XEN_EPERM, "createdomain names none");
}

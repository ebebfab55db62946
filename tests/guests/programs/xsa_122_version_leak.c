/* XSA-122: XENVER_* copied out more than it had filled in. Fields that nobody sets must not have old contents. */
#include "guest.h"

PROGRAM(xsa_122_version_leak)
{
    static char buffer[4096];
    static const struct {
        unsigned command, size;
    } queries[] = {{XENVER_extraversion, sizeof(xen_extraversion_t)}, {XENVER_capabilities, sizeof(xen_capabilities_info_t)},
                   {XENVER_changeset, sizeof(xen_changeset_info_t)}, {XENVER_commandline, sizeof(xen_commandline_t)},
                   {XENVER_compile_info, sizeof(struct xen_compile_info)}};

    for (size_t i = 0; i < ARRAY_SIZE(queries); i++) {
        unsigned odd = 0, end;

        memset(buffer, 0x5a, sizeof(buffer));
        check(hypercall_xen_version(queries[i].command, buffer) <= 0, "XSA-122: query %u", queries[i].command);
        for (end = queries[i].size; end < sizeof(buffer) && buffer[end] == 0x5a; end++)
            ;
        check_equal(end, sizeof(buffer), "XSA-122: nothing behind the structure is written");
        for (unsigned at = 0; at < queries[i].size; at++) {
            char c = buffer[at];

            odd += c != 0 && c != 0x5a && c != '\n' && (c < ' ' || c > '~');
        }
        check_equal(odd, 0, "XSA-122: only text and zeros");
    }
    check(hypercall_xen_version(XENVER_extraversion, (void *)XEN_PRIVATE) == -XEN_EFAULT, "into Xen's memory");
}

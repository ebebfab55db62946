/* callback_op: which callbacks can be registered and unregistered. */
#include "guest.h"

PROGRAM(callback_op)
{
    static const u16 fixed[] = {CALLBACKTYPE_event, CALLBACKTYPE_failsafe, CALLBACKTYPE_syscall, CALLBACKTYPE_syscall32, CALLBACKTYPE_sysenter};
    struct callback_unregister unregister = {0};

    for (size_t i = 0; i < ARRAY_SIZE(fixed); i++) {
        unregister.type = fixed[i];
        check(hypercall_callback_op(CALLBACKOP_unregister, &unregister) == -XEN_EINVAL, "type %u can't be unregistered", fixed[i]);
        check(callback_register(fixed[i], 0, (void *)NON_CANONICAL) == -XEN_EINVAL, "type %u at a non-canonical address", fixed[i]);
    }
    check_equal(callback_register(CALLBACKTYPE_syscall32, 0, entry_syscall32), 0, "register syscall32");
    check_equal(callback_register(CALLBACKTYPE_sysenter, 0, entry_sysenter), 0, "register sysenter");
    check_equal(callback_register(CALLBACKTYPE_nmi, 0, vector_entry_points[VECTOR_NMI]), 0, "register nmi");
    unregister.type = CALLBACKTYPE_nmi;
    check_equal(hypercall_callback_op(CALLBACKOP_unregister, &unregister), 0, "unregister nmi");
    check_equal(callback_register(77, 0, entry_event), -XEN_ENOSYS, "an unknown type");
    unregister.type = 77;
    check_equal(hypercall_callback_op(CALLBACKOP_unregister, &unregister), -XEN_ENOSYS, "unregister an unknown type");
    check_equal(callback_register(CALLBACKTYPE_sysenter_deprecated, 0, entry_event), -XEN_ENOSYS, "the deprecated sysenter type");
    check_equal(hypercall_callback_op(9, &unregister), -XEN_ENOSYS, "an unknown command");
    check_equal(HYPERCALL(set_callbacks, entry_event, entry_failsafe, entry_syscall), 0, "set_callbacks");
}

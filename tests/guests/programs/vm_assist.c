/* vm_assist: the types that exist for 64-bit PV can be enabled and disabled; others are refused. */
#include "guest.h"

PROGRAM(vm_assist)
{
    static const unsigned valid[] = {VMASST_TYPE_writable_pagetables, VMASST_TYPE_pae_extended_cr3, VMASST_TYPE_architectural_iopl,
                                     VMASST_TYPE_runstate_update_flag, VMASST_TYPE_m2p_strict};

    for (size_t i = 0; i < ARRAY_SIZE(valid); i++) {
        check(hypercall_vm_assist(VMASST_CMD_enable, valid[i]) == 0, "enable type %u", valid[i]);
        check(hypercall_vm_assist(VMASST_CMD_enable, valid[i]) == 0, "enable type %u again", valid[i]);
        check(hypercall_vm_assist(VMASST_CMD_disable, valid[i]) == 0, "disable type %u", valid[i]);
    }
    check_equal(hypercall_vm_assist(VMASST_CMD_enable, 6), -XEN_EINVAL, "type 6");
    check_equal(hypercall_vm_assist(VMASST_CMD_enable, 33), -XEN_EINVAL, "type 33");
    check_equal(hypercall_vm_assist(VMASST_CMD_enable, 64), -XEN_EINVAL, "type 64");
    check_equal(hypercall_vm_assist(VMASST_CMD_enable, ~0U), -XEN_EINVAL, "type 2^32-1");
    check_equal(hypercall_vm_assist(2, VMASST_TYPE_writable_pagetables), -XEN_ENOSYS, "an unknown command");
}

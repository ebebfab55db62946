#include "hypercall.h"

long hvm_set_parameter(u32 index, u64 value)
{
    struct xen_hvm_param argument = {.domid = DOMID_SELF, .index = index, .value = value};

    return HYPERCALL(hvm_op, HVMOP_set_param, &argument);
}

long hvm_get_parameter(u32 index, u64 *value)
{
    struct xen_hvm_param argument = {.domid = DOMID_SELF, .index = index};
    long result = HYPERCALL(hvm_op, HVMOP_get_param, &argument);

    *value = argument.value;
    return result;
}

long hvm_upcall_vector(unsigned vcpu, u8 vector)
{
    struct xen_hvm_evtchn_upcall_vector argument = {.vcpu = vcpu, .vector = vector};

    return HYPERCALL(hvm_op, HVMOP_set_evtchn_upcall_vector, &argument);
}

long physmap_add(unsigned space, unsigned long index, unsigned long gfn)
{
    struct xen_add_to_physmap argument = {.domid = DOMID_SELF, .space = space, .idx = index, .gpfn = gfn};

    return HYPERCALL(memory_op, XENMEM_add_to_physmap, &argument);
}

long physmap_remove(unsigned long gfn)
{
    struct xen_remove_from_physmap argument = {.domid = DOMID_SELF, .gpfn = gfn};

    return HYPERCALL(memory_op, XENMEM_remove_from_physmap, &argument);
}

static long reservation(unsigned command, unsigned long gfn)
{
    xen_pfn_t extent = gfn;
    struct xen_memory_reservation argument = {.nr_extents = 1, .domid = DOMID_SELF};

    set_xen_guest_handle(argument.extent_start, &extent);
    return HYPERCALL(memory_op, command, &argument);
}

long physmap_populate(unsigned long gfn)
{
    return reservation(XENMEM_populate_physmap, gfn);
}

long physmap_decrease(unsigned long gfn)
{
    return reservation(XENMEM_decrease_reservation, gfn);
}

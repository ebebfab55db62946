/* XSA-334: an error path of XENMEM_acquire_resource kept a lock. XSA-384: XENMEM_add_to_physmap of grant-table pages raced. XSA-301: it was abused
 * without end. XSA-153, XSA-246: populate on demand. XSA-276, XSA-385: other memory operations. All commands, with odd arguments, twice. */
#include "guest.h"

static long current_pages(void)
{
    struct xen_memory_domain self = {.domid = DOMID_SELF};

    return hypercall_memory_op(XENMEM_current_reservation, &self);
}

PROGRAM(xsa_334_memory_op_commands)
{
    static u64 argument[32];
    static const u64 fills[] = {0, DOMID_SELF, ~0UL, 0x7ff07ff07ff07ff0UL, 0x0000000100007ff0UL};
    long pages = current_pages();
    struct xen_add_to_physmap map = {.domid = DOMID_SELF, .space = XENMAPSPACE_grant_table, .gpfn = 5};
    struct xen_mem_acquire_resource resource = {.domid = DOMID_SELF, .type = XENMEM_resource_grant_table, .nr_frames = ~0U};

    for (int round = 0; round < 2; round++)
        for (unsigned command = 2; command < 64; command++) {
            /* Balloon operations and exchange have programs of their own. */
            if (command == XENMEM_populate_physmap || command == XENMEM_exchange)
                continue;
            for (size_t fill = 0; fill < ARRAY_SIZE(fills); fill++) {
                for (int i = 0; i < 32; i++)
                    argument[i] = fills[fill];
                hypercall_memory_op(command, argument);
                hypercall_memory_op(command, (void *)XEN_PRIVATE);
            }
        }
    for (u32 space = 0; space < 8; space++)
        for (u32 index = 0; index < 4; index++) {
            map.space = space;
            map.idx = index == 3 ? ~0UL : index;
            check(hypercall_memory_op(XENMEM_add_to_physmap, &map) < 0, "XSA-384: add_to_physmap of a PV guest, space %u", space);
        }
    for (u32 id = 0; id < 4; id++) {
        resource.id = id;
        check(hypercall_memory_op(XENMEM_acquire_resource, &resource) < 0, "XSA-334: acquire_resource %u", id);
    }
    check(hypercall_memory_op(XENMEM_set_pod_target, argument) < 0, "XSA-246: set_pod_target");
    check_equal(current_pages(), pages, "XSA-301: no page came or went");
}

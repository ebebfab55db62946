/* XSA-13: PHYSDEVOP_get_free_pirq of a guest without interrupt tables used a missing array. XSA-16: PHYSDEVOP_map_pirq took any index.
 * XSA-21: PIRQ numbers were not range checked. XSA-87: PHYSDEVOP_prepare_msix and release_msix were open to all guests.
 * XSA-237: a guest could map MSIs of devices that it does not have. */
#include "guest.h"

PROGRAM(xsa_013_free_pirq)
{
    struct physdev_get_free_pirq free_pirq = {.type = MAP_PIRQ_TYPE_GSI};
    struct physdev_map_pirq map = {.domid = DOMID_SELF, .type = MAP_PIRQ_TYPE_GSI, .index = -1, .pirq = -1};
    struct physdev_unmap_pirq unmap = {.domid = DOMID_SELF, .pirq = 0x7fffffff};
    struct physdev_eoi eoi = {.irq = 0xfffffff0};
    struct physdev_irq_status_query query = {.irq = 0xfffffff0};
    struct physdev_pci_device device = {.bus = 0, .devfn = 8};
    struct evtchn_bind_pirq bind = {.pirq = 0xfffffff0};
    static const unsigned types[] = {MAP_PIRQ_TYPE_MSI, MAP_PIRQ_TYPE_MULTI_MSI, MAP_PIRQ_TYPE_MSI_SEG, MAP_PIRQ_TYPE_UNKNOWN, 77};

    check(hypercall_physdev_op(PHYSDEVOP_get_free_pirq, &free_pirq) < 0, "XSA-13: get_free_pirq");
    check(hypercall_physdev_op(PHYSDEVOP_map_pirq, &map) < 0, "XSA-16: map_pirq with index -1");
    map.index = 0x7fffffff;
    check(hypercall_physdev_op(PHYSDEVOP_map_pirq, &map) < 0, "XSA-16: map_pirq with a large index");
    check(hypercall_event_channel_op(EVTCHNOP_bind_pirq, &bind) < 0, "XSA-21: bind_pirq with a large number");
    check(hypercall_physdev_op(PHYSDEVOP_unmap_pirq, &unmap) < 0, "XSA-21: unmap_pirq with a large number");
    check(hypercall_physdev_op(PHYSDEVOP_eoi, &eoi) < 0, "XSA-21: eoi with a large number");
    check(hypercall_physdev_op(PHYSDEVOP_irq_status_query, &query) < 0, "XSA-21: irq_status_query with a large number");
    check_equal(hypercall_physdev_op(PHYSDEVOP_prepare_msix, &device), -XEN_EPERM, "XSA-87: prepare_msix");
    check_equal(hypercall_physdev_op(PHYSDEVOP_release_msix, &device), -XEN_EPERM, "XSA-87: release_msix");
    for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
        map = (struct physdev_map_pirq){.domid = DOMID_SELF, .type = types[i], .index = 5, .pirq = 5, .bus = 0, .devfn = 8, .entry_nr = 1 << 30};
        check(hypercall_physdev_op(PHYSDEVOP_map_pirq, &map) < 0, "XSA-237: map_pirq of type %u", types[i]);
    }
}

/* physdev_op of a domain without hardware. */
#include "guest.h"

PROGRAM(physdev)
{
    struct physdev_set_iopl iopl = {.iopl = 1};
    struct physdev_eoi eoi = {.irq = 5};
    struct physdev_apic apic = {.apic_physbase = 0xfec00000};
    struct physdev_map_pirq map = {.domid = DOMID_SELF, .type = MAP_PIRQ_TYPE_GSI, .index = 5, .pirq = -1};
    struct physdev_manage_pci pci = {.bus = 0};
    struct physdev_pci_device_add add = {.seg = 0};
    static u64 zeros[64];

    check_equal(hypercall_physdev_op(PHYSDEVOP_set_iopl, &iopl), 0, "set_iopl 1");
    iopl.iopl = 4;
    check_equal(hypercall_physdev_op(PHYSDEVOP_set_iopl, &iopl), -XEN_EINVAL, "set_iopl 4");
    iopl.iopl = 0;
    check_equal(hypercall_physdev_op(PHYSDEVOP_set_iopl, &iopl), 0, "set_iopl 0");
    check_equal(hypercall_physdev_op(PHYSDEVOP_apic_read, &apic), -XEN_EPERM, "apic_read");
    check_equal(hypercall_physdev_op(PHYSDEVOP_apic_write, &apic), -XEN_EPERM, "apic_write");
    check(hypercall_physdev_op(PHYSDEVOP_eoi, &eoi) < 0, "eoi of an interrupt it does not have");
    check(hypercall_physdev_op(PHYSDEVOP_map_pirq, &map) < 0, "map_pirq");
    check(hypercall_physdev_op(PHYSDEVOP_manage_pci_add, &pci) < 0, "manage_pci_add");
    check(hypercall_physdev_op(PHYSDEVOP_pci_device_add, &add) < 0, "pci_device_add");
    check_equal(hypercall_physdev_op(99, zeros), -XEN_ENOSYS, "an unknown command");
}

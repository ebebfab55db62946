"""physdev_op: what of it an unprivileged PV domain without hardware has (physdev.h): its IOPL and I/O bitmap."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyxen.abi import physdev
from pyxen.hypervisor import guest_access

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

MAX_PORTS = 65536
#: Operations on interrupts and devices: Xen checks the privilege, and this domain has none.
_HARDWARE = frozenset(
    (
        physdev.PHYSDEVOP_apic_read,
        physdev.PHYSDEVOP_apic_write,
        physdev.PHYSDEVOP_alloc_irq_vector,
        physdev.PHYSDEVOP_manage_pci_add,
        physdev.PHYSDEVOP_manage_pci_remove,
        physdev.PHYSDEVOP_manage_pci_add_ext,
        physdev.PHYSDEVOP_pci_device_add,
        physdev.PHYSDEVOP_pci_device_remove,
        physdev.PHYSDEVOP_pci_mmcfg_reserved,
        physdev.PHYSDEVOP_restore_msi,
        physdev.PHYSDEVOP_restore_msi_ext,
        physdev.PHYSDEVOP_prepare_msix,
        physdev.PHYSDEVOP_release_msix,
        physdev.PHYSDEVOP_setup_gsi,
        physdev.PHYSDEVOP_dbgp_op,
        physdev.PHYSDEVOP_map_pirq,
    )
)
#: Operations that name a PIRQ: a domain without hardware has none.
_PIRQ = frozenset(
    (physdev.PHYSDEVOP_eoi, physdev.PHYSDEVOP_irq_status_query, physdev.PHYSDEVOP_unmap_pirq, physdev.PHYSDEVOP_get_free_pirq)
)


def physdev_op(vcpu: Vcpu, command: int, argument: int) -> int:
    """-EPERM for hardware, -EINVAL for PIRQs, -ENOSYS for the rest."""
    if vcpu.is_hvm:  # without PIRQs none of it is there (hvm_physdev_op)
        return -errno.ENOSYS
    if command == physdev.PHYSDEVOP_set_iopl:
        untrusted = guest_access.read_structure(vcpu, argument, physdev.physdev_set_iopl).iopl
        if untrusted > 3:
            return -errno.EINVAL
        vcpu.iopl = untrusted
        return 0
    if command == physdev.PHYSDEVOP_set_iobitmap:
        bitmap = guest_access.read_structure(vcpu, argument, physdev.physdev_set_iobitmap)
        if bitmap.nr_ports > MAX_PORTS:
            return -errno.EINVAL
        vcpu.io_bitmap = (bitmap.bitmap, bitmap.nr_ports) if bitmap.bitmap else None
        return 0
    if command in _HARDWARE:
        return -errno.EPERM
    if command in _PIRQ:
        return -errno.EINVAL
    vcpu.domain.note_unimplemented(f"physdev_op {command}")
    return -errno.ENOSYS

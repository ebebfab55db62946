"""Physical devices: interrupts, I/O privileges, PCI (public header physdev.h)."""

from __future__ import annotations

from ctypes import Structure, Union, c_int32, c_uint8, c_uint16, c_uint32, c_uint64

from pyxen.abi.arch_x86_64 import guest_handle_t, xen_pfn_t, xen_ulong_t
from pyxen.abi.xen import domid_t

PHYSDEVOP_IRQ_UNMASK_NOTIFY = 4  # obsolete
PHYSDEVOP_irq_status_query = 5
PHYSDEVOP_set_iopl = 6
PHYSDEVOP_set_iobitmap = 7
PHYSDEVOP_apic_read = 8
PHYSDEVOP_apic_write = 9
PHYSDEVOP_alloc_irq_vector = 10
PHYSDEVOP_free_irq_vector = 11
PHYSDEVOP_eoi = 12
PHYSDEVOP_map_pirq = 13
PHYSDEVOP_unmap_pirq = 14
PHYSDEVOP_manage_pci_add = 15
PHYSDEVOP_manage_pci_remove = 16
PHYSDEVOP_pirq_eoi_gmfn_v1 = 17
PHYSDEVOP_restore_msi = 19
PHYSDEVOP_manage_pci_add_ext = 20
PHYSDEVOP_setup_gsi = 21
PHYSDEVOP_get_free_pirq = 23
PHYSDEVOP_pci_mmcfg_reserved = 24
PHYSDEVOP_pci_device_add = 25
PHYSDEVOP_pci_device_remove = 26
PHYSDEVOP_restore_msi_ext = 27
PHYSDEVOP_pirq_eoi_gmfn_v2 = 28
PHYSDEVOP_pirq_eoi_gmfn = PHYSDEVOP_pirq_eoi_gmfn_v2
PHYSDEVOP_dbgp_op = 29
PHYSDEVOP_prepare_msix = 30
PHYSDEVOP_release_msix = 31

# --- Interrupts --------------------------------------------------------------------------------------------------------------


class physdev_eoi(Structure):
    """An interrupt has been served."""

    _fields_ = [("irq", c_uint32)]


class physdev_pirq_eoi_gmfn(Structure):
    """Page for the bitmap that says which interrupts need PHYSDEVOP_eoi."""

    _fields_ = [("gmfn", xen_pfn_t)]


XENIRQSTAT_needs_eoi = 1 << 0
XENIRQSTAT_shared = 1 << 1


class physdev_irq_status_query(Structure):
    """Ask about an interrupt line."""

    _fields_ = [
        ("irq", c_uint32),  # in
        ("flags", c_uint32),  # out: XENIRQSTAT_*
    ]


class physdev_irq(Structure):
    """Vector of an interrupt line."""

    _fields_ = [("irq", c_uint32), ("vector", c_uint32)]


MAP_PIRQ_TYPE_MSI = 0
MAP_PIRQ_TYPE_GSI = 1
MAP_PIRQ_TYPE_UNKNOWN = 2
MAP_PIRQ_TYPE_MSI_SEG = 3
MAP_PIRQ_TYPE_MULTI_MSI = 4


class physdev_map_pirq(Structure):
    """Map a GSI or an MSI to a physical interrupt number of a domain."""

    _fields_ = [
        ("domid", domid_t),
        ("type", c_int32),  # MAP_PIRQ_TYPE_*
        ("index", c_int32),
        ("pirq", c_int32),  # in: number wanted, or negative; out: number given
        ("bus", c_int32),
        ("devfn", c_int32),
        ("entry_nr", c_int32),
        ("table_base", c_uint64),
    ]


class physdev_unmap_pirq(Structure):
    """Undo physdev_map_pirq."""

    _fields_ = [("domid", domid_t), ("pirq", c_int32)]


class physdev_setup_gsi(Structure):
    """Trigger mode and polarity of a GSI."""

    _fields_ = [
        ("gsi", c_int32),
        ("triggering", c_uint8),
        ("polarity", c_uint8),
    ]


class physdev_get_free_pirq(Structure):
    """Ask for an interrupt number that is free."""

    _fields_ = [
        ("type", c_int32),  # in: MAP_PIRQ_TYPE_*
        ("pirq", c_uint32),  # out
    ]


class physdev_apic(Structure):
    """Read or write an I/O APIC register."""

    _fields_ = [
        ("apic_physbase", xen_ulong_t),
        ("reg", c_uint32),
        ("value", c_uint32),
    ]


# --- I/O privileges ----------------------------------------------------------------------------------------------------------


class physdev_set_iopl(Structure):
    """Virtual I/O privilege level of the calling vCPU."""

    _fields_ = [("iopl", c_uint32)]


class physdev_set_iobitmap(Structure):
    """I/O permission bitmap of the calling vCPU."""

    _fields_ = [("bitmap", guest_handle_t), ("nr_ports", c_uint32)]


# --- PCI ---------------------------------------------------------------------------------------------------------------------


class physdev_manage_pci(Structure):
    """Device of segment 0."""

    _fields_ = [("bus", c_uint8), ("devfn", c_uint8)]


class physdev_restore_msi(Structure):
    """Device of segment 0 whose MSI state is to be restored."""

    _fields_ = [("bus", c_uint8), ("devfn", c_uint8)]


class physdev_pci_physfn(Structure):
    """Physical function that a virtual function belongs to."""

    _fields_ = [("bus", c_uint8), ("devfn", c_uint8)]


class physdev_manage_pci_ext(Structure):
    """Device of segment 0, with virtual functions."""

    _fields_ = [
        ("bus", c_uint8),
        ("devfn", c_uint8),
        ("is_extfn", c_uint32),
        ("is_virtfn", c_uint32),
        ("physfn", physdev_pci_physfn),
    ]


XEN_PCI_MMCFG_RESERVED = 1


class physdev_pci_mmcfg_reserved(Structure):
    """Whether the firmware reserved a memory-mapped configuration area."""

    _fields_ = [
        ("address", c_uint64),
        ("segment", c_uint16),
        ("start_bus", c_uint8),
        ("end_bus", c_uint8),
        ("flags", c_uint32),  # XEN_PCI_MMCFG_RESERVED
    ]


XEN_PCI_DEV_EXTFN = 1
XEN_PCI_DEV_VIRTFN = 2
XEN_PCI_DEV_PXM = 4


class physdev_pci_device_add(Structure):
    """Device that Domain 0 found; an array of optional words follows."""

    _fields_ = [
        ("seg", c_uint16),
        ("bus", c_uint8),
        ("devfn", c_uint8),
        ("flags", c_uint32),  # XEN_PCI_DEV_*
        ("physfn", physdev_pci_physfn),
        ("optarr", c_uint32 * 0),
    ]


class physdev_pci_device(Structure):
    """Address of a PCI device."""

    _fields_ = [
        ("seg", c_uint16),
        ("bus", c_uint8),
        ("devfn", c_uint8),
    ]


PHYSDEVOP_DBGP_RESET_PREPARE = 1
PHYSDEVOP_DBGP_RESET_DONE = 2
PHYSDEVOP_DBGP_BUS_UNKNOWN = 0
PHYSDEVOP_DBGP_BUS_PCI = 1


class physdev_dbgp_op_u(Union):
    """Device of a debug port."""

    _fields_ = [("pci", physdev_pci_device)]


class physdev_dbgp_op(Structure):
    """Reset of a USB debug port's controller."""

    _fields_ = [
        ("op", c_uint8),  # PHYSDEVOP_DBGP_RESET_*
        ("bus", c_uint8),  # PHYSDEVOP_DBGP_BUS_*
        ("u", physdev_dbgp_op_u),
    ]


# --- HYPERVISOR_physdev_op_compat ----------------------------------------------------------------------------------------------


class physdev_op_u(Union):
    """Argument of the compatibility call."""

    _fields_ = [
        ("irq_status_query", physdev_irq_status_query),
        ("set_iopl", physdev_set_iopl),
        ("set_iobitmap", physdev_set_iobitmap),
        ("apic_op", physdev_apic),
        ("irq_op", physdev_irq),
    ]


class physdev_op(Structure):
    """Argument of HYPERVISOR_physdev_op_compat."""

    _fields_ = [("cmd", c_uint32), ("u", physdev_op_u)]

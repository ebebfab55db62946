"""The keys of xl.cfg(5) that pyxen knows but does not act on: so that a mistake in a name is told from a key of Xen's.

Sources: xl.cfg(5) of Xen 4.17, and the keys that xl 4.17 reads without documenting them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyxen.toolstack.configuration.values import Anything, Flag, Integer, Text, Texts, ValueType


@dataclass(frozen=True)
class OtherKey:
    """The type of the value, and what the user should know."""

    kind: ValueType[Any]
    note: str = ""


def _keys(kind: ValueType[Any], names: str) -> dict[str, OtherKey]:
    return {name: OtherKey(kind) for name in names.split()}


#: For domains of every type, but not done by pyxen yet.
UNSUPPORTED_KEYS: dict[str, OtherKey] = {
    **_keys(Flag(), "e820_host pci_permissive pci_msitranslate pci_seize pci_power_mgmt xend_suspend_evtchn_compat vpmu dm_restrict"),
    **_keys(Flag(), "device_model_stubdomain_override"),
    **_keys(Integer(), "rtc_timeoffset vmtrace_buf_kb period slice latency extratime stubdomain_memory"),
    **_keys(Flag(), "localtime"),
    **_keys(Text(), "device_tree passthrough tee gic_version vuart device_model_user device_model_version device_model_override"),
    **_keys(Text(), "stubdomain_kernel stubdomain_cmdline stubdomain_ramdisk device_model_stubdomain_seclabel"),
    **_keys(Texts(), "vtpm p9 pvcalls vfb channel usbctrl usbdev pci dtdev ioports iomem vdispl vkb"),
    **_keys(Texts(), "device_model_args device_model_args_pv device_model_args_hvm"),
    **_keys(Anything(), "vsnd vnuma irqs cpuid"),
}

#: Without effect for a PV domain, in Xen too (xl does not even look at them).
FULLY_VIRTUALISED_KEYS: dict[str, OtherKey] = {
    **_keys(Flag(), "hap oos pae acpi acpi_s3 acpi_s4 acpi_laptop_slate apic nx hpet nestedhvm vpt_align xen_platform_pci stdvga"),
    **_keys(Flag(), "vnc vncunused sdl opengl nographic spice spicedisable_ticketing spiceagent_mouse spicevdagent"),
    **_keys(Flag(), "spice_clipboard_sharing usb vkb_device pvshim msr_relaxed"),
    **_keys(
        Integer(), "shadow_memory rdm_mem_boundary mmio_hole videoram vncdisplay spiceport spicetls_port spiceusbredirection usbversion"
    ),
    **_keys(Text(), "boot hdtype bios bios_path_override acpi_firmware smbios_firmware ms_vm_genid vga vnclisten vncpasswd keymap"),
    **_keys(Text(), "spicehost spicepasswd spice_image_compression spice_streaming_video soundhw vendor_device"),
    **_keys(Text(), "pvshim_path pvshim_cmdline pvshim_extra rdm display xauthority firmware_override"),
    **_keys(Texts(), "mca_caps"),
    **_keys(Anything(), "gfx_passthru timer_mode viridian altp2m serial usbdevice"),
}

#: Those that xl warns about, or reads for the sake of old files.
DEPRECATED_KEYS: dict[str, OtherKey] = {
    "builder": OtherKey(Text(), 'use type = "pv", "pvh" or "hvm"'),
    "altp2mhvm": OtherKey(Flag(), "use altp2m"),
    "device_model": OtherKey(Text(), "use device_model_override"),
    "vncviewer": OtherKey(Anything(), "use the option -V of xl create"),
    "vif2": OtherKey(Anything(), "netchannel2 does not exist any more; use vif"),
}

#: Without effect here, and rightly so: pyxen has no security policy to label domains for.
IGNORED_KEYS: dict[str, OtherKey] = {
    **_keys(Text(), "init_seclabel"),
}

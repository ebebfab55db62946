"""xen_version: who we are. pyxen presents Xen 4.17 (version.h, features.h)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyxen.abi import features
from pyxen.abi import version as abi
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.dom0_interface import XenVersion

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

VIRT_START = 0xFFFF_8000_0000_0000
VERSION = XenVersion(
    major=4,
    minor=17,
    extra=".0-pyxen",
    capabilities="xen-3.0-x86_64 hvm-3.0-x86_64 ",
    changeset="unavailable",
    compiler="CPython",
    compile_by="pyxen",
    compile_domain="pyxen",
    compile_date="unavailable",
    command_line="",
    virt_start=VIRT_START,
    page_size=4096,
    build_id="",
)
#: What an unprivileged domain reads of Xen's command line.
DENIED = "<denied>"
#: What a 64-bit PV guest gets. Writable page tables are not: only their emulation.
FEATURES = (
    1 << features.XENFEAT_pae_pgdir_above_4gb
    | 1 << features.XENFEAT_mmu_pt_update_preserve_ad
    | 1 << features.XENFEAT_highmem_assist
    | 1 << features.XENFEAT_gnttab_map_avail_bits
    | 1 << features.XENFEAT_memory_op_vnode_supported
    | 1 << features.XENFEAT_not_direct_mapped
)
#: What an HVM guest without PIRQs gets.
HVM_FEATURES = (
    1 << features.XENFEAT_writable_page_tables
    | 1 << features.XENFEAT_auto_translated_physmap
    | 1 << features.XENFEAT_memory_op_vnode_supported
    | 1 << features.XENFEAT_hvm_callback_vector
    | 1 << features.XENFEAT_hvm_safe_pvclock
    | 1 << features.XENFEAT_not_direct_mapped
)


def xen_version(vcpu: Vcpu, command: int, argument: int) -> int:
    """XENVER_*. -ENOSYS for what is not there, -EFAULT."""
    operation = _OPERATIONS.get(command)
    if operation is None:
        vcpu.domain.note_unimplemented(f"xen_version {command}")
        return -errno.ENOSYS
    return operation(vcpu, argument)


def _string(text: str, length: int) -> Callable[[Vcpu, int], int]:
    image = text.encode("ascii")[: length - 1].ljust(length, b"\0")

    def answer(vcpu: Vcpu, argument: int) -> int:
        guest_access.write(vcpu, argument, image)
        return 0

    return answer


def _version(vcpu: Vcpu, argument: int) -> int:
    return VERSION.major << 16 | VERSION.minor


def _pagesize(vcpu: Vcpu, argument: int) -> int:
    return VERSION.page_size if not argument else -errno.EINVAL


def _compile_info(vcpu: Vcpu, argument: int) -> int:
    info = abi.compile_info(
        VERSION.compiler.encode(), VERSION.compile_by.encode(), VERSION.compile_domain.encode(), VERSION.compile_date.encode()
    )
    guest_access.write_structure(vcpu, argument, info)
    return 0


def _platform_parameters(vcpu: Vcpu, argument: int) -> int:
    guest_access.write_long(vcpu, argument, VIRT_START)
    return 0


def _get_features(vcpu: Vcpu, argument: int) -> int:
    info = guest_access.read_structure(vcpu, argument, abi.feature_info)
    if info.submap_idx >= features.XENFEAT_NR_SUBMAPS:
        return -errno.EINVAL
    info.submap = 0 if info.submap_idx else HVM_FEATURES if vcpu.is_hvm else FEATURES
    guest_access.write_structure(vcpu, argument, info)
    return 0


def _guest_handle(vcpu: Vcpu, argument: int) -> int:
    guest_access.write(vcpu, argument, vcpu.domain.handle)
    return 0


def _build_id(vcpu: Vcpu, argument: int) -> int:
    """Domain 0's to know."""
    return -errno.EPERM


_OPERATIONS: dict[int, Callable[[Vcpu, int], int]] = {
    abi.XENVER_version: _version,
    abi.XENVER_extraversion: _string(VERSION.extra, abi.XEN_EXTRAVERSION_LEN),
    abi.XENVER_compile_info: _compile_info,
    abi.XENVER_capabilities: _string(VERSION.capabilities, abi.XEN_CAPABILITIES_INFO_LEN),
    abi.XENVER_changeset: _string(VERSION.changeset, abi.XEN_CHANGESET_INFO_LEN),
    abi.XENVER_platform_parameters: _platform_parameters,
    abi.XENVER_get_features: _get_features,
    abi.XENVER_pagesize: _pagesize,
    abi.XENVER_guest_handle: _guest_handle,
    abi.XENVER_commandline: _string(DENIED, abi.XEN_COMMANDLINE_LEN),
    abi.XENVER_build_id: _build_id,
}

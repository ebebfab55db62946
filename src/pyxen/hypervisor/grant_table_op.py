"""grant_table_op: set-up and queries of the calling domain's own table (grant_table.h). The rest answers -ENOSYS."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyxen.abi import grant_table as abi
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.dom0_interface import HypercallError

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

VERSION = 1


def grant_table_op(vcpu: Vcpu, command: int, argument: int, count: int) -> int:
    """Run ``count`` operations of one kind. -ENOSYS, -EINVAL, -EFAULT; each operation has its own status besides."""
    operation = _OPERATIONS.get(command)
    if operation is None:
        vcpu.domain.note_unimplemented(f"grant_table_op {command}")
        return -errno.ENOSYS
    layout, function = operation
    if count & 0xFFFFFFFF != 1:
        return -errno.EINVAL
    op = guest_access.read_structure(vcpu, argument, layout)
    function(vcpu, op)
    guest_access.write_structure(vcpu, argument, op)
    return 0


def _refusal(vcpu: Vcpu, domid: int) -> int | None:
    """The status for naming a domain other than oneself."""
    try:
        vcpu.hypervisor.check_own_domid(vcpu.domain, domid)
    except HypercallError as error:
        return abi.GNTST_bad_domain if error.errno == errno.ESRCH else abi.GNTST_permission_denied
    return None


def _setup_table(vcpu: Vcpu, op: abi.gnttab_setup_table) -> None:
    refusal = _refusal(vcpu, op.dom)
    if refusal is not None:
        op.status = refusal
        return
    table = vcpu.domain.grant_table
    try:
        table.grow(op.nr_frames)
    except HypercallError:
        op.status = abi.GNTST_general_error
        return
    for index in range(op.nr_frames):
        guest_access.write_word(vcpu, op.frame_list + 8 * index, table.frames[index])
    op.status = abi.GNTST_okay


def _query_size(vcpu: Vcpu, op: abi.gnttab_query_size) -> None:
    refusal = _refusal(vcpu, op.dom)
    if refusal is not None:
        op.status = refusal
        return
    table = vcpu.domain.grant_table
    op.nr_frames, op.max_nr_frames, op.status = len(table.frames), table.max_frames, abi.GNTST_okay


def _set_version(vcpu: Vcpu, op: abi.gnttab_set_version) -> None:
    """Version 2 is refused, as by a Xen started with gnttab=max-ver:1."""
    wanted = op.version
    op.version = VERSION
    if wanted != VERSION:
        raise HypercallError(errno.ENOSYS if wanted == 2 else errno.EINVAL, f"grant table version {wanted}")


def _get_version(vcpu: Vcpu, op: abi.gnttab_get_version) -> None:
    vcpu.hypervisor.check_own_domid(vcpu.domain, op.dom)
    op.version = VERSION


_OPERATIONS: dict[int, tuple[type[ctypes.Structure], Callable[..., None]]] = {
    abi.GNTTABOP_setup_table: (abi.gnttab_setup_table, _setup_table),
    abi.GNTTABOP_query_size: (abi.gnttab_query_size, _query_size),
    abi.GNTTABOP_set_version: (abi.gnttab_set_version, _set_version),
    abi.GNTTABOP_get_version: (abi.gnttab_get_version, _get_version),
}

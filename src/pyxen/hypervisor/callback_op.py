"""callback_op, set_callbacks and nmi_op: where the guest kernel wants to be entered (callback.h, nmi.h)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyxen.abi import callback, nmi
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.traps import is_canonical

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

#: Type -> names of the vCPU's members for the address and for "masks events" (None: always does).
_MEMBERS: dict[int, tuple[str, str | None]] = {
    callback.CALLBACKTYPE_event: ("event_callback", None),
    callback.CALLBACKTYPE_failsafe: ("failsafe_callback", "failsafe_masks_events"),
    callback.CALLBACKTYPE_syscall: ("syscall_callback", "syscall_masks_events"),
    callback.CALLBACKTYPE_syscall32: ("syscall32_callback", "syscall32_masks_events"),
    callback.CALLBACKTYPE_sysenter: ("sysenter_callback", "sysenter_masks_events"),
    callback.CALLBACKTYPE_nmi: ("nmi_callback", None),
}
#: What CALLBACKOP_unregister takes back (the other callbacks can only be replaced).
_REMOVABLE = frozenset((callback.CALLBACKTYPE_nmi,))


def callback_op(vcpu: Vcpu, command: int, argument: int) -> int:
    """Register or unregister one callback. -EINVAL, -ENOSYS, -EFAULT."""
    if command == callback.CALLBACKOP_register:
        registration = guest_access.read_structure(vcpu, argument, callback.callback_register)
        return _register(vcpu, registration.type, registration.flags, registration.address)
    if command == callback.CALLBACKOP_unregister:
        kind = guest_access.read_structure(vcpu, argument, callback.callback_unregister).type
        if kind in _REMOVABLE:
            setattr(vcpu, _MEMBERS[kind][0], 0)
            return 0
        return -errno.EINVAL if kind in _MEMBERS else -errno.ENOSYS
    return -errno.ENOSYS


def _register(vcpu: Vcpu, kind: int, flags: int, untrusted_address: int) -> int:
    if kind not in _MEMBERS:
        return -errno.ENOSYS
    if not is_canonical(untrusted_address):
        return -errno.EINVAL
    address_member, masks_member = _MEMBERS[kind]
    setattr(vcpu, address_member, untrusted_address)
    if masks_member is not None:
        setattr(vcpu, masks_member, bool(flags & callback.CALLBACKF_mask_events))
    return 0


def set_callbacks(vcpu: Vcpu, event: int, failsafe: int, syscall: int) -> int:
    """The three classic callbacks at once. -EINVAL for addresses that are not canonical."""
    if not all(is_canonical(address) for address in (event, failsafe, syscall)):
        return -errno.EINVAL
    vcpu.event_callback, vcpu.failsafe_callback, vcpu.syscall_callback = event, failsafe, syscall
    return 0


def nmi_op(vcpu: Vcpu, command: int, argument: int) -> int:
    """Register the NMI callback of the calling vCPU. -EINVAL, -ENOSYS, -EFAULT."""
    if command == nmi.XENNMI_register_callback:
        handler = guest_access.read_structure(vcpu, argument, nmi.xennmi_callback).handler_address
        return _register(vcpu, callback.CALLBACKTYPE_nmi, 0, handler)
    if command == nmi.XENNMI_unregister_callback:
        vcpu.nmi_callback = 0
        return 0
    return -errno.ENOSYS

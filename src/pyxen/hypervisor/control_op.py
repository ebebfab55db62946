"""domctl, sysctl and platform_op: Domain 0's alone. What every other domain is told by them, in the order in which Xen looks.

A tool finds the version of an interface by trying: -EACCES is the wrong one, whoever asks; only then comes the question of privilege.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyxen.abi import control
from pyxen.hypervisor import guest_access

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu


def domctl(vcpu: Vcpu, argument: int) -> int:
    """-EFAULT, -EACCES for another interface version, -ESRCH for no such domain, -EPERM."""
    operation = guest_access.read_structure(vcpu, argument, control.domctl)
    if operation.interface_version != control.XEN_DOMCTL_INTERFACE_VERSION:
        return -errno.EACCES
    if operation.cmd != control.XEN_DOMCTL_createdomain and all(domain.domid != operation.domain for domain in vcpu.hypervisor.domains()):
        return -errno.ESRCH
    return -errno.EPERM


def sysctl(vcpu: Vcpu, argument: int) -> int:
    """-EFAULT, -EACCES for another interface version, -EPERM."""
    operation = guest_access.read_structure(vcpu, argument, control.sysctl)
    return -errno.EPERM if operation.interface_version == control.XEN_SYSCTL_INTERFACE_VERSION else -errno.EACCES


def platform_op(vcpu: Vcpu, argument: int) -> int:
    """-EFAULT, -EACCES for another interface version, -EPERM."""
    operation = guest_access.read_structure(vcpu, argument, control.platform_op)
    return -errno.EPERM if operation.interface_version == control.XENPF_INTERFACE_VERSION else -errno.EACCES

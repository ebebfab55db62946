"""Address spaces of a PV domain: which L4 table each vCPU uses for kernel and user mode, and MMUEXT_* operations on them."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyxen.engine.interface import Dirty
from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.frame_table import L4

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.vcpu import Vcpu


class AddressSpaces:
    """The roots of one domain. A root in use holds a general and a typed reference. Lock held."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._frames = domain.hypervisor.frames

    def new_kernel_root(self, vcpu: Vcpu, mfn: int) -> None:
        """MMUEXT_NEW_BASEPTR. EINVAL for a frame that is not a valid L4 table of this domain."""
        old = vcpu.kernel_root >> 12
        if not mfn:
            raise HypercallError(errno.EINVAL, "frame 0 is no page table")
        if old != mfn:
            self._frames.get_page_and_type(mfn, self._domain.domid, L4)
            vcpu.kernel_root = mfn << 12
            if vcpu.kernel_mode:
                vcpu.state.cr3 = mfn << 12
                vcpu.state.dirty |= Dirty.CONTROL
            if old:
                self._frames.put_page_and_type(old)
        vcpu.request_flush()

    def new_user_root(self, vcpu: Vcpu, mfn: int) -> None:
        """MMUEXT_NEW_USER_BASEPTR; MFN 0 means none."""
        old = vcpu.user_root >> 12
        if old != mfn:
            if mfn:
                self._frames.get_page_and_type(mfn, self._domain.domid, L4)
            vcpu.user_root = mfn << 12
            if old:
                self._frames.put_page_and_type(old)
        vcpu.request_flush()

    def flush_others(self, caller: Vcpu, vcpu_ids: set[int] | None) -> None:
        """Flush the TLBs of these vCPUs (None: all), waiting until none of them can use an old translation."""
        for vcpu in self._domain.vcpus:
            if vcpu_ids is None or vcpu.vcpu_id in vcpu_ids:
                self._domain.hypervisor.stop_briefly(vcpu, caller)
                vcpu.request_flush()

    def flush_stale(self, stamp: int) -> None:
        """Flush every TLB of the domain that may hold translations older than ``stamp``."""
        for vcpu in self._domain.vcpus:
            if vcpu.flush_clock <= stamp:
                self._domain.hypervisor.stop_briefly(vcpu, None)
                vcpu.request_flush()

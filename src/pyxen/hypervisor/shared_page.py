"""Where things stand in a domain's shared info page and in vcpu_info: as 64-bit guests have them, or as 32-bit ones.

PV domains have the first. HVM domains start with it, and get that of the code that is running whenever they write the hypercall page or
set their callback (Xen's has_32bit_shinfo, hvm_latch_shinfo_size): a 32-bit boot loader and the 64-bit kernel that it loads both find
their own. What stands at the same place in both is not here: the pending bits, the upcall's flags, the time.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyxen.abi.compat import compat_arch_shared_info, compat_shared_info, compat_vcpu_info
from pyxen.abi.xen import shared_info, vcpu_info


@dataclass(frozen=True, slots=True)
class SharedLayout:
    """Offsets are in octets into the page, but ``selector_*``."""

    narrow: bool  #: 32-bit
    ports: int  #: of the 2-level ABI
    word_shift: int  #: a port's word is port >> word_shift
    mask: int  #: evtchn_mask
    wall_clock: int  #: wc_version, wc_sec and wc_nsec
    wall_clock_high: int  #: wc_sec_hi
    selector: int  #: of the aligned 64 bits of vcpu_info that hold evtchn_pending_sel
    selector_shift: int  #: its first bit there

    def selector_bits(self, bits: int) -> int:
        """Bits of evtchn_pending_sel, in those 64."""
        return bits << self.selector_shift & (1 << 64) - 1


WIDE = SharedLayout(
    narrow=False,
    ports=8 * shared_info.evtchn_pending.size,
    word_shift=6,
    mask=shared_info.evtchn_mask.offset,
    wall_clock=shared_info.wc_version.offset,
    wall_clock_high=shared_info.wc_sec_hi.offset,
    selector=vcpu_info.evtchn_pending_sel.offset,
    selector_shift=0,
)
NARROW = SharedLayout(
    narrow=True,
    ports=8 * compat_shared_info.evtchn_pending.size,
    word_shift=5,
    mask=compat_shared_info.evtchn_mask.offset,
    wall_clock=compat_shared_info.wc_version.offset,
    wall_clock_high=compat_shared_info.arch.offset + compat_arch_shared_info.wc_sec_hi.offset,
    selector=0,
    selector_shift=8 * compat_vcpu_info.evtchn_pending_sel.offset,
)

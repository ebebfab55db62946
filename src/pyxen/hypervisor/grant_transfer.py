"""GNTTABOP_transfer: a domain gives a frame away to one that has a GTF_accept_transfer entry for it (Xen's common/grant_table.c).

As on Xen, the giver loses the frame even if the receiver then does not take it; only GNTST_bad_page leaves it in place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyxen.abi.grant_table import GNTST_bad_domain, GNTST_bad_page, GNTST_general_error
from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.frame_table import ALLOCATED, NONE
from pyxen.hypervisor.grant_entries import GrantError

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain


def transfer(giver: Domain, untrusted_mfn: int, untrusted_domid: int, untrusted_reference: int) -> None:
    """GrantError: GNTST_bad_page unless the frame is in the giver's reservation and nothing else refers to it; GNTST_bad_domain;
    GNTST_general_error when the receiver has no room or does not expect it. Lock held."""
    if giver.hvm is not None:
        there_is_none = giver.hvm.physical_map.entry(untrusted_mfn) is None
        raise GrantError(GNTST_bad_page if there_is_none else GNTST_general_error, "frames of HVM domains are not transferred")
    hypervisor = giver.hypervisor
    frames, mfn = hypervisor.frames, untrusted_mfn
    if mfn >= hypervisor.memory.total_frames or hypervisor.memory.owner[mfn] != giver.domid:
        raise GrantError(GNTST_bad_page, f"frame {mfn:#x} is not domain {giver.domid}'s")
    if frames.flags[mfn] != ALLOCATED or frames.count[mfn] != 1:
        raise GrantError(GNTST_bad_page, f"frame {mfn:#x} is in use")
    giver.flush_tlbs()
    table = hypervisor.grant_table(untrusted_domid)
    try:
        if table is None:
            raise GrantError(GNTST_bad_domain, f"there is no domain {untrusted_domid}")
        receiver = table.domain
        # The frame that the giver loses makes room if it gives to itself.
        if receiver.dying or receiver.total_pages - (receiver is giver) >= receiver.max_pages:
            raise GrantError(GNTST_general_error, f"domain {receiver.domid} has no room for a frame")
        entry = table.accept_transfer(untrusted_reference, giver.domid)
    except GrantError:
        giver.release_frame(mfn)
        raise
    giver.total_pages -= 1
    receiver.total_pages += 1
    hypervisor.memory.owner[mfn] = receiver.domid
    frames.type[mfn] = NONE
    frames.stamp[mfn] = frames.clock
    refusal = ""
    if receiver.hvm is None:
        hypervisor.m2p[mfn] = entry.frame
    else:
        try:
            receiver.hvm.physical_map.place(entry.frame, mfn)
        except HypercallError as error:
            refusal = error.reason  # the frame is the receiver's all the same
    table.complete_transfer(untrusted_reference, mfn)
    if refusal:
        raise GrantError(GNTST_general_error, refusal)

"""mmu_update, update_va_mapping and mmuext_op: how a PV guest changes its page tables and roots (xen.h, Xen's arch/x86/mm.c)."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from pyxen.abi import xen
from pyxen.hypervisor import descriptors, guest_access
from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.frame_table import L1, L2, L3, L4, WRITABLE
from pyxen.hypervisor.guest_access import is_guest_address
from pyxen.hypervisor.preemption import BUDGET, Preempted, Slice

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

COUNT_MASK = 0x7FFFFFFF
PREEMPTED = 0x80000000  #: MMU_UPDATE_PREEMPTED: the count's top bit says that *pdone already holds a part
_UPDATE = struct.Struct("<2Q")
_EXTENDED = struct.Struct("<I4xQQ")


def _done_before(vcpu: Vcpu, count: int, done_address: int) -> int:
    if count & PREEMPTED and done_address:
        with suppress(guest_access.GuestFault):
            return int.from_bytes(guest_access.read(vcpu, done_address, 4), "little")
    return 0


def _report(vcpu: Vcpu, done_address: int, done: int) -> None:
    """A bad address changes nothing: what is done is done."""
    if done_address:
        with suppress(guest_access.GuestFault):
            guest_access.write(vcpu, done_address, (done & 0xFFFFFFFF).to_bytes(4, "little"))


def _check_foreign(vcpu: Vcpu, domid: int) -> None:
    """Only its own tables (upper half: domain id + 1, 0 for itself) and frames (lower half). EPERM, ESRCH."""
    tables = domid >> 16 & 0xFFFF
    if tables:
        vcpu.hypervisor.check_own_domid(vcpu.domain, tables - 1)
    vcpu.hypervisor.check_own_domid(vcpu.domain, domid & 0xFFFF)


def mmu_update(vcpu: Vcpu, address: int, count: int, done_address: int, foreign: int) -> int:
    """A list of (pointer, value). -> 0, or the errno of the first that failed; *pdone tells how many succeeded."""
    return _each(vcpu, "mmu_update", _UPDATE, _update_one, address, count, done_address, foreign)


def _each(
    vcpu: Vcpu, name: str, layout: struct.Struct, operate: Callable[..., None], address: int, count: int, done_address: int, foreign: int
) -> int:
    """Do what each element of a list says, until one fails; continued after ``BUDGET`` elements, or sooner."""
    _check_foreign(vcpu, foreign)
    earlier = _done_before(vcpu, count, done_address)
    count &= COUNT_MASK
    done, failure, time_slice = 0, 0, Slice()
    while done < count:
        if done == BUDGET or (done and time_slice.over):
            _report(vcpu, done_address, earlier + done)
            raise Preempted(address, count - done | PREEMPTED, done_address, foreign)
        try:
            operate(vcpu, *layout.unpack(guest_access.read(vcpu, address, layout.size)))
        except HypercallError as refusal:
            failure = refusal.errno
            vcpu.hypervisor.guest_log(vcpu.domain.domid, f"{name}: {refusal.reason}")
            break
        except guest_access.GuestFault:
            failure = errno.EFAULT
            break
        address += layout.size
        done += 1
    _report(vcpu, done_address, earlier + done)
    return -failure


def _update_one(vcpu: Vcpu, pointer: int, value: int) -> None:
    command = pointer & 7
    machine = pointer & ~7
    hypervisor = vcpu.hypervisor
    domid = vcpu.domain.domid
    frames = hypervisor.frames
    mfn = machine >> 12
    if command == xen.MMU_MACHPHYS_UPDATE:
        try:
            frames.get(mfn, domid)
        except HypercallError as refusal:
            raise HypercallError(errno.EINVAL, refusal.reason) from None
        hypervisor.m2p[mfn] = value
        frames.put(mfn)
        return
    if command not in (xen.MMU_NORMAL_PT_UPDATE, xen.MMU_PT_UPDATE_PRESERVE_AD, xen.MMU_PT_UPDATE_NO_TRANSLATE):
        raise HypercallError(errno.ENOSYS, f"mmu_update command {command}")
    frames.get(mfn, domid)
    try:
        if frames.type_count[mfn] and L1 <= frames.type[mfn] <= L4:
            hypervisor.page_tables.write_entry(vcpu.domain, machine, value, preserve_accessed=command == xen.MMU_PT_UPDATE_PRESERVE_AD)
        else:
            frames.get_type(mfn, WRITABLE)
            vcpu.words[machine >> 3] = value
            hypervisor.note_write(mfn)
            frames.put_type(mfn)
    finally:
        frames.put(mfn)


def update_va_mapping(vcpu: Vcpu, address: int, value: int, flags: int) -> int:
    """Replace the L1 entry that maps ``address`` in the current address space; flush as ``flags`` say."""
    return _update_va_mapping(vcpu, address, value, flags)


def update_va_mapping_otherdomain(vcpu: Vcpu, address: int, value: int, flags: int, domid: int) -> int:
    """As update_va_mapping, for frames of another domain: only its own without privilege."""
    _check_foreign(vcpu, domid)
    return _update_va_mapping(vcpu, address, value, flags)


def _update_va_mapping(vcpu: Vcpu, address: int, value: int, flags: int) -> int:
    page_tables = vcpu.hypervisor.page_tables
    where = page_tables.l1_entry_address(vcpu.kernel_root, address) if is_guest_address(address) else None
    result = 0
    if where is None or vcpu.hypervisor.frames.type[where >> 12] != L1:  # another type: a linear page table's
        result = -errno.EINVAL
    else:
        try:
            page_tables.write_entry(vcpu.domain, where, value)
        except HypercallError as refusal:
            vcpu.hypervisor.guest_log(vcpu.domain.domid, f"update_va_mapping({address:#x}, {value:#x}): {refusal.reason}")
            result = -refusal.errno
    _flush(vcpu, address, flags)
    return result


def _flush(vcpu: Vcpu, address: int, flags: int) -> None:
    kind = flags & xen.UVMF_FLUSHTYPE_MASK
    if kind not in (xen.UVMF_TLB_FLUSH, xen.UVMF_INVLPG):
        return
    where = flags & ~xen.UVMF_FLUSHTYPE_MASK
    if where == xen.UVMF_LOCAL:
        if kind == xen.UVMF_TLB_FLUSH:
            vcpu.request_flush()
        else:
            vcpu.cpu.flush_tlb_page(address)
    elif where == xen.UVMF_ALL:
        vcpu.domain.address_space.flush_others(vcpu, None)
    else:
        vcpu.domain.address_space.flush_others(vcpu, _vcpu_set(vcpu, where))


def _vcpu_set(vcpu: Vcpu, bitmap_address: int) -> set[int]:
    """The vCPUs named by a bitmap in guest memory, of whole words."""
    count = len(vcpu.domain.vcpus)
    bits = int.from_bytes(guest_access.read(vcpu, bitmap_address, (count + 63) // 64 * 8), "little")
    return {number for number in range(count) if bits >> number & 1}


def mmuext_op(vcpu: Vcpu, address: int, count: int, done_address: int, foreign: int) -> int:
    """A list of extended operations. -> 0, or the errno of the first that failed; *pdone tells how many succeeded."""
    return _each(vcpu, "mmuext_op", _EXTENDED, _extended_one, address, count, done_address, foreign)


def _extended_one(vcpu: Vcpu, command: int, first: int, second: int) -> None:
    operation = _OPERATIONS.get(command)
    if operation is None:
        vcpu.domain.note_unimplemented(f"mmuext_op command {command}")
        raise HypercallError(errno.ENOSYS, f"mmuext_op command {command}")
    operation(vcpu, first, second)


def _pin(level: int) -> Callable[[Vcpu, int, int], None]:
    def pin(vcpu: Vcpu, mfn: int, _: int) -> None:
        vcpu.hypervisor.frames.pin(mfn, vcpu.domain.domid, level)

    return pin


def _unpin(vcpu: Vcpu, mfn: int, _: int) -> None:
    vcpu.hypervisor.frames.unpin(mfn, vcpu.domain.domid)


def _new_base(vcpu: Vcpu, mfn: int, _: int) -> None:
    vcpu.domain.address_space.new_kernel_root(vcpu, mfn)


def _new_user_base(vcpu: Vcpu, mfn: int, _: int) -> None:
    vcpu.domain.address_space.new_user_root(vcpu, mfn)


def _flush_local(vcpu: Vcpu, _first: int, _second: int) -> None:
    vcpu.request_flush()


def _invalidate_local(vcpu: Vcpu, address: int, _: int) -> None:
    vcpu.cpu.flush_tlb_page(address)


def _flush_all(vcpu: Vcpu, _first: int, _second: int) -> None:
    vcpu.domain.address_space.flush_others(vcpu, None)


def _flush_some(vcpu: Vcpu, _: int, bitmap_address: int) -> None:
    try:
        vcpus = _vcpu_set(vcpu, bitmap_address)
    except guest_access.GuestFault as fault:
        raise HypercallError(errno.EINVAL, f"a bitmap of vCPUs: {fault}") from None
    vcpu.domain.address_space.flush_others(vcpu, vcpus)


def _flush_all_caches(vcpu: Vcpu, _first: int, _second: int) -> None:
    raise HypercallError(errno.EINVAL, "cache flush without hardware access")


def _flush_cache(vcpu: Vcpu, _first: int, _second: int) -> None:
    raise HypercallError(errno.EACCES, "cache flush without hardware access")


def _mark_super(vcpu: Vcpu, _first: int, _second: int) -> None:
    raise HypercallError(errno.EOPNOTSUPP, "superpages of PV guests")


def _set_ldt(vcpu: Vcpu, address: int, entries: int) -> None:
    descriptors.set_ldt(vcpu, address, entries & 0xFFFFFFFF)


def _clear_page(vcpu: Vcpu, mfn: int, _: int) -> None:
    frames = vcpu.hypervisor.frames
    frames.get_page_and_type(mfn, vcpu.domain.domid, WRITABLE)
    vcpu.hypervisor.memory.tables[mfn] = 0
    vcpu.hypervisor.note_write(mfn)
    frames.put_page_and_type(mfn)


def _copy_page(vcpu: Vcpu, mfn: int, source: int) -> None:
    hypervisor = vcpu.hypervisor
    frames = hypervisor.frames
    frames.get(source, vcpu.domain.domid)
    try:
        frames.get_page_and_type(mfn, vcpu.domain.domid, WRITABLE)
        hypervisor.memory.tables[mfn] = hypervisor.memory.tables[source]
        hypervisor.note_write(mfn)
        frames.put_page_and_type(mfn)
    finally:
        frames.put(source)


_OPERATIONS: dict[int, Callable[[Vcpu, int, int], None]] = {
    xen.MMUEXT_PIN_L1_TABLE: _pin(L1),
    xen.MMUEXT_PIN_L2_TABLE: _pin(L2),
    xen.MMUEXT_PIN_L3_TABLE: _pin(L3),
    xen.MMUEXT_PIN_L4_TABLE: _pin(L4),
    xen.MMUEXT_UNPIN_TABLE: _unpin,
    xen.MMUEXT_NEW_BASEPTR: _new_base,
    xen.MMUEXT_NEW_USER_BASEPTR: _new_user_base,
    xen.MMUEXT_TLB_FLUSH_LOCAL: _flush_local,
    xen.MMUEXT_INVLPG_LOCAL: _invalidate_local,
    xen.MMUEXT_TLB_FLUSH_MULTI: _flush_some,
    xen.MMUEXT_INVLPG_MULTI: _flush_some,
    xen.MMUEXT_TLB_FLUSH_ALL: _flush_all,
    xen.MMUEXT_INVLPG_ALL: _flush_all,
    xen.MMUEXT_FLUSH_CACHE: _flush_cache,
    xen.MMUEXT_FLUSH_CACHE_GLOBAL: _flush_all_caches,
    xen.MMUEXT_MARK_SUPER: _mark_super,
    xen.MMUEXT_UNMARK_SUPER: _mark_super,
    xen.MMUEXT_SET_LDT: _set_ldt,
    xen.MMUEXT_CLEAR_PAGE: _clear_page,
    xen.MMUEXT_COPY_PAGE: _copy_page,
}

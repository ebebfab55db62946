from __future__ import annotations

import errno
import mmap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.machine_memory import OWNER_NONE, PAGE_SIZE, MachineMemory

TOTAL = 64 << 20
FRAMES = TOTAL // PAGE_SIZE


@pytest.mark.parametrize("size", [0, (64 << 20) - 4096, (64 << 20) + 1])
def test_size(size: int) -> None:
    with pytest.raises(ValueError):
        MachineMemory(size)


def test_frame_0_is_never_given() -> None:
    memory = MachineMemory(TOTAL)
    frames = memory.allocate(1, FRAMES - 1)
    assert frames.min() == 1 and len(np.unique(frames)) == FRAMES - 1
    assert memory.free_frames == 0


def test_all_or_nothing() -> None:
    memory = MachineMemory(TOTAL)
    for count in (FRAMES, 1 << 40, -1):
        with pytest.raises(HypercallError) as refusal:
            memory.allocate(1, count)
        assert refusal.value.errno == errno.ENOMEM
    assert memory.free_frames == FRAMES - 1
    assert not (memory.owners == 1).any()


def test_fresh_frames_are_contiguous() -> None:
    memory = MachineMemory(TOTAL)
    assert (np.diff(memory.allocate(1, 1000)) == 1).all()


def test_released_frames_are_zero_and_take_no_memory() -> None:
    memory = MachineMemory(TOTAL)
    frames = memory.allocate(1, 16)
    for mfn in frames.tolist():
        memory.page(mfn)[:] = b"\xaa" * PAGE_SIZE
    memory.release(frames[::3])
    for mfn in frames[::3].tolist():
        assert not any(memory.page(mfn))
    for mfn in frames[1::3].tolist():
        assert all(octet == 0xAA for octet in memory.page(mfn))
    again = memory.allocate(2, 100)
    assert not memory.tables[again].any()
    assert set(frames[::3].tolist()) <= set(again.tolist()), "recycled frames first: what was never used takes no memory of the host"


def test_views_show_the_same_memory() -> None:
    memory = MachineMemory(TOTAL)
    mfn = memory.allocate_one(1)
    memory.words[mfn << 9] = 0x0102030405060708
    assert bytes(memory.page(mfn)[:8]) == bytes(range(8, 0, -1))
    assert memory.tables[mfn][0] == 0x0102030405060708
    assert memory.octets[mfn << 12] == 8
    assert mmap.PAGESIZE == PAGE_SIZE


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 4000), st.tuples(st.integers(0, 50), st.booleans())), max_size=30))
def test_no_frame_has_two_owners(actions: list[int | tuple[int, bool]]) -> None:
    """Allocations (a count) and releases (which allocation, whole or each second frame), against a set per owner."""
    memory = MachineMemory(TOTAL)
    held: list[set[int]] = []
    for action in actions:
        if isinstance(action, int):
            owned = sum(map(len, held))
            if action > FRAMES - 1 - owned:
                with pytest.raises(HypercallError):
                    memory.allocate(1, action)
                continue
            frames = memory.allocate(len(held) + 1, action)
            assert not any(set(frames.tolist()) & other for other in held)
            held.append(set(frames.tolist()))
        elif held:
            index = action[0] % len(held)
            given_back = sorted(held[index])[:: 2 if action[1] else 1]
            memory.release(np.array(given_back, dtype=np.uint64))
            held[index] -= set(given_back)
        assert memory.free_frames == FRAMES - 1 - sum(map(len, held))
    for index, frames_held in enumerate(held):
        assert set(np.flatnonzero(memory.owners == index + 1).tolist()) == frames_held
    assert int((memory.owners == OWNER_NONE).sum()) == memory.free_frames + 1

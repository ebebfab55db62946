"""Counts and types of frames, also against a model: any sequence of operations keeps the rules, and all ends with everything free."""

from __future__ import annotations

import errno

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.frame_hold import FrameHold
from pyxen.hypervisor.frame_table import ALLOCATED, L1, L2, L4, NONE, PINNED, SEGMENT_DESCRIPTORS, WRITABLE, FrameTable
from pyxen.hypervisor.machine_memory import Frames, MachineMemory

OURS, THEIRS = 1, 2


def new_table(count: int = 6) -> tuple[FrameTable, Frames, int]:
    memory = MachineMemory(64 << 20)
    frames = FrameTable(memory)
    mine = memory.allocate(OURS, count)
    frames.assign(mine, ALLOCATED)
    foreign = memory.allocate(THEIRS, 1)
    frames.assign(foreign, ALLOCATED)
    return frames, mine, int(foreign[0])


def errno_of(function, *arguments: int) -> int:  # type: ignore[no-untyped-def]
    with pytest.raises(HypercallError) as refusal:
        function(*arguments)
    return refusal.value.errno


def test_whose_frame() -> None:
    frames, mine, foreign = new_table()
    assert errno_of(frames.get, foreign, OURS) == errno.EINVAL
    assert errno_of(frames.get, 0, OURS) == errno.EINVAL
    for nowhere in (frames.memory.total_frames, 1 << 52, (1 << 64) - 1):
        assert errno_of(frames.get, nowhere, OURS) == errno.EINVAL
        assert errno_of(frames.get_page_and_type, nowhere, OURS, WRITABLE) == errno.EINVAL
    assert frames.counts.sum() == len(mine) + 1


def test_the_last_reference_frees() -> None:
    frames, mine, _ = new_table()
    freed = []
    frames.freed = lambda owner, count: freed.extend([owner] * count)
    mfn, free = int(mine[0]), frames.memory.free_frames
    frames.get(mfn, OURS)
    frames.memory.words[mfn << 9] = 5
    frames.put(mfn)
    assert frames.memory.free_frames == free
    frames.put(mfn)
    assert frames.memory.free_frames == free + 1 and freed == [OURS]
    assert not frames.memory.words[mfn << 9]
    assert errno_of(frames.get, mfn, OURS) == errno.EINVAL


@pytest.mark.parametrize("first", [L1, L2, L4, SEGMENT_DESCRIPTORS, WRITABLE])
def test_one_type_at_a_time(first: int) -> None:
    frames, mine, _ = new_table()
    mfn = int(mine[0])
    frames.get_page_and_type(mfn, OURS, first)
    frames.get_page_and_type(mfn, OURS, first)
    for other in {L1, L2, L4, SEGMENT_DESCRIPTORS, WRITABLE} - {first}:
        assert errno_of(frames.get_page_and_type, mfn, OURS, other) == errno.EINVAL
    frames.put_page_and_type(mfn)
    assert errno_of(frames.get_type, mfn, WRITABLE if first != WRITABLE else L1) == errno.EINVAL
    frames.put_page_and_type(mfn)
    assert (frames.count[mfn], frames.type_count[mfn]) == (1, 0)
    frames.get_page_and_type(mfn, OURS, WRITABLE if first != WRITABLE else L1)


def test_tables_are_validated_once_and_released_once() -> None:
    frames, mine, _ = new_table()
    mfn, calls = int(mine[0]), []
    frames.validate = lambda mfn, kind: calls.append(("validate", kind))
    frames.devalidate = lambda mfn, kind: calls.append(("devalidate", kind))
    frames.get_type(mfn, L2)
    frames.get_type(mfn, L2)
    frames.put_type(mfn)
    assert calls == [("validate", L2)]
    frames.put_type(mfn)
    assert calls == [("validate", L2), ("devalidate", L2)]
    frames.get_type(mfn, L2)
    assert calls[2:] == [("validate", L2)], "its content may have changed: it could be written meanwhile"
    frames.put_type(mfn)
    frames.get_type(mfn, WRITABLE)
    assert len(calls) == 4


def test_a_refused_table_has_no_type() -> None:
    frames, mine, _ = new_table()
    mfn = int(mine[0])

    def refuse(mfn: int, kind: int) -> None:
        raise HypercallError(errno.EINVAL, "bad content")

    frames.validate = refuse
    assert errno_of(frames.get_page_and_type, mfn, OURS, L1) == errno.EINVAL
    assert (frames.count[mfn], frames.type_count[mfn], frames.type[mfn]) == (1, 0, NONE)
    frames.get_page_and_type(mfn, OURS, WRITABLE)


def test_stale_translations_are_flushed_before_another_type() -> None:
    """A TLB can still hold a writable translation when the last writable mapping is gone."""
    frames, mine, _ = new_table()
    mfn, flushes = int(mine[0]), []
    frames.flush_stale = lambda owner, stamp: flushes.append((owner, stamp))
    frames.get_type(mfn, WRITABLE)
    frames.clock = 10
    frames.put_type(mfn)
    frames.clock = 20
    frames.get_type(mfn, WRITABLE)
    frames.put_type(mfn)
    assert not flushes
    frames.clock = 30
    frames.get_type(mfn, L1)
    assert flushes == [(OURS, 20)]
    frames.put_type(mfn)
    frames.get_many(mine[:1], mine[:1], OURS)
    assert flushes == [(OURS, 20), (OURS, 30)]


def test_flushed_before_it_is_freed() -> None:
    frames, mine, _ = new_table()
    flushes = []
    frames.flush_stale = lambda owner, stamp: flushes.append((owner, stamp, int((frames.memory.owners == OURS).sum())))
    frames.clock = 7
    frames.put(int(mine[0]))
    assert flushes == [(OURS, 7, len(mine))]


def test_many_at_once() -> None:
    frames, mine, foreign = new_table()
    a, b, c = mine[:3].tolist()
    many = np.array([a, a, b, c], dtype=np.uint64)
    frames.get_many(many, np.array([a, a, b], dtype=np.uint64), OURS)
    assert [frames.count[mfn] for mfn in (a, b, c)] == [3, 2, 2]
    assert [frames.type_count[mfn] for mfn in (a, b, c)] == [2, 1, 0]
    before = frames.counts.copy(), frames.type_counts.copy()
    frames.get_page_and_type(c, OURS, L1)
    for bad, number in (
        ([a, c], errno.EBUSY),
        ([a, foreign], errno.EBUSY),
        ([a, frames.memory.total_frames], errno.EPERM),
        ([a, (1 << 40) - 1], errno.EINVAL),
    ):
        entries = np.array(bad, dtype=np.uint64)
        assert errno_of(frames.get_many, entries, entries, OURS) == number
    frames.put_page_and_type(c)
    assert (frames.counts == before[0]).all() and (frames.type_counts == before[1]).all()
    for mfn in (a, b):
        frames.put(mfn)
    free = frames.memory.free_frames
    frames.put_many(many, np.array([a, a, b], dtype=np.uint64))
    assert frames.memory.free_frames == free + 2
    assert [frames.count[mfn] for mfn in (a, b, c)] == [0, 0, 1]


def test_pins() -> None:
    frames, mine, foreign = new_table()
    mfn = int(mine[0])
    assert errno_of(frames.pin, foreign, OURS, L1) == errno.EINVAL
    assert errno_of(frames.unpin, mfn, OURS) == errno.EINVAL
    assert errno_of(frames.unpin, foreign, OURS) == errno.EINVAL
    frames.pin(mfn, OURS, L1)
    assert errno_of(frames.pin, mfn, OURS, L1) == errno.EINVAL
    assert errno_of(frames.pin, mfn, OURS, L2) == errno.EINVAL
    assert (frames.count[mfn], frames.type_count[mfn], frames.flags[mfn]) == (2, 1, ALLOCATED | PINNED)
    frames.unpin(mfn, OURS)
    assert (frames.count[mfn], frames.type_count[mfn], frames.flags[mfn]) == (1, 0, ALLOCATED)


def test_holds_of_domain_0() -> None:
    frames, mine, _ = new_table()
    hold = FrameHold(int(mine[0]))
    hold.take(frames, OURS, writable=False)
    frames.get_page_and_type(hold.mfn, OURS, L1)
    with pytest.raises(HypercallError):
        hold.take(frames, OURS, writable=True)
    assert hold.times == 1 and not hold.writable
    frames.put_page_and_type(hold.mfn)
    hold.take(frames, OURS, writable=True)
    hold.take(frames, OURS, writable=True)
    assert (frames.count[hold.mfn], frames.type_count[hold.mfn]) == (4, 1)
    for left in (1, 1, 0):
        hold.drop(frames)
        assert frames.type_count[hold.mfn] == left
    assert frames.count[hold.mfn] == 1


KINDS = st.sampled_from([L1, L2, SEGMENT_DESCRIPTORS, WRITABLE])
INDEX = st.integers(0, 2)


class FrameTableModel(RuleBasedStateMachine):
    """The model: for each frame a list of who holds it, with the kind or None."""

    def __init__(self) -> None:
        super().__init__()
        self.frames, mine, self.foreign = new_table(3)
        self.mfns = mine.tolist()
        self.holders: list[list[int | None]] = [[None] for _ in self.mfns]  # the reservation is the first
        self.pinned: dict[int, int] = {}
        self.first_free = self.frames.memory.free_frames

    def _kind(self, index: int) -> int | None:
        kinds = {kind for kind in self.holders[index] if kind is not None}
        assert len(kinds) <= 1, "the model itself is wrong"
        return kinds.pop() if kinds else None

    def _try(self, wanted: bool, function, *arguments: int) -> None:  # type: ignore[no-untyped-def]
        if wanted:
            function(*arguments)
        else:
            with pytest.raises(HypercallError):
                function(*arguments)

    @rule(index=INDEX)
    def get(self, index: int) -> None:
        alive = bool(self.holders[index])
        self._try(alive, self.frames.get, self.mfns[index], OURS)
        if alive:
            self.holders[index].append(None)

    @rule(index=INDEX, kind=KINDS)
    def get_page_and_type(self, index: int, kind: int) -> None:
        allowed = bool(self.holders[index]) and self._kind(index) in (None, kind)
        self._try(allowed, self.frames.get_page_and_type, self.mfns[index], OURS, kind)
        if allowed:
            self.holders[index].append(kind)

    @rule(index=INDEX, kind=KINDS)
    def pin(self, index: int, kind: int) -> None:
        allowed = bool(self.holders[index]) and self._kind(index) in (None, kind) and index not in self.pinned
        self._try(allowed, self.frames.pin, self.mfns[index], OURS, kind)
        if allowed:
            self.holders[index].append(kind)
            self.pinned[index] = kind

    @rule(index=INDEX)
    def unpin(self, index: int) -> None:
        self._try(index in self.pinned, self.frames.unpin, self.mfns[index], OURS)
        if index in self.pinned:
            self.holders[index].remove(self.pinned.pop(index))

    @rule(data=st.data())
    def drop_one(self, data: st.DataObject) -> None:
        index = data.draw(INDEX)
        held = list(self.holders[index])
        if index in self.pinned:
            held.remove(self.pinned[index])
        if not held:
            return
        kind = data.draw(st.sampled_from(held))
        self.holders[index].remove(kind)
        if kind is None:
            self.frames.put(self.mfns[index])
        else:
            self.frames.put_page_and_type(self.mfns[index])

    @rule(indices=st.lists(INDEX, max_size=5), writable=st.lists(st.booleans(), min_size=5, max_size=5))
    def table_of_entries(self, indices: list[int], writable: list[bool]) -> None:
        entries = list(zip(indices, writable, strict=False))
        allowed = all(self.holders[index] and (not rw or self._kind(index) in (None, WRITABLE)) for index, rw in entries)
        mfns = np.array([self.mfns[index] for index, _ in entries], dtype=np.uint64)
        rw_mfns = np.array([self.mfns[index] for index, rw in entries if rw], dtype=np.uint64)
        if not allowed:
            with pytest.raises(HypercallError):
                self.frames.get_many(mfns, rw_mfns, OURS)
            return
        self.frames.get_many(mfns, rw_mfns, OURS)
        for index, rw in entries:
            self.holders[index].append(WRITABLE if rw else None)

    @precondition(lambda self: any(self.holders))
    @rule(data=st.data())
    def give_up_many(self, data: st.DataObject) -> None:
        mfns, writable = [], []
        for index in range(3):
            for kind in (None, WRITABLE):
                if kind in self.holders[index] and self.pinned.get(index) != kind and data.draw(st.booleans()):
                    self.holders[index].remove(kind)
                    mfns.append(self.mfns[index])
                    writable += [self.mfns[index]] if kind else []
        self.frames.put_many(np.array(mfns, dtype=np.uint64), np.array(writable, dtype=np.uint64))

    @invariant()
    def counts_agree(self) -> None:
        for index, mfn in enumerate(self.mfns):
            assert self.frames.count[mfn] == len(self.holders[index])
            assert self.frames.type_count[mfn] == sum(kind is not None for kind in self.holders[index])
            if self._kind(index) is not None:
                assert self.frames.type[mfn] == self._kind(index)
            assert bool(self.frames.flags[mfn] & PINNED) == (index in self.pinned)
            assert (self.frames.memory.owner[mfn] == OURS) == bool(self.holders[index])
        freed = sum(not held for held in self.holders)
        assert self.frames.memory.free_frames == self.first_free + freed
        assert self.frames.count[self.foreign] == 1

    def teardown(self) -> None:
        for index, mfn in enumerate(self.mfns):
            if index in self.pinned:
                self.holders[index].remove(self.pinned.pop(index))
                self.frames.unpin(mfn, OURS)
            for kind in self.holders[index]:
                if kind is not None:
                    self.frames.put_type(mfn)
            for _ in self.holders[index]:
                self.frames.put(mfn)
        assert self.frames.memory.free_frames == self.first_free + len(self.mfns)
        assert not self.frames.counts[self.mfns].any()


FrameTableModel.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestAgainstModel = FrameTableModel.TestCase

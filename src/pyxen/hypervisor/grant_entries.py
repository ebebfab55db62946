"""The memory of a grant table that the guest shares with Xen: entries of versions 1 and 2 and status words (grant_table.h).

The guest writes there at any moment. So an entry is read once, as a copy; and it is marked in use by a compare-and-exchange that covers
what was checked (version 1), or marked first and checked again afterwards (version 2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyxen.abi.grant_table import GNTST_bad_gntref, GNTST_general_error, GTF_reading, GTF_writing

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain

V1_PER_FRAME, V2_PER_FRAME, STATUS_PER_FRAME = 512, 256, 2048
PAGE_SIZE = 4096
#: How often an entry is tried again that the guest keeps changing.
TRIES = 5
IN_USE = GTF_reading | GTF_writing


class GrantError(Exception):
    """One grant operation was refused. ``status`` is its GNTST_*."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{reason} (GNTST {status})")
        self.status = status
        self.reason = reason


class UnstableEntry(GrantError):
    """A version 2 entry turned bad after it had been marked in use."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A copy of an entry: two words of version 2, or version 1 in the same form. Nothing in it can be trusted."""

    header: int
    body: int

    @property
    def flags(self) -> int:
        """GTF_*."""
        return self.header & 0xFFFF

    @property
    def domid(self) -> int:
        """To whom it is granted."""
        return self.header >> 16 & 0xFFFF

    @property
    def frame(self) -> int:
        """What is granted; of a whole or partial page."""
        return self.body

    @property
    def page_offset(self) -> int:
        """Start of a partial page."""
        return self.header >> 32 & 0xFFFF

    @property
    def length(self) -> int:
        """Octets of a partial page."""
        return self.header >> 48

    @property
    def transitive_domid(self) -> int:
        """Whose grant is handed on."""
        return self.header >> 32 & 0xFFFF

    @property
    def transitive_reference(self) -> int:
        """Which grant is handed on."""
        return self.body & 0xFFFFFFFF


class SharedEntries:
    """``frames`` and ``status_frames`` hold MFNs. Entry numbers passed in are below ``count``."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._hypervisor = domain.hypervisor
        self._words = domain.hypervisor.memory.words
        self.version = 1
        self.frames: list[int] = []
        self.status_frames: list[int] = []

    @property
    def count(self) -> int:
        """Entries that the table has now."""
        return len(self.frames) * (V1_PER_FRAME if self.version == 1 else V2_PER_FRAME)

    def check(self, untrusted_reference: int) -> None:
        """GNTST_bad_gntref beyond the table."""
        if not 0 <= untrusted_reference < self.count:
            raise GrantError(GNTST_bad_gntref, f"grant {untrusted_reference:#x} is beyond the table of domain {self._domain.domid}")

    def address(self, reference: int) -> int:
        """Machine address of an entry."""
        if self.version == 1:
            return (self.frames[reference // V1_PER_FRAME] << 12) + reference % V1_PER_FRAME * 8
        return (self.frames[reference // V2_PER_FRAME] << 12) + reference % V2_PER_FRAME * 16

    def _status_word(self, reference: int) -> tuple[int, int]:
        """(machine address of the word with the status, how far it is shifted there)."""
        frame, index = divmod(reference, STATUS_PER_FRAME)
        return (self.status_frames[frame] << 12) + (index >> 2 << 3), (index & 3) * 16

    def read(self, reference: int) -> Entry:
        """A copy."""
        address = self.address(reference)
        if self.version == 1:
            word = self._words[address >> 3]
            return Entry(word & 0xFFFFFFFF, word >> 32)
        return Entry(self._words[address >> 3], self._words[(address >> 3) + 1])

    def write(self, reference: int, entry: Entry) -> None:
        """Replace an entry that nobody uses, or that Xen alone may change now. Version 1 keeps 32 bits of the frame."""
        index = self.address(reference) >> 3
        if self.version == 1:
            self._words[index] = entry.header & 0xFFFFFFFF | (entry.body & 0xFFFFFFFF) << 32
        else:
            self._words[index + 1] = entry.body
            self._words[index] = entry.header

    def status(self, reference: int) -> int:
        """GTF_reading and GTF_writing of an entry, as they stand in memory."""
        if self.version == 1:
            return self.read(reference).flags & IN_USE
        address, shift = self._status_word(reference)
        return self._words[address >> 3] >> shift & 0xFFFF

    def set_status(self, reference: int, bits: int) -> None:
        """Write the status of a version 2 entry that nobody uses."""
        address, shift = self._status_word(reference)
        self._change(address, 0xFFFF << shift, bits << shift)

    def claim(self, reference: int, bits: int, check: Callable[[Entry], None]) -> Entry:
        """Mark an entry in use after ``check`` found it good. -> what was checked. GNTST_general_error when the guest keeps changing it;
        ``UnstableEntry``: the marks stand, and the caller takes back what no pin justifies."""
        engine = self._hypervisor.engine
        if self.version == 1:
            address = self.address(reference)
            for _ in range(TRIES):
                entry = self.read(reference)
                check(entry)
                word = entry.header | entry.body << 32
                if engine.compare_exchange(address, word, word | bits):
                    return entry
            raise GrantError(GNTST_general_error, f"grant {reference:#x} of domain {self._domain.domid} is unstable")
        check(self.read(reference))
        address, shift = self._status_word(reference)
        engine.set_bits(address, bits << shift)
        entry = self.read(reference)
        try:
            check(entry)
        except GrantError as refusal:
            raise UnstableEntry(refusal.status, refusal.reason) from None
        return entry

    def set_flags(self, reference: int, bits: int) -> None:
        """Set bits of the flags, atomically."""
        self._hypervisor.engine.set_bits(self.address(reference), bits)

    def clear_status(self, reference: int, bits: int) -> None:
        """Take marks back, atomically. Nothing happens when the table is gone."""
        if not self.frames:
            return
        if self.version == 1:
            self._change(self.address(reference), bits, 0)
        else:
            address, shift = self._status_word(reference)
            self._change(address, bits << shift, 0)

    def _change(self, address: int, clear: int, bits: int) -> None:
        """Clear and set bits of a word. A guest that won't leave the word alone is stopped for the moment."""
        engine = self._hypervisor.engine
        for _ in range(TRIES):
            word = self._words[address >> 3]
            if engine.compare_exchange(address, word, word & ~clear | bits):
                return
        for vcpu in self._domain.vcpus:
            self._hypervisor.stop_briefly(vcpu, None)
        self._words[address >> 3] = self._words[address >> 3] & ~clear | bits

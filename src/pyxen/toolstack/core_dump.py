"""A domain's memory as a core file: an ELF64 core with one PT_LOAD segment per run of frames.

Each segment's physical address is that of the machine frames. The file opens in gdb (``core-file``), readelf and drgn's raw readers;
it is not Xen's own dump-core format, which needs the P2M of the guest.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pyxen.hypervisor.dom0_interface import Dom0Hypercalls

_PAGE_SIZE = 4096
_ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_IDENTIFICATION = b"\x7fELF\x02\x01\x01" + bytes(9)
_ET_CORE, _EM_X86_64, _PT_LOAD, _PF_RW = 4, 62, 1, 6
#: e_phnum is 16 bits wide; larger numbers mean something else.
_MAX_SEGMENTS = 0xFFFE


def write_core(dom0: Dom0Hypercalls, domid: int, path: Path) -> None:
    """Write the memory of a stopped domain to ``path`` (mode 0600; under another name until it is complete).

    Raises ``OSError`` and ``HypercallError``; then no file is left.
    """
    runs = list(_runs(dom0.memory_list(domid)))
    if len(runs) > _MAX_SEGMENTS:
        raise OSError(f"the domain's memory is in {len(runs)} pieces, more than a core file can have")
    unfinished = path.with_name(path.name + ".part")
    try:
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(_headers(runs))
            file.seek(_data_offset(len(runs)))
            for first, count in runs:
                for mfn in range(first, first + count):
                    file.write(_frame(dom0, domid, mfn))
        unfinished.rename(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _frame(dom0: Dom0Hypercalls, domid: int, mfn: int) -> bytes:
    view = dom0.map_foreign(domid, mfn)
    try:
        return bytes(view)
    finally:
        view.release()
        dom0.unmap_foreign(domid, mfn)


def _runs(mfns: Iterable[int]) -> Iterator[tuple[int, int]]:
    """(first frame, count) of neighbouring frames."""
    first, count = 0, 0
    for mfn in sorted(int(mfn) for mfn in mfns):
        if count and mfn == first + count:
            count += 1
            continue
        if count:
            yield first, count
        first, count = mfn, 1
    if count:
        yield first, count


def _data_offset(segments: int) -> int:
    headers = _ELF_HEADER.size + segments * _PROGRAM_HEADER.size
    return -(-headers // _PAGE_SIZE) * _PAGE_SIZE


def _headers(runs: Sequence[tuple[int, int]]) -> bytes:
    parts = [
        _ELF_HEADER.pack(
            _IDENTIFICATION, _ET_CORE, _EM_X86_64, 1, 0, _ELF_HEADER.size, 0, 0, _ELF_HEADER.size, _PROGRAM_HEADER.size, len(runs), 0, 0, 0
        )
    ]
    offset = _data_offset(len(runs))
    for first, count in runs:
        size = count * _PAGE_SIZE
        parts.append(_PROGRAM_HEADER.pack(_PT_LOAD, _PF_RW, offset, 0, first * _PAGE_SIZE, size, size, _PAGE_SIZE))
        offset += size
    return b"".join(parts)

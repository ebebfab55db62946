"""The compressions that kernels are packed with, unpacked with a bound: gzip, bzip2, lzma, xz, lzop, lz4 (legacy and frame), zstd.

The output never passes ``limit`` bytes (KernelFormatError), so a bomb in a kernel file costs a bounded amount of memory.
Bytes after the end of the compressed stream are ignored: Linux appends the unpacked size to all formats but gzip.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Protocol

import lz4.block
import lz4.frame
import lzokay
import zstandard

from pyxen.toolstack.builder.errors import KernelFormatError, KernelUnsupportedError

_STEP = 8 << 20
#: An encoder may ask for a window of any size; Linux packs with 128 MiB at most (zstd --ultra -22).
_WINDOW_LIMIT = 128 << 20
#: The zstd library has no bound on a call's output. A block has 4 bytes at least and expands to 128 KiB at most: 8 MiB a call.
_ZSTD_FEED = 256
#: xz and lzma need their dictionary and a little more.
_LZMA_MEMORY_LIMIT = 256 << 20

_LZ4_LEGACY_MAGIC = b"\x02\x21\x4c\x18"
_LZ4_LEGACY_BLOCK = 8 << 20
_LZ4_FRAME_MAGIC = b"\x04\x22\x4d\x18"
_LZOP_MAGIC = b"\x89LZO\x00\r\n\x1a\n"
_LZOP_BLOCK_LIMIT = 8 << 20
#: Fewer bytes than a block header after a legacy lz4 stream or an lzop stream are the size that Linux appended.
_APPENDED_SIZE = 4


class _Output:
    """Collects output up to the limit."""

    def __init__(self, limit: int) -> None:
        self.data = bytearray()
        self._limit = limit

    @property
    def room(self) -> int:
        return self._limit - len(self.data)

    def add(self, piece: bytes) -> None:
        if len(piece) > self.room:
            raise KernelFormatError(f"unpacks to more than {self._limit >> 20} MiB, which no kernel does")
        self.data += piece


class _Decompressor(Protocol):
    """What bz2, lzma and lz4.frame have in common."""

    @property
    def eof(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def _drain(decompressor: _Decompressor, data: memoryview, output: _Output) -> None:
    feed = bytes(data)
    while not decompressor.eof:
        piece = decompressor.decompress(feed, max_length=_STEP)
        feed = b""
        if not piece and not decompressor.eof:
            raise KernelFormatError("truncated: its compressed data end too early")
        output.add(piece)


def _gunzip(data: memoryview, output: _Output) -> None:
    decompressor = zlib.decompressobj(wbits=31)
    feed = bytes(data)
    while not decompressor.eof:
        piece = decompressor.decompress(feed, _STEP)
        feed = decompressor.unconsumed_tail
        if not piece and not feed and not decompressor.eof:
            raise KernelFormatError("truncated: its compressed data end too early")
        output.add(piece)


def _bunzip2(data: memoryview, output: _Output) -> None:
    _drain(bz2.BZ2Decompressor(), data, output)


def _unxz(data: memoryview, output: _Output) -> None:
    _drain(lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY_LIMIT), data, output)


def _unlzma(data: memoryview, output: _Output) -> None:
    _drain(lzma.LZMADecompressor(format=lzma.FORMAT_ALONE, memlimit=_LZMA_MEMORY_LIMIT), data, output)


def _unlz4_frame(data: memoryview, output: _Output) -> None:
    _drain(lz4.frame.LZ4FrameDecompressor(), data, output)


def _unlz4_legacy(data: memoryview, output: _Output) -> None:
    position = len(_LZ4_LEGACY_MAGIC)
    while len(data) - position > _APPENDED_SIZE:
        size_or_magic = bytes(data[position : position + 4])
        position += 4
        if size_or_magic == _LZ4_LEGACY_MAGIC:
            continue
        size = int.from_bytes(size_or_magic, "little")
        if size == 0:
            return
        if size > len(data) - position:
            raise KernelFormatError("truncated: its compressed data end too early")
        output.add(lz4.block.decompress(data[position : position + size], uncompressed_size=_LZ4_LEGACY_BLOCK))
        position += size


def _unzstd(data: memoryview, output: _Output) -> None:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_LIMIT).decompressobj()
    position = 0
    while not decompressor.eof:
        if position >= len(data):
            raise KernelFormatError("truncated: its compressed data end too early")
        output.add(decompressor.decompress(data[position : position + _ZSTD_FEED]))
        position += _ZSTD_FEED


class _LzopReader:
    """Big-endian fields of an lzop file, one after the other."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._position = 0

    def take(self, size: int) -> memoryview:
        if size > len(self._data) - self._position:
            raise KernelFormatError("truncated: its compressed data end too early")
        self._position += size
        return self._data[self._position - size : self._position]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")


_LZOP_ADLER32_D, _LZOP_ADLER32_C, _LZOP_EXTRA_FIELD, _LZOP_CRC32_D, _LZOP_CRC32_C, _LZOP_FILTER = 1, 2, 0x40, 0x100, 0x200, 0x800
_LZOP_NEW_HEADER = 0x940


def _lzop_flags(reader: _LzopReader) -> int:
    """Reads the file header. -> its flags."""
    reader.take(len(_LZOP_MAGIC))
    new_header = reader.number(2) >= _LZOP_NEW_HEADER
    reader.take(4 if new_header else 2)  # versions of the library and needed to extract
    reader.take(2 if new_header else 1)  # method, level
    flags = reader.number(4)
    if flags & _LZOP_FILTER:
        raise KernelUnsupportedError("its lzop payload uses a filter; repack the kernel with another compression")
    reader.take(12 if new_header else 8)  # mode, modification time
    reader.take(reader.number(1) + 4)  # name, header checksum
    if flags & _LZOP_EXTRA_FIELD:
        reader.take(reader.number(4) + 4)
    return flags


def _unlzop(data: memoryview, output: _Output) -> None:
    reader = _LzopReader(data)
    flags = _lzop_flags(reader)
    checksums = [function for bit, function in ((_LZOP_ADLER32_D, zlib.adler32), (_LZOP_CRC32_D, zlib.crc32)) if flags & bit]
    checksums_of_packed = 4 * (bool(flags & _LZOP_ADLER32_C) + bool(flags & _LZOP_CRC32_C))
    while (size := reader.number(4)) != 0:
        packed_size = reader.number(4)
        if size > _LZOP_BLOCK_LIMIT or packed_size > size:
            raise KernelFormatError("corrupt: its LZO data have a block of impossible size")
        expected = [reader.number(4) for _ in checksums]
        if packed_size == size:
            block = bytes(reader.take(size))
        else:
            reader.take(checksums_of_packed)
            try:
                block = lzokay.decompress(bytes(reader.take(packed_size)), size)
            except lzokay.LzokayError as error:
                raise KernelFormatError(f"its lzo data are corrupt ({type(error).__name__})") from None
        if [checksum(block) for checksum in checksums] != expected:
            raise KernelFormatError("its lzo data are corrupt (a checksum does not match)")
        output.add(block)


#: Magic -> name, function.
_FORMATS: list[tuple[bytes, str, Callable[[memoryview, _Output], None]]] = [
    (b"\x1f\x8b", "gzip", _gunzip),
    (b"BZh", "bzip2", _bunzip2),
    (b"\xfd7zXZ\x00", "xz", _unxz),
    (b"\x5d\x00\x00", "lzma", _unlzma),
    (_LZOP_MAGIC, "lzo", _unlzop),
    (_LZ4_LEGACY_MAGIC, "lz4", _unlz4_legacy),
    (_LZ4_FRAME_MAGIC, "lz4", _unlz4_frame),
    (b"\x28\xb5\x2f\xfd", "zstd", _unzstd),
]


def compression_of(data: memoryview) -> str | None:
    """The compression's name, by its magic, or None."""
    return next((name for magic, name, _ in _FORMATS if data[: len(magic)] == magic), None)


def decompress(data: memoryview, limit: int) -> bytearray:
    """Unpack data for which ``compression_of`` has a name. KernelFormatError when they are truncated, corrupt, or unpack to more
    than ``limit`` bytes; KernelUnsupportedError for an lzop file with a filter."""
    name, unpack = next((name, unpack) for magic, name, unpack in _FORMATS if data[: len(magic)] == magic)
    output = _Output(limit)
    try:
        unpack(data, output)
    except (zlib.error, OSError, EOFError, lzma.LZMAError, ValueError, RuntimeError, lz4.block.LZ4BlockError, zstandard.ZstdError) as error:
        raise KernelFormatError(f"its {name} data are corrupt ({str(error) or type(error).__name__})") from None
    return output.data

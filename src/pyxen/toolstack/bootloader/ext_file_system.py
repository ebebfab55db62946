"""Reader of ext2, ext3 and ext4 file systems (Documentation/filesystems/ext4 of Linux), for disks that anybody may have written.

Every loop has a bound that does not come from the disk. A journal is not replayed: what a crash left in it is not seen, as with GRUB.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pyxen.toolstack.bootloader.errors import BootError
from pyxen.toolstack.bootloader.partitions import Read

_SUPERBLOCK, _SUPERBLOCK_SIZE = 1024, 1024
_MAGIC = 0xEF53
_INCOMPATIBLE_META_BG = 0x10
_INCOMPATIBLE_64BIT = 0x80
#: filetype, recover, meta_bg, extents, 64bit, mmp, flex_bg, ea_inode, csum_seed, largedir, inline_data, encrypt, casefold
_KNOWN_INCOMPATIBLE = 0x2 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x10000 | 0x20000
_READ_ONLY_SPARSE_SUPER = 0x1
_FLAG_ENCRYPTED, _FLAG_EXTENTS, _FLAG_INLINE = 0x800, 0x80000, 0x10000000
_EXTENT_MAGIC = 0xF30A
_EXTENT_DEPTH = 5
_INITIALISED_LENGTH = 32768
_ROOT_INODE = 2
_INODE_BLOCK = slice(40, 100)
_DIRECT_BLOCKS = 12

_DIRECTORY_LIMIT = 16 << 20
_LINK_LIMIT = 40
_FAST_LINK = 60
_PATH_LIMIT = 4096
#: Blocks that map a file, and pieces of a file.
_MAPPING_LIMIT = 1 << 16
_PIECE = 1 << 20


class MissingError(BootError):
    """There is no such file."""


@dataclass(frozen=True)
class _Inode:
    number: int
    mode: int
    size: int
    flags: int
    block: bytes


class ExtFileSystem:
    """One file system, at ``offset`` bytes of a disk."""

    def __init__(self, read: Read, offset: int) -> None:
        """Raises ``BootError`` if there is none, or one that can't be read."""
        self._read_disk = read
        self._offset = offset
        superblock = read(offset + _SUPERBLOCK, _SUPERBLOCK_SIZE)
        if len(superblock) < _SUPERBLOCK_SIZE or struct.unpack_from("<H", superblock, 56)[0] != _MAGIC:
            raise BootError("no ext2, ext3 or ext4 file system")
        self._inodes, first_block, block_size, blocks, inodes = struct.unpack_from("<I16xII4xI4xI", superblock)
        revision, inode_size, incompatible, read_only = (
            *struct.unpack_from("<I", superblock, 76),
            *struct.unpack_from("<H", superblock, 88),
            *struct.unpack_from("<II", superblock, 96),
        )
        if block_size > 6 or not blocks or not inodes:
            raise BootError("a damaged ext file system")
        if revision and incompatible & ~_KNOWN_INCOMPATIBLE:
            raise BootError(f"an ext file system with features that pyxen can't read ({incompatible & ~_KNOWN_INCOMPATIBLE:#x})")
        self._first_block, self._blocks_per_group, self._inodes_per_group = first_block, blocks, inodes
        self._block_size = 1024 << block_size
        self._inode_size = inode_size if revision else 128
        self._sparse = bool(read_only & _READ_ONLY_SPARSE_SUPER)
        wide = bool(revision and incompatible & _INCOMPATIBLE_64BIT)
        self._descriptor_size = struct.unpack_from("<H", superblock, 254)[0] if wide else 32
        least = 64 if wide else 32
        if not 128 <= self._inode_size <= self._block_size or not least <= self._descriptor_size <= 1024:
            raise BootError("a damaged ext file system")
        meta = revision and incompatible & _INCOMPATIBLE_META_BG
        self._first_meta_group: int | None = struct.unpack_from("<I", superblock, 260)[0] if meta else None

    def read_file(self, path: str, limit: int) -> bytes:
        """A small file. Raises ``MissingError``, and ``BootError`` if it is no file, is damaged or has more than ``limit`` bytes."""
        inode = self._file(path, limit)
        content = bytearray(inode.size)

        def put(data: bytes, position: int) -> None:
            content[position : position + len(data)] = data

        self._copy(inode, put)
        return bytes(content)

    def copy_file(self, path: str, limit: int, put: Callable[[bytes, int], object]) -> int:
        """``put(data, position)`` a file; what is left out is zero. -> its size. Raises as ``read_file``."""
        inode = self._file(path, limit)
        self._copy(inode, put)
        return inode.size

    def _file(self, path: str, limit: int) -> _Inode:
        inode = self._find(path)
        if not stat.S_ISREG(inode.mode):
            raise BootError(f"{path} is no file")
        if inode.flags & _FLAG_ENCRYPTED:
            raise BootError(f"{path} is encrypted")
        if inode.size > limit:
            raise BootError(f"{path} has {inode.size >> 20} MiB; more than {limit >> 20} MiB are refused")
        return inode

    def _find(self, path: str) -> _Inode:
        """The inode of a path, behind all symbolic links."""
        links = 0
        inode = root = self._inode(_ROOT_INODE)
        todo = [part for part in path.split("/") if part][::-1]
        while todo:
            name = todo.pop()
            if not stat.S_ISDIR(inode.mode):
                raise MissingError(f"{path} is not there")
            number = self._lookup(inode, name.encode("utf-8", "surrogateescape"))
            if number is None:
                raise MissingError(f"{path} is not there")
            found = self._inode(number)
            if stat.S_ISLNK(found.mode):
                links += 1
                if links > _LINK_LIMIT:
                    raise BootError(f"{path} has too many symbolic links")
                target = self._link(found)
                if target.startswith("/"):
                    inode = root
                todo += [part for part in target.split("/") if part][::-1]
                if len(todo) > _PATH_LIMIT:
                    raise BootError(f"{path} has too many symbolic links")
            else:
                inode = found
        return inode

    def _link(self, inode: _Inode) -> str:
        if inode.size > _PATH_LIMIT:
            raise BootError("a damaged symbolic link")
        if inode.size < _FAST_LINK and not inode.flags & _FLAG_EXTENTS:
            return inode.block[: inode.size].decode("utf-8", "surrogateescape")
        return self._content(inode).decode("utf-8", "surrogateescape")

    def _lookup(self, directory: _Inode, name: bytes) -> int | None:
        if directory.size > _DIRECTORY_LIMIT:
            raise BootError("a folder that is too large")
        content = self._content(directory)
        position = 0
        while position + 8 <= len(content):
            number, length, name_length = struct.unpack_from("<IHB", content, position)
            if length < 8:
                raise BootError("a damaged folder")
            if number and content[position + 8 : position + 8 + name_length] == name:
                return int(number)
            position += length
        return None

    def _content(self, inode: _Inode) -> bytes:
        content = bytearray(inode.size)

        def put(data: bytes, position: int) -> None:
            content[position : position + len(data)] = data

        self._copy(inode, put)
        return bytes(content)

    def _inode(self, number: int) -> _Inode:
        if not 0 < number <= self._inodes:
            raise BootError("a damaged ext file system: an inode's number is out of range")
        group, index = divmod(number - 1, self._inodes_per_group)
        descriptor = self._read(self._descriptor_offset(group), self._descriptor_size)
        table = struct.unpack_from("<I", descriptor, 8)[0]
        if self._descriptor_size >= 64:
            table |= struct.unpack_from("<I", descriptor, 40)[0] << 32
        raw = self._read(table * self._block_size + index * self._inode_size, 128)
        mode, size_low, flags, size_high = (
            *struct.unpack_from("<H2xI", raw),
            *struct.unpack_from("<I", raw, 32),
            *struct.unpack_from("<I", raw, 108),
        )
        size = size_low | (size_high << 32 if stat.S_ISREG(mode) else 0)
        return _Inode(number, mode, size, flags, raw[_INODE_BLOCK])

    def _descriptor_offset(self, group: int) -> int:
        """Where the descriptor of a block group is; with meta_bg, in the first of the groups that share a block of descriptors."""
        block, index = divmod(group, self._block_size // self._descriptor_size)
        place = self._first_block + 1 + block
        if self._first_meta_group is not None and block >= self._first_meta_group:
            first = block * (self._block_size // self._descriptor_size)
            place = self._first_block + first * self._blocks_per_group + self._has_superblock(first)
        return int(place * self._block_size + index * self._descriptor_size)

    def _has_superblock(self, group: int) -> bool:
        if not self._sparse or group <= 1:
            return True
        return any(group == base**power for base in (3, 5, 7) for power in range(1, 21))

    def _copy(self, inode: _Inode, put: Callable[[bytes, int], object]) -> None:
        if inode.flags & _FLAG_INLINE:
            raise BootError("a file inside its inode (inline_data), which pyxen can't read")
        pieces = self._extents(inode.block) if inode.flags & _FLAG_EXTENTS else self._indirect(inode)
        least = 0
        for count, (logical, blocks, physical) in enumerate(pieces):
            # In rising order, as they must be, no more is ever copied than the file's size.
            if logical < least or count > _MAPPING_LIMIT * 16:
                raise BootError("a damaged ext file system: a file's blocks are out of order")
            least = logical + blocks
            start = logical * self._block_size
            end = min(least * self._block_size, inode.size)
            for position in range(start, end, _PIECE):
                put(self._read(physical * self._block_size + position - start, min(_PIECE, end - position)), position)

    def _extents(self, root: bytes) -> Iterator[tuple[int, int, int]]:
        """(first block of the file, blocks, first block on the disk), in the order of the tree."""
        nodes = 0
        stack = [(root, _EXTENT_DEPTH + 1)]
        while stack:
            node, deepest = stack.pop()
            nodes += 1
            magic, entries, _, depth = struct.unpack_from("<HHHH", node)
            if magic != _EXTENT_MAGIC or entries > (len(node) - 12) // 12 or depth >= deepest or nodes > _MAPPING_LIMIT:
                raise BootError("a damaged ext file system: a file's extents")
            records = [node[12 + 12 * index : 24 + 12 * index] for index in range(entries)]
            if depth:
                for record in reversed(records):
                    low, high = struct.unpack_from("<IH", record, 4)
                    stack.append((self._read((high << 32 | low) * self._block_size, self._block_size), depth))
                continue
            for record in records:
                logical, length, high, low = struct.unpack("<IHHI", record)
                if length <= _INITIALISED_LENGTH:  # what is longer is reserved and not yet written: zeros
                    yield logical, length, high << 32 | low

    def _indirect(self, inode: _Inode) -> Iterator[tuple[int, int, int]]:
        """The same of ext2 and ext3: block by block."""
        pointers = struct.unpack("<15I", inode.block)
        per_block = self._block_size // 4
        last = -(-inode.size // self._block_size)
        logical = 0
        for block in pointers[:_DIRECT_BLOCKS]:
            if block and logical < last:
                yield logical, 1, block
            logical += 1
        for level, block in enumerate(pointers[_DIRECT_BLOCKS:], 1):
            if block:
                yield from self._indirect_block(block, level, logical, last)
            logical += per_block**level

    def _indirect_block(self, block: int, level: int, logical: int, last: int) -> Iterator[tuple[int, int, int]]:
        if logical >= last:
            return
        per_block = self._block_size // 4
        span = per_block ** (level - 1)
        for pointer in struct.unpack(f"<{per_block}I", self._read(block * self._block_size, self._block_size)):
            if logical >= last:
                return
            if pointer and level == 1:
                yield logical, 1, pointer
            elif pointer:
                yield from self._indirect_block(pointer, level - 1, logical, last)
            logical += span

    def _read(self, offset: int, length: int) -> bytes:
        data = self._read_disk(self._offset + offset, length)
        if len(data) < length:
            raise BootError("a damaged ext file system: something lies behind the end of the disk")
        return data

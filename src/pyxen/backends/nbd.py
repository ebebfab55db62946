"""A client of the network block device protocol (NBD, its doc/proto.md): one connection, one request at a time.

Only what a disk needs of a server on the same machine: the fixed newstyle handshake with NBD_OPT_GO, simple replies. PyPI has no NBD client
that is kept; libnbd's binding comes only for the distribution's own Python.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from pyxen.backends.scattered_buffers import transfer

_GREETING = struct.Struct(">8s8sH")
_OPTION = struct.Struct(">8sII")
_OPTION_REPLY = struct.Struct(">QIII")
_EXPORT = struct.Struct(">QH")
_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")

_OPTION_REPLY_MAGIC = 0x3E889045565A9
_REQUEST_MAGIC, _REPLY_MAGIC = 0x25609513, 0x67446698
_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_OPT_GO = 7
_REP_ACK, _REP_INFO, _REP_ERROR = 1, 3, 1 << 31
_INFO_EXPORT = 0
_MAX_OPTION_REPLY = 64 << 10

_FLAG_SEND_FLUSH, _FLAG_SEND_TRIM, _FLAG_CAN_MULTI_CONN = 1 << 2, 1 << 5, 1 << 8
CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH, CMD_TRIM = 0, 1, 2, 3, 4

#: Numbers of the protocol, which are Linux's; all others mean NBD_EINVAL.
_ERRORS = frozenset((errno.EPERM, errno.EIO, errno.ENOMEM, errno.EINVAL, errno.ENOSPC, errno.EOVERFLOW, errno.EOPNOTSUPP))
_SHUTDOWN = errno.ESHUTDOWN


class NbdProtocolError(ConnectionError):
    """The server does not speak the protocol, or has no such export."""


@dataclass(frozen=True)
class Export:
    """What a server says of a disk."""

    size: int  #: bytes
    flushes: bool
    trims: bool
    several_connections: bool  #: a flush on one connection is for what was written on all


class NbdConnection:
    """Owns its socket. Belongs to one thread at a time; but ``abort`` may be called from any."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._cookie = 0

    def handshake(self, name: str) -> Export:
        """Choose an export. Raises ``ConnectionError`` and ``TimeoutError``; then close the connection."""
        magic, option_magic, flags = _GREETING.unpack(self._receive(_GREETING.size))
        if magic != b"NBDMAGIC" or option_magic != b"IHAVEOPT" or not flags & _FIXED_NEWSTYLE:
            raise NbdProtocolError("the server greets in another protocol than NBD's fixed newstyle")
        self._socket.sendall(struct.pack(">I", flags & (_FIXED_NEWSTYLE | _NO_ZEROES)))
        data = struct.pack(">I", len(name)) + name.encode() + struct.pack(">H", 0)
        self._socket.sendall(_OPTION.pack(b"IHAVEOPT", _OPT_GO, len(data)) + data)
        export: Export | None = None
        while True:
            kind, reply = self._option_reply()
            if kind & _REP_ERROR:
                raise NbdProtocolError(f"the server refuses the export {name!r}: {reply.decode('utf-8', 'replace') or hex(kind)}")
            if kind == _REP_ACK:
                break
            if kind == _REP_INFO and len(reply) >= 12 and struct.unpack_from(">H", reply)[0] == _INFO_EXPORT:
                size, flags = _EXPORT.unpack_from(reply, 2)
                export = Export(size, bool(flags & _FLAG_SEND_FLUSH), bool(flags & _FLAG_SEND_TRIM), bool(flags & _FLAG_CAN_MULTI_CONN))
        if export is None:
            raise NbdProtocolError("the server says nothing of the export's size")
        return export

    def _option_reply(self) -> tuple[int, bytes]:
        magic, _option, kind, length = _OPTION_REPLY.unpack(self._receive(_OPTION_REPLY.size))
        if magic != _OPTION_REPLY_MAGIC or length > _MAX_OPTION_REPLY:
            raise NbdProtocolError("a bad reply to an option")
        return kind, self._receive(length)

    def read(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Fill the buffers from byte ``offset`` on. ``ConnectionError`` when the server is gone, other ``OSError`` for its errors."""
        self._send(CMD_READ, offset, sum(map(len, buffers)), ())
        self._reply()
        self._fill(buffers)

    def write(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Errors as ``read``."""
        self._send(CMD_WRITE, offset, sum(map(len, buffers)), buffers)
        self._reply()

    def flush(self) -> None:
        """Errors as ``read``."""
        self._send(CMD_FLUSH, 0, 0, ())
        self._reply()

    def trim(self, offset: int, length: int) -> None:
        """Errors as ``read``."""
        self._send(CMD_TRIM, offset, length, ())
        self._reply()

    def _send(self, command: int, offset: int, length: int, payload: Sequence[memoryview]) -> None:
        self._cookie += 1
        header = memoryview(_REQUEST.pack(_REQUEST_MAGIC, 0, command, self._cookie, offset, length))
        try:
            transfer(self._socket.sendmsg, [header, *payload])
        except EOFError:
            raise ConnectionResetError("the server takes nothing any more") from None

    def _reply(self) -> None:
        magic, number, cookie = _REPLY.unpack(self._receive(_REPLY.size))
        if magic != _REPLY_MAGIC or cookie != self._cookie:
            raise NbdProtocolError("a reply to something else")
        if number == _SHUTDOWN:
            raise ConnectionAbortedError("the server is going down")
        if number:
            number = number if number in _ERRORS else errno.EINVAL
            raise OSError(number, os.strerror(number))

    def _receive(self, size: int) -> bytes:
        data = bytearray(size)
        if size:
            self._fill([memoryview(data)])
        return bytes(data)

    def _fill(self, buffers: Sequence[memoryview]) -> None:
        try:
            transfer(lambda rest: self._socket.recvmsg_into(rest)[0], buffers)
        except EOFError:
            raise ConnectionResetError("the server closed the connection") from None

    def abort(self) -> None:
        """Whoever waits for the server gets a ``ConnectionError``."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise

    def close(self) -> None:
        """Say goodbye if somebody listens, and close."""
        try:
            self._socket.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, CMD_DISC, 0, 0, 0), socket.MSG_DONTWAIT)
        except OSError:
            pass  # gone already
        finally:
            self._socket.close()

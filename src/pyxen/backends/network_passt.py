"""NAT to the host's network without privileges: each vif has a passt of its own, which speaks for the guest through ordinary sockets.

passt(1) answers DHCP, ARP and NDP itself. Frames go over a Unix stream socket, each with its length before it (four octets, big endian).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import struct
from collections.abc import Sequence

from pyxen.backends.device import DeviceError
from pyxen.backends.helper_program import HelperError, HelperProgram, HelperPrograms, stop
from pyxen.backends.network_attachment import Attachment, VifPort
from pyxen.backends.network_frame import Frame

_logger = logging.getLogger(__name__)

#: The network that a guest sees, as QEMU's user-mode network has it.
GUEST_ADDRESS, GATEWAY, PREFIX_LENGTH = "10.0.2.15", "10.0.2.2", 24
#: What DHCP tells the guest: the largest that passt and netfront take. TCP to passt has no wire whose packets it would have to fit.
MTU = 65520
_MAX_FRAME = 65535 + 14
_LENGTH = struct.Struct(">I")
_RECEIVE_BYTES = 256 << 10
_SOCKET_BYTES = 4 << 20
_MAX_PARTS = 1000  # below IOV_MAX
_START_TIMEOUT = 10.0
#: Seconds until a passt that died is started again.
_RESTART_DELAY = 0.5


class PasstAttachment(Attachment):
    """A vif's own passt. One that dies is started anew: the guest loses its connections, but not its network."""

    def __init__(self, port: VifPort, helpers: HelperPrograms, forwards: Sequence[str]) -> None:
        """``forwards``: arguments for passt's -t and -u, ("-t", "127.0.0.1/8080:80")."""
        super().__init__(port)
        self._helpers = helpers
        self._forwards = tuple(forwards)
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._program: HelperProgram | None = None
        self._received = b""  # the beginning of a frame
        self._unsent: list[bytes | bytearray | memoryview] = []
        self._reading = False
        self._closed = False
        self._restart: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self._start()

    async def close(self) -> None:
        self._closed = True
        if self._restart is not None:
            self._restart.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._restart
            self._restart = None
        self._disconnect()
        if self._program is not None:
            await stop(self._program)
            self._program = None

    # -- its life -----------------------------------------------------------------------------------------------------------
    async def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with theirs:
                for end in (ours, theirs):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
                program = await self._helpers.start(
                    "passt", self._arguments(), owner=self.port.name, descriptors=[theirs.fileno()], exited=self._exited
                )
            self._program = program
            ours.setblocking(False)
            await self._hello(ours, program)
        except HelperError as error:
            ours.close()
            raise DeviceError(errno.ENOENT, str(error)) from None
        except BaseException:
            ours.close()
            if self._program is not None:
                program, self._program = self._program, None
                await stop(program)
            raise
        self._socket = ours
        self._read_on()

    def _arguments(self) -> list[str]:
        # In the foreground, quiet, and gone when the socket of descriptor 3 is.
        fixed = ["--foreground", "--quiet", "--fd", "3", "--mtu", str(self.port.mtu or MTU)]
        addresses = ["--address", GUEST_ADDRESS, "--netmask", str(PREFIX_LENGTH), "--gateway", GATEWAY]
        return [*fixed, *addresses, *self._forwards]

    async def _hello(self, connection: socket.socket, program: HelperProgram) -> None:
        """Wait until it answers an ARP request for the gateway. That it could not bind a port we learn by its end."""
        guest, gateway = (socket.inet_aton(address) for address in (GUEST_ADDRESS, GATEWAY))
        question = struct.pack(">HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, self.port.mac, guest, bytes(6), gateway)
        frame = b"\xff" * 6 + self.port.mac + b"\x08\x06" + question
        connection.sendall(_LENGTH.pack(len(frame)) + frame)
        answer = asyncio.ensure_future(self._loop.sock_recv(connection, 4 + _MAX_FRAME))
        exit_ = asyncio.ensure_future(program.wait())
        try:
            await asyncio.wait((answer, exit_), timeout=_START_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
            if answer.done() and not answer.exception() and answer.result():
                self._received += answer.result()  # the guest gets an answer that it did not ask for; or a part of it is still to come
                return
            if not answer.done() and not exit_.done():
                raise DeviceError(errno.ETIMEDOUT, f"passt did not answer in {_START_TIMEOUT:g} s")
            await exit_
            raise DeviceError(errno.EIO, self._failure(program))
        finally:
            for task in (answer, exit_):
                task.cancel()
            await asyncio.gather(answer, exit_, return_exceptions=True)

    def _failure(self, program: HelperProgram) -> str:
        words = program.last_words or f"exit status {program.status}"
        ports = " ".join(forward for forward in self._forwards[1::2] if forward != "none")
        if "interface" in words:
            remedy = " (it needs a default route on this machine; bridge=NAME, a switch between domains, does not)"
        else:
            remedy = f" (port forwards: {ports}; is a port in use, or below 1024?)" if ports else ""
        return f"passt could not start: {words}{remedy}"

    def _exited(self, status: int) -> None:
        if self._closed or self._socket is None:
            return
        _logger.warning("%s: passt has ended (status %d); starting it again", self.port.name, status)
        self._disconnect()
        self._program = None
        self._restart = self._loop.create_task(self._start_again())

    async def _start_again(self) -> None:
        while True:
            await asyncio.sleep(_RESTART_DELAY)
            try:
                await self._start()
                break
            except DeviceError as error:
                _logger.warning("%s: %s", self.port.name, error)
        self.port.resume()

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
            self._socket = None
        self._reading = False
        self._received = b""
        self._unsent.clear()

    # -- from the guest -----------------------------------------------------------------------------------------------------
    def send(self, frames: Sequence[Frame]) -> None:
        """passt does not look at transport checksums, and takes segments of any size: no work for them."""
        if self._socket is None:
            return
        was_empty = not self._unsent
        for frame in frames:
            self._unsent.append(_LENGTH.pack(len(frame.data)))
            self._unsent.append(frame.data)
        if was_empty:
            self._write()

    def may_send(self) -> bool:
        return not self._unsent

    def _write(self) -> None:
        assert self._socket is not None
        waited = False
        while self._unsent:
            try:
                sent = self._socket.sendmsg(self._unsent[:_MAX_PARTS])
            except BlockingIOError:
                self._loop.add_writer(self._socket, self._writable)
                return
            except OSError:
                self._unsent.clear()  # it has gone; ``_exited`` will be called
                break
            self._drop_sent(sent)
            waited = True
        if waited:
            self._loop.remove_writer(self._socket)

    def _writable(self) -> None:
        self._write()
        if not self._unsent:
            self.port.resume()

    def _drop_sent(self, sent: int) -> None:
        for index, part in enumerate(self._unsent):
            if sent < len(part):
                self._unsent[: index + 1] = [memoryview(part)[sent:]]
                return
            sent -= len(part)
        self._unsent.clear()

    # -- to the guest -------------------------------------------------------------------------------------------------------
    def guest_has_room(self) -> None:
        self._read_on()

    def _read_on(self) -> None:
        if self._socket is not None and not self._reading:
            self._reading = True
            self._loop.add_reader(self._socket, self._readable)

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:  # it has gone; ``_exited`` will be called
            self._loop.remove_reader(self._socket)
            self._reading = False
            return
        frames = self._take_frames(self._received + data)
        if frames:
            self.port.deliver(frames)
        if self._socket is not None and not self.port.has_room():
            self._loop.remove_reader(self._socket)
            self._reading = False

    def _take_frames(self, received: bytes) -> list[Frame]:
        frames: list[Frame] = []
        start = 0
        while len(received) - start >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(received, start)
            if not 14 <= size <= _MAX_FRAME:
                _logger.error("%s: passt sent a frame of %d octets", self.port.name, size)
                if self._program is not None:
                    self._program.signal(9)
                self._received = b""
                return frames
            if len(received) - start < _LENGTH.size + size:
                break
            start += _LENGTH.size
            frames.append(Frame(received[start : start + size], validated=True))
            start += size
        self._received = received[start:]
        return frames

"""The programs that the host starts beside itself, and their end. They are children of ``helper_spawner``, not of the host."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pyxen.backends.helper_program import HelperError, HelperMissingError
from pyxen.guests.packages import tool_directory

_logger = logging.getLogger(__name__)

#: All programs that the host may start, with the Debian packages that have them.
PROGRAMS = {"passt": "passt", "qemu-storage-daemon": "qemu-system-common"}

#: What the dynamic loader says, with exit status 127, of a program that was unpacked without what it depends on.
_NO_LIBRARY, _NO_LIBRARY_STATUS = "error while loading shared libraries", 127

_MESSAGE_BYTES = 128 << 10
_LINE_BYTES = 2048


class _Program:
    """A ``HelperProgram``."""

    def __init__(self, name: str, owner: str, output: int, exited: Callable[[int], None], send_signal: Callable[[int], None]) -> None:
        self.pid = 0
        self.last_words = ""
        self.status: int | None = None
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.name = name
        self._owner = owner
        self._output = output
        self._exited = exited
        self._send_signal = send_signal
        self._ended = asyncio.Event()
        self._partial = b""
        os.set_blocking(output, False)
        asyncio.get_running_loop().add_reader(output, self._read)

    def signal(self, number: int) -> None:
        if self.status is None:
            self._send_signal(number)

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.status is not None
        return self.status

    def end(self, status: int) -> None:
        """It has exited, or was never started."""
        self.status = status
        self.close_output()
        if status == _NO_LIBRARY_STATUS and _NO_LIBRARY in self.last_words:
            package = PROGRAMS.get(self.name, self.name)
            self.last_words += f"; install the package {package} with all that it depends on: apt install {package}"
        self._ended.set()
        if self.started.done() and not self.started.cancelled() and self.started.exception() is None:
            self._exited(status)

    def close_output(self) -> None:
        """Read what is left of its output, and stop reading."""
        if self._output >= 0:
            while self._read():
                pass

    def _read(self) -> bool:
        """-> whether there may be more."""
        try:
            data = os.read(self._output, 1 << 16)
        except BlockingIOError:
            data = b""
            if self.status is None:
                return False
        *lines, self._partial = (self._partial + data).split(b"\n")
        if not data or len(self._partial) > _LINE_BYTES:
            lines.append(self._partial)
            self._partial = b""
        for line in lines:
            text = line[:_LINE_BYTES].decode("utf-8", "replace").strip()
            if text:
                self.last_words = text
                _logger.info("%s (%s): %s", self._owner, self.name, text)
        if not data:
            asyncio.get_running_loop().remove_reader(self._output)
            os.close(self._output)
            self._output = -1
        return bool(data)


class HostHelperPrograms:
    """The ``HelperPrograms`` of a host process.

    Make it before ``confinement.confine`` and before there are threads; ``serve`` once there is a loop; ``close`` it at the end.
    """

    def __init__(self, programs: Sequence[str] = tuple(PROGRAMS)) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        folders = [os.environ.get("PATH", os.defpath), *(str(tool_directory(PROGRAMS.get(name, name)) / "usr/bin") for name in programs)]
        with theirs:
            command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("helper_spawner.py")), str(theirs.fileno()), *programs]
            self._spawner = subprocess.Popen(
                command,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env=os.environ | {"PATH": os.pathsep.join(folders)},
            )
        self._control.setblocking(False)
        self._programs: dict[int, _Program] = {}
        self._last_id = 0
        self._gone = False

    @property
    def spawner_pid(self) -> int:
        return self._spawner.pid

    def serve(self) -> None:
        """Begin to hear what becomes of the programs. In the event loop's thread, as everything from now on."""
        asyncio.get_running_loop().add_reader(self._control, self._hear)

    async def close(self) -> None:
        """Kill every helper. When it returns, none is left."""
        if not self._gone:
            asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()
        await asyncio.to_thread(self._spawner.wait)
        self._lose()

    async def start(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        owner: str,
        descriptors: Sequence[int] = (),
        exited: Callable[[int], None] = lambda _: None,
    ) -> _Program:
        """See ``HelperPrograms``."""
        if self._gone:
            raise HelperError(f"cannot start {name}: the process that starts helper programs was killed; restart the host")
        self._last_id += 1
        identifier = self._last_id
        output, theirs = os.pipe()
        program = _Program(name, owner, output, exited, lambda number: self._send({"signal": identifier, "number": number}))
        self._programs[identifier] = program
        request = {"start": identifier, "program": name, "arguments": list(arguments)}
        try:
            self._send(request, [theirs, *descriptors])
        except OSError as error:
            self._forget(identifier, -1)
            raise HelperError(f"cannot start {name}: {error}") from None
        finally:
            os.close(theirs)
        try:
            await asyncio.shield(program.started)
        except asyncio.CancelledError:
            program.signal(9)
            raise
        return program

    def _send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        if not self._gone:
            socket.send_fds(self._control, [json.dumps(message).encode()], descriptors)

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    data = self._control.recv(_MESSAGE_BYTES)
                except ConnectionResetError:
                    data = b""
                if not data:
                    asyncio.get_running_loop().remove_reader(self._control)
                    _logger.error("the process that starts helper programs is gone, and all of them with it")
                    self._lose()
                    return
                self._take(json.loads(data))

    def _take(self, message: dict[str, Any]) -> None:
        if "started" in message:
            program = self._programs[message["started"]]
            program.pid = message["pid"]
            program.started.set_result(None)
        elif "exited" in message:
            self._forget(message["exited"], message["status"])
        elif "missing" in message:
            name = self._programs[message["missing"]].name
            package = PROGRAMS.get(name, name)
            remedy = f"install the package {package}, or unpack it for pyxen alone with `python -m pyxen.guests --tool {package}`"
            self._refuse(message["missing"], HelperMissingError(f"{name} not found: {remedy}"))
        else:
            name = self._programs[message["failed"]].name
            self._refuse(message["failed"], HelperError(f"cannot start {name}: {message['reason']}"))

    def _refuse(self, identifier: int, error: HelperError) -> None:
        self._programs[identifier].started.set_exception(error)
        self._forget(identifier, -1)

    def _forget(self, identifier: int, status: int) -> None:
        self._programs.pop(identifier).end(status)

    def _lose(self) -> None:
        """The spawner is gone: whatever it started was killed."""
        self._gone = True
        for identifier, program in list(self._programs.items()):
            if not program.started.done():
                program.started.set_exception(HelperError(f"cannot start {program.name}: the process that starts helper programs is gone"))
            self._forget(identifier, -9)

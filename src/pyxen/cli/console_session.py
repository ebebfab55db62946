"""A guest's console on the user's terminal: what ``xl console``, ``xl create -c`` and ``pyxen run`` do."""

from __future__ import annotations

import enum
import os
import re
import select
import sys
import time
from collections.abc import Callable

from pyxen.cli.raw_terminal import raw_terminal
from pyxen.host.client import Client, Stream
from pyxen.host.protocol import (
    CONSOLE_ATTACH,
    CONSOLE_WRITE,
    ConsoleAttachRequest,
    ConsoleInput,
    ConsoleOutput,
    ErrorKind,
    HostError,
    Nothing,
)

#: Ctrl-]
ESCAPE = 0x1D
#: How long keys are kept for a guest that does not read its console, in seconds.
INPUT_PATIENCE = 2.0
_CHUNK = 4096
#: "Where is the cursor", "what are you": the terminal would answer today what the guest asked yesterday, as if the user had typed it.
_TERMINAL_QUERIES = re.compile(rb"\x1b\[(?:\??[56]n|[>=]?0?c)")


class ConsoleEnd(enum.Enum):
    """Why a session ended."""

    LEFT = "left"  #: the user pressed the escape key
    DOMAIN_GONE = "domain gone"


class ConsoleSession:
    """One attachment. Output begins with what the host still has of it, so nothing is lost between creation and attachment."""

    def __init__(self, client: Client, domid: int, *, escape: int = ESCAPE, source: int = 0, sink: int = 1) -> None:
        self._client = client
        self._domid = domid
        self._escape = escape
        self._source = source
        self._sink = sink
        self._reading = True

    def run(self, attached: Callable[[], None] = lambda: None) -> ConsoleEnd:
        """Show output and pass keys until the domain is gone or the user leaves. ``attached`` is called when output can't be missed.

        When the input ends (a file, ``</dev/null``), the output goes on. Raises ``HostError``.
        """
        sys.stdout.flush()
        with self._client.stream(CONSOLE_ATTACH, ConsoleAttachRequest(self._domid)) as stream, raw_terminal(self._source):
            stream.read()  # the host's word that it is attached
            attached()
            while not self._show(stream):  # before the first select: output may have come along with the first event
                ready, _, _ = select.select([stream.fileno(), *([self._source] if self._reading else [])], [], [])
                if self._source in ready and self._pass_input():
                    return ConsoleEnd.LEFT
            return ConsoleEnd.DOMAIN_GONE

    def _show(self, stream: Stream[ConsoleOutput, Nothing]) -> bool:
        """Write what has come. Returns whether the stream is at its end."""
        while True:
            try:
                output = stream.read(0)
            except TimeoutError:
                return False
            if output is None:
                return True
            if output.lost:
                self._write(f"\r\n[{output.lost} bytes of console output were lost]\r\n".encode())
            self._write(_TERMINAL_QUERIES.sub(b"", output.data) if output.replayed else output.data)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._sink, view) :]
            except BlockingIOError:
                select.select([], [self._sink], [])

    def _pass_input(self) -> bool:
        """Pass the keys that were pressed. Returns whether the user leaves."""
        try:
            keys = os.read(self._source, _CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # EIO: the terminal is gone
            keys = b""
        if not keys:
            self._reading = False
            return False
        before, escape, _ = keys.partition(bytes([self._escape]))
        self._send(before)
        return bool(escape)

    def _send(self, keys: bytes) -> None:
        deadline = time.monotonic() + INPUT_PATIENCE
        while keys and time.monotonic() < deadline:
            try:
                accepted = self._client.call(CONSOLE_WRITE, ConsoleInput(self._domid, keys)).accepted
            except HostError as error:
                if error.kind in (ErrorKind.NOT_FOUND, ErrorKind.STATE):
                    return  # the domain has just died: the output's end says so
                raise
            keys = keys[accepted:]
            if keys:
                time.sleep(0.05)

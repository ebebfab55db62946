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
#: How long leaving waits for a guest that does not take the last keys, in seconds.
INPUT_PATIENCE = 2.0
#: Keys kept for a guest that does not read, in bytes. Beyond, no more are read from the user (a pasted text waits in the terminal).
MAX_PENDING = 64 << 10
#: How soon pending keys are offered again, in seconds.
_RETRY = 0.05
#: Pieces of output shown before the user's keys are looked at: also from a guest that floods its console one can leave.
_PIECES_A_TURN = 8
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
        self._pending = bytearray()

    def run(self, attached: Callable[[], None] = lambda: None) -> ConsoleEnd:
        """Show output and pass keys until the domain is gone or the user leaves. ``attached`` is called when output can't be missed.

        When the input ends (a file, ``</dev/null``), the output goes on. Raises ``HostError``.
        """
        sys.stdout.flush()
        with self._client.stream(CONSOLE_ATTACH, ConsoleAttachRequest(self._domid)) as stream, raw_terminal(self._source):
            stream.read()  # the host's word that it is attached
            attached()
            more = True  # output may have come along with the first event
            while True:
                if self._keys_ready(stream, more) and self._read_keys():
                    self._flush()
                    return ConsoleEnd.LEFT
                self._offer()
                shown, more = self._show(stream)
                if not shown:
                    return ConsoleEnd.DOMAIN_GONE

    def _keys_ready(self, stream: Stream[ConsoleOutput, Nothing], more: bool) -> bool:
        """Wait for something to do (not if there is ``more`` output). Returns whether it is keys."""
        sources = [self._source] if self._reading and len(self._pending) < MAX_PENDING else []
        timeout = 0.0 if more else _RETRY if self._pending else None
        ready, _, _ = select.select([stream.fileno(), *sources], [], [], timeout)
        return self._source in ready

    def _show(self, stream: Stream[ConsoleOutput, Nothing]) -> tuple[bool, bool]:
        """Write some of what has come. Returns whether the stream goes on, and whether there may be more at once."""
        for _ in range(_PIECES_A_TURN):
            try:
                output = stream.read(0)
            except TimeoutError:
                return True, False
            if output is None:
                return False, False
            if output.lost:
                self._write(f"\r\n[{output.lost} bytes of console output were lost]\r\n".encode())
            self._write(_TERMINAL_QUERIES.sub(b"", output.data) if output.replayed else output.data)
        return True, True

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._sink, view) :]
            except BlockingIOError:
                select.select([], [self._sink], [])

    def _read_keys(self) -> bool:
        """Take the keys that were pressed. Returns whether the user leaves."""
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
        self._pending += before
        return bool(escape)

    def _offer(self) -> None:
        """Give the guest what it takes of the pending keys."""
        if not self._pending:
            return
        try:
            request = ConsoleInput(self._domid, bytes(self._pending[:_CHUNK]))
            del self._pending[: self._client.call(CONSOLE_WRITE, request).accepted]
        except HostError as error:
            if error.kind not in (ErrorKind.NOT_FOUND, ErrorKind.STATE):
                raise
            self._pending.clear()  # the domain has just died: the output's end says so

    def _flush(self) -> None:
        """Give the guest all pending keys, unless it does not take them."""
        deadline = time.monotonic() + INPUT_PATIENCE
        while self._pending and time.monotonic() < deadline:
            self._offer()
            if self._pending:
                time.sleep(_RETRY)

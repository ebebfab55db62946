"""The console backend: what xenconsoled is to Xen's Domain 0.

Each guest's console ring is joined to a pseudo-terminal, a log file and a history in memory. The guest, the ring's other side, is not
trusted: it can neither block this side nor make it work without bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from pyxen.backends.byte_budget import ByteBudget
from pyxen.backends.console_history import ConsoleHistory
from pyxen.backends.console_log import ConsoleLog
from pyxen.backends.console_ring import ConsoleRing, ConsoleRingError
from pyxen.backends.pseudo_terminal import PseudoTerminal
from pyxen.hypervisor.dom0_interface import Dom0Hypercalls, HypercallError

_logger = logging.getLogger(__name__)

HISTORY_BYTES = 256 << 10
LOG_BYTES = 4 << 20
#: A guest's console output, bytes a second. A boot log is 30 KiB; a flood costs Domain 0 a few percent of a CPU at this rate.
OUTPUT_RATE = 1 << 20
OUTPUT_BURST = 128 << 10
#: Typed bytes that wait for a guest that does not read.
INPUT_LIMIT = 4 << 10
_TURN_BYTES = 2048
#: From one turn to the next at least so many seconds: Linux sends an event for every 16 bytes, and a turn for each would cost more than
#: the output itself.
_TURN_INTERVAL = 0.002


class GuestConsole:
    """One guest's console. Made by ``ConsoleBackend.connect``."""

    def __init__(
        self, dom0: Dom0Hypercalls, loop: asyncio.AbstractEventLoop, domid: int, mfn: int, remote_port: int, log_path: Path, link: Path
    ) -> None:
        self.domid = domid
        self.history = ConsoleHistory(HISTORY_BYTES)
        self._dom0 = dom0
        self._loop = loop
        self._budget = ByteBudget(OUTPUT_RATE, OUTPUT_BURST, loop.time())
        self._input = bytearray()
        self._turn_is_due = False
        self._last_turn = 0.0
        self._later: asyncio.TimerHandle | None = None
        self._refill: asyncio.TimerHandle | None = None
        self._ring_error_told = False
        self._closed = False
        self._on_first_output: Callable[[], None] | None = None
        self._cleanup = contextlib.ExitStack()
        with contextlib.ExitStack() as undo:
            self._log = ConsoleLog(log_path, LOG_BYTES)
            undo.callback(self._log.close)
            self._terminal = PseudoTerminal(loop, self._typed)
            undo.callback(self._terminal.close)
            _make_link(link, self._terminal.path)
            undo.callback(link.unlink, missing_ok=True)
            page = dom0.map_foreign(domid, mfn)
            undo.callback(dom0.unmap_foreign, domid, mfn)
            undo.callback(page.release)
            self._ring = ConsoleRing(page)
            undo.callback(self._ring.release)
            self._port = dom0.bind_interdomain(domid, remote_port, self._event)
            undo.callback(self._close_port)
            self._cleanup = undo.pop_all()
        # What the guest wrote before we were bound, and no event will tell.
        self._event()

    @property
    def terminal_path(self) -> Path:
        return self._terminal.path

    @property
    def log_path(self) -> Path:
        return self._log.path

    def write(self, data: bytes) -> int:
        """Type ``data``. -> how many bytes were taken: the guest may have too much unread input."""
        accepted = data[: max(0, INPUT_LIMIT - len(self._input))]
        self._typed(accepted)
        return len(accepted)

    def on_first_output(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, when the guest's first output arrives (now, if it has)."""
        if self.history.end:
            callback()
        else:
            self._on_first_output = callback

    def close(self) -> None:
        """Take what output is left and let go of the guest. The history stays readable to those who hold it."""
        if self._closed:
            return
        self._closed = True
        for timer in (self._refill, self._later):
            if timer is not None:
                timer.cancel()
        with contextlib.suppress(ConsoleRingError):
            self._deliver(self._ring.take_output(_TURN_BYTES))
        self.history.close()
        self._cleanup.close()

    def _event(self) -> None:
        """The guest's event, on any thread: one turn on the loop serves any number of them."""
        if not self._turn_is_due:
            self._turn_is_due = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: the host is going down
                self._loop.call_soon_threadsafe(self._begin_turn)

    def _begin_turn(self) -> None:
        early = self._last_turn + _TURN_INTERVAL - self._loop.time()
        if early <= 0:
            self._turn()
        elif not self._closed:
            self._later = self._loop.call_later(early, self._turn)

    def _turn(self) -> None:
        self._turn_is_due = False
        if self._closed:
            return
        self._last_turn = self._loop.time()
        try:
            moved = self._move_output()
            moved = self._move_input() or moved
        except ConsoleRingError as error:
            if not self._ring_error_told:
                _logger.warning("domain %d: %s", self.domid, error)
                self._ring_error_told = True
            return
        if moved:
            self._notify()

    def _move_output(self) -> bool:
        allowed = self._budget.available(self._loop.time())
        if allowed < _TURN_BYTES:
            if self._refill is None:
                self._refill = self._loop.call_later(self._budget.seconds_until(OUTPUT_BURST // 4), self._refilled)
            return False
        data = self._ring.take_output(_TURN_BYTES)
        self._budget.spend(len(data))
        self._deliver(data)
        return bool(data)

    def _refilled(self) -> None:
        self._refill = None
        self._event()

    def _deliver(self, data: bytes) -> None:
        if data:
            if self._on_first_output is not None:
                self._on_first_output()
                self._on_first_output = None
            self.history.append(data)
            self._log.write(data)
            self._terminal.write(data)

    def _typed(self, data: bytes) -> None:
        self._input += data
        if len(self._input) >= INPUT_LIMIT:
            self._terminal.pause_input()
        self._event()

    def _move_input(self) -> bool:
        if not self._input:
            return False
        moved = self._ring.put_input(bytes(self._input))
        del self._input[:moved]
        if len(self._input) < INPUT_LIMIT:
            self._terminal.resume_input()
        return moved > 0

    def _notify(self) -> None:
        with contextlib.suppress(HypercallError):  # the guest closed its port, or dies
            self._dom0.notify(self._port)

    def _close_port(self) -> None:
        with contextlib.suppress(HypercallError):
            self._dom0.close_port(self._port)


class ConsoleBackend:
    """The consoles of all guests, by domain id. Belongs to the event loop's thread."""

    def __init__(self, dom0: Dom0Hypercalls, loop: asyncio.AbstractEventLoop, links: Path, logs: Path) -> None:
        self._dom0 = dom0
        self._loop = loop
        self._links = links
        self._logs = logs
        self._consoles: dict[int, GuestConsole] = {}

    def connect(self, domid: int, name: str, mfn: int, remote_port: int) -> GuestConsole:
        """Join a new guest's console ring in frame ``mfn``. Raises ``HypercallError``, ``OSError`` (no pseudo-terminal left, log file)."""
        log_path = self._logs / f"guest-{name}.log"
        console = GuestConsole(self._dom0, self._loop, domid, mfn, remote_port, log_path, self._links / str(domid))
        self._consoles[domid] = console
        return console

    def find(self, domid: int) -> GuestConsole | None:
        return self._consoles.get(domid)

    def disconnect(self, domid: int) -> None:
        """No effect if there is no console."""
        console = self._consoles.pop(domid, None)
        if console is not None:
            console.close()

    def close(self) -> None:
        for domid in list(self._consoles):
            self.disconnect(domid)


def _make_link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    os.symlink(target, link)

"""Programs that back ends have beside the host process, as far as back ends see them. ``host/helper_programs.py`` starts them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Sequence
from typing import Protocol


class HelperError(Exception):
    """A helper program can't be started. ``str()`` is one line: what, and what to do about it."""


class HelperMissingError(HelperError):
    """The program is not installed."""


class HelperProgram(Protocol):
    """A running program. It is killed when the host ends, however that happens. Belongs to the event loop's thread."""

    @property
    def pid(self) -> int:
        """Its process id; of another process, perhaps, once it has exited."""

    @property
    def last_words(self) -> str:
        """The last line that it wrote to its standard error; empty if it wrote none."""

    @property
    def status(self) -> int | None:
        """None while it runs; then its exit status, or minus the number of the signal that killed it."""

    def signal(self, number: int) -> None:
        """Send a signal to it and all that it started. No effect when it has exited."""

    async def wait(self) -> int:
        """Until it has exited and its standard error is read. -> ``status``."""


class HelperPrograms(Protocol):
    """Starts helper programs."""

    async def start(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        owner: str,
        descriptors: Sequence[int] = (),
        exited: Callable[[int], None] = lambda _: None,
    ) -> HelperProgram:
        """Start the program ``name``, which must be one of the host's list (``host.helper_programs.PROGRAMS``).

        ``descriptors``: open files that it gets as 3, 4, ... (at most 60); the caller closes its own. It gets no
        standard input, and what it writes to its standard error goes line by line into the host's log, under ``owner`` ("vif-1-0").
        ``exited`` is called once with ``status`` in the event loop when it has exited for whatever reason.
        Raises ``HelperMissingError`` with what to install, and ``HelperError``.
        """


class NoHelperPrograms:
    """Of a Domain 0 that can start none."""

    async def start(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        owner: str,
        descriptors: Sequence[int] = (),
        exited: Callable[[int], None] = lambda _: None,
    ) -> HelperProgram:
        """Raises ``HelperError``."""
        raise HelperError(f"cannot start {name}: this Domain 0 starts no helper programs")


async def stop(program: HelperProgram, grace: float = 2.0) -> None:
    """Ask the program to end, and kill it if it has not after ``grace`` seconds. When this returns, it has exited."""
    program.signal(signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(program.wait(), grace)
        return
    program.signal(signal.SIGKILL)
    await program.wait()

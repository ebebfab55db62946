"""``--timing``: what starting a guest spent its time on, from the start of the command to the guest's first output."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from pyxen.host.client import Client, Stream
from pyxen.host.process_age import process_start
from pyxen.host.protocol import DOMAIN_TIMELINE, HOST_TIMELINE, DomainId, Nothing, StageTime

#: How long a guest without a console may take to its first output and its devices, in seconds.
PATIENCE = 30.0
#: How long the last word on a domain that has ended may take, in seconds.
ENDING_PATIENCE = 5.0


class StartTiming:
    """One start-up, of the command ``program``. Close it after use."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._began = process_start()
        self._stages: list[StageTime] = []
        self._stream: Stream[StageTime, Nothing] | None = None
        self.reached("ready to work")

    def reached(self, what: str) -> None:
        """A stage of the command itself."""
        self._stages.append(StageTime(f"{self._program}: {what}", time.monotonic()))

    def follow(self, client: Client, domid: int) -> None:
        """From now on hear of the domain, which should not run yet. Raises ``HostError``."""
        self._stages += [stage for stage in client.call(HOST_TIMELINE, Nothing()).stages if stage.time_s >= self._began]
        self._stream = client.stream(DOMAIN_TIMELINE, DomainId(domid))
        for stage in self._stream:
            self._stages.append(stage)
            if not stage.more:
                return

    def wait(self) -> bool:
        """Until nothing more is expected. -> False if that took too long, or the domain went before. Raises ``HostError``."""
        return any(stage.complete for stage in self._coming(PATIENCE))

    def _coming(self, timeout: float) -> Iterator[StageTime]:
        """The stages of so many seconds from now on, and those that have come already."""
        assert self._stream is not None
        deadline = time.monotonic() + timeout
        with contextlib.suppress(TimeoutError):
            while (stage := self._stream.read(max(0.0, deadline - time.monotonic()))) is not None:
                self._stages.append(stage)
                yield stage

    def print(self, *, ended: bool) -> None:
        """The table, on the standard error. ``ended``: the domain is gone, or is about to be."""
        for _ in self._coming(ENDING_PATIENCE if ended else 0.0):
            pass
        print("\n".join(table(self._began, f"{self._program}: process started", self._stages)), file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def table(began: float, first: str, stages: list[StageTime]) -> list[str]:
    """Lines in the order of time: milliseconds since ``began``, milliseconds since the line before, the stage."""
    lines = [f"{'at ms':>9} {'took ms':>9}  stage", f"{0:9.1f} {0:9.1f}  {first}"]
    before = began
    for stage in sorted(stages, key=lambda stage: stage.time_s):
        lines.append(f"{1e3 * (stage.time_s - began):9.1f} {1e3 * (stage.time_s - before):9.1f}  {stage.stage}")
        before = stage.time_s
    return lines

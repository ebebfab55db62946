"""Progress of long calls: a bar on a terminal's stderr, nothing elsewhere."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pyxen.host.protocol import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

#: What is over sooner needs no bar, in seconds.
PATIENCE = 0.8


@contextlib.contextmanager
def progress_reporter() -> Iterator[Callable[[Progress], None] | None]:
    """A function for ``Client.call(progress=...)``; None when nobody would see it."""
    if not sys.stderr.isatty():
        yield None
        return
    display = _Display()
    timer = threading.Timer(PATIENCE, display.show)
    timer.start()
    try:
        yield display.report
    finally:
        timer.cancel()
        display.close()


class _Display:
    """The newest progress, shown from when the timer's thread says so."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._progress = Progress("")
        self._bar: Bar | None = None
        self._closed = False

    def report(self, progress: Progress) -> None:
        with self._lock:
            self._progress = progress
            self._update()

    def show(self) -> None:
        # Imported here: rich takes longer to load than most commands take to run.
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn
        from rich.progress import Progress as Bar

        with self._lock:
            if self._closed:
                return
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=20))
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._bar.add_task("", total=None)
            self._update()
            self._bar.start()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._bar is not None:
                self._bar.stop()

    def _update(self) -> None:
        if self._bar is not None:
            progress = self._progress
            self._bar.update(self._bar.task_ids[0], description=progress.stage, completed=progress.done, total=progress.total or None)

"""Progress of long calls: a bar on a terminal's stderr, nothing elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from pyxen.host.protocol import Progress


@contextlib.contextmanager
def progress_reporter() -> Iterator[Callable[[Progress], None] | None]:
    """A function for ``Client.call(progress=...)``; None when nobody would see it."""
    if not sys.stderr.isatty():
        yield None
        return
    # imported here: half of the start-up time of a command that shows no progress
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=20))
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def report(progress: Progress) -> None:
            bar.update(task, description=progress.stage, completed=progress.done, total=progress.total or None)

        yield report

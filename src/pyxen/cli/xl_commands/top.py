"""``xl top``: xentop(1), as a live screen or in batch mode."""

from __future__ import annotations

import contextlib
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator

from rich.console import Console
from rich.live import Live
from rich.text import Text

from pyxen.cli.command import Context, parse_options
from pyxen.cli.failures import EXIT_SUCCESS, CommandFailed
from pyxen.cli.statistics import SORT_KEYS, View, summary, table
from pyxen.host.protocol import PHYSINFO, STATISTICS, Nothing, Statistics

_DEFAULT_DELAY_S = 3.0
_LONG = {
    "-d": "--delay", "-n": "--networks", "-x": "--vbds", "-r": "--repeat-header", "-v": "--vcpus", "-f": "--full-name", "-b": "--batch",
    "-i": "--iterations",
}  # fmt: skip
_ESCAPE = "\x1b"


def top(context: Context, arguments: list[str]) -> int:
    """What each domain uses, again and again."""
    options, _ = parse_options(
        arguments, "d:nxrvfbi:", ["delay=", "networks", "vbds", "repeat-header", "vcpus", "full-name", "batch", "iterations="]
    )
    given = {_LONG.get(name, name): value for name, value in options}
    delay = _positive(given.get("--delay"), "delay") or _DEFAULT_DELAY_S
    iterations = _positive(given.get("--iterations"), "number of iterations")
    view = View(
        networks="--networks" in given,
        vbds="--vbds" in given,
        vcpus="--vcpus" in given,
        repeat_header="--repeat-header" in given,
        full_name="--full-name" in given,
    )
    if "--batch" in given or not sys.stdout.isatty():
        for statistics, before in _samples(context, delay, iterations):
            print("\n".join(table(statistics, before, view)), flush=True)
    else:
        _live(context, delay, iterations, view)
    return EXIT_SUCCESS


def _positive(text: str | None, what: str) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text[:9]) and len(text) < 10):
        raise CommandFailed(f"{text!a} is no {what}: it must be a number above 0")
    return int(text)


def _samples(context: Context, delay: float, iterations: int | None) -> Iterator[tuple[Statistics, Statistics | None]]:
    """The figures every ``delay`` seconds, with those of the time before."""
    before, done = None, 0
    while True:
        statistics = context.client.call(STATISTICS, Nothing())
        yield statistics, before
        before, done = statistics, done + 1
        if done == iterations:
            return
        time.sleep(delay)


def _live(context: Context, delay: float, iterations: int | None, view: View) -> None:
    version = context.client.call(PHYSINFO, Nothing()).version
    title = f"{version.major}.{version.minor}{version.extra}"
    before: Statistics | None = None
    done = 0
    with _keys(), Live(console=Console(), screen=True, auto_refresh=False) as screen:
        while done != iterations:
            statistics = context.client.call(STATISTICS, Nothing())
            deadline = time.monotonic() + delay
            key: str | None = ""
            while key is not None:
                lines = [*summary(statistics, time.strftime("%H:%M:%S"), title), *table(statistics, before, view)]
                screen.update(Text("\n".join(lines), no_wrap=True, overflow="crop"), refresh=True)
                key = _key(deadline)
                if key in ("q", _ESCAPE):
                    return
                _apply(key, view)
            before, done = statistics, done + 1


def _apply(key: str | None, view: View) -> None:
    """xentop's interactive commands but D and the arrows."""
    if key == "n":
        view.networks = not view.networks
    elif key == "b":
        view.vbds = not view.vbds
    elif key == "v":
        view.vcpus = not view.vcpus
    elif key == "r":
        view.repeat_header = not view.repeat_header
    elif key == "s":
        view.sort = SORT_KEYS[(SORT_KEYS.index(view.sort) + 1) % len(SORT_KEYS)]


@contextlib.contextmanager
def _keys() -> Iterator[None]:
    """Keys come one by one and are not shown. Ctrl-C still ends the program."""
    if not sys.stdin.isatty():
        yield
        return
    saved = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, saved)


def _key(deadline: float) -> str | None:
    """A key in lower case; None when the time has come."""
    waiting = max(0.0, deadline - time.monotonic())
    if not sys.stdin.isatty():
        time.sleep(waiting)
        return None
    readable, _, _ = select.select([sys.stdin], [], [], waiting)
    return sys.stdin.read(1).lower() or None if readable else None

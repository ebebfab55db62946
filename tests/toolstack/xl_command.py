"""``xl`` and ``pyxen`` as programs of their own, as a user calls them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pexpect

import pyxen

#: Generous: the machines that run the tests are shared.
TIMEOUT = 90.0


def _command(program: str, arguments: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", f"pyxen.cli.{program}", *arguments]


def _environment() -> dict[str, str]:
    source = str(Path(pyxen.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}


def run(program: str, *arguments: str, cwd: Path | None = None, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command to its end without a terminal; ``text`` is its standard input."""
    return subprocess.run(
        _command(program, arguments), env=_environment(), cwd=cwd, input=text, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )


def xl(*arguments: str, cwd: Path | None = None, text: str = "") -> str:
    """Run a command of xl that succeeds; its standard output."""
    result = run("xl", *arguments, cwd=cwd, text=text)
    assert result.returncode == 0, f"xl {' '.join(arguments)}: {result.stderr}"
    return result.stdout


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a command whose output is read through a pipe, without input."""
    pipe = subprocess.PIPE
    return subprocess.Popen(_command(program, arguments), env=_environment(), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)


def spawn(program: str, *arguments: str, cwd: Path | None = None) -> pexpect.spawn:
    """Start a command on a terminal."""
    return pexpect.spawn(
        sys.executable,
        _command(program, arguments)[1:],
        env=_environment(),
        cwd=cwd,
        timeout=TIMEOUT,
        dimensions=(24, 200),
        preexec_fn=_hear_interrupts,
    )


def _hear_interrupts() -> None:
    """As a shell starts a command in the foreground. The tests may run in the background, and inherit that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def exit_status(child: pexpect.spawn) -> int | None:
    """Wait for the command's end."""
    child.expect(pexpect.EOF)
    child.wait()
    status: int | None = child.exitstatus
    return status


def listed() -> dict[str, str]:
    """Name -> state letters of every guest in ``xl list``."""
    rows = [line.split() for line in xl("list").splitlines()[2:]]
    return {row[0]: row[4] for row in rows}

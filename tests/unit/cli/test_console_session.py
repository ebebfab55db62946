"""``xl console`` and ``xl create -c`` on a real pseudo-terminal."""

from __future__ import annotations

import os
import signal
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from pyxen.host import protocol as p
from tests.unit.cli.recorded_host import RecordedHost


@pytest.fixture
def spawn(recorded_host: RecordedHost) -> Iterator[object]:
    children: list[pexpect.spawn] = []

    def start(*arguments: str) -> pexpect.spawn:
        code = "import sys; from pyxen.cli.xl import main; sys.exit(main())"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        child = pexpect.spawn(sys.executable, ["-c", code, *arguments], env=environment, timeout=20, echo=True)
        children.append(child)
        return child

    yield start
    for child in children:
        child.close(force=True)


def is_raw(child: pexpect.spawn) -> bool:
    return not termios.tcgetattr(child.child_fd)[3] & termios.ICANON


def ended(child: pexpect.spawn) -> int | None:
    child.expect(pexpect.EOF)
    child.wait()
    return child.exitstatus


def test_keys_and_output_pass_until_the_domain_dies(recorded_host: RecordedHost, spawn: type[pexpect.spawn]) -> None:
    recorded_host.console_output = [b"boot\r\n", b"login: "]
    recorded_host.ends_after = b"quit\r"
    child = spawn("console", "linux")
    child.expect("boot\r\nlogin: ")
    child.send("\x03quit\r")  # Ctrl-C is for the guest
    assert ended(child) == 0
    assert bytes(recorded_host.typed) == b"\x03quit\r"
    assert recorded_host.asked(p.CONSOLE_ATTACH) == [p.ConsoleAttachRequest(2, True)]


def test_the_escape_key_leaves_and_the_terminal_is_as_before(recorded_host: RecordedHost, spawn: type[pexpect.spawn]) -> None:
    recorded_host.console_output = [b"login: "]
    recorded_host.ends_after = b"never"
    child = spawn("console", "linux")
    child.expect("login: ")
    assert is_raw(child)
    child.send("ab\x1dcd")
    assert ended(child) == 0
    assert not is_raw(child)
    assert bytes(recorded_host.typed) == b"ab"


def test_another_escape_key(recorded_host: RecordedHost, spawn: type[pexpect.spawn]) -> None:
    recorded_host.console_output = [b"login: "]
    recorded_host.ends_after = b"never"
    child = spawn("console", "-e", "^t", "linux")
    child.expect("login: ")
    child.send("\x1dx\x14")
    assert ended(child) == 0
    assert bytes(recorded_host.typed) == b"\x1dx"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_restored_when_xl_is_killed(
    recorded_host: RecordedHost, spawn: type[pexpect.spawn], number: signal.Signals
) -> None:
    recorded_host.console_output = [b"login: "]
    recorded_host.ends_after = b"never"
    child = spawn("console", "linux")
    child.expect("login: ")
    child.kill(number)
    assert ended(child) == 128 + number
    assert not is_raw(child)


def test_create_c_attaches_before_the_domain_runs(recorded_host: RecordedHost, spawn: type[pexpect.spawn], tmp_path: Path) -> None:
    config = tmp_path / "g.cfg"
    config.write_text('name="g"')
    recorded_host.console_output = [b"first byte"]
    recorded_host.ends_after = b"q"
    child = spawn("create", "-c", str(config))
    child.expect("Parsing config from .*g.cfg\r\n")
    child.expect("first byte")
    child.send("q")
    assert ended(child) == 0
    assert recorded_host.asked(p.DOMAIN_CREATE)[0].paused
    assert recorded_host.asked(p.DOMAIN_UNPAUSE) == [p.DomainId(7)]
    names = [name for name, _ in recorded_host.calls]
    assert names.index("domain.create") < names.index("domain.unpause")


def test_questions_to_the_terminal_are_not_replayed(recorded_host: RecordedHost, spawn: type[pexpect.spawn]) -> None:
    recorded_host.replayed_output = [b"old# \x1b[6n\x1b[0c\x1b[1mbold "]
    recorded_host.console_output = [b"new# \x1b[6nend"]
    child = spawn("console", "linux")
    child.expect("end")
    assert child.before == b"old# \x1b[1mbold new# \x1b[6n"


def test_one_can_leave_a_guest_that_floods_its_console(recorded_host: RecordedHost, spawn: type[pexpect.spawn]) -> None:
    recorded_host.floods = True
    child = spawn("console", "linux")
    child.expect("flood")
    child.send("\x1d")
    assert ended(child) == 0


def test_keys_for_a_guest_that_does_not_read_are_kept(recorded_host: RecordedHost, spawn: type[pexpect.spawn]) -> None:
    recorded_host.console_output = [b"login: "]
    recorded_host.accepts = 0
    recorded_host.ends_after = b"patient"
    child = spawn("console", "linux")
    child.expect("login: ")
    child.send("patient")
    assert child.expect([pexpect.EOF, pexpect.TIMEOUT], timeout=1) == 1
    recorded_host.accepts = 3
    assert ended(child) == 0


def test_without_input_the_output_goes_on(recorded_host: RecordedHost, capfd: pytest.CaptureFixture[str]) -> None:
    from pyxen.cli.console_session import ConsoleEnd, ConsoleSession
    from pyxen.host.client import connect

    recorded_host.console_output = [b"x" * 100_000, b"end"]
    with connect() as client, open(os.devnull, "rb") as nothing:
        assert ConsoleSession(client, 2, source=nothing.fileno()).run() is ConsoleEnd.DOMAIN_GONE
    assert capfd.readouterr().out == "x" * 100_000 + "end"

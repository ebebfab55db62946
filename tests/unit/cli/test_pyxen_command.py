"""``pyxen``: its options, its exit statuses, its one-line errors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyxen.cli.pyxen import main
from pyxen.cli.tracing import format_event
from pyxen.host import protocol as p
from tests.unit.cli.recorded_host import RecordedHost

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_input(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The console session reads descriptor 0: give it one that is at its end."""
    saved = os.dup(0)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    monkeypatch.setattr(os, "getpid", lambda: 42)
    yield
    os.dup2(saved, 0)
    os.close(saved)


@pytest.mark.parametrize(("reason", "status"), [("poweroff", 0), ("reboot", 0), ("crash", 3), ("watchdog", 4), ("", 5)])
def test_run_ends_with_the_guest(recorded_host: RecordedHost, capfd: Capture, reason: str, status: int, tmp_path: Path) -> None:
    recorded_host.console_output = [b"hello\r\n"]
    recorded_host.states = [p.StateChange(0, p.DomainState.SHUTDOWN, reason), p.StateChange(0, p.DomainState.DESTROYED, reason)]
    assert main(["run", "my kernel", "--memory", "64", "--vcpus", "2", "--ramdisk", "r", "--cmdline", "a b"]) == status
    captured = capfd.readouterr()
    assert captured.out == "hello\r\n"
    assert (captured.err == "") == (status == 0)
    request = recorded_host.asked(p.DOMAIN_CREATE)[0]
    assert request.config == {
        "name": "my-kernel-42",
        "type": "pv",
        "kernel": "my kernel",
        "ramdisk": "r",
        "memory": 64,
        "vcpus": 2,
        "cmdline": "a b",
        "on_reboot": "destroy",
    }
    assert request.paused
    assert request.working_directory == os.getcwd()


def test_run_leaves_nothing_behind_when_the_start_fails(recorded_host: RecordedHost, capfd: Capture) -> None:
    recorded_host.faults["domain.unpause"] = p.HostError("it does not start", p.ErrorKind.GUEST)
    assert main(["run", "k"]) == 1
    assert capfd.readouterr().err == "pyxen: it does not start\n"
    assert recorded_host.asked(p.DOMAIN_DESTROY) == [p.DomainId(7)]


def test_run_reports_what_the_host_refuses(recorded_host: RecordedHost, capfd: Capture) -> None:
    recorded_host.faults["domain.create"] = p.HostError("k: no such file", p.ErrorKind.NOT_FOUND)
    assert main(["run", "k"]) == 1
    assert capfd.readouterr().err == "pyxen: k: no such file\n"
    assert recorded_host.asked(p.DOMAIN_DESTROY) == []
    with pytest.raises(p.HostError):
        main(["--debug", "run", "k"])


@pytest.mark.parametrize(
    "arguments",
    [["bogus"], ["run"], ["run", "k", "--memory", "x"], ["run", "k", "--vcpus", "0"], ["host", "bogus"], ["run", "--bogus", "k"]],
)
def test_wrong_calls_are_one_line(capfd: Capture, arguments: list[str]) -> None:
    assert main(arguments) == 2
    error = capfd.readouterr().err
    assert error.startswith("pyxen: ")
    assert error.count("\n") == 1


def test_host_commands_without_a_host(runtime_directory: Path, capfd: Capture) -> None:
    assert main(["host", "status"]) == 3
    assert main(["host", "stop"]) == 0
    assert main(["host", "logs"]) == 1
    captured = capfd.readouterr()
    assert captured.out == "not running\nnot running\n"
    assert captured.err.startswith("pyxen: there is no log yet")
    (runtime_directory / "host.log").write_text("one\ntwo\nthree\n")
    assert main(["host", "logs", "-n", "2"]) == 0
    assert main(["host", "logs", "-n", "0"]) == 0
    assert capfd.readouterr().out == "two\nthree\none\ntwo\nthree\n"


EVENT = p.TraceEvent("hypercall", 1_500_000_000, 2, 1, "mmu_update", {"ureqs": 0xFFFFFFFF81000000, "count": 3, "cmd": "X"}, -22, "-EINVAL")


def test_trace_lines() -> None:
    assert format_event(EVENT, 500_000_000) == "    1.000000 d2v1 mmu_update(ureqs=0xffffffff81000000, count=3, cmd=X) = -EINVAL"
    sent = p.TraceEvent("event", 0, 0, 0, "EVTCHNOP_send", {"port": 4}, dropped=7)
    assert format_event(sent, 0) == "[7 events were lost: the reader is too slow]\n    0.000000 d0v0 event EVTCHNOP_send port=4"


def test_trace(recorded_host: RecordedHost, capfd: Capture) -> None:
    recorded_host.trace = [EVENT]
    assert main(["trace", "linux", "--kind", "hypercall", "--call", "mmu_update"]) == 0
    assert capfd.readouterr().out == "    0.000000 d2v1 mmu_update(ureqs=0xffffffff81000000, count=3, cmd=X) = -EINVAL\n"
    assert recorded_host.asked(p.TRACE_SUBSCRIBE) == [p.TraceRequest(2, ["hypercall"], ["mmu_update"])]
    assert main(["trace", "linux", "--json"]) == 0
    assert '"name": "mmu_update"' in capfd.readouterr().out

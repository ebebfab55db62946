"""What the commands of xl ask of the host, what they say when it fails, and their exit statuses."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from pyxen.cli.command_table import COMMANDS, find
from pyxen.cli.xl import main
from pyxen.host import protocol as p
from tests.unit.cli.recorded_host import RecordedHost

Capture = pytest.CaptureFixture[str]


def failure(capsys: Capture, *arguments: str, status: int = 1) -> str:
    """The one line that a failing command prints."""
    assert main(list(arguments)) == status
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "method", "request_"),
    [
        (["pause", "linux"], p.DOMAIN_PAUSE, p.DomainId(2)),
        (["unp", "2"], p.DOMAIN_UNPAUSE, p.DomainId(2)),
        (["destroy", "win"], p.DOMAIN_DESTROY, p.DomainId(1)),
        (["rename", "win", "lose"], p.DOMAIN_RENAME, p.RenameRequest(1, "lose")),
        (["shutdown", "-F", "win"], p.DOMAIN_SHUTDOWN, p.ShutdownRequest(1, True)),
        (["reboot", "win"], p.DOMAIN_REBOOT, p.ShutdownRequest(1, False)),
        (["mem-set", "win", "100m"], p.DOMAIN_MEM_SET, p.MemoryRequest(1, 102400)),
        (["mem-max", "win", "1g"], p.DOMAIN_MEM_MAX, p.MemoryRequest(1, 1048576)),
        (["sysrq", "win", "h"], p.DOMAIN_SYSRQ, p.SysrqRequest(1, "h")),
        (["trigger", "win", "nmi"], p.DOMAIN_TRIGGER, p.TriggerRequest(1, "nmi", 0)),
        (["trigger", "win", "nmi", "1"], p.DOMAIN_TRIGGER, p.TriggerRequest(1, "nmi", 1)),
        (["debug-keys", "q"], p.DEBUG_KEYS, p.DebugKeysRequest("q")),
        (["dmesg", "--clear"], p.DMESG, p.DmesgRequest(True)),
        (["-vf", "pause", "linux"], p.DOMAIN_PAUSE, p.DomainId(2)),
    ],
)
def test_requests(recorded_host: RecordedHost, arguments: list[str], method: p.Method[Any, Any], request_: object) -> None:
    assert main(arguments) == 0
    assert recorded_host.asked(method) == [request_]


@pytest.mark.parametrize("command", ["pause", "unpause", "destroy", "shutdown", "reboot", "console"])
def test_unknown_domain(recorded_host: RecordedHost, capsys: Capture, command: str) -> None:
    assert failure(capsys, command, "nobody") == "nobody is an invalid domain identifier (rc=-6)"


@pytest.mark.parametrize("command", ["pause", "unpause", "destroy", "console", "domid", "domname", "sysrq", "rename", "mem-set", "create"])
def test_missing_arguments_show_the_usage(recorded_host: RecordedHost, capsys: Capture, command: str) -> None:
    assert main([command]) == 2
    captured = capsys.readouterr()
    assert "requires at least" in captured.err or "Config file not specified" in captured.err
    assert f"{command} <" in captured.out or f"{command} [options] <" in captured.out


def test_options_that_do_not_exist(recorded_host: RecordedHost, capsys: Capture) -> None:
    assert main(["list", "-x"]) == 2
    assert capsys.readouterr().err == "option `x' not supported.\n"
    assert failure(capsys, "-z", "list") == "unknown global option"


def test_commands_that_do_not_exist(capsys: Capture) -> None:
    assert failure(capsys, "frobnicate").startswith('command "frobnicate" not implemented')
    assert failure(capsys, "s").startswith('command "s" not implemented')  # shutdown, sysrq, save, ...
    assert failure(capsys, "migrate", "a", "b") == 'command "migrate" not implemented: saving and moving domains is not supported yet'
    assert failure(capsys, "-N", "list") == "command does not implement -N (dryrun) option"


def test_commands_may_be_abbreviated() -> None:
    assert find("li") is find("list")
    assert find("migrate") is not None and find("migrate") is not find("migrate-receive")
    assert find("vcpu-") is None
    assert len({command.name for command in COMMANDS}) == len(COMMANDS)


def test_no_command_shows_the_overview(capsys: Capture) -> None:
    assert main([]) == 1
    overview = capsys.readouterr().out
    assert main(["help"]) == 0
    assert capsys.readouterr().out == overview
    assert " list                List information" in overview
    assert "vncviewer" not in overview
    assert main(["help", "--long"]) == 0
    assert " vncviewer           not implemented: " in capsys.readouterr().out


def test_help_of_a_command(capsys: Capture) -> None:
    assert main(["help", "pause"]) == 0
    expected = "Usage: xl [-vtTf] pause <Domain>\n\nPause a domain.\n"
    assert capsys.readouterr().out == expected
    assert main(["pause", "-h"]) == 0
    assert capsys.readouterr().out == expected


def test_domain_0_is_not_destroyed_by_accident(recorded_host: RecordedHost, capsys: Capture) -> None:
    assert main(["destroy", "Domain-0"]) == 1
    assert capsys.readouterr().err.startswith("Not destroying domain 0; use -f to force.\n")
    assert recorded_host.asked(p.DOMAIN_DESTROY) == []
    assert main(["destroy", "-f", "Domain-0"]) == 0
    assert recorded_host.asked(p.DOMAIN_DESTROY) == [p.DomainId(0)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mem-set", "win", "lots"], "invalid memory size: lots"),
        (["mem-set", "win", "0"], "invalid memory size: 0"),
        (["mem-max", "win", "1kb"], "invalid memory size: 1kb"),
        (["trigger", "win", "shake"], 'Invalid trigger "shake"'),
        (["console", "-t", "serial", "win"], "only the console type pv is supported yet"),
        (["console", "-n", "1", "win"], "console 1 does not exist: a domain has only console 0"),
        (["create", "-V", "/x"], "xl create: a guest's screen (-V, -A) is not supported yet"),
        (["create", "/does/not/exist"], "Failed to read config file: /does/not/exist: No such file or directory"),
        (["create", "/"], "Failed to read config file: /: Is a directory"),
        (["create", "/dev/zero"], "/dev/zero: this is no configuration file: it is longer than 1 MiB"),
        (["config-update"], "xl config-update requires a domain argument"),
    ],
)
def test_bad_arguments(recorded_host: RecordedHost, capsys: Capture, arguments: list[str], message: str) -> None:
    assert failure(capsys, *arguments) == message


def test_a_failure_of_the_host_is_one_line(recorded_host: RecordedHost, capsys: Capture) -> None:
    recorded_host.faults = {
        "domain.pause": p.HostError("it is dying", p.ErrorKind.STATE),
        "domain.rename": p.HostError("the name is in use", p.ErrorKind.EXISTS),
        "domain.mem_set": p.HostError("too little", p.ErrorKind.INVALID),
    }
    assert failure(capsys, "pause", "win") == "it is dying"
    assert failure(capsys, "rename", "win", "linux") == "Can't rename domain 'win': the name is in use"
    assert failure(capsys, "mem-set", "win", "1") == "cannot set domid 1 dynamic max memory to : 1: too little"


def test_timestamps(recorded_host: RecordedHost, capsys: Capture) -> None:
    assert main(["-T", "pause", "nobody"]) == 1
    assert capsys.readouterr().err.endswith("] nobody is an invalid domain identifier (rc=-6)\n")


# -- shutdown and reboot ----------------------------------------------------------------------------------------------------


def test_shutdown_waits_for_the_end(recorded_host: RecordedHost, capsys: Capture) -> None:
    recorded_host.states = [p.StateChange(0, p.DomainState.RUNNING), p.StateChange(0, p.DomainState.SHUTDOWN, "poweroff")]
    assert main(["shutdown", "-w", "win"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "Shutting down domain 1",
        "Waiting for 1 domains",
        "Domain 1 has been shut down, reason code 0",
    ]
    names = [name for name, _ in recorded_host.calls]
    assert sorted(names[-2:]) == ["domain.shutdown", "domain.wait"]


def test_shutdown_ww_waits_for_death(recorded_host: RecordedHost, capsys: Capture) -> None:
    recorded_host.states = [p.StateChange(0, p.DomainState.SHUTDOWN, "poweroff"), p.StateChange(0, p.DomainState.DESTROYED, "poweroff")]
    assert main(["shutdown", "-ww", "win"]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == "Domain 1 has been destroyed"


def test_shutdown_of_all_leaves_domain_0_out(recorded_host: RecordedHost, capsys: Capture) -> None:
    assert main(["shutdown", "-a"]) == 0
    assert [request.domid for request in recorded_host.asked(p.DOMAIN_SHUTDOWN)] == [1, 2]


def test_a_guest_that_can_not_be_asked(recorded_host: RecordedHost, capsys: Capture) -> None:
    recorded_host.faults["domain.shutdown"] = p.HostError("it does not listen", p.ErrorKind.TIMEOUT)
    assert main(["shutdown", "-aw"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "Shutting down domain 1",
        "shutdown of domain 1 failed: it does not listen",
        "Shutting down domain 2",
        "shutdown of domain 2 failed: it does not listen",
    ]


def test_shutdown_without_a_domain(recorded_host: RecordedHost, capsys: Capture) -> None:
    assert main(["shutdown"]) == 2
    assert capsys.readouterr().err == "You must specify -a or a domain id.\n"


# -- create -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "g.cfg"
    path.write_text('name="g"\n')
    return path


def test_create_sends_the_texts(recorded_host: RecordedHost, capsys: Capture, config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(config_file.parent)
    recorded_host.warnings = ["g.cfg:1: warning: something"]
    assert main(["create", "g.cfg", "memory=64; vcpus=2", "-p", 'extra="a=b"']) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("Parsing config from g.cfg\n", "g.cfg:1: warning: something\n")
    texts = [
        p.ConfigText('name="g"\n', "g.cfg"),
        p.ConfigText("memory=64; vcpus=2", "command line"),
        p.ConfigText('extra="a=b"', "command line"),
    ]
    assert recorded_host.asked(p.DOMAIN_CREATE) == [p.CreateRequest(texts, paused=True, working_directory=str(config_file.parent))]


@pytest.mark.parametrize("option", [["-f", "FILE"], ["-fFILE"], ["-f=FILE"], ["--defconfig=FILE"], ["--defconfig", "FILE"], ["FILE"]])
def test_create_quietly(recorded_host: RecordedHost, capsys: Capture, config_file: Path, option: list[str]) -> None:
    assert main(["create", "-q", *(word.replace("FILE", str(config_file)) for word in option)]) == 0
    assert capsys.readouterr().out == ""
    request = recorded_host.asked(p.DOMAIN_CREATE)[0]
    assert not request.paused
    assert request.texts[0].source == str(config_file)


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_create_from_stdin(
    recorded_host: RecordedHost, capsys: Capture, monkeypatch: pytest.MonkeyPatch, name: str, config_file: Path
) -> None:
    with config_file.open() as file:
        monkeypatch.setattr("pyxen.cli.xl_commands.configuration_file.STDIN_DESCRIPTOR", file.fileno())
        assert main(["create", name]) == 0
    assert capsys.readouterr().out == "Parsing config from <stdin>\n"
    assert recorded_host.asked(p.DOMAIN_CREATE)[0].texts == [p.ConfigText('name="g"\n', "<stdin>")]


@pytest.mark.parametrize("arguments", [["-N", "create"], ["create", "-n"], ["create", "--dryrun"]])
def test_dry_run_creates_nothing(recorded_host: RecordedHost, capsys: Capture, config_file: Path, arguments: list[str]) -> None:
    assert main([*arguments, str(config_file)]) == 0
    assert '"domid": null' in capsys.readouterr().out
    assert recorded_host.asked(p.DOMAIN_CREATE) == []


def test_create_refuses_a_second_file(recorded_host: RecordedHost, capsys: Capture, config_file: Path) -> None:
    assert main(["create", str(config_file), "other.cfg"]) == 2
    assert "unexpected argument `other.cfg'" in capsys.readouterr().err


def test_create_refuses_bytes_that_are_no_text(recorded_host: RecordedHost, capsys: Capture, config_file: Path) -> None:
    config_file.write_bytes(b'name="g"\nkernel="\xff"\n')
    assert failure(capsys, "create", str(config_file)) == f"{config_file}:2: this is no text in UTF-8"


def test_a_mistake_in_the_configuration_stops_before_the_creation(recorded_host: RecordedHost, capsys: Capture, config_file: Path) -> None:
    recorded_host.faults["config.check"] = p.HostError("g.cfg:1: config parsing error near `x'", p.ErrorKind.INVALID)
    assert failure(capsys, "create", str(config_file)) == "g.cfg:1: config parsing error near `x'"
    assert recorded_host.asked(p.DOMAIN_CREATE) == []


def test_create_in_the_foreground(recorded_host: RecordedHost, capsys: Capture, config_file: Path) -> None:
    recorded_host.states = [
        p.StateChange(0, p.DomainState.CRASHED, "crash", "it jumped to nowhere"),
        p.StateChange(0, p.DomainState.DESTROYED, "crash"),
    ]
    assert main(["create", "-F", str(config_file)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "Waiting for domain g (domid 7) to die",
        "Domain 7 has shut down, reason code 3 (crash)",
        "Domain 7: it jumped to nowhere",
        "Domain 7 has been destroyed.",
    ]
    assert recorded_host.asked(p.DOMAIN_UNPAUSE) == [p.DomainId(7)]


def test_config_update(recorded_host: RecordedHost, capsys: Capture, config_file: Path) -> None:
    assert main(["config-update", "win", str(config_file), "memory=1"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "setting dom1 configuration\n"
    assert captured.err.startswith("WARNING: xl now has better capability")
    request = recorded_host.asked(p.DOMAIN_CONFIG_UPDATE)[0]
    assert (request.domid, [text.source for text in request.texts]) == (1, [str(config_file), "command line"])


def test_output_to_a_closed_pipe(recorded_host: RecordedHost, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    class ClosedPipe(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def fileno(self) -> int:
            return 1

    monkeypatch.setattr("sys.stdout", ClosedPipe())
    monkeypatch.setattr("os.dup2", lambda old, new: None)
    assert main(["list"]) == 1
    assert capfd.readouterr().err == ""

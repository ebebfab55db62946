"""``pyxen``: what Xen has no command for. For everything else there is ``xl``."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import sys
import time
from collections import deque
from pathlib import Path
from typing import Annotated

import typer

from pyxen.cli.console_session import ConsoleEnd
from pyxen.cli.failures import EXIT_FAILURE, EXIT_SUCCESS, EXIT_USAGE, CommandFailed
from pyxen.cli.guest_run import created_guest
from pyxen.cli.image_build import image_app
from pyxen.cli.start_timing import StartTiming
from pyxen.cli.statistics import View, table
from pyxen.host.client import Client, connect
from pyxen.host.protocol import (
    BACKEND_RESTART,
    DOMAIN_RESOLVE,
    HOST_LOGS,
    HOST_STATUS,
    HOST_STOP,
    STATISTICS,
    BackendRestartRequest,
    ErrorKind,
    HostError,
    Identifier,
    LogRequest,
    Nothing,
)
from pyxen.host.runtime_directory import RuntimeDirectory

_INTERRUPTED = 130
_NOT_RUNNING = 3  #: as `service status` says it

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=False)
host_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The host process: the hypervisor, Domain 0 and all guests.")
app.add_typer(host_app, name="host")
app.add_typer(image_app, name="image")
backend_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The drivers in Domain 0.")
app.add_typer(backend_app, name="backend")


@app.callback()
def _options(debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when a command fails.")] = False) -> None:
    """Run unmodified Xen guests without Xen, VT-x or root. Guests are managed with xl."""


@app.command()
def run(
    kernel: Annotated[Path, typer.Argument(help="A kernel that can be a Xen guest: a bzImage or an ELF file.")],
    ramdisk: Annotated[Path | None, typer.Option(help="Initial ramdisk.")] = None,
    memory: Annotated[int, typer.Option(min=1, help="Memory in MiB.")] = 256,
    vcpus: Annotated[int, typer.Option(min=1, help="Number of virtual CPUs.")] = 1,
    cmdline: Annotated[str, typer.Option(help="The kernel's command line.")] = "console=hvc0",
    name: Annotated[str | None, typer.Option(help="The domain's name; made of the kernel's if not given.")] = None,
    kind: Annotated[str, typer.Option("--type", help="pv, pvh or hvm.")] = "pv",
    timing: Annotated[bool, typer.Option("--timing", help="At the end, print what the start spent its time on.")] = False,
) -> int:
    """Run one guest with its console on this terminal, until it ends. Ctrl-] leaves it running.

    The exit status is 0 if the guest shut down, 3 if it crashed, 4 if its watchdog fired, 5 if it was destroyed from outside.
    """
    config: dict[str, object] = {
        "name": name or f"{re.sub(r'[^A-Za-z0-9._-]', '-', kernel.name)[:64]}-{os.getpid()}",
        "type": kind,
        "kernel": str(kernel),
        "memory": memory,
        "vcpus": vcpus,
        "cmdline": cmdline,
        "on_reboot": "destroy",
    }
    if ramdisk is not None:
        config["ramdisk"] = str(ramdisk)
    with contextlib.ExitStack() as cleanup:
        times = cleanup.enter_context(StartTiming("pyxen")) if timing else None
        client = cleanup.enter_context(connect())
        guest = cleanup.enter_context(created_guest(client, config, os.getcwd()))
        if times is not None:
            times.follow(client, guest.domid)
        end = guest.attach()
        if times is not None:
            times.print(ended=end is ConsoleEnd.DOMAIN_GONE)
        if end is ConsoleEnd.LEFT:
            guest.kept = True
            _say(f"{guest.name} goes on: xl console {guest.name}, xl shutdown {guest.name}")
            return EXIT_SUCCESS
        ending = guest.ending()
    if ending.status:
        _say(f"{guest.name} ended by {ending.shutdown_reason or 'destruction'}" + (f": {ending.crash_cause}" if ending.crash_cause else ""))
    return ending.status


@app.command()
def demo() -> int:
    """Boot Debian's kernel to a shell. Without a terminal: run a few commands in it, shut it down, exit 0."""
    from pyxen.cli.demo import run_demo

    with connect() as client:
        return run_demo(client)


@app.command()
def trace(
    domain: Annotated[str | None, typer.Argument(help="Name or id; all domains if not given.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="hypercall, event or lifecycle; may be repeated; all if not given.")] = None,
    call: Annotated[list[str] | None, typer.Option(help="Only this hypercall (mmu_update, ...); may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> int:
    """Show what a domain asks of the hypervisor, as it happens. Ctrl-C ends it."""
    from pyxen.cli.tracing import run_trace

    with connect() as client:
        return run_trace(client, domain, kind or [], call or [], as_json=as_json)


@app.command()
def pcap(
    domain: Annotated[str, typer.Argument(help="Name or id.")],
    vif: Annotated[int, typer.Argument(min=0, help="The network interface's number.")] = 0,
    write: Annotated[Path | None, typer.Option("--write", "-w", help="The file; the standard output if not given.")] = None,
) -> int:
    """Capture a network interface's frames as tcpdump does: pyxen pcap guest | tcpdump -r -. Ctrl-C ends it."""
    from pyxen.cli.capture import run_capture

    with connect() as client:
        return run_capture(client, domain, vif, write)


@backend_app.command("restart")
def restart_backend(
    domain: Annotated[str, typer.Argument(help="Name or id.")],
    device: Annotated[str, typer.Argument(help="A disk (xvda), an interface (vif0), or class and number (vbd/51712).")],
) -> int:
    """Throw away what serves a device of a guest, and start it anew. The guest's I/O goes on; nothing that it has asked for is lost."""
    with connect(start=False) as client:
        found = client.call(DOMAIN_RESOLVE, Identifier(domain))
        client.call(BACKEND_RESTART, BackendRestartRequest(found.domid, device))
    return EXIT_SUCCESS


def _running_host() -> Client | None:
    """The host of this run-time folder; None if there is none."""
    try:
        return connect(start=False)
    except HostError as error:
        if error.kind is not ErrorKind.HOST:
            raise
        return None


@app.command()
def stats(as_json: Annotated[bool, typer.Option("--json", help="All figures, as JSON.")] = False) -> int:
    """Show what each domain uses: CPU time, memory, disks, networks."""
    with connect() as client:
        statistics = client.call(STATISTICS, Nothing())
    if as_json:
        print(json.dumps(dataclasses.asdict(statistics), indent=2))
    else:
        print("\n".join(table(statistics, None, View(networks=True, vbds=True, vcpus=True, full_name=True))))
    return EXIT_SUCCESS


@host_app.command()
def start(
    memory: Annotated[int | None, typer.Option(min=16, help="Machine memory in MiB.")] = None,
    cpus: Annotated[int | None, typer.Option(min=1, max=64, help="Physical CPUs of the machine; this computer's if not given.")] = None,
    metrics: Annotated[str | None, typer.Option(help="HOST:PORT to serve Prometheus metrics at; nowhere if not given.")] = None,
) -> int:
    """Start the host process. Any command that needs it does so too."""
    client = _running_host()
    if client is not None:
        with client:
            status = client.call(HOST_STATUS, Nothing())
        if memory is not None and memory << 20 != status.memory_bytes:
            raise CommandFailed(f"a host with {status.memory_bytes >> 20} MiB runs already; stop it first: pyxen host stop")
        if cpus is not None and cpus != status.processors:
            raise CommandFailed(f"a host with {status.processors} CPUs runs already; stop it first: pyxen host stop")
        if metrics is not None:
            raise CommandFailed("a host runs already, and its metrics can't be turned on now; stop it first: pyxen host stop")
        print(f"running already, process {status.pid}")
        return EXIT_SUCCESS
    with connect(memory_bytes=None if memory is None else memory << 20, processors=cpus, metrics=metrics) as client:
        print(f"started, process {client.call(HOST_STATUS, Nothing()).pid}")
    return EXIT_SUCCESS


@host_app.command()
def stop() -> int:
    """Stop the host process. Its guests end with it."""
    client = _running_host()
    if client is None:
        print("not running")
        return EXIT_SUCCESS
    with client:
        client.call(HOST_STOP, Nothing())
        client.wait_for_exit()
    print("stopped")
    return EXIT_SUCCESS


@host_app.command()
def status() -> int:
    """Show the host process. The exit status is 0 if it runs, 3 if not."""
    client = _running_host()
    if client is None:
        print("not running")
        return _NOT_RUNNING
    with client:
        found = client.call(HOST_STATUS, Nothing())
    rows = (
        ("process", found.pid),
        ("version", found.version),
        ("running since", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.started_at))),
        ("run-time folder", found.runtime_directory),
        ("engine", found.engine),
        ("memory", f"{found.memory_bytes >> 20} MiB, {found.free_bytes >> 20} MiB free"),
        ("CPUs", found.processors),
        ("guests", found.domains),
    )
    for label, value in rows:
        print(f"{label:<16} {value}")
    return EXIT_SUCCESS


@host_app.command()
def logs(lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="The last so many lines; 0: all.")] = 200) -> int:
    """Show the host process's log, also that of one that has ended."""
    client = _running_host()
    if client is not None:
        with client:
            print(client.call(HOST_LOGS, LogRequest(lines)).text, end="")
        return EXIT_SUCCESS
    path = RuntimeDirectory().host_log
    try:
        with path.open(encoding="utf-8", errors="replace") as log:
            print(*deque(log, maxlen=lines or None), sep="", end="")
    except FileNotFoundError:
        raise CommandFailed(f"there is no log yet ({path}): no host process has run") from None
    return EXIT_SUCCESS


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    try:
        result = app(arguments, prog_name="pyxen", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else EXIT_SUCCESS
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone. Python would complain about it once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except Exception as error:
        if debug:
            raise
        return _report(error)


def _report(error: Exception) -> int:
    """One line about a failure. Returns the exit status."""
    if hasattr(error, "format_message"):  # a wrong call: click's exceptions, wherever this version of typer has them from
        message = str(error.format_message())
        if message.startswith("Usage:"):  # a command with sub-commands and without one: its help
            print(message, file=sys.stderr)
        else:
            _say(f"{message.rstrip('.')}; see: pyxen --help")
        return EXIT_USAGE
    expected = isinstance(error, CommandFailed | HostError | TimeoutError)
    _say(str(error) if expected else f"internal error: {error!r}; more with --debug")
    return EXIT_FAILURE


def _say(text: str) -> None:
    print(f"pyxen: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

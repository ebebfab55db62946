"""``xl create`` and ``xl config-update``."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from pyxen.cli.command import Context, parse_options
from pyxen.cli.console_session import ConsoleEnd, ConsoleSession
from pyxen.cli.failures import EXIT_FAILURE, EXIT_SUCCESS, CommandFailed, UsageError
from pyxen.cli.progress import progress_reporter
from pyxen.cli.start_timing import StartTiming
from pyxen.cli.xl_commands.configuration_file import read_texts
from pyxen.cli.xl_commands.reasons import reason_code
from pyxen.host.client import Stream
from pyxen.host.protocol import (
    CONFIG_CHECK,
    DOMAIN_CONFIG_UPDATE,
    DOMAIN_CREATE,
    DOMAIN_UNPAUSE,
    DOMAIN_WAIT,
    CheckedConfig,
    ConfigText,
    ConfigUpdateRequest,
    CreatedDomain,
    CreateRequest,
    DomainId,
    DomainState,
    StateChange,
    WaitRequest,
)


def create(context: Context, arguments: list[str]) -> int:
    """Start a domain: with -c its console from the first byte, with -F until its death."""
    options, rest = parse_options(
        arguments,
        "qf:pFVAcden",
        ["quiet", "defconfig=", "dryrun", "vncviewer", "vncviewer-autopass", "ignore-global-affinity-masks", "timing"],
    )
    flags = {name for name, _ in options}
    if flags & {"-V", "--vncviewer", "-A", "--vncviewer-autopass"}:
        raise CommandFailed("xl create: a guest's screen (-V, -A) is not supported yet")
    texts = read_texts(rest, _config_file(options))
    if not texts:
        raise UsageError("Config file not specified")
    if not flags & {"-q", "--quiet"}:
        print(f"Parsing config from {texts[0].source}", flush=True)
    timing = StartTiming("xl") if "--timing" in flags else None
    checked = _check(context, texts)
    dry_run = context.dry_run or bool(flags & {"-n", "--dryrun"})
    if dry_run or "-d" in flags:
        print(json.dumps({"domid": None, "config": checked.libxl}, indent=4), flush=True)
    if dry_run:
        return EXIT_SUCCESS
    begin = _Start(context, texts, paused="-p" in flags, console="-c" in flags, foreground="-F" in flags)
    if timing is None:
        return begin.run(None)
    with timing:
        timing.reached("host answered, configuration checked")
        return begin.run(timing)


def _config_file(options: list[tuple[str, str]]) -> str | None:
    # The manual writes -f=FILE, getopt's way is -f FILE: both are taken.
    return next((value.removeprefix("=") for name, value in options if name in ("-f", "--defconfig")), None)


def _check(context: Context, texts: list[ConfigText]) -> CheckedConfig:
    """Its warnings are shown before anything is done: they may explain why the rest fails."""
    checked = context.client.call(CONFIG_CHECK, CreateRequest(texts, working_directory=os.getcwd()))
    for warning in checked.warnings:
        context.message(warning)
    return checked


@dataclass
class _Start:
    """What is to be started, and who watches it."""

    context: Context
    texts: list[ConfigText]
    paused: bool
    console: bool
    foreground: bool

    def run(self, timing: StartTiming | None) -> int:
        """The domain stays paused until those who watch it are there."""
        client = self.context.client
        watched = self.console or self.foreground or timing is not None
        request = CreateRequest(self.texts, paused=self.paused or watched, working_directory=os.getcwd())
        with progress_reporter() as report:
            created = client.call(DOMAIN_CREATE, request, progress=report)
        if timing is not None:
            timing.follow(client, created.domid)
        ended, status = self._watch(created) if watched else (False, EXIT_SUCCESS)
        if timing is not None:
            if not self.console and not self.foreground and not self.paused and not timing.wait():
                self.context.message("xl create: the guest's start was not complete within the time; what there is of it:")
            timing.print(ended=ended)
        return status

    def _watch(self, created: CreatedDomain) -> tuple[bool, int]:
        """-> whether the domain has ended, and the exit status."""
        client = self.context.client

        def begin() -> None:
            if not self.paused:
                client.call(DOMAIN_UNPAUSE, DomainId(created.domid))

        if not self.foreground:
            if self.console:
                return ConsoleSession(client, created.domid).run(begin) is ConsoleEnd.DOMAIN_GONE, EXIT_SUCCESS
            begin()
            return False, EXIT_SUCCESS
        with client.stream(DOMAIN_WAIT, WaitRequest(created.domid, [DomainState.DESTROYED])) as states:
            if self.console:
                ConsoleSession(client, created.domid).run(begin)
            else:
                begin()
            return True, _follow(self.context, created, states)


def _follow(context: Context, created: CreatedDomain, states: Stream[StateChange, StateChange]) -> int:
    """Until the domain's death, as xl in the foreground tells it."""
    context.message(f"Waiting for domain {created.name} (domid {created.domid}) to die")
    reason = ""
    for change in states:
        if change.shutdown_reason and change.shutdown_reason != reason:
            reason = change.shutdown_reason
            context.message(f"Domain {created.domid} has shut down, reason code {reason_code(reason)} ({reason})")
        if change.crash_cause:
            context.message(f"Domain {created.domid}: {change.crash_cause}")
    context.message(f"Domain {created.domid} has been destroyed.")
    return EXIT_FAILURE if reason in ("crash", "watchdog") else EXIT_SUCCESS


def config_update(context: Context, arguments: list[str]) -> int:
    """Replace the configuration that the domain's next start will have."""
    if not arguments:
        raise CommandFailed("xl config-update requires a domain argument")
    options, rest = parse_options(arguments, "dqf:", ["defconfig=", "quiet"], required=1)
    texts = read_texts(rest[1:], _config_file(options))
    if not texts:
        raise UsageError("Config file not specified")
    context.message("WARNING: xl now has better capability to manage domain configuration, avoid using this command when possible")
    domain = context.resolve(rest[0])
    checked = _check(context, texts)
    if context.dry_run:
        print(json.dumps(checked.libxl, indent=4))
        return EXIT_SUCCESS
    print(f"setting dom{domain.domid} configuration", flush=True)
    context.client.call(DOMAIN_CONFIG_UPDATE, ConfigUpdateRequest(domain.domid, texts, working_directory=os.getcwd()))
    return EXIT_SUCCESS

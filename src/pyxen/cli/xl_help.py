"""What ``xl help`` prints."""

from __future__ import annotations

from itertools import groupby

from pyxen.cli.command import Command
from pyxen.cli.command_table import COMMANDS

USAGE = "Usage xl [-vfNtT] <subcommand> [args]"


def overview() -> str:
    """The commands that are used most."""
    lines = [USAGE, "", "xl subcommands (all of them: xl help --long):", ""]
    return "\n".join([*lines, *(_line(command) for command in COMMANDS if command.common)]) + "\n"


def complete() -> str:
    """All commands of xl, grouped by function, also those that pyxen does not have."""
    lines = [USAGE, "", "xl full list of subcommands:"]
    for group, commands in groupby(sorted(COMMANDS, key=lambda command: _group_order(command.group)), key=lambda command: command.group):
        lines += ["", f"{group[0].upper()}{group[1:]} commands:", "", *(_line(command) for command in commands)]
    return "\n".join(lines) + "\n"


def of(command: Command) -> str:
    """One command's usage and options."""
    flags = ("f" if command.modifies else "") + ("N" if command.can_dry_run else "")
    text = f"Usage: xl [-vtT{flags}] {command.name} {command.usage}".rstrip() + f"\n\n{command.description}.\n"
    return text + (f"\nOptions:\n\n{command.options}\n" if command.options else "")


def _line(command: Command) -> str:
    # One space, the name in 19 columns: scripts (bash completion among them) take the first word of such lines.
    return f" {command.name:<19} {command.description}"


def _group_order(group: str) -> int:
    return list(dict.fromkeys(command.group for command in COMMANDS)).index(group)

"""``xl``: the management tool of a Xen host, as in Xen 4.17. See xl(1); ``docs/xl.md`` says what is supported."""

from __future__ import annotations

import getopt
import os
import sys

from pyxen.cli import xl_help
from pyxen.cli.command import Command, Context
from pyxen.cli.command_table import find
from pyxen.cli.failures import EXIT_FAILURE, EXIT_SUCCESS, EXIT_USAGE, CommandFailed, HelpWanted, UsageError
from pyxen.host.protocol import HostError

_INTERRUPTED = 130  #: what a shell reports of a program that SIGINT ended


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    context = Context()
    try:
        try:
            return _run(context, arguments)
        finally:
            context.close()
            sys.stdout.flush()
    except (CommandFailed, HostError, TimeoutError) as error:
        context.message(str(error))
        return error.status if isinstance(error, CommandFailed) else EXIT_FAILURE
    except BrokenPipeError:
        # The reader of our output has gone (xl list | head). Python would complain about it once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception as error:
        if context.verbose:
            raise
        context.message(f"xl: internal error: {error!r}; more with xl -v")
        return EXIT_FAILURE


def _run(context: Context, arguments: list[str]) -> int:
    try:
        options, rest = getopt.getopt(arguments, "vftTN")  # stops at the sub-command
    except getopt.GetoptError:
        raise CommandFailed("unknown global option") from None
    for name, _ in options:
        context.verbose += name == "-v"
        context.dry_run |= name == "-N"
        context.timestamps |= name == "-T"
    if not rest:
        print(xl_help.overview(), end="")
        return EXIT_FAILURE
    command = find(rest[0])
    if command is not None:
        return _run_command(context, command, rest[1:])
    if rest[0] == "help":
        return _help(rest[1:])
    raise CommandFailed(f'command "{rest[0]}" not implemented: xl has no such command; see: xl help')


def _run_command(context: Context, command: Command, arguments: list[str]) -> int:
    if command.handler is None:
        raise CommandFailed(f'command "{command.name}" not implemented: {command.missing} is not supported yet')
    if context.dry_run and not command.can_dry_run:
        raise CommandFailed("command does not implement -N (dryrun) option")
    try:
        return command.handler(context, arguments)
    except HelpWanted:
        print(xl_help.of(command), end="")
        return EXIT_SUCCESS
    except UsageError as error:
        text = str(error)
        context.message(f"'xl {command.name}' {text}" if text.startswith("requires") else text)
        print("\n" + xl_help.of(command), end="")
        return EXIT_USAGE


def _help(arguments: list[str]) -> int:
    if not arguments or arguments[0] == "help":
        print(xl_help.overview(), end="")
    elif arguments[0] == "--long":
        print(xl_help.complete(), end="")
    else:
        command = find(arguments[0])
        print(xl_help.of(command) if command else f'command "{arguments[0]}" not implemented\n', end="")
    return EXIT_SUCCESS


if __name__ == "__main__":
    sys.exit(main())

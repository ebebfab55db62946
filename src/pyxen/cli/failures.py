"""How a command ends other than well."""

from __future__ import annotations

EXIT_SUCCESS = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2  #: xl's status for a wrong option or a missing argument


class CommandFailed(Exception):
    """A command failed; ``str()`` is what the user is told, in one line unless xl itself prints more."""

    def __init__(self, message: str, status: int = EXIT_FAILURE) -> None:
        super().__init__(message)
        self.status = status


class UsageError(Exception):
    """The command was called in a way that it does not have: xl prints the message and the command's help."""


class HelpWanted(Exception):
    """``-h``: the command's help, and success."""

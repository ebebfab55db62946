"""What a sub-command of ``xl`` is, and what it is given."""

from __future__ import annotations

import getopt
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pyxen.cli.failures import CommandFailed, HelpWanted, UsageError
from pyxen.host.client import Client, connect
from pyxen.host.protocol import DOMAIN_RESOLVE, ErrorKind, HostError, Identifier, ResolvedDomain

#: libxl's ERROR_INVAL: what xl prints with "is an invalid domain identifier".
_ERROR_INVAL = -6


@dataclass
class Context:
    """The global options of one call of ``xl``, and its connection to the host process."""

    verbose: int = 0
    dry_run: bool = False
    timestamps: bool = False
    _client: Client | None = field(default=None, repr=False)

    @property
    def client(self) -> Client:
        """Connected on first use: that starts the host process if it does not run. Raises ``HostError``."""
        if self._client is None:
            self._client = connect()
        return self._client

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def resolve(self, identifier: str) -> ResolvedDomain:
        """The domain of a name or a number. Raises ``CommandFailed`` with xl's words when there is none."""
        try:
            return self.client.call(DOMAIN_RESOLVE, Identifier(identifier))
        except HostError as error:
            if error.kind in (ErrorKind.NOT_FOUND, ErrorKind.INVALID):
                raise CommandFailed(f"{identifier} is an invalid domain identifier (rc={_ERROR_INVAL})") from None
            raise

    def message(self, text: str) -> None:
        """One line on stderr."""
        prefix = f"{time.strftime('%Y-%m-%d %H:%M:%S %Z')} [{os.getpid()}] " if self.timestamps else ""
        print(prefix + text, file=sys.stderr, flush=True)


Handler = Callable[[Context, list[str]], int]


@dataclass(frozen=True)
class Command:
    """A row of the command table. A command of xl that pyxen does not have yet has no handler, and ``missing`` says what is missing."""

    name: str
    group: str
    usage: str
    description: str
    handler: Handler | None = None
    options: str = ""
    modifies: bool = False  #: changes something: xl's -f applies
    can_dry_run: bool = False  #: has the global -N
    missing: str = ""
    common: bool = True  #: in the short help


def parse_options(
    arguments: Sequence[str], short: str = "", long: Sequence[str] = (), required: int = 0
) -> tuple[list[tuple[str, str]], list[str]]:
    """Options and arguments as xl's getopt sees them: options may follow arguments. Raises ``UsageError``, ``HelpWanted``.

    ``required``: how many arguments there must be; ``-h`` and ``--help`` are always known.
    """
    try:
        options, rest = getopt.gnu_getopt(list(arguments), "h" + short, ["help", *long])
    except getopt.GetoptError as error:
        raise UsageError(f"option `{error.opt}' not supported." if "not recognized" in error.msg else error.msg) from None
    if any(name in ("-h", "--help") for name, _ in options):
        raise HelpWanted
    if len(rest) < required:
        raise UsageError(f"requires at least {required} argument{'s' if required > 1 else ''}.")
    return options, rest

"""What ``xl block-list``, ``network-list`` and their like have in common: several domains may be named."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyxen.cli.command import Context
from pyxen.cli.failures import EXIT_FAILURE, EXIT_SUCCESS, CommandFailed
from pyxen.host.protocol import ResolvedDomain


def each_domain(context: Context, identifiers: Sequence[str], show: Callable[[ResolvedDomain], None]) -> int:
    """``show`` each. One that is not there is told of, and does not keep the others from being shown. -> exit status."""
    status = EXIT_SUCCESS
    for identifier in identifiers:
        try:
            domain = context.resolve(identifier)
        except CommandFailed as error:
            context.message(str(error))
            status = EXIT_FAILURE
            continue
        show(domain)
    return status

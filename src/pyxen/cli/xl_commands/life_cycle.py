"""``xl destroy``, ``shutdown``, ``reboot``, ``pause``, ``unpause``, ``rename``: what happens to a running domain."""

from __future__ import annotations

import contextlib

from pyxen.cli.command import Context, parse_options
from pyxen.cli.failures import EXIT_FAILURE, EXIT_SUCCESS, CommandFailed, UsageError
from pyxen.cli.xl_commands.reasons import reason_code
from pyxen.host.client import Stream
from pyxen.host.protocol import (
    DOMAIN_DESTROY,
    DOMAIN_LIST,
    DOMAIN_PAUSE,
    DOMAIN_REBOOT,
    DOMAIN_RENAME,
    DOMAIN_SHUTDOWN,
    DOMAIN_UNPAUSE,
    DOMAIN_WAIT,
    DomainId,
    DomainState,
    ErrorKind,
    HostError,
    Method,
    Nothing,
    RenameRequest,
    ShutdownRequest,
    StateChange,
    WaitRequest,
)


def destroy(context: Context, arguments: list[str]) -> int:
    """End a domain at once."""
    options, rest = parse_options(arguments, "f", required=1)
    domain = context.resolve(rest[0])
    if domain.domid == 0 and not options:
        raise CommandFailed(
            "Not destroying domain 0; use -f to force.\nThis can only be done when using a disaggregated hardware domain and toolstack.\n"
        )
    context.client.call(DOMAIN_DESTROY, DomainId(domain.domid))
    return EXIT_SUCCESS


def pause(context: Context, arguments: list[str]) -> int:
    """Stop its vCPUs; its memory stays."""
    _, rest = parse_options(arguments, required=1)
    context.client.call(DOMAIN_PAUSE, DomainId(context.resolve(rest[0]).domid))
    return EXIT_SUCCESS


def unpause(context: Context, arguments: list[str]) -> int:
    """Let its vCPUs go on."""
    _, rest = parse_options(arguments, required=1)
    context.client.call(DOMAIN_UNPAUSE, DomainId(context.resolve(rest[0]).domid))
    return EXIT_SUCCESS


def rename(context: Context, arguments: list[str]) -> int:
    """Give the domain another name."""
    _, rest = parse_options(arguments, required=2)
    try:
        context.client.call(DOMAIN_RENAME, RenameRequest(context.resolve(rest[0]).domid, rest[1]))
    except HostError as error:
        raise CommandFailed(f"Can't rename domain '{rest[0]}': {error}") from None
    return EXIT_SUCCESS


def shutdown(context: Context, arguments: list[str]) -> int:
    """Ask the guest to shut down."""
    return _ask(context, arguments, DOMAIN_SHUTDOWN, "Shutting down", "shutdown", {DomainState.SHUTDOWN, DomainState.CRASHED})


def reboot(context: Context, arguments: list[str]) -> int:
    """Ask the guest to reboot."""
    return _ask(context, arguments, DOMAIN_REBOOT, "Rebooting", "reboot", {DomainState.SHUTDOWN, DomainState.CRASHED})


def _ask(
    context: Context,
    arguments: list[str],
    method: Method[ShutdownRequest, Nothing],
    doing: str,
    what: str,
    ends: set[DomainState],
) -> int:
    options, rest = parse_options(arguments, "awF", ["all", "wait"])
    flags = [name for name, _ in options]
    waits = sum(flag in ("-w", "--wait") for flag in flags)
    if "-a" in flags or "--all" in flags:
        if rest:
            raise UsageError("You must specify -a or a domain id, not both.")
        domids = [domain.domid for domain in context.client.call(DOMAIN_LIST, Nothing()).domains if domain.domid]
    elif not rest:
        raise UsageError("You must specify -a or a domain id.")
    else:
        domids = [context.resolve(rest[0]).domid]
    with contextlib.ExitStack() as streams:
        waited = []
        if waits:  # from before the request: a guest may be quick
            states = sorted({DomainState.DESTROYED} if waits > 1 else ends | {DomainState.DESTROYED})
            waited = [(domid, streams.enter_context(context.client.stream(DOMAIN_WAIT, WaitRequest(domid, states)))) for domid in domids]
        failed = {domid for domid in domids if not _request(context, domid, method, doing, what, "-F" in flags)}
        _wait_for(context, [(domid, stream) for domid, stream in waited if domid not in failed])
    return EXIT_FAILURE if failed else EXIT_SUCCESS


def _request(context: Context, domid: int, method: Method[ShutdownRequest, Nothing], doing: str, what: str, fallback: bool) -> bool:
    context.message(f"{doing} domain {domid}")
    try:
        context.client.call(method, ShutdownRequest(domid, fallback))
    except HostError as error:
        if error.kind is ErrorKind.HOST:
            raise
        context.message(f"{what} of domain {domid} failed: {error}")
        return False
    return True


def _wait_for(context: Context, waited: list[tuple[int, Stream[StateChange, StateChange]]]) -> None:
    if waited:
        context.message(f"Waiting for {len(waited)} domains")
    for domid, stream in waited:
        for _ in stream:
            pass  # on its way: the result is what was waited for
        end = stream.result
        if end is None or end.state is DomainState.DESTROYED:
            context.message(f"Domain {domid} has been destroyed")
        else:
            context.message(f"Domain {domid} has been shut down, reason code {reason_code(end.shutdown_reason)}")

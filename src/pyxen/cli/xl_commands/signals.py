"""``xl console``, ``sysrq``, ``trigger``: reaching into a guest from outside."""

from __future__ import annotations

from pyxen.cli.command import Context, parse_options
from pyxen.cli.console_session import ESCAPE, ConsoleSession
from pyxen.cli.failures import EXIT_SUCCESS, CommandFailed, UsageError
from pyxen.host.protocol import DOMAIN_SYSRQ, DOMAIN_TRIGGER, SysrqRequest, TriggerRequest

_TRIGGERS = ("nmi", "reset", "init", "power", "sleep", "s3resume")


def console(context: Context, arguments: list[str]) -> int:
    """Attach to a guest's console until the user leaves or the domain is gone."""
    options, rest = parse_options(arguments, "t:n:e:", ["type=", "num=", "escape="], required=1)
    escape = ESCAPE
    for name, value in options:
        if name in ("-t", "--type") and value != "pv":
            known = value in ("serial", "vuart")
            raise CommandFailed("only the console type pv is supported yet" if known else "console type supported are: pv, serial, vuart")
        if name in ("-n", "--num") and value != "0":
            raise CommandFailed(f"console {value} does not exist: a domain has only console 0")
        if name in ("-e", "--escape"):
            escape = _escape_key(value)
    domain = context.resolve(rest[0])
    if domain.domid == 0:
        raise CommandFailed("Unable to attach console: Domain-0 has none")
    ConsoleSession(context.client, domain.domid, escape=escape).run()
    return EXIT_SUCCESS


def _escape_key(text: str) -> int:
    """ "^x" is Ctrl-x; another single character is itself."""
    if len(text) == 2 and text[0] == "^" and "@" <= text[1].upper() <= "_":
        return ord(text[1].upper()) & 0x1F
    if len(text) == 1 and text.isascii():
        return ord(text)
    raise UsageError(f"`{text}' is not an escape key such as ^]")


def sysrq(context: Context, arguments: list[str]) -> int:
    """Send a Magic System Request."""
    _, rest = parse_options(arguments, required=2)
    domain = context.resolve(rest[0])
    if len(rest[1]) != 1 or not rest[1].isascii():
        raise UsageError("Invalid sysrq.")
    context.client.call(DOMAIN_SYSRQ, SysrqRequest(domain.domid, rest[1]))
    return EXIT_SUCCESS


def trigger(context: Context, arguments: list[str]) -> int:
    """Send an event that a machine's front panel would; a PV domain knows the NMI only."""
    _, rest = parse_options(arguments, required=2)
    domain = context.resolve(rest[0])
    if rest[1] not in _TRIGGERS:
        raise CommandFailed(f'Invalid trigger "{rest[1]}"')
    vcpu = 0
    if len(rest) > 2:
        if rest[2].isascii() and rest[2].isdigit() and len(rest[2]) < 6:
            vcpu = int(rest[2])
        else:
            context.message("Invalid vcpuid, using default vcpuid=0.")
    context.client.call(DOMAIN_TRIGGER, TriggerRequest(domain.domid, rest[1], vcpu))
    return EXIT_SUCCESS

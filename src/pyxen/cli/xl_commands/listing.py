"""``xl list``, ``vm-list``, ``vcpu-list``, ``uptime``, ``domid``, ``domname``. The formats are those of xl 4.17."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence

from pyxen.cli.command import Context, parse_options
from pyxen.cli.failures import EXIT_SUCCESS, CommandFailed
from pyxen.cli.xl_commands.reasons import reason_code, reason_letter
from pyxen.host.protocol import (
    DOMAIN_CONFIG,
    DOMAIN_INFO,
    DOMAIN_LIST,
    DOMAIN_UPTIME,
    DOMAIN_VCPUS,
    PHYSINFO,
    DomainDetail,
    DomainId,
    Nothing,
    OptionalDomainId,
    Vcpu,
)


def list_domains(context: Context, arguments: list[str]) -> int:
    """All domains, or those that are named."""
    options, rest = parse_options(arguments, "lvZcn", ["long", "verbose", "context", "cpupool", "numa"])
    flags = {name for name, _ in options}
    if rest:
        domains = [context.client.call(DOMAIN_INFO, DomainId(context.resolve(name).domid)) for name in rest]
    else:
        domains = context.client.call(DOMAIN_LIST, Nothing()).domains
    if flags & {"-l", "--long"}:
        details = [
            {"domid": domain.domid, "config": context.client.call(DOMAIN_CONFIG, DomainId(domain.domid)).libxl} for domain in domains
        ]
        print(json.dumps(details, indent=4))
        return EXIT_SUCCESS
    columns = [
        letter for letter, long in (("v", "verbose"), ("Z", "context"), ("c", "cpupool"), ("n", "numa")) if _given(flags, letter, long)
    ]
    print(domain_table(domains, columns), end="")
    return EXIT_SUCCESS


def _given(flags: set[str], letter: str, long: str) -> bool:
    return f"-{letter}" in flags or f"--{long}" in flags


def domain_table(domains: Iterable[DomainDetail], columns: Sequence[str] = ()) -> str:
    """``columns``: the letters of the options that add some (v, Z, c, n)."""
    header = "Name                                        ID   Mem VCPUs\tState\tTime(s)"
    if "v" in columns:
        header += "   UUID                            Reason-Code\tSecurity Label"
    elif "Z" in columns:
        header += "   Security Label"
    header += "         Cpupool" if "c" in columns else ""
    header += " NODE Affinity" if "n" in columns else ""
    return "".join(line + "\n" for line in [header, *(_domain_row(domain, columns) for domain in domains)])


def _domain_row(domain: DomainDetail, columns: Sequence[str]) -> str:
    row = f"{domain.name:<40} {domain.domid:5d} {domain.memory_kib // 1024:5d} {domain.vcpus:5d}"
    row += f"     {_letters(domain)}  {domain.cpu_time_s:8.1f}"
    if "v" in columns:
        code = f"{reason_code(domain.shutdown_reason):8x}" if domain.shutdown_reason else f"{'-':>8}"
        row += f" {domain.uuid} {code}"
    if "v" in columns or "Z" in columns:
        row += f" {domain.security_label:>16}"
    row += f"{domain.cpupool:>16}" if "c" in columns else ""
    row += " all" if "n" in columns else ""
    return row


def _letters(domain: DomainDetail) -> str:
    """xl tells in the fifth place why the domain shut down; a poweroff has no letter."""
    letters = domain.state_letters
    return letters[:4] + reason_letter(domain.shutdown_reason) + letters[5:]


def vm_list(context: Context, arguments: list[str]) -> int:
    """The guests, with their UUIDs."""
    parse_options(arguments)
    print("UUID                                  ID    name")
    for domain in context.client.call(DOMAIN_LIST, Nothing()).domains:
        if domain.domid:
            print(f"{domain.uuid}  {domain.domid}    {domain.name:<30}")
    return EXIT_SUCCESS


def vcpu_list(context: Context, arguments: list[str]) -> int:
    """The vCPUs of all domains, or of those that are named."""
    _, rest = parse_options(arguments)
    domids: list[int | None] = [context.resolve(name).domid for name in rest] if rest else [None]
    vcpus = [vcpu for domid in domids for vcpu in context.client.call(DOMAIN_VCPUS, OptionalDomainId(domid)).vcpus]
    print(vcpu_table(vcpus, context.client.call(PHYSINFO, Nothing()).nr_cpus), end="")
    return EXIT_SUCCESS


def vcpu_table(vcpus: Iterable[Vcpu], nr_cpus: int) -> str:
    """``nr_cpus``: of the machine, so that "all" can be said of an affinity."""
    header = f"{'Name':<32} {'ID':>5} {'VCPU':>5} {'CPU':>5} {'State':>5} {'Time(s)':>9} Affinity (Hard / Soft)"
    return "".join(line + "\n" for line in [header, *(_vcpu_row(vcpu, nr_cpus) for vcpu in vcpus)])


def _vcpu_row(vcpu: Vcpu, nr_cpus: int) -> str:
    row = f"{vcpu.name:<32} {vcpu.domid:5d} {vcpu.vcpu:5d}"
    if vcpu.online:
        row += f"{vcpu.cpu:5d}   {'r' if vcpu.running else '-'}{'b' if vcpu.blocked else '-'}- "
    else:
        row += f"{'-':>5}   --p "
    return row + f"{vcpu.cpu_time_s:9.1f}  {_affinity(vcpu.hard_affinity, nr_cpus)} / {_affinity(vcpu.soft_affinity, nr_cpus)}"


def _affinity(cpus: list[int] | None, nr_cpus: int) -> str:
    """A set of CPUs as xl prints it: "all", "none", "0-2,5"."""
    if cpus is None or set(range(nr_cpus)) <= set(cpus):
        return "all"
    ranges: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if ranges and cpu == ranges[-1][1] + 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges) or "none"


def uptime(context: Context, arguments: list[str]) -> int:
    """How long the domains have been running."""
    options, rest = parse_options(arguments, "s")
    domids: list[int | None] = [context.resolve(name).domid for name in rest] if rest else [None]
    uptimes = [entry for domid in domids for entry in context.client.call(DOMAIN_UPTIME, OptionalDomainId(domid)).uptimes]
    if not options:
        print(f"{'Name':<33} {'ID':>4} Uptime")
    for entry in uptimes:
        if options:
            print(f" {time.strftime('%H:%M:%S')} up {duration(entry.seconds, short=True)}, {entry.name} ({entry.domid})")
        else:
            print(f"{entry.name:<33} {entry.domid:4d} {duration(entry.seconds)}")
    return EXIT_SUCCESS


def duration(seconds: float, *, short: bool = False) -> str:
    """ "1 day,  2:03:04"; the short form has no seconds."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    clock = f"{hour:2d}:{minute:02d}" + ("" if short else f":{second:02d}")
    return f"{days} day{'s' if days > 1 else ''}, {clock}" if days else clock


def domid(context: Context, arguments: list[str]) -> int:
    """A domain's id by its name."""
    _, rest = parse_options(arguments, required=1)
    found = next((domain for domain in context.client.call(DOMAIN_LIST, Nothing()).domains if domain.name == rest[0]), None)
    if found is None:
        raise CommandFailed(f"Can't get domid of domain name '{rest[0]}', maybe this domain does not exist.")
    print(found.domid)
    return EXIT_SUCCESS


def domname(context: Context, arguments: list[str]) -> int:
    """A domain's name by its id."""
    _, rest = parse_options(arguments, required=1)
    if not (rest[0].isascii() and rest[0].isdigit()):
        raise CommandFailed("Invalid domain id.")
    number = int(rest[0][:9])
    found = next((domain for domain in context.client.call(DOMAIN_LIST, Nothing()).domains if domain.domid == number), None)
    if found is None:
        raise CommandFailed(f"Can't get domain name of domain id '{number}', maybe this domain does not exist.")
    print(found.name)
    return EXIT_SUCCESS

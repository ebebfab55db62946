"""``xl sched-credit2``, ``sched-credit`` and ``sched-rtds``. The formats are those of xl 4.17."""

from __future__ import annotations

from pyxen.cli.command import Context, parse_options
from pyxen.cli.failures import EXIT_SUCCESS, CommandFailed
from pyxen.host.protocol import (
    CPUPOOL_LIST,
    CPUPOOL_RATELIMIT,
    DOMAIN_INFO,
    DOMAIN_LIST,
    DOMAIN_SCHEDULING_SET,
    CpuPool,
    DomainDetail,
    DomainId,
    HostError,
    Nothing,
    RatelimitRequest,
    SchedulingRequest,
)

_CREDIT2 = "credit2"
_HEADER = f"{'Name':<33} {'ID':>4} {'Weight':>6} {'Cap':>4}"


def sched_credit2(context: Context, arguments: list[str]) -> int:
    """Weights and caps of domains, rate limits of pools: shown, or set."""
    options, _ = parse_options(arguments, "d:w:c:p:r:s", ["domain=", "weight=", "cap=", "cpupool=", "ratelimit_us=", "schedparam"])
    given = {_LONG.get(name, name): value for name, value in options}
    if "--cpupool" in given and "--domain" in given:
        raise CommandFailed("Specifying both cpupool and domain is not allowed.")
    if "--schedparam" in given and ("--domain" in given or "--weight" in given or "--cap" in given):
        raise CommandFailed("Specifying schedparam with domain parameters is not allowed.")
    if "--schedparam" in given:
        return _pool_parameters(context, given)
    if "--ratelimit_us" in given:
        raise CommandFailed("Specifying pool parameters without schedparam is not allowed.")
    if "--domain" not in given:
        if "--weight" in given or "--cap" in given:
            raise CommandFailed("Must specify a domain.")
        _print_all(context, _CREDIT2, given.get("--cpupool"))
        return EXIT_SUCCESS
    return _domain_parameters(context, given)


_LONG = {"-d": "--domain", "-w": "--weight", "-c": "--cap", "-p": "--cpupool", "-r": "--ratelimit_us", "-s": "--schedparam"}


def _pool_parameters(context: Context, given: dict[str, str]) -> int:
    pool = _pool(context, given.get("--cpupool", "0"))
    if pool.scheduler != _CREDIT2:
        raise CommandFailed(f"libxl_sched_credit2_params_get failed: cpupool {pool.name} has the scheduler {pool.scheduler}")
    if "--ratelimit_us" in given:
        try:
            context.client.call(CPUPOOL_RATELIMIT, RatelimitRequest(str(pool.number), _number(given["--ratelimit_us"], "ratelimit")))
        except HostError as error:
            raise CommandFailed(f"libxl_sched_credit2_params_set failed: {error}") from None
    else:
        print(_pool_line(pool))
    return EXIT_SUCCESS


def _domain_parameters(context: Context, given: dict[str, str]) -> int:
    domain = context.resolve(given["--domain"])
    detail = context.client.call(DOMAIN_INFO, DomainId(domain.domid))
    _require_credit2(detail, context)
    if "--weight" not in given and "--cap" not in given:
        print(_HEADER)
        print(_row(detail))
        return EXIT_SUCCESS
    weight = _number(given["--weight"], "weight") if "--weight" in given else None
    cap = _number(given["--cap"], "cap") if "--cap" in given else None
    try:
        context.client.call(DOMAIN_SCHEDULING_SET, SchedulingRequest(domain.domid, weight, cap))
    except HostError as error:
        raise CommandFailed(f"libxl_domain_sched_params_set failed: {error}") from None
    return EXIT_SUCCESS


def _require_credit2(detail: DomainDetail, context: Context) -> None:
    if detail.cpu_weight is None:
        scheduler = _pool(context, detail.cpupool).scheduler
        raise CommandFailed(f"libxl_domain_sched_params_get returned {scheduler} not {_CREDIT2}.")


def sched_credit(context: Context, arguments: list[str]) -> int:
    """No pool can have this scheduler: nothing is shown, and nothing can be set."""
    options, _ = parse_options(
        arguments,
        "d:w:c:p:t:r:m:s",
        ["domain=", "weight=", "cap=", "cpupool=", "tslice_ms=", "ratelimit_us=", "migration_delay_us=", "schedparam"],
    )
    return _other_scheduler(context, "credit", {_LONG.get(name, name): value for name, value in options})


def sched_rtds(context: Context, arguments: list[str]) -> int:
    """As ``sched_credit``."""
    options, _ = parse_options(arguments, "d:v:p:b:e:c:", ["domain=", "vcpuid=", "period=", "budget=", "extratime=", "cpupool="])
    names = {"-d": "--domain", "-c": "--cpupool"}
    return _other_scheduler(context, "rtds", {names.get(name, name): value for name, value in options})


def _other_scheduler(context: Context, scheduler: str, given: dict[str, str]) -> int:
    if "--domain" in given:
        detail = context.client.call(DOMAIN_INFO, DomainId(context.resolve(given["--domain"]).domid))
        actual = _pool(context, detail.cpupool).scheduler
        raise CommandFailed(f"libxl_domain_sched_params_get returned {actual} not {scheduler}.")
    if "--schedparam" in given:
        raise CommandFailed(f"libxl_sched_{scheduler}_params_get failed: no cpupool has the scheduler {scheduler}")
    if set(given) - {"--cpupool"}:
        raise CommandFailed("Must specify a domain.")
    _print_all(context, scheduler, given.get("--cpupool"))
    return EXIT_SUCCESS


def _print_all(context: Context, scheduler: str, pool_name: str | None) -> None:
    """The domains of the pools that have this scheduler."""
    only = None if pool_name is None else _pool(context, pool_name)
    domains = context.client.call(DOMAIN_LIST, Nothing()).domains
    for pool in context.client.call(CPUPOOL_LIST, Nothing()).pools:
        if pool.scheduler == scheduler and (only is None or pool.number == only.number):
            print(_pool_line(pool))
            print(_HEADER)
            for domain in domains:
                if domain.cpupool == pool.name and domain.cpu_weight is not None:
                    print(_row(domain))


def _pool_line(pool: CpuPool) -> str:
    return f"Cpupool {pool.name}: ratelimit={pool.ratelimit_us}us"


def _row(domain: DomainDetail) -> str:
    return f"{domain.name:<33} {domain.domid:4d} {domain.cpu_weight:6d} {domain.cpu_cap:4d}"


def _pool(context: Context, name: str) -> CpuPool:
    pools = context.client.call(CPUPOOL_LIST, Nothing()).pools
    found = next((pool for pool in pools if pool.name == name), None) or next((pool for pool in pools if str(pool.number) == name), None)
    if found is None:
        raise CommandFailed(f"unknown cpupool '{name}'")
    return found


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise CommandFailed(f"{text!a} is no {what}: it must be a number")
    return int(text)

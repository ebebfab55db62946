"""``xl cpupool-*``. The formats are those of xl 4.17."""

from __future__ import annotations

from pathlib import Path

from pyxen.cli.command import Context, parse_options
from pyxen.cli.failures import EXIT_SUCCESS, CommandFailed, UsageError
from pyxen.cli.xl_commands.configuration_file import read_texts
from pyxen.host.protocol import (
    CPUPOOL_CHECK,
    CPUPOOL_CPU_ADD,
    CPUPOOL_CPU_REMOVE,
    CPUPOOL_CREATE,
    CPUPOOL_DESTROY,
    CPUPOOL_LIST,
    CPUPOOL_MIGRATE,
    CPUPOOL_NUMA_SPLIT,
    CPUPOOL_RENAME,
    CpuPool,
    CpuPoolCpusRequest,
    CpuPoolMigrateRequest,
    CpuPoolName,
    CpuPoolRenameRequest,
    CpuPoolTexts,
    Method,
    Nothing,
    Refusals,
)


def create(context: Context, arguments: list[str]) -> int:
    """A pool from a configuration file (xlcpupool.cfg(5)), assignments, or both."""
    options, rest = parse_options(arguments, "nf:", ["defconfig=", "dryrun"])
    named = next((value.removeprefix("=") for name, value in options if name in ("-f", "--defconfig")), None)
    texts = read_texts(rest, named)
    if not texts:
        raise UsageError("Config file not specified")
    source = texts[0].source
    default_name = "" if source == "command line" else Path(source).name
    wanted = context.client.call(CPUPOOL_CHECK, CpuPoolTexts(texts, default_name))
    for warning in wanted.warnings:
        context.message(warning)
    print(f'Using config file "{source}"', flush=True)
    if context.dry_run or any(name in ("-n", "--dryrun") for name, _ in options):
        print(f"cpupool name:   {wanted.name}\nscheduler:      {wanted.scheduler or 'that of Pool-0'}")
        print(f"cpus:           {wanted.cpus or ('all free ones' if wanted.all_free else 'the first free one')}")
        return EXIT_SUCCESS
    pool = context.client.call(CPUPOOL_CREATE, wanted)
    print(f"cpupool name:   {pool.name}\nscheduler:      {pool.scheduler}\nnumber of cpus: {len(pool.cpus)}")
    return EXIT_SUCCESS


def list_pools(context: Context, arguments: list[str]) -> int:
    """All pools, or one."""
    options, rest = parse_options(arguments, "c", ["cpus"])
    pools = context.client.call(CPUPOOL_LIST, Nothing()).pools
    if rest:
        pools = [pool for pool in pools if rest[0] in (pool.name, str(pool.number))]
        if not pools:
            raise CommandFailed(f"Pool '{rest[0]}' does not exist")
    print(pool_table(pools, with_cpus=bool(options)), end="")
    return EXIT_SUCCESS


def pool_table(pools: list[CpuPool], *, with_cpus: bool) -> str:
    """``with_cpus``: which CPUs, instead of what else there is to know."""
    if with_cpus:
        return "".join([f"{'Name':<19}CPU list\n", *(f"{pool.name:<19}{','.join(map(str, pool.cpus))}\n" for pool in pools)])
    rows = [f"{pool.name:<19}{len(pool.cpus):3d} {pool.scheduler:>9}       y       {pool.domains:4d}\n" for pool in pools]
    return "".join([f"{'Name':<19}CPUs   Sched     Active   Domain count\n", *rows])


def destroy(context: Context, arguments: list[str]) -> int:
    """Deactivate a pool that has no domains."""
    _, rest = parse_options(arguments, required=1)
    context.client.call(CPUPOOL_DESTROY, CpuPoolName(rest[0]))
    return EXIT_SUCCESS


def rename(context: Context, arguments: list[str]) -> int:
    """Give a pool another name."""
    _, rest = parse_options(arguments, required=2)
    context.client.call(CPUPOOL_RENAME, CpuPoolRenameRequest(rest[0], rest[1]))
    return EXIT_SUCCESS


def cpu_add(context: Context, arguments: list[str]) -> int:
    """Give free CPUs to a pool."""
    return _change_cpus(context, arguments, CPUPOOL_CPU_ADD, "added to")


def cpu_remove(context: Context, arguments: list[str]) -> int:
    """Take CPUs from a pool."""
    return _change_cpus(context, arguments, CPUPOOL_CPU_REMOVE, "removed from")


def _change_cpus(context: Context, arguments: list[str], method: Method[CpuPoolCpusRequest, Refusals], change: str) -> int:
    _, rest = parse_options(arguments, required=2)
    refused = context.client.call(method, CpuPoolCpusRequest(rest[0], rest[1])).lines
    for line in refused:
        context.message(line)
    if refused:
        raise CommandFailed(f"some cpus may have not or only partially been {change} '{rest[0]}'")
    return EXIT_SUCCESS


def migrate(context: Context, arguments: list[str]) -> int:
    """Move a domain to another pool."""
    _, rest = parse_options(arguments, required=2)
    domain = context.resolve(rest[0])
    context.client.call(CPUPOOL_MIGRATE, CpuPoolMigrateRequest(domain.domid, rest[1]))
    return EXIT_SUCCESS


def numa_split(context: Context, arguments: list[str]) -> int:
    """One pool for each NUMA node."""
    parse_options(arguments)
    context.client.call(CPUPOOL_NUMA_SPLIT, Nothing())
    return EXIT_SUCCESS

"""``xl info``, ``dmesg``, ``debug-keys``: the machine and the hypervisor."""

from __future__ import annotations

import os

from pyxen.cli.command import Context, parse_options
from pyxen.cli.failures import EXIT_SUCCESS, CommandFailed
from pyxen.host.protocol import DEBUG_KEYS, DMESG, PHYSINFO, DebugKeysRequest, DmesgRequest, Nothing, PhysInfo


def info(context: Context, arguments: list[str]) -> int:
    """What the machine is and has; with a name, only that value."""
    options, rest = parse_options(arguments, "n", ["numa"])
    physinfo = context.client.call(PHYSINFO, Nothing())
    rows = [*_machine_rows(physinfo), *_xen_rows(physinfo)]
    if rest:
        print(*(value for name, value in rows if name == rest[0]), sep="\n")
        return EXIT_SUCCESS
    for name, value in rows:
        if name == "xen_major" and options:
            print(_topology(physinfo), end="")
        print(f"{name:<22} : {value}")
    return EXIT_SUCCESS


def _machine_rows(physinfo: PhysInfo) -> list[tuple[str, str]]:
    system = os.uname()
    return [
        ("host", system.nodename),
        ("release", system.release),
        ("version", system.version),
        ("machine", system.machine),
        ("nr_cpus", str(physinfo.nr_cpus)),
        ("max_cpu_id", str(physinfo.nr_cpus - 1)),
        ("nr_nodes", "1"),
        ("cores_per_socket", str(physinfo.nr_cpus)),
        ("threads_per_core", "1"),
        ("cpu_mhz", f"{physinfo.cpu_khz // 1000}.{physinfo.cpu_khz % 1000:03d}"),
        ("hw_caps", ":".join(f"{word:08x}" for word in physinfo.hw_caps)),
        ("virt_caps", "pv gnttab-v1"),
        ("total_memory", str(physinfo.total_kib // 1024)),
        ("free_memory", str(physinfo.free_kib // 1024)),
        ("sharing_freed_memory", "0"),
        ("sharing_used_memory", "0"),
        ("outstanding_claims", str(physinfo.outstanding_kib // 1024)),
        ("free_cpus", str(physinfo.free_cpus)),
    ]


def _xen_rows(physinfo: PhysInfo) -> list[tuple[str, str]]:
    version = physinfo.version
    return [
        ("xen_major", str(version.major)),
        ("xen_minor", str(version.minor)),
        ("xen_extra", version.extra),
        ("xen_version", f"{version.major}.{version.minor}{version.extra}"),
        ("xen_caps", version.capabilities),
        ("xen_scheduler", physinfo.scheduler),
        ("xen_pagesize", str(version.page_size)),
        ("platform_params", f"virt_start={version.virt_start:#x}"),
        ("xen_changeset", version.changeset),
        ("xen_commandline", version.command_line),
        ("cc_compiler", version.compiler),
        ("cc_compile_by", version.compile_by),
        ("cc_compile_domain", version.compile_domain),
        ("cc_compile_date", version.compile_date),
        ("build_id", version.build_id),
        ("xend_config_format", "4"),
    ]


def _topology(physinfo: PhysInfo) -> str:
    """One node, one socket: Python's host process sees no more of the machine."""
    total, free = physinfo.total_kib // 1024, physinfo.free_kib // 1024
    lines = ["cpu_topology           :", "cpu:    core    socket     node"]
    lines += [f"{cpu:3d}:    {cpu:4d}     {0:4d}     {0:4d}" for cpu in range(physinfo.nr_cpus)]
    lines += ["device topology        :", "device           node", "No device topology data available"]
    lines += ["numa_info              :", "node:    memsize    memfree    distances", f"{0:4d}:    {total:6d}     {free:6d}      10"]
    return "\n".join(lines) + "\n"


def dmesg(context: Context, arguments: list[str]) -> int:
    """The hypervisor's messages; -c forgets them."""
    options, _ = parse_options(arguments, "c", ["clear"])
    print(context.client.call(DMESG, DmesgRequest(clear=bool(options))).text, end="")
    return EXIT_SUCCESS


def debug_keys(context: Context, arguments: list[str]) -> int:
    """Keys for the hypervisor: the answer is in ``xl dmesg``."""
    _, rest = parse_options(arguments, required=1)
    if not rest[0].isascii() or not rest[0].isprintable():
        raise CommandFailed(f"cannot send debug keys: {rest[0]!a} are no keys")
    context.client.call(DEBUG_KEYS, DebugKeysRequest(rest[0]))
    return EXIT_SUCCESS

"""``pyxen stats`` and ``xl top``: what domains use, in the columns of xentop(1)."""

from __future__ import annotations

from dataclasses import dataclass

from pyxen.host.protocol import DomainStatistics, Statistics

_COLUMNS = (
    ("NAME", 10), ("STATE", 6), ("CPU(sec)", 10), ("CPU(%)", 6), ("MEM(k)", 10), ("MEM(%)", 6), ("MAXMEM(k)", 10), ("MAXMEM(%)", 9),
    ("VCPUS", 5), ("NETS", 4), ("NETTX(k)", 8), ("NETRX(k)", 8), ("VBDS", 4), ("VBD_OO", 8), ("VBD_RD", 8), ("VBD_WR", 8),
    ("VBD_RSECT", 10), ("VBD_WSECT", 10), ("SSID", 4),
)  # fmt: skip
#: What each order of xentop's key S compares, largest first.
SORT_KEYS = ("domid", "cpu", "memory", "name")


@dataclass
class View:
    """What is shown besides a line per domain (xentop's options)."""

    networks: bool = False
    vbds: bool = False
    vcpus: bool = False
    repeat_header: bool = False
    full_name: bool = False
    sort: str = SORT_KEYS[0]


def header() -> str:
    return " ".join(f"{name:>{width}}" for name, width in _COLUMNS)


def summary(statistics: Statistics, clock: str, version: str) -> list[str]:
    """xentop's first lines."""
    letters = [domain.state_letters for domain in statistics.domains]
    counts = [sum(letter in state for state in letters) for letter in "rbpcds"]
    used = statistics.memory_kib - statistics.free_kib
    return [
        f"xentop - {clock}   Xen {version}",
        f"{len(letters)} domains: {counts[0]} running, {counts[1]} blocked, {counts[2]} paused, {counts[3]} crashed, "
        f"{counts[4]} dying, {counts[5]} shutdown",
        f"Mem: {statistics.memory_kib}k total, {used}k used, {statistics.free_kib}k free    "
        f"CPUs: {statistics.cpus} @ {statistics.cpu_khz // 1000}MHz",
    ]


def table(statistics: Statistics, before: Statistics | None, view: View) -> list[str]:
    """A line per domain, with what ``view`` adds. ``before``: the figures that CPU(%) is the difference to."""
    shares = {domain.domid: _cpu_percent(domain, statistics, before) for domain in statistics.domains}
    keys = {
        "domid": lambda domain: domain.domid,
        "cpu": lambda domain: -shares[domain.domid],
        "memory": lambda domain: -domain.memory_kib,
        "name": lambda domain: domain.name,
    }
    lines = [] if view.repeat_header else [header()]
    for domain in sorted(statistics.domains, key=keys[view.sort]):
        lines += [header()] if view.repeat_header else []
        lines.append(_row(domain, statistics, shares[domain.domid], view))
        lines += _details(domain, view)
    return lines


def _cpu_percent(domain: DomainStatistics, now: Statistics, before: Statistics | None) -> float:
    earlier = next((other for other in before.domains if other.domid == domain.domid), None) if before is not None else None
    if before is None or earlier is None or now.time_s <= before.time_s:
        return 0.0
    return max(0.0, 100 * (domain.cpu_time_s - earlier.cpu_time_s) / (now.time_s - before.time_s))


def _row(domain: DomainStatistics, statistics: Statistics, cpu_percent: float, view: View) -> str:
    state = "".join(letter if letter in domain.state_letters else "-" for letter in "dsbcpr")
    limited = domain.memory_max_kib > 0
    values = (
        domain.name if view.full_name else domain.name[:10],
        state,
        int(domain.cpu_time_s),
        f"{cpu_percent:.1f}",
        domain.memory_kib,
        f"{100 * domain.memory_kib / statistics.memory_kib:.1f}",
        domain.memory_max_kib if limited else "no limit",
        f"{100 * domain.memory_max_kib / statistics.memory_kib:.1f}" if limited else "n/a",
        sum(vcpu.online for vcpu in domain.vcpus),
        len(domain.networks),
        sum(network.sent_bytes for network in domain.networks) // 1024,
        sum(network.received_bytes for network in domain.networks) // 1024,
        len(domain.disks),
        0,
        sum(disk.reads for disk in domain.disks),
        sum(disk.writes for disk in domain.disks),
        sum(disk.read_sectors for disk in domain.disks),
        sum(disk.written_sectors for disk in domain.disks),
        0,
    )
    return " ".join(f"{value:>{width}}" for value, (_, width) in zip(values, _COLUMNS, strict=True))


def _details(domain: DomainStatistics, view: View) -> list[str]:
    lines = []
    if view.vcpus:
        lines.append("VCPUs(sec): " + "".join(f" {vcpu.vcpu:2d}: {int(vcpu.running_s):10d}s" for vcpu in domain.vcpus if vcpu.online))
    if view.networks:
        for number, network in enumerate(domain.networks):
            lines.append(
                f"Net{number} RX: {network.received_bytes:8d}bytes {network.received_packets:8d}pkts {0:8d}err {network.dropped:8d}drop  "
                f"TX: {network.sent_bytes:8d}bytes {network.sent_packets:8d}pkts {network.errors:8d}err {0:8d}drop"
            )
    if view.vbds:
        for disk in domain.disks:
            lines.append(
                f"VBD BlkBack {disk.devid:4d} [{disk.devid >> 8:2x}:{disk.devid & 255:2x}]  OO: {0:8d}   RD: {disk.reads:8d}   "
                f"WR: {disk.writes:8d}   RSECT: {disk.read_sectors:10d}   WSECT: {disk.written_sectors:10d}"
            )
    return lines

"""Prometheus metrics over HTTP, at an address that the user asked for. Nothing listens otherwise."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pyxen.host.protocol import DomainStatistics, Statistics

_logger = logging.getLogger(__name__)
#: A scrape waits so long for Domain 0's loop, in seconds.
_TIMEOUT = 10.0
_DOMAIN = ("domain", "domid")


def parse_address(text: str) -> tuple[str, int]:
    """ "127.0.0.1:9100" or "[::1]:9100". Raises ``ValueError``."""
    host, separator, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not host or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise ValueError(f'"{text}" is no address for metrics: it must be HOST:PORT, such as 127.0.0.1:9100')
    return host, int(port)


class _DomainCollector(Collector):
    """Asks the event loop's thread at each scrape: what is counted belongs to it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, collect: Callable[[], Statistics]) -> None:
        self._loop = loop
        self._collect = collect

    def describe(self) -> Iterable[Metric]:
        """No scrape at registration."""
        return ()

    def collect(self) -> Iterable[Metric]:
        async def gather() -> Statistics:
            return self._collect()

        return families(asyncio.run_coroutine_threadsafe(gather(), self._loop).result(_TIMEOUT))


def families(statistics: Statistics) -> list[Metric]:
    """Metrics of one moment. Names and units as Prometheus' conventions have them."""
    cpus = GaugeMetricFamily("pyxen_cpus", "Physical CPUs", statistics.cpus)
    total = GaugeMetricFamily("pyxen_memory_bytes", "Machine memory", statistics.memory_kib << 10)
    free = GaugeMetricFamily("pyxen_memory_free_bytes", "Machine memory that nobody has", statistics.free_kib << 10)
    memory = GaugeMetricFamily("pyxen_domain_memory_bytes", "Memory of a domain", labels=_DOMAIN)
    online = GaugeMetricFamily("pyxen_domain_vcpus_online", "vCPUs that are up", labels=_DOMAIN)
    cpu = CounterMetricFamily("pyxen_domain_cpu_seconds", "CPU time of a domain", labels=_DOMAIN)
    states = CounterMetricFamily("pyxen_vcpu_state_seconds", "Time of a vCPU in each runstate", labels=(*_DOMAIN, "vcpu", "state"))
    disk_requests = CounterMetricFamily("pyxen_disk_requests", "Requests done", labels=(*_DOMAIN, "vdev", "operation"))
    disk_bytes = CounterMetricFamily("pyxen_disk_bytes", "Bytes read and written", labels=(*_DOMAIN, "vdev", "operation"))
    network_packets = CounterMetricFamily("pyxen_network_packets", "Packets, as the guest sees it", labels=(*_DOMAIN, "vif", "direction"))
    network_bytes = CounterMetricFamily("pyxen_network_bytes", "Bytes, as the guest sees it", labels=(*_DOMAIN, "vif", "direction"))
    for domain in statistics.domains:
        labels = [domain.name, str(domain.domid)]
        memory.add_metric(labels, domain.memory_kib << 10)
        online.add_metric(labels, sum(vcpu.online for vcpu in domain.vcpus))
        cpu.add_metric(labels, domain.cpu_time_s)
        _add_vcpus(states, domain, labels)
        for disk in domain.disks:
            disk_requests.add_metric([*labels, disk.vdev, "read"], disk.reads)
            disk_requests.add_metric([*labels, disk.vdev, "write"], disk.writes)
            disk_bytes.add_metric([*labels, disk.vdev, "read"], disk.read_sectors * 512)
            disk_bytes.add_metric([*labels, disk.vdev, "write"], disk.written_sectors * 512)
        for network in domain.networks:
            vif = f"vif{domain.domid}.{network.devid}"
            network_packets.add_metric([*labels, vif, "receive"], network.received_packets)
            network_packets.add_metric([*labels, vif, "transmit"], network.sent_packets)
            network_bytes.add_metric([*labels, vif, "receive"], network.received_bytes)
            network_bytes.add_metric([*labels, vif, "transmit"], network.sent_bytes)
    return [cpus, total, free, memory, online, cpu, states, disk_requests, disk_bytes, network_packets, network_bytes]


def _add_vcpus(states: CounterMetricFamily, domain: DomainStatistics, labels: list[str]) -> None:
    for vcpu in domain.vcpus:
        times = {"running": vcpu.running_s, "runnable": vcpu.runnable_s, "blocked": vcpu.blocked_s, "offline": vcpu.offline_s}
        for state, seconds in times.items():
            states.add_metric([*labels, str(vcpu.vcpu), state], seconds)


def serve(address: tuple[str, int], loop: asyncio.AbstractEventLoop, collect: Callable[[], Statistics]) -> Callable[[], None]:
    """Serve ``/metrics`` from threads of its own. -> a function that ends it. Raises ``OSError``."""
    registry = CollectorRegistry()
    registry.register(_DomainCollector(loop, collect))
    server, thread = start_http_server(address[1], address[0], registry)
    _logger.info("metrics at http://%s:%d/metrics", *address)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop

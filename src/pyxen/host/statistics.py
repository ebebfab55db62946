"""What every domain uses: for ``pyxen stats``, ``xl top`` and the metrics."""

from __future__ import annotations

import time
from collections.abc import Mapping

from pyxen.abi.vcpu import RUNSTATE_blocked, RUNSTATE_offline, RUNSTATE_runnable
from pyxen.backends.block import BlockDevice
from pyxen.backends.network import NetworkDevice
from pyxen.backends.xenbus import BackendBus
from pyxen.host import protocol as p
from pyxen.host.control_server import MethodTable
from pyxen.hypervisor.dom0_interface import Dom0Hypercalls, HypercallError, VcpuInfo
from pyxen.toolstack.errors import ToolstackError
from pyxen.toolstack.inventory import DomainEntry, Inventory
from pyxen.toolstack.lifecycle import Toolstack

_PAGE_KIB = 4
_SECOND = 1e9


class StatisticsService:
    """Belongs to the event loop's thread. ``backends``: the bus of each device class."""

    def __init__(self, dom0: Dom0Hypercalls, toolstack: Toolstack, inventory: Inventory, backends: Mapping[str, BackendBus]) -> None:
        self._dom0 = dom0
        self._toolstack = toolstack
        self._inventory = inventory
        self._backends = backends

    def register(self, table: MethodTable) -> None:
        """Enter the method into the table."""
        table.call(p.STATISTICS, self._statistics)

    async def _statistics(self, _: p.Nothing) -> p.Statistics:
        return self.collect()

    def collect(self) -> p.Statistics:
        """Everything now. A domain that ends meanwhile is left out."""
        physical = self._dom0.physical_info()
        entries, now = self._inventory.domains(), time.monotonic()
        domains = []
        for entry in entries:
            try:
                domains.append(self._domain(entry))
            except (HypercallError, ToolstackError):
                continue
        return p.Statistics(
            time_s=now,
            cpus=physical.nr_cpus,
            cpu_khz=physical.cpu_khz,
            memory_kib=physical.total_pages * _PAGE_KIB,
            free_kib=physical.free_pages * _PAGE_KIB,
            domains=domains,
        )

    def _domain(self, entry: DomainEntry) -> p.DomainStatistics:
        info = entry.info
        has_devices = info.domid != 0 and self._toolstack.registry.find(info.domid) is not None
        return p.DomainStatistics(
            domid=info.domid,
            name=entry.name,
            state_letters=entry.state_letters,
            cpu_time_s=info.cpu_time_ns / _SECOND,
            memory_kib=entry.memory_kib,
            memory_max_kib=entry.memory_max_kib,
            vcpus=[_vcpu(vcpu) for vcpu in self._dom0.vcpu_info(info.domid)],
            disks=self._disks(info.domid) if has_devices else [],
            networks=self._networks(info.domid) if has_devices else [],
            counters=p.ExitCounters(**vars(self._dom0.domain_counters(info.domid))) if info.domid else None,
        )

    def _disks(self, domid: int) -> list[p.DiskStatistics]:
        result = []
        for disk in self._toolstack.disks(domid):
            device = self._backends["vbd"].find(domid, disk.devid)
            if isinstance(device, BlockDevice):
                counted = device.statistics
                result.append(
                    p.DiskStatistics(disk.devid, disk.vdev, counted.reads, counted.writes, counted.read_sectors, counted.written_sectors)
                )
        return result

    def _networks(self, domid: int) -> list[p.NetworkStatistics]:
        result = []
        for interface in self._toolstack.interfaces(domid):
            device = self._backends["vif"].find(domid, interface.devid)
            if isinstance(device, NetworkDevice):
                # The backend's "received" is what the guest sent.
                seen = device.statistics
                result.append(
                    p.NetworkStatistics(
                        interface.devid, seen.tx_bytes, seen.tx_packets, seen.tx_dropped, seen.rx_bytes, seen.rx_packets, seen.rx_errors
                    )
                )
        return result


def _vcpu(info: VcpuInfo) -> p.VcpuStatistics:
    runnable, blocked, offline = (info.runstate_ns[state] / _SECOND for state in (RUNSTATE_runnable, RUNSTATE_blocked, RUNSTATE_offline))
    return p.VcpuStatistics(info.vcpu, info.online, info.cpu, info.cpu_time_ns / _SECOND, runnable, blocked, offline)

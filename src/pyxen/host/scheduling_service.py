"""The methods of the control protocol for vCPUs, scheduler parameters and CPU pools."""

from __future__ import annotations

from pyxen.host import protocol as p
from pyxen.host.control_server import MethodTable
from pyxen.toolstack.configuration import Settings, parse
from pyxen.toolstack.configuration.cpu_pool_config import CpuPoolConfig
from pyxen.toolstack.cpu_pools import NamedPool
from pyxen.toolstack.lifecycle import Toolstack


class SchedulingService:
    """See the module's text."""

    def __init__(self, toolstack: Toolstack) -> None:
        self._toolstack = toolstack
        self._pools = toolstack.pools

    def register(self, table: MethodTable) -> None:
        """Enter every method into the table."""
        table.call(p.DOMAIN_VCPU_SET, self._vcpu_set)
        table.call(p.DOMAIN_VCPU_PIN, self._vcpu_pin)
        table.call(p.DOMAIN_SCHEDULING_SET, self._scheduling_set)
        table.call(p.CPUPOOL_LIST, self._list)
        table.call(p.CPUPOOL_CHECK, self._check)
        table.call(p.CPUPOOL_CREATE, self._create)
        table.call(p.CPUPOOL_DESTROY, self._destroy)
        table.call(p.CPUPOOL_RENAME, self._rename)
        table.call(p.CPUPOOL_CPU_ADD, self._cpu_add)
        table.call(p.CPUPOOL_CPU_REMOVE, self._cpu_remove)
        table.call(p.CPUPOOL_MIGRATE, self._migrate)
        table.call(p.CPUPOOL_NUMA_SPLIT, self._numa_split)
        table.call(p.CPUPOOL_RATELIMIT, self._ratelimit)

    async def _vcpu_set(self, request: p.VcpuSetRequest) -> p.Nothing:
        self._toolstack.set_vcpus(request.domid, request.count)
        return p.Nothing()

    async def _vcpu_pin(self, request: p.VcpuPinRequest) -> p.Nothing:
        self._toolstack.pin_vcpu(request.domid, request.vcpu, request.hard, request.soft)
        return p.Nothing()

    async def _scheduling_set(self, request: p.SchedulingRequest) -> p.Nothing:
        self._toolstack.set_scheduling(request.domid, request.weight, request.cap)
        return p.Nothing()

    async def _list(self, _: p.Nothing) -> p.CpuPoolList:
        pools = self._pools.all()
        return p.CpuPoolList([_pool(pool) for pool in pools], sorted(self._pools.free_cpus()))

    async def _check(self, request: p.CpuPoolTexts) -> p.CpuPoolCreateRequest:
        if not request.texts:
            raise p.HostError("a configuration has at least one text", p.ErrorKind.INVALID)
        settings = Settings(request.texts[0].source)
        for text in request.texts:
            parse(text.text, text.source, settings)
        config, warnings = CpuPoolConfig.read(settings, request.default_name)
        return p.CpuPoolCreateRequest(config.name, config.scheduler, config.cpus, config.all_free, [str(warning) for warning in warnings])

    async def _create(self, request: p.CpuPoolCreateRequest) -> p.CpuPool:
        return _pool(self._pools.create(request.name, request.scheduler, request.cpus, all_free=request.all_free))

    async def _destroy(self, request: p.CpuPoolName) -> p.Nothing:
        self._pools.destroy(request.pool)
        return p.Nothing()

    async def _rename(self, request: p.CpuPoolRenameRequest) -> p.Nothing:
        self._pools.rename(request.pool, request.name)
        return p.Nothing()

    async def _cpu_add(self, request: p.CpuPoolCpusRequest) -> p.Refusals:
        return p.Refusals(self._pools.add_cpus(request.pool, request.cpus))

    async def _cpu_remove(self, request: p.CpuPoolCpusRequest) -> p.Refusals:
        return p.Refusals(self._pools.remove_cpus(request.pool, request.cpus))

    async def _migrate(self, request: p.CpuPoolMigrateRequest) -> p.Nothing:
        self._toolstack.move_to_pool(request.domid, request.pool)
        return p.Nothing()

    async def _numa_split(self, _: p.Nothing) -> p.Nothing:
        self._pools.split_by_node()
        return p.Nothing()

    async def _ratelimit(self, request: p.RatelimitRequest) -> p.Nothing:
        self._pools.set_ratelimit(request.pool, request.microseconds)
        return p.Nothing()


def _pool(pool: NamedPool) -> p.CpuPool:
    info = pool.info
    return p.CpuPool(info.number, pool.name, info.scheduler, sorted(info.cpus), info.domains, pool.ratelimit_us)

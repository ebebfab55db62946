"""CPU pools by name: the hypervisor has numbers, the store has the names (libxl's /local/pool)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from pyxen.hypervisor.dom0_interface import CpuPoolInfo, Dom0Hypercalls, HypercallError
from pyxen.toolstack import names
from pyxen.toolstack.configuration.cpu_list import parse_cpu_list
from pyxen.toolstack.errors import Fault, ToolstackError
from pyxen.xenstore.errors import StoreError
from pyxen.xenstore.store import Store

DEFAULT_POOL = "Pool-0"
_NODE_POOL = "Pool-node0"


@dataclass(frozen=True)
class NamedPool:
    """A pool as ``xl cpupool-list`` shows it. ``ratelimit_us`` None: its scheduler has none."""

    name: str
    info: CpuPoolInfo
    ratelimit_us: int | None


class CpuPools:
    """All pools. Belongs to the event loop's thread. Methods raise ``ToolstackError`` and ``HypercallError``."""

    def __init__(self, dom0: Dom0Hypercalls, store: Store) -> None:
        self._dom0 = dom0
        self._control = dom0.scheduling
        self._store = store
        store.write(f"{_path(0)}/name", DEFAULT_POOL)
        store.write(f"{_path(0)}/uuid", names.uuid_text(names.random_uuid()))

    def name(self, number: int) -> str:
        return self._store.get(f"{_path(number)}/name") or f"Pool-{number}"

    def all(self) -> list[NamedPool]:
        """By number."""
        return [NamedPool(self.name(info.number), info, self._ratelimit(info.number)) for info in self._control.cpupools()]

    def free_cpus(self) -> frozenset[int]:
        """Those in no pool."""
        return self._control.free_cpus()

    def _ratelimit(self, number: int) -> int | None:
        try:
            return self._control.ratelimit_us(number)
        except HypercallError:
            return None

    def find(self, untrusted_name: str) -> int:
        """The number of a pool, given by its name or number."""
        infos = self._control.cpupools()
        for info in infos:
            if self.name(info.number) == untrusted_name:
                return info.number
        if untrusted_name.isascii() and untrusted_name.isdigit() and any(str(info.number) == untrusted_name for info in infos):
            return int(untrusted_name)
        raise ToolstackError(f"unknown cpupool '{untrusted_name}'", Fault.NOT_FOUND)

    def create(self, untrusted_name: str, scheduler: str, cpus: str | None, *, all_free: bool = False) -> NamedPool:
        """A pool of these free CPUs, or of all free ones, or, without a list, of the first free one; "" for Pool-0's scheduler. Nothing is
        left of one that can't be made as asked."""
        name = names.check_name(untrusted_name)
        self._check_free(name)
        free = sorted(self._control.free_cpus())
        wanted = self._cpus(cpus) if cpus is not None else free if all_free else free[:1]
        missing = [cpu for cpu in wanted if cpu not in free]
        if missing or not wanted:
            which = f"CPU {missing[0]} is illegal or not free" if missing else "no free cpu found"
            raise ToolstackError(f"{which}; take some out of a pool first: xl cpupool-cpu-remove {DEFAULT_POOL} CPU", Fault.RESOURCE)
        number = self._control.create_cpupool(scheduler or self._control.cpupools()[0].scheduler)
        for cpu in wanted:
            self._control.add_cpu(number, cpu)
        self._store.write(f"{_path(number)}/name", name)
        self._store.write(f"{_path(number)}/uuid", names.uuid_text(names.random_uuid()))
        return next(pool for pool in self.all() if pool.info.number == number)

    def _check_free(self, name: str) -> None:
        if any(pool.name == name for pool in self.all()):
            raise ToolstackError(f'Pool name "{name}" already exists', Fault.EXISTS)

    def _cpus(self, untrusted_text: str) -> list[int]:
        try:
            return sorted(parse_cpu_list(untrusted_text, frozenset(range(self._dom0.physical_info().nr_cpus))))
        except ValueError as error:
            raise ToolstackError(str(error), Fault.INVALID) from None

    def destroy(self, untrusted_name: str) -> None:
        """Its CPUs are free then. STATE while it has domains."""
        number = self.find(untrusted_name)
        info = self._info(number)
        if info.domains:
            raise ToolstackError(f"Can't destroy cpupool '{self.name(number)}': it has {info.domains} domains", Fault.STATE)
        for cpu in info.cpus:
            self._control.remove_cpu(number, cpu)
        self._control.destroy_cpupool(number)
        with contextlib.suppress(StoreError):
            self._store.rm(_path(number))

    def _info(self, number: int) -> CpuPoolInfo:
        return next(info for info in self._control.cpupools() if info.number == number)

    def rename(self, untrusted_name: str, untrusted_new: str) -> None:
        number = self.find(untrusted_name)
        new = names.check_name(untrusted_new)
        if new != self.name(number):
            self._check_free(new)
            self._store.write(f"{_path(number)}/name", new)

    def add_cpus(self, untrusted_name: str, cpus: str) -> list[str]:
        """-> a line for each CPU that can't be added; the others are."""
        number = self.find(untrusted_name)
        return self._for_each(cpus, lambda cpu: self._control.add_cpu(number, cpu))

    def remove_cpus(self, untrusted_name: str, cpus: str) -> list[str]:
        """-> a line for each CPU that can't be removed; the others are."""
        number = self.find(untrusted_name)
        return self._for_each(cpus, lambda cpu: self._control.remove_cpu(number, cpu))

    def _for_each(self, cpus: str, action: Callable[[int], None]) -> list[str]:
        refused = []
        for cpu in self._cpus(cpus):
            try:
                action(cpu)
            except HypercallError as error:
                refused.append(error.reason)
        return refused

    def move_domain(self, domid: int, untrusted_name: str) -> str:
        """-> the pool's name."""
        number = self.find(untrusted_name)
        self._control.move_domain(domid, number)
        return self.name(number)

    def set_ratelimit(self, untrusted_name: str, microseconds: int) -> None:
        self._control.set_ratelimit_us(self.find(untrusted_name), microseconds)

    def split_by_node(self) -> None:
        """One pool for each NUMA node: there is one node, so Pool-0 gets that node's name and all CPUs. STATE when there are others."""
        pools = self.all()
        if len(pools) > 1:
            raise ToolstackError("splitting not possible, already cpupools in use", Fault.STATE)
        for cpu in self._control.free_cpus():
            self._control.add_cpu(0, cpu)
        self._store.write(f"{_path(0)}/name", _NODE_POOL)


def _path(number: int) -> str:
    return f"/local/pool/{number}"

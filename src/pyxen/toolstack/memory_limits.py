"""How much memory a domain may have: what ``xl mem-set`` and ``xl mem-max`` check and change."""

from __future__ import annotations

from pyxen.hypervisor.dom0_interface import Dom0Hypercalls
from pyxen.toolstack.domain_record import DomainRecord
from pyxen.toolstack.domain_store import DomainStore
from pyxen.toolstack.errors import Fault, ToolstackError

#: libxl gives each domain this much more than its target (LIBXL_MAXMEM_CONSTANT), in KiB.
SLACK_KIB = 1024
_KIB_PER_PAGE = 4


def kib_to_pages(kib: int) -> int:
    return -(-kib // _KIB_PER_PAGE)


def set_target(dom0: Dom0Hypercalls, store: DomainStore, record: DomainRecord, kib: int) -> None:
    """Ask the guest's balloon driver to go to ``kib``. Raises ``ToolstackError``, ``HypercallError``."""
    maximum = store.memory_static_max(record.domid)
    if kib <= 0:
        raise ToolstackError("the amount of memory must be more than 0", Fault.INVALID)
    if maximum is not None and kib > maximum:
        raise ToolstackError(
            f"memory_dynamic_max must be less than or equal to memory_static_max: {kib} KiB wanted, "
            f"{maximum} KiB is the maximum of domain {record.name}",
            Fault.INVALID,
        )
    dom0.set_max_memory(record.domid, kib_to_pages(kib + SLACK_KIB))
    store.set_memory_target(record.domid, kib)


def set_maximum(dom0: Dom0Hypercalls, store: DomainStore, record: DomainRecord, kib: int) -> None:
    """The most that the hypervisor lets the domain have. Raises ``ToolstackError``, ``HypercallError``."""
    target = store.memory_target(record.domid)
    if target is not None and kib < target:
        raise ToolstackError(
            f"memory_static_max must be greater than or equal to memory_dynamic_max: {kib} KiB wanted, "
            f"{target} KiB is the target of domain {record.name}",
            Fault.INVALID,
        )
    dom0.set_max_memory(record.domid, kib_to_pages(kib + SLACK_KIB))

"""What becomes of a domain that shut down: on_poweroff, on_reboot, on_crash, on_watchdog and on_soft_reset of its configuration."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from pyxen.hypervisor.dom0_interface import Dom0Hypercalls, HypercallError, ShutdownReason
from pyxen.toolstack import core_dump
from pyxen.toolstack.configuration import DomainConfig
from pyxen.toolstack.domain_record import DomainRecord
from pyxen.toolstack.errors import ToolstackError

_logger = logging.getLogger(__name__)

#: A domain that died within so many seconds of its start is restarted only when they are over, or one that crashes at once would
#: be restarted without end at full speed.
_SHORTEST_LIFE = 2.0


class Lifecycle(Protocol):
    """What the actions need of the toolstack."""

    async def destroy(self, domid: int) -> None: ...
    async def restart(self, record: DomainRecord) -> None: ...
    async def restart_renamed(self, record: DomainRecord, old_name: str) -> None: ...


class DeathActions:
    """Does the action that a domain's configuration asks for."""

    def __init__(self, dom0: Dom0Hypercalls, lifecycle: Lifecycle, dumps: Path) -> None:
        self._dom0 = dom0
        self._lifecycle = lifecycle
        self._dumps = dumps
        self._actions: dict[str, Callable[[DomainRecord], Awaitable[None]]] = {
            "destroy": self._destroy,
            "restart": self._restart,
            "rename-restart": self._rename_restart,
            "preserve": self._preserve,
            "coredump-destroy": self._coredump_destroy,
            "coredump-restart": self._coredump_restart,
            "soft-reset": self._soft_reset,
        }

    async def perform(self, record: DomainRecord, reason: ShutdownReason) -> None:
        """Never raises: what fails is logged, and a domain that can't be restarted stays destroyed."""
        action = _action_for(record.config, reason)
        if action is None:
            return
        self._log(f"Domain {record.domid} ({record.name}) shut down: {reason.name.lower()}; action: {action}")
        try:
            await self._actions[action](record)
        except (ToolstackError, HypercallError, OSError) as error:
            self._log(f"Domain {record.domid} ({record.name}): {action} failed: {error}")
        except Exception:
            _logger.exception("domain %d: %s failed", record.domid, action)

    def _log(self, text: str) -> None:
        _logger.info("%s", text)
        self._dom0.log(text)

    async def _destroy(self, record: DomainRecord) -> None:
        await self._lifecycle.destroy(record.domid)

    async def _restart(self, record: DomainRecord) -> None:
        await asyncio.sleep(max(0.0, _SHORTEST_LIFE - record.uptime))
        await self._lifecycle.restart(record)

    async def _rename_restart(self, record: DomainRecord) -> None:
        await asyncio.sleep(max(0.0, _SHORTEST_LIFE - record.uptime))
        await self._lifecycle.restart_renamed(record, record.name + time.strftime("-%Y%m%dT%H%MZ", time.gmtime()))

    async def _preserve(self, record: DomainRecord) -> None:
        self._log(f"Domain {record.domid} ({record.name}) has been preserved")

    async def _coredump_destroy(self, record: DomainRecord) -> None:
        await self._dump(record)
        await self._destroy(record)

    async def _coredump_restart(self, record: DomainRecord) -> None:
        await self._dump(record)
        await self._restart(record)

    async def _dump(self, record: DomainRecord) -> None:
        """A dump that fails does not keep the domain from being destroyed or restarted, as in xl."""
        path = self._dumps / f"{time.strftime('%Y-%m%d-%H%M.%S')}-{record.name}.{record.domid}.core"
        try:
            await asyncio.to_thread(core_dump.write_core, self._dom0, record.domid, path)
        except (HypercallError, OSError) as error:
            self._log(f"Domain {record.domid} ({record.name}): core dump failed: {error}")
        else:
            self._log(f"Domain {record.domid} ({record.name}): core dumped to {path}")

    async def _soft_reset(self, record: DomainRecord) -> None:
        # As in Xen, where a PV domain can't be reset in place.
        self._log(f"Domain {record.domid} ({record.name}): soft reset is for fully virtualised domains only; destroying it")
        await self._destroy(record)


def _action_for(config: DomainConfig, reason: ShutdownReason) -> str | None:
    """None after a suspend: its caller goes on."""
    return {
        ShutdownReason.POWEROFF: config.on_poweroff,
        ShutdownReason.REBOOT: config.on_reboot,
        ShutdownReason.CRASH: config.on_crash,
        ShutdownReason.WATCHDOG: config.on_watchdog,
        ShutdownReason.SOFT_RESET: config.on_soft_reset,
    }.get(reason)

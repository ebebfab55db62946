"""A domain's entries in the store, laid out and protected as libxl does it.

``/local/domain/<domid>`` is the guest's own part, ``/vm/<uuid>`` and ``/libxl/<domid>`` are the toolstack's,
``/local/domain/0/backend`` is where back ends find their devices.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pyxen.toolstack.configuration import DomainConfig
from pyxen.toolstack.domain_record import DOMAIN_0_NAME, DomainRecord
from pyxen.toolstack.names import uuid_text
from pyxen.xenstore.errors import StoreError
from pyxen.xenstore.path_cleanup import remove_with_empty_folders
from pyxen.xenstore.store import Store

#: libxl's LIBXL_XENCONSOLE_LIMIT, in bytes, and protocol.
_CONSOLE_LIMIT = 1048576
_CONSOLE_PROTOCOL = "vt100"
_XENBUS_STATE_INITIALISING = "1"

_READABLE_FOLDERS = ("cpu", "memory", "device", "control")
#: What the guest itself writes.
_WRITABLE_NODES = (
    "control/shutdown",
    "control/feature-poweroff",
    "control/feature-reboot",
    "control/feature-suspend",
    "control/sysrq",
    "device/suspend/event-channel",
    "data",
    "drivers",
    "feature",
    "attr",
    "error",
)


@dataclass(frozen=True)
class RingAddress:
    """Where a guest's console or store ring is: its frame, and the guest's unbound event channel port."""

    mfn: int
    port: int


def domain_path(domid: int) -> str:
    return f"/local/domain/{domid}"


def vm_path(uuid: bytes) -> str:
    return f"/vm/{uuid_text(uuid)}"


def libxl_path(domid: int) -> str:
    return f"/libxl/{domid}"


def console_backend_path(domid: int) -> str:
    return f"/local/domain/0/backend/console/{domid}/0"


def _backend_path(domid: int, device: str) -> str:
    kind, devid = device.split("/")
    return f"/local/domain/0/backend/{kind}/{domid}/{devid}"


def _readable_by(domid: int) -> list[str]:
    return ["n0", f"r{domid}"]


def _owned_by(domid: int) -> list[str]:
    return [f"n{domid}"]


class DomainStore:
    """The toolstack's use of the store. Belongs to the event loop's thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def write_domain_0(self, memory_kib: int, vcpus: int) -> None:
        """What xen-init-dom0 writes."""
        path = domain_path(0)
        self._store.write(f"{path}/domid", "0")
        self._store.write(f"{path}/name", DOMAIN_0_NAME)
        self._store.write(f"{path}/memory/target", str(memory_kib))
        self._store.write(f"{path}/memory/static-max", str(memory_kib))
        for vcpu in range(vcpus):
            self._store.write(f"{path}/cpu/{vcpu}/availability", "online")
        self._store.mkdir("/libxl")

    def write_domain(self, record: DomainRecord, console: RingAddress, store: RingAddress) -> None:
        """All entries of a new domain, before it is introduced to the store."""
        self._write_skeleton(record)
        self._write_build_results(record, store)
        self._write_console(record.domid, console)

    def _write_skeleton(self, record: DomainRecord) -> None:
        domid = record.domid
        path, readable = domain_path(domid), _readable_by(domid)
        self._store.write(path, "", readable)
        self._store.write(vm_path(record.uuid), "", readable)
        self._store.write(libxl_path(domid), "", ["n0"])
        self._store.write(f"{path}/vm", vm_path(record.uuid))
        self._store.write(f"{path}/name", record.name)
        for folder in _READABLE_FOLDERS:
            self._store.write(f"{path}/{folder}", "", readable)
        for node in _WRITABLE_NODES:
            self._store.write(f"{path}/{node}", "", _owned_by(domid))
        self._store.write(f"{path}/control/platform-feature-multiprocessor-suspend", "1")
        self._store.write(f"{path}/control/platform-feature-xs_reset_watches", "1")
        self._store.write(f"{vm_path(record.uuid)}/name", record.name)
        self._store.write(f"{vm_path(record.uuid)}/uuid", uuid_text(record.uuid))
        self._store.write(f"{libxl_path(domid)}/type", record.config.type)

    def _write_build_results(self, record: DomainRecord, store: RingAddress) -> None:
        path, config = domain_path(record.domid), record.config
        # An HVM kernel expects as much memory at its start, and to balloon down from there, which takes populate-on-demand.
        static_max_mib = config.memory_mib if config.type == "pvh" else config.maxmem_mib
        self._store.write(f"{path}/memory/static-max", str(static_max_mib << 10))
        self._store.write(f"{path}/memory/target", str(config.memory_mib << 10))
        self._store.write(f"{path}/memory/videoram", "0")
        self._store.write(f"{path}/domid", str(record.domid))
        self._store.write(f"{path}/store/port", str(store.port))
        self._store.write(f"{path}/store/ring-ref", str(store.mfn))
        for vcpu in range(config.max_vcpus):
            self._store.write(f"{path}/cpu/{vcpu}/availability", "online" if vcpu < config.vcpus else "offline")
        for name, value in _image_entries(config):
            self._store.write(f"{vm_path(record.uuid)}/image/{name}", value)
        now = time.time()
        self._store.write(f"{vm_path(record.uuid)}/start_time", f"{int(now)}.{int(now * 100) % 100:02d}")

    def _write_console(self, domid: int, console: RingAddress) -> None:
        frontend, backend, device = f"{domain_path(domid)}/console", console_backend_path(domid), f"{libxl_path(domid)}/device/console/0"
        backend_entries = [
            ("frontend", frontend),
            ("frontend-id", str(domid)),
            ("online", "1"),
            ("state", _XENBUS_STATE_INITIALISING),
            ("protocol", _CONSOLE_PROTOCOL),
        ]
        # The guest reads its console's place but must not change it: xenconsoled goes by it.
        self._store.write(frontend, "", _readable_by(domid))
        for name, value in (
            ("backend", backend),
            ("backend-id", "0"),
            ("limit", str(_CONSOLE_LIMIT)),
            ("type", "xenconsoled"),
            ("output", "pty"),
            ("tty", ""),
            ("port", str(console.port)),
            ("ring-ref", str(console.mfn)),
        ):
            self._store.write(f"{frontend}/{name}", value)
        self._store.write(backend, "", _readable_by(domid))
        for name, value in backend_entries:
            self._store.write(f"{backend}/{name}", value)
        self._store.write(f"{device}/backend", backend)
        for name, value in backend_entries:
            self._store.write(f"{device}/{name}", value)

    def set_console_terminal(self, domid: int, path: str) -> None:
        self._store.write(f"{domain_path(domid)}/console/tty", path)

    def remove_domain(self, domid: int, uuid: bytes) -> None:
        """Everything that ``write_domain`` and the guest wrote."""
        for path in (domain_path(domid), vm_path(uuid), libxl_path(domid)):
            with contextlib.suppress(StoreError):
                self._store.rm(path)
        remove_with_empty_folders(self._store, console_backend_path(domid))

    def introduce(self, domid: int, ring: RingAddress) -> None:
        """From now on the guest can talk to the store."""
        self._store.introduce(domid, ring.mfn, ring.port)

    def release(self, domid: int) -> None:
        """The guest's connection, watches and nodes go. No effect on a domain that was not introduced."""
        with contextlib.suppress(StoreError):
            self._store.release_domain(domid)

    def check_domains(self) -> None:
        """Some domain shut down or died: the store tells those who watch @releaseDomain."""
        self._store.check_domains()

    def first_request_time(self, domid: int) -> float | None:
        """When the guest first asked something of the store, of ``time.monotonic()``; None: it has not."""
        return self._store.first_request_time(domid)

    def devices(self, domid: int) -> list[str]:
        """Class and number ("vbd/51712") of each device that Domain 0 has a driver for, consoles excepted."""
        folder = f"{libxl_path(domid)}/device"
        return [f"{kind}/{devid}" for kind in self._children(folder) if kind != "console" for devid in self._children(f"{folder}/{kind}")]

    def device_state(self, domid: int, device: str) -> int:
        """XenbusState of the backend of one of ``devices``; 0 if it has none."""
        return self._number(f"{_backend_path(domid, device)}/state") or 0

    def watch_devices(self, domid: int, devices: Iterable[str], changed: Callable[[], None]) -> Callable[[], None]:
        """``changed`` is called when something about the backends of these may have changed. -> a function that ends it."""
        with contextlib.ExitStack() as undo:
            for device in devices:
                undo.callback(self._store.watch(_backend_path(domid, device), "timeline", lambda _path, _token: changed()))
            return undo.pop_all().close

    def _children(self, path: str) -> list[str]:
        with contextlib.suppress(StoreError):
            return self._store.ls(path)
        return []

    def rename(self, record: DomainRecord, name: str) -> None:
        self._store.write(f"{domain_path(record.domid)}/name", name)
        self._store.write(f"{vm_path(record.uuid)}/name", name)

    def memory_target(self, domid: int) -> int | None:
        """KiB."""
        return self._number(f"{domain_path(domid)}/memory/target")

    def memory_static_max(self, domid: int) -> int | None:
        """KiB."""
        return self._number(f"{domain_path(domid)}/memory/static-max")

    def set_memory_target(self, domid: int, kib: int) -> None:
        self._store.write(f"{domain_path(domid)}/memory/target", str(kib))

    def set_memory_static_max(self, domid: int, kib: int) -> None:
        self._store.write(f"{domain_path(domid)}/memory/static-max", str(kib))

    def set_vcpus(self, domid: int, online: int, most: int) -> None:
        """The guest's kernel watches these nodes and takes vCPUs up and down."""
        for vcpu in range(most):
            self._store.write(f"{domain_path(domid)}/cpu/{vcpu}/availability", "online" if vcpu < online else "offline")

    def request_shutdown(self, domid: int, request: str) -> None:
        """``request``: poweroff, reboot, suspend, halt. The guest answers by emptying the node."""
        self._store.write(f"{domain_path(domid)}/control/shutdown", request)

    def shutdown_is_acknowledged(self, domid: int) -> bool:
        return not self._store.get(f"{domain_path(domid)}/control/shutdown")

    def withdraw_shutdown(self, domid: int) -> None:
        """The guest did not answer: what it never saw must not take effect later."""
        self._store.write(f"{domain_path(domid)}/control/shutdown", "")

    @contextlib.contextmanager
    def watching_shutdown(self, domid: int, changed: Callable[[], None]) -> Iterator[None]:
        """``changed`` is called when the guest answers."""
        stop = self._store.watch(f"{domain_path(domid)}/control/shutdown", "toolstack", lambda _path, _token: changed())
        try:
            yield
        finally:
            stop()

    def request_sysrq(self, domid: int, key: str) -> None:
        self._store.write(f"{domain_path(domid)}/control/sysrq", key)

    def _number(self, path: str) -> int | None:
        untrusted_text = self._store.get(path)
        return int(untrusted_text) if untrusted_text.isascii() and untrusted_text.isdigit() and len(untrusted_text) < 20 else None


def _image_entries(config: DomainConfig) -> Iterator[tuple[str, str]]:
    yield "ostype", "linux"
    yield "kernel", config.kernel
    if config.ramdisk:
        yield "ramdisk", config.ramdisk
    if config.command_line:
        yield "cmdline", config.command_line

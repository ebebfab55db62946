"""The Python API: drive domains from a program or a test.

    import pyxen

    with pyxen.Host() as host, host.create(name="demo", kernel="/boot/vmlinuz", ramdisk="/tmp/initrd.img", memory=256) as domain:
        domain.console.expect("# ", timeout=60)
        domain.console.send("uname -r\\n")
        print(domain.console.expect(r"\\d+\\.\\d+\\S*").group())

Everything is synchronous and talks to the host process, which ``Host`` starts when it does not run. What fails raises ``HostError``, whose
text is one line and whose ``kind`` says who is at fault; what takes too long raises a ``TimeoutError`` as well.
"""

from __future__ import annotations

import codecs
import os
import re
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pyxen.host import protocol as p
from pyxen.host.client import Client, Stream, connect
from pyxen.host.protocol import (
    BlockDevice,
    DomainDetail,
    DomainState,
    ErrorKind,
    HostError,
    HostStatus,
    PhysInfo,
    StateChange,
    TraceEvent,
    Vcpu,
)

#: Console output that a ``Console`` remembers, in characters. Older output is forgotten.
TEXT_LIMIT = 16 << 20
_TAIL_LINES = 40
_INPUT_CHUNK = 1024
_POLL_SECONDS = 0.02


class DomainTimeoutError(HostError, TimeoutError):
    """A guest did not do in time what was waited for. The text ends with the tail of its console."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ErrorKind.TIMEOUT)


class Host:
    """The host process of one run-time folder.

    ``runtime_dir``: the folder (default: ``$PYXEN_RUNTIME_DIR``, else ``$XDG_RUNTIME_DIR/pyxen``, else ``/tmp/pyxen-<uid>``).
    ``start``: start the host if it does not run. ``memory``: its machine memory in MiB if it is started (default: this machine's RAM);
    ``cpus``: the number of its physical CPUs then (default: those of this machine).
    Raises ``HostError`` with kind HOST. Leaving the ``with`` block closes the connection; the host goes on until ``stop``.
    """

    def __init__(
        self, runtime_dir: str | os.PathLike[str] | None = None, *, start: bool = True, memory: int | None = None, cpus: int | None = None
    ) -> None:
        self._client = connect(runtime_dir, start=start, memory_bytes=None if memory is None else memory << 20, processors=cpus)

    @property
    def client(self) -> Client:
        """The connection, for calls of the control protocol that have no method here."""
        return self._client

    @property
    def status(self) -> HostStatus:
        return self._client.call(p.HOST_STATUS, p.Nothing())

    @property
    def info(self) -> PhysInfo:
        """What ``xl info`` prints. Memory in KiB."""
        return self._client.call(p.PHYSINFO, p.Nothing())

    def create(self, config: str | os.PathLike[str] | Mapping[str, Any] | None = None, *, paused: bool = False, **settings: Any) -> Domain:
        """Create a domain and let it run unless ``paused``.

        ``config`` is the text of an xl.cfg(5) file, the path of one (a ``Path``), or a mapping of its keys; ``settings`` are keys too and
        win: ``kernel``, ``ramdisk``, ``cmdline``, ``memory`` (MiB), ``vcpus``, ``name`` ... Without a name the domain gets one of its own.
        Relative paths are relative to the working directory. Keys that have no effect are told as Python warnings. Raises ``HostError``;
        then nothing of the domain is left.
        """
        texts, mapping = _configuration(config, settings)
        request = p.CreateRequest(texts=texts, config=mapping, paused=paused, working_directory=os.getcwd())
        created = self._client.call(p.DOMAIN_CREATE, request)
        for warning in created.warnings:
            warnings.warn(warning, stacklevel=2)
        return Domain(self._client, created.domid, created.name, created.uuid)

    def domains(self) -> list[Domain]:
        """All domains that are fully created, but for Domain 0, by id."""
        listed = self._client.call(p.DOMAIN_LIST, p.Nothing()).domains
        return [
            Domain(self._client, detail.domid, detail.name, detail.uuid)
            for detail in listed
            if detail.domid != 0 and not detail.under_construction
        ]

    def domain(self, identifier: str | int, timeout: float = 0.0) -> Domain:
        """The domain of a name or an id. ``timeout`` in seconds: how long to wait for it to be there and fully created. A restarted domain
        has a new id: find it again by its name. Raises ``HostError`` NOT_FOUND."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                found = self._client.call(p.DOMAIN_RESOLVE, p.Identifier(str(identifier)))
                detail = self._client.call(p.DOMAIN_INFO, p.DomainId(found.domid))
                if not detail.under_construction:
                    return Domain(self._client, found.domid, found.name, found.uuid)
                raise HostError(f"domain {found.name} is still being built", ErrorKind.NOT_FOUND)
            except HostError as error:
                if error.kind is not ErrorKind.NOT_FOUND or time.monotonic() >= deadline:
                    raise
            time.sleep(_POLL_SECONDS)

    def dmesg(self, *, clear: bool = False) -> str:
        """The hypervisor's log."""
        return self._client.call(p.DMESG, p.DmesgRequest(clear)).text

    def trace(self, domain: Domain | None = None, *, kinds: Iterable[str] = (), names: Iterable[str] = ()) -> Iterator[TraceEvent]:
        """Hypercalls, events and life cycle as they happen, of one domain until it is destroyed, or of all. ``kinds``: some of
        "hypercall", "event", "lifecycle"; ``names``: only these hypercalls. Subscribed from the call on, not from the first ``next``."""
        domid = None if domain is None else domain.domid
        stream = self._client.stream(p.TRACE_SUBSCRIBE, p.TraceRequest(domid, list(kinds), list(names)))
        return _events(stream)

    def stop(self) -> None:
        """Destroy all domains and end the host process; returns when it is gone."""
        self._client.call(p.HOST_STOP, p.Nothing())
        self._client.wait_for_exit()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Domain:
    """One domain. As a context manager it is destroyed when the block ends. Methods raise ``HostError``."""

    def __init__(self, client: Client, domid: int, name: str, uuid: str) -> None:
        self._client = client
        self._console: Console | None = None
        self.domid = domid
        self.name = name  #: as it was when this object was made
        self.uuid = uuid

    def __repr__(self) -> str:
        return f"<Domain {self.domid} {self.name!r}>"

    @property
    def info(self) -> DomainDetail:
        """Its state, memory (KiB) and times (seconds) now."""
        return self._client.call(p.DOMAIN_INFO, p.DomainId(self.domid))

    @property
    def state(self) -> DomainState:
        """Its state now; DESTROYED when there is no such domain any more."""
        try:
            return self.info.state
        except HostError as error:
            if error.kind is not ErrorKind.NOT_FOUND:
                raise
            return DomainState.DESTROYED

    @property
    def console(self) -> Console:
        """Its console. Output is remembered from the first use on, with what the host still has of the time before."""
        if self._console is None:
            self._console = Console(self._client, self.domid, self.name)
        return self._console

    def wait(self, state: DomainState | str | Iterable[DomainState | str], timeout: float | None = None) -> StateChange:
        """Wait until the domain is in ``state`` (or one of several), or was: one that shut down and was destroyed has been "shutdown".

        States are "running", "paused", "shutdown", "crashed", "destroyed". ``timeout`` in seconds; ``DomainTimeoutError`` when it is over,
        ``HostError`` STATE when the domain was destroyed without getting there.
        """
        wanted = [DomainState(state)] if isinstance(state, str) else [DomainState(one) for one in state]
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            reached = self._wait(wanted, deadline)
        except TimeoutError:
            names = " or ".join(wanted)
            raise DomainTimeoutError(f"domain {self.name} is not {names} after {timeout:g} s{self._console_tail()}") from None
        except HostError as error:
            if error.kind is not ErrorKind.NOT_FOUND:
                raise
            reached = StateChange(self.domid, DomainState.DESTROYED)
        if reached.state not in wanted:
            raise HostError(f"domain {self.name} was destroyed without being {' or '.join(wanted)}", ErrorKind.STATE)
        return reached

    def _wait(self, wanted: list[DomainState], deadline: float | None) -> StateChange:
        with self._client.stream(p.DOMAIN_WAIT, p.WaitRequest(self.domid, wanted)) as stream:
            while stream.result is None:
                stream.read(None if deadline is None else max(0.0, deadline - time.monotonic()))
            return stream.result

    def _console_tail(self) -> str:
        return "" if self._console is None else "; its console:\n" + self._console.tail()

    def pause(self) -> None:
        """Stop running its vCPUs."""
        self._client.call(p.DOMAIN_PAUSE, p.DomainId(self.domid))

    def unpause(self) -> None:
        """Let its vCPUs run again."""
        self._client.call(p.DOMAIN_UNPAUSE, p.DomainId(self.domid))

    def shutdown(self) -> None:
        """Ask its kernel to power off; returns when the kernel took note (wait("destroyed") for the rest)."""
        self._client.call(p.DOMAIN_SHUTDOWN, p.ShutdownRequest(self.domid))

    def reboot(self) -> None:
        """Ask its kernel to reboot; returns when the kernel took note. The restarted domain has the same name and another id."""
        self._client.call(p.DOMAIN_REBOOT, p.ShutdownRequest(self.domid))

    def destroy(self) -> None:
        """Stop it at once and free what it had. No error if it is destroyed already."""
        try:
            self._client.call(p.DOMAIN_DESTROY, p.DomainId(self.domid))
        except HostError as error:
            if error.kind is not ErrorKind.NOT_FOUND:
                raise

    @property
    def disks(self) -> list[BlockDevice]:
        """Its disks now."""
        return self._client.call(p.BLOCK_LIST, p.DomainId(self.domid)).devices

    def attach_disk(self, specification: str) -> None:
        """Hot-plug a disk, given as an entry of ``disk``; returns when the backend has it, a little before the guest does."""
        self._client.call(p.BLOCK_ATTACH, p.BlockAttachRequest(self.domid, specification, os.getcwd()))

    def detach_disk(self, vdev: str, *, force: bool = False) -> None:
        """Unplug a disk; returns when the guest has given it back. ``force``: whatever the guest does."""
        self._client.call(p.BLOCK_DETACH, p.BlockDetachRequest(self.domid, vdev, force))

    def change_medium(self, vdev: str, image: str | os.PathLike[str] | None) -> None:
        """Put an image into a CD drive, or None."""
        self._client.call(p.BLOCK_MEDIUM, p.MediumRequest(self.domid, vdev, os.fspath(image) if image is not None else "", os.getcwd()))

    def restart_backend(self, device: str) -> None:
        """Throw away what serves a device ("xvda", "vif0", "vbd/51712") in Domain 0, and start it anew. The guest's I/O goes on."""
        self._client.call(p.BACKEND_RESTART, p.BackendRestartRequest(self.domid, device))

    def rename(self, name: str) -> None:
        """Give it another name."""
        self._client.call(p.DOMAIN_RENAME, p.RenameRequest(self.domid, name))
        self.name = name

    def set_memory(self, mebibytes: int) -> None:
        """Set the target of its balloon driver, in MiB."""
        self._client.call(p.DOMAIN_MEM_SET, p.MemoryRequest(self.domid, mebibytes << 10))

    def set_vcpus(self, count: int) -> None:
        """Ask its kernel to use so many of its vCPUs, at most ``maxvcpus``."""
        self._client.call(p.DOMAIN_VCPU_SET, p.VcpuSetRequest(self.domid, count))

    def pin_vcpu(self, vcpu: int | None, cpus: str | None = None, cpus_soft: str | None = None) -> None:
        """Set where a vCPU (None: all) may run, and where it prefers to: lists such as "0-3,^1" or "all"; None leaves one as it is."""
        self._client.call(p.DOMAIN_VCPU_PIN, p.VcpuPinRequest(self.domid, vcpu, cpus, cpus_soft))

    def set_scheduling(self, weight: int | None = None, cap: int | None = None) -> None:
        """Weight (1 to 65535) and cap (percent of one CPU, 0: none) of the Credit2 scheduler; None leaves one as it is."""
        self._client.call(p.DOMAIN_SCHEDULING_SET, p.SchedulingRequest(self.domid, weight, cap))

    @property
    def vcpus(self) -> list[Vcpu]:
        """Its vCPUs now."""
        return self._client.call(p.DOMAIN_VCPUS, p.OptionalDomainId(self.domid)).vcpus

    def sysrq(self, key: str) -> None:
        """Press a magic SysRq key (one character)."""
        self._client.call(p.DOMAIN_SYSRQ, p.SysrqRequest(self.domid, key))

    def close(self) -> None:
        """Let go of the console connection; the domain goes on."""
        if self._console is not None:
            self._console.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.destroy()
        finally:
            self.close()


class Console:
    """A domain's console: what it printed, and what one types.

    Bytes that are no UTF-8 read as U+FFFD.
    """

    def __init__(self, client: Client, domid: int, name: str) -> None:
        self._client = client
        self._domid = domid
        self._name = name
        self._stream: Stream[p.ConsoleOutput, p.Nothing] = client.stream(p.CONSOLE_ATTACH, p.ConsoleAttachRequest(domid))
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text = ""
        self._position = 0  # what is before it has been expected

    @property
    def text(self) -> str:
        """All output so far."""
        while self._read(0.0):
            pass
        return self._text

    def tail(self, lines: int = _TAIL_LINES) -> str:
        """The last lines of the output so far."""
        return "\n".join(self.text.splitlines()[-lines:])

    def expect(self, pattern: str | re.Pattern[str], timeout: float = 60.0) -> re.Match[str]:
        """Wait for output that matches the regular expression, and return the match. The next ``expect`` looks behind it.

        Raises ``DomainTimeoutError`` after ``timeout`` seconds and ``HostError`` STATE when the console ended; both show its tail.
        """
        compiled = re.compile(pattern)
        deadline = time.monotonic() + timeout
        while True:
            match = compiled.search(self._text, self._position)
            if match is not None:
                self._position = match.end()
                return match
            if self._stream.result is not None:
                raise HostError(
                    f"the console of domain {self._name} ended without {compiled.pattern!r}; its tail:\n{self.tail()}", ErrorKind.STATE
                )
            if not self._read(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                raise DomainTimeoutError(
                    f"no {compiled.pattern!r} on the console of domain {self._name} in {timeout:g} s; its tail:\n{self.tail()}"
                )

    def send(self, text: str | bytes, timeout: float = 60.0) -> None:
        """Type ``text``. Raises ``DomainTimeoutError`` when the guest does not read it within ``timeout`` seconds."""
        data = text.encode() if isinstance(text, str) else text
        deadline = time.monotonic() + timeout
        while data:
            accepted = self._client.call(p.CONSOLE_WRITE, p.ConsoleInput(self._domid, data[:_INPUT_CHUNK])).accepted
            data = data[accepted:]
            if not accepted:
                if time.monotonic() > deadline:
                    raise DomainTimeoutError(f"domain {self._name} does not read its console")
                time.sleep(_POLL_SECONDS)

    def _read(self, timeout: float) -> bool:
        """Take one piece of output. -> whether there was one."""
        try:
            output = self._stream.read(timeout)
        except TimeoutError:
            return False
        if output is None:
            return False
        self._text += self._decoder.decode(output.data)
        surplus = len(self._text) - TEXT_LIMIT
        if surplus > 0:
            self._text = self._text[surplus:]
            self._position = max(0, self._position - surplus)
        return True

    def close(self) -> None:
        """Let go of the connection."""
        self._stream.close()


def _configuration(
    config: str | os.PathLike[str] | Mapping[str, Any] | None, settings: dict[str, Any]
) -> tuple[list[p.ConfigText], dict[str, Any]]:
    """What to send: texts, or a mapping."""
    if config is None or isinstance(config, Mapping):
        mapping = _plain({"name": f"domain-{os.urandom(4).hex()}", **(config or {}), **settings})
        return [], mapping
    if isinstance(config, str):
        text = p.ConfigText(config, "configuration")
    else:
        path = Path(config)
        try:
            text = p.ConfigText(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise HostError(f"{path}: can't be read: {error}", ErrorKind.INVALID) from None
    overrides = "".join(f"{key} = {_literal(value)}\n" for key, value in _plain(settings).items())
    return [text, p.ConfigText(overrides, "settings")], {}


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """With paths as text."""
    return {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in settings.items()}


def _literal(value: Any) -> str:
    """A value as xl.cfg(5) writes it. Raises ``TypeError``."""
    if isinstance(value, bool | int):
        return str(int(value))
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_literal(item) for item in value) + "]"
    raise TypeError(f"{type(value).__name__} is no value of a configuration")


def _events(stream: Stream[TraceEvent, p.Nothing]) -> Iterator[TraceEvent]:
    with stream:
        yield from stream

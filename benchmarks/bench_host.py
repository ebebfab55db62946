"""A host process of the benchmarks' own, and guests on it, started as a user starts them: by ``xl create`` from a configuration file."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect

from pyxen.host.client import Client, connect
from pyxen.host.protocol import STATISTICS, DomainStatistics, Nothing

PROMPT = "guest# "
BOOT_TIMEOUT = 180.0
#: Of the tables when they do not go to a terminal.
WIDTH = 120
TICKS = os.sysconf("SC_CLK_TCK")


class Bench:
    """``xl`` and ``pyxen`` of this environment, with a host of their own."""

    def __init__(self, directory: Path, kernel: Path, ramdisk: Path) -> None:
        self.directory = directory
        self.runtime = directory / "run"
        self._kernel = kernel
        self._ramdisk = ramdisk
        self._environment = os.environ | {"PYXEN_RUNTIME_DIR": str(self.runtime)}
        self._programs = Path(sys.executable).parent

    def create(
        self,
        name: str,
        memory_mb: int,
        switches: str = "",
        *,
        ramdisk: Path | None = None,
        keys: str = "",
        vcpus: int = 1,
        kind: str = "pv",
    ) -> pexpect.spawn[str]:
        """Start ``xl create -c`` and return its terminal. ``keys``: more lines of the configuration."""
        configuration = self.directory / f"{name}.cfg"
        configuration.write_text(
            f'name = "{name}"\ntype = "{kind}"\nkernel = "{self._kernel}"\nramdisk = "{ramdisk or self._ramdisk}"\n'
            f"memory = {memory_mb}\nvcpus = {vcpus}\n"
            f'extra = "console=hvc0 quiet {switches}"\non_poweroff = "destroy"\non_crash = "destroy"\n{keys}\n'
        )
        arguments = ["create", "-c", str(configuration)]
        program = str(self._programs / "xl")
        return pexpect.spawn(
            program, arguments, env=self._environment, timeout=BOOT_TIMEOUT, encoding="utf-8", codec_errors="replace", dimensions=(40, 200)
        )

    def destroy(self, name: str, terminal: pexpect.spawn[str]) -> None:
        """End a guest and its terminal."""
        subprocess.run([self._programs / "xl", "destroy", name], env=self._environment, check=True)
        terminal.close(force=True)

    def destroy_all(self) -> None:
        """Whatever a measurement that failed has left."""
        with contextlib.suppress(subprocess.CalledProcessError), self.client() as client:
            for domain in client.call(STATISTICS, Nothing()).domains[1:]:
                subprocess.run([self._programs / "xl", "destroy", domain.name], env=self._environment, check=False, capture_output=True)

    def compile_commands(self) -> None:
        """Have Python keep the compiled form of all that ``xl create`` and the host consist of."""
        subprocess.run([self._programs / "xl", "create", "-n", os.devnull], env=self._environment, check=False, capture_output=True)

    def stop_host(self) -> None:
        """Stop the host with all its guests."""
        subprocess.run([self._programs / "pyxen", "host", "stop"], env=self._environment, check=False, capture_output=True)

    def client(self) -> Client:
        """A connection to the host, which is started if it does not run. To be closed."""
        return connect(self.runtime)

    def domain(self, name: str) -> DomainStatistics:
        """What a guest has used so far."""
        with self.client() as client:
            return next(domain for domain in client.call(STATISTICS, Nothing()).domains if domain.name == name)

    def boot(self, name: str, memory_mb: int = 256) -> tuple[float, pexpect.spawn[str]]:
        """Create a guest; seconds from ``xl create`` to its prompt, and its terminal."""
        started = time.monotonic()
        terminal = self.create(name, memory_mb)
        terminal.expect_exact(PROMPT)
        return time.monotonic() - started, terminal

    def host_process(self) -> Path:
        """The host's folder in /proc."""
        return Path("/proc") / (self.runtime / "host.pid").read_text().split()[0]

    def anonymous_mib(self) -> float:
        """The host's memory without the machine memory, its largest mapping by far, which holds the guests' RAM."""
        mappings = (self.host_process() / "smaps").read_text()
        sizes = re.findall(r"^Size: +(\d+) kB(?:\n\w+:[^\n]*)*?\nAnonymous: +(\d+) kB", mappings, re.MULTILINE)
        *others, _machine_memory = sorted((int(size), int(anonymous)) for size, anonymous in sizes)
        return sum(anonymous for _, anonymous in others) / 1024

    def cpu_seconds(self) -> float:
        """CPU time that the host has used."""
        fields = (self.host_process() / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


@contextlib.contextmanager
def bench_host(kernel: Path, ramdisk: Path) -> Iterator[Bench]:
    """A bench in a folder of its own, with no host running yet; at the end the host is stopped and the folder removed."""
    directory = Path(tempfile.mkdtemp(prefix="pyxen-bench-", dir="/tmp"))  # short: Unix sockets are in it
    before = {name: os.environ.get(name) for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")}
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        os.environ["PYTHONPYCACHEPREFIX"] = str(directory / "compiled")
    bench = Bench(directory, kernel, ramdisk)
    try:
        # What an installation has compiled once is not to be compiled by what is measured.
        bench.compile_commands()
        bench.stop_host()
        yield bench
    finally:
        bench.stop_host()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        shutil.rmtree(directory, ignore_errors=True)

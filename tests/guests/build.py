"""Builds the micro-guests: an ELF kernel per file of programs/, linked with framework/. ``python -m tests.guests.build [NAME...]``."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pyxen.guests.packages import cache_directory, fetch

HERE = Path(__file__).parent
FRAMEWORK = HERE / "framework"
PROGRAMS = HERE / "programs"

COMPILE_FLAGS = (
    "-std=gnu11 -O1 -g -pipe -ffreestanding -nostdinc -fno-pic -fno-pie -mcmodel=kernel -mno-red-zone -mgeneral-regs-only "
    "-fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables -fno-strict-aliasing -Wall -Wextra -Werror "
    "-D__XEN_INTERFACE_VERSION__=0x00040e00"
).split()
LINK_FLAGS = "-static -nostdlib -no-pie -Wl,--build-id=none -Wl,-z,noexecstack -Wl,-z,max-page-size=4096".split()
EXPECTATIONS = ("poweroff", "reboot", "crash", "suspend", "running", "any")


class BuildError(Exception):
    """A guest can't be built; the text is the compiler's, or says what is missing."""


@dataclass(frozen=True)
class Program:
    """One micro-guest and what its first comment says of it."""

    source: Path
    expect: str = "poweroff"  #: how it must end: a shutdown reason, ``running`` (it never does), or ``any``
    vcpus: int = 1
    memory_mib: int = 8
    timeout_s: float = 20.0
    silent: bool = False  #: it prints nothing, not even its name
    bench: bool = False  #: a benchmark: its BENCH lines are shown
    known_failure: str = ""  #: why it fails today

    @property
    def name(self) -> str:
        return self.source.stem


def read_program(source: Path) -> Program:
    """Read the ``@tag value`` lines at the start of a program's first comment. Raises BuildError for a tag that does not exist."""
    comment = re.match(r"/\*(.*?)\*/", source.read_text(), re.DOTALL)
    if comment is None:
        raise BuildError(f"{source}: the first thing must be a comment that says what is tested")
    tags = dict(re.findall(r"^[ *]*@(\w+)[ \t]*(.*?)[ \t]*$", comment[1], re.MULTILINE))
    program = Program(
        source,
        expect=tags.pop("expect", "poweroff"),
        vcpus=int(tags.pop("vcpus", "1")),
        memory_mib=int(tags.pop("memory", "8")),
        timeout_s=float(tags.pop("timeout", "20")),
        silent=tags.pop("silent", None) is not None,
        bench=tags.pop("bench", None) is not None,
        known_failure=tags.pop("known_failure", ""),
    )
    if tags or program.expect not in EXPECTATIONS:
        raise BuildError(f"{source}: unknown tags {tags or program.expect}")
    return program


def all_programs() -> list[Program]:
    """Every program, by name."""
    return [read_program(source) for source in sorted(PROGRAMS.glob("*.c"))]


def xen_headers() -> Path:
    """The folder above ``xen/``: ``$PYXEN_XEN_HEADERS``, else libxen-dev's in the cache."""
    override = os.environ.get("PYXEN_XEN_HEADERS")
    return Path(override) if override else fetch().xen_headers


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise BuildError(f"{command[0]} is missing: apt install gcc binutils") from error
    if done.returncode:
        raise BuildError(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


class Builder:
    """Compiles into a cache folder, where each file's name has a hash of all that goes into it: what is there is never built again."""

    def __init__(self, headers: Path | None = None, cache: Path | None = None) -> None:
        headers = headers or xen_headers()
        self._cache = (cache or cache_directory()) / "micro-guests"
        self._cache.mkdir(parents=True, exist_ok=True)
        own_headers = _run(["gcc", "-print-file-name=include"]).strip()
        self._compile = ["gcc", *COMPILE_FLAGS, "-isystem", own_headers, "-isystem", str(headers), "-I", str(FRAMEWORK)]
        inputs = [*FRAMEWORK.glob("*.h"), FRAMEWORK / "link.ld"]
        self._base_key = hashlib.sha256(
            "\0".join([_run(["gcc", "--version"]), *self._compile, *LINK_FLAGS, *(path.read_text() for path in sorted(inputs))]).encode()
        )

    def build(self, programs: list[Program]) -> dict[str, Path]:
        """-> the kernel of each program, by name. Raises BuildError."""
        sources = sorted([*FRAMEWORK.glob("*.c"), *FRAMEWORK.glob("*.S")])
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            framework = list(pool.map(self._object, sources))
            kernels = pool.map(lambda program: self._kernel(program, framework), programs)
            return dict(zip((program.name for program in programs), kernels, strict=True))

    def _object(self, source: Path) -> Path:
        target = self._path(source.read_text(), source.name, ".o")
        return self._make(target, [*self._compile, "-c", str(source)])

    def _kernel(self, program: Program, framework: list[Path]) -> Path:
        target = self._path(program.source.read_text() + "".join(map(str, framework)), program.name, ".elf")
        script = f"-Wl,-T,{FRAMEWORK / 'link.ld'}"
        return self._make(target, [*self._compile, *LINK_FLAGS, script, str(program.source), *map(str, framework)])

    def _path(self, content: str, name: str, suffix: str) -> Path:
        key = self._base_key.copy()
        key.update(content.encode())
        return self._cache / f"{name}-{key.hexdigest()[:20]}{suffix}"

    def _make(self, target: Path, command: list[str]) -> Path:
        if not target.exists():
            descriptor, temporary = tempfile.mkstemp(dir=self._cache)
            os.close(descriptor)
            try:
                _run([*command, "-o", temporary])
                os.replace(temporary, target)
            except BaseException:
                os.unlink(temporary)
                raise
        return target


def main(names: list[str]) -> int:
    """Build the named programs (all without names) and print where they are."""
    try:
        programs = [program for program in all_programs() if not names or program.name in names]
        for kernel in Builder().build(programs).values():
            print(kernel)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

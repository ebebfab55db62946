"""Builds the micro-guests: an ELF kernel per file of programs/, linked with framework/, and of pvh/programs/, linked with pvh/framework/.
``python -m tests.guests.build [NAME...]``."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
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

PVH_FRAMEWORK = HERE / "pvh" / "framework"
PVH_PROGRAMS = HERE / "pvh" / "programs"

COMPILE_FLAGS = (
    "-std=gnu11 -O1 -g -pipe -ffreestanding -nostdinc -fno-pic -fno-pie -mno-red-zone -mgeneral-regs-only "
    "-fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables -fno-strict-aliasing -Wall -Wextra -Werror "
    "-D__XEN_INTERFACE_VERSION__=0x00040e00"
).split()
LINK_FLAGS = "-static -nostdlib -no-pie -Wl,--build-id=none -Wl,-z,noexecstack -Wl,-z,max-page-size=4096".split()
#: What PVH guests have of the framework of PV guests.
SHARED = ("check.c", "format.c", "string.c")
EXPECTATIONS = ("poweroff", "reboot", "crash", "suspend", "running", "any")


class BuildError(Exception):
    """A guest can't be built; the text is the compiler's, or says what is missing."""


@dataclass(frozen=True)
class Platform:
    """What a program is compiled for: a kind of domain and, of PVH domains, the mode that its processor is in when the program begins."""

    name: str
    kind: str
    flags: tuple[str, ...]

    @property
    def folders(self) -> list[Path]:
        """Where the framework's sources and headers are, the platform's own first."""
        return [FRAMEWORK] if self.kind == "pv" else [PVH_FRAMEWORK, FRAMEWORK]

    @property
    def sources(self) -> list[Path]:
        """The framework's."""
        own = sorted([*self.folders[0].glob("*.c"), *self.folders[0].glob("*.S")])
        return own if self.kind == "pv" else [*own, *(FRAMEWORK / name for name in SHARED)]


PV = Platform("pv", "pv", ("-mcmodel=kernel",))
#: Long mode, PAE paging, 32-bit paging: the values of the tag ``modes``.
PVH_MODES = {
    "64": Platform("64", "pvh", ()),
    "pae": Platform("pae", "pvh", ("-m32", "-DPVH_PAE")),
    "32": Platform("32", "pvh", ("-m32", "-DPVH_32")),
}


@dataclass(frozen=True)
class Program:
    """One micro-guest and what its first comment says of it."""

    source: Path
    platform: Platform = PV
    expect: str = "poweroff"  #: how it must end: a shutdown reason, ``running`` (it never does), or ``any``
    vcpus: int = 1
    memory_mib: int = 8
    timeout_s: float = 20.0
    silent: bool = False  #: it prints nothing, not even its name
    bench: bool = False  #: a benchmark: its BENCH lines are shown
    known_failure: str = ""  #: why it fails today

    @property
    def name(self) -> str:
        """Of its file; of a PVH guest with its mode."""
        return self.source.stem if self.platform.kind == "pv" else f"pvh_{self.source.stem}-{self.platform.name}"


def read_program(source: Path) -> Program:
    """Read the ``@tag value`` lines at the start of a program's first comment. Raises BuildError for a tag that does not exist."""
    return _read(source, {"": PV})[0]


def read_pvh_program(source: Path) -> list[Program]:
    """As ``read_program``: one for each of its modes."""
    return _read(source, PVH_MODES)


def _read(source: Path, platforms: dict[str, Platform]) -> list[Program]:
    comment = re.match(r"/\*(.*?)\*/", source.read_text(), re.DOTALL)
    if comment is None:
        raise BuildError(f"{source}: the first thing must be a comment that says what is tested")
    tags = dict(re.findall(r"^[ *]*@(\w+)[ \t]*(.*?)[ \t]*$", comment[1], re.MULTILINE))
    modes = tags.pop("modes", next(iter(platforms))).split() if len(platforms) > 1 else list(platforms)
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
    if tags or program.expect not in EXPECTATIONS or not set(modes) <= set(platforms):
        raise BuildError(f"{source}: unknown tags {tags or program.expect}")
    return [dataclasses.replace(program, platform=platforms[mode]) for mode in modes]


def all_programs() -> list[Program]:
    """Every program for PV domains, by name."""
    return [read_program(source) for source in sorted(PROGRAMS.glob("*.c"))]


def pvh_programs() -> list[Program]:
    """Every program for PVH domains, by name, in each of its modes."""
    return [program for source in sorted(PVH_PROGRAMS.glob("*.c")) for program in read_pvh_program(source)]


def xen_headers() -> Path:
    """The folder above ``xen/``: ``$PYXEN_XEN_HEADERS``, else libxen-dev's in the cache."""
    override = os.environ.get("PYXEN_XEN_HEADERS")
    return Path(override) if override else fetch().xen_headers


@functools.cache
def _headers(platform: Platform) -> list[str]:
    """Contents of what every source may include, and of the linker's script."""
    return [path.read_text() for folder in platform.folders for path in (*sorted(folder.glob("*.h")), folder / "link.ld")]


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
        self._compile = ["gcc", *COMPILE_FLAGS, "-isystem", own_headers, "-isystem", str(headers)]
        self._version = _run(["gcc", "--version"])

    def build(self, programs: list[Program]) -> dict[str, Path]:
        """-> the kernel of each program, by name. Raises BuildError."""
        platforms = {program.platform for program in programs}
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            wanted = [(platform, source) for platform in platforms for source in platform.sources]
            objects = list(pool.map(lambda pair: self._object(*pair), wanted))
            framework = {
                platform: [path for (owner, _), path in zip(wanted, objects, strict=True) if owner == platform] for platform in platforms
            }
            kernels = pool.map(lambda program: self._kernel(program, framework[program.platform]), programs)
            return dict(zip((program.name for program in programs), kernels, strict=True))

    def build_alone(self, source: Path) -> Path:
        """A kernel of one file and its own linker script beside it (``.ld``), with the framework's headers but none of its code."""
        script = source.with_suffix(".ld")
        platform = Platform("low", "pv", ("-mcmodel=small",))
        target = self._path(platform, source.read_text() + script.read_text(), source.stem, ".elf")
        return self._make(target, [*self._command(platform), *LINK_FLAGS, f"-Wl,-T,{script}", str(source)])

    def _command(self, platform: Platform) -> list[str]:
        includes = [argument for folder in platform.folders for argument in ("-I", str(folder))]
        return [*self._compile, *platform.flags, *includes]

    def _object(self, platform: Platform, source: Path) -> Path:
        target = self._path(platform, source.read_text(), source.name, ".o")
        return self._make(target, [*self._command(platform), "-c", str(source)])

    def _kernel(self, program: Program, framework: list[Path]) -> Path:
        target = self._path(program.platform, program.source.read_text() + "".join(map(str, framework)), program.name, ".elf")
        script = f"-Wl,-T,{program.platform.folders[0] / 'link.ld'}"
        return self._make(target, [*self._command(program.platform), *LINK_FLAGS, script, str(program.source), *map(str, framework)])

    def _path(self, platform: Platform, content: str, name: str, suffix: str) -> Path:
        texts = [self._version, *self._command(platform), *LINK_FLAGS, *_headers(platform), content]
        return self._cache / f"{name}-{hashlib.sha256(chr(0).join(texts).encode()).hexdigest()[:20]}{suffix}"

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
        programs = [program for program in (*all_programs(), *pvh_programs()) if not names or program.name in names]
        for kernel in Builder().build(programs).values():
            print(kernel)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

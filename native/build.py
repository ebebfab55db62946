"""Builds libpyxen-engine.so: unicorn's source package from PyPI, pyxen's edits, pyxen's C files.

    python native/build.py --output DIR

The result is cached under ~/.cache/pyxen/engine (PYXEN_CACHE_DIR changes ~/.cache/pyxen) by the content of everything that goes into
it, so a second build is a copy. Needs gcc and the C library's headers; cmake and ninja may come from PyPI.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path

NATIVE = Path(__file__).resolve().parent
sys.path.insert(0, str(NATIVE))

from edit import AFTER, BEFORE, Edit  # noqa: E402
from edits import EDITS  # noqa: E402

UNICORN_VERSION = "2.1.4"
UNICORN_SHA256 = "00567a70e323f749b419cd86bee4f9115beab7ebba32194581c090cbb7c59cff"
LIBRARY = "libpyxen-engine.so"

HEADERS = ("pyxen_state.h", "pyxen_frames.h", "pyxen_gate.h", "pyxen_hooks.h", "pyxen_cpu.h", "pyxen_internal.h", "pyxen_sse.h")
SOURCES = (
    "pyxen_access.c",
    "pyxen_apic.c",
    "pyxen_atomic.c",
    "pyxen_block.c",
    "pyxen_cpu.c",
    "pyxen_code.c",
    "pyxen_control.c",
    "pyxen_debug.c",
    "pyxen_decode.c",
    "pyxen_events.c",
    "pyxen_exits.c",
    "pyxen_fpu.c",
    "pyxen_frames.c",
    "pyxen_gate.c",
    "pyxen_hvm.c",
    "pyxen_injection.c",
    "pyxen_lock.c",
    "pyxen_mmu.c",
    "pyxen_physical.c",
    "pyxen_string.c",
    "pyxen_table_writes.c",
    "pyxen_timer.c",
)
EDIT_FILES = ("edit.py", "edits.py", "edits_exits.py", "edits_instructions.py", "edits_memory.py", "edits_sse.py")
BUILT_FROM = (*HEADERS, *SOURCES, *EDIT_FILES, "build.py")


class BuildError(Exception):
    """The engine cannot be built here; the text says what is missing."""


def cache_folder() -> Path:
    base = os.environ.get("PYXEN_CACHE_DIR") or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "pyxen")
    return Path(base) / "engine"


def tool(name: str) -> str | None:
    """The path of a program: on PATH, or where pip puts scripts of this interpreter."""
    return shutil.which(name) or shutil.which(name, path=sysconfig.get_path("scripts"))


def missing_tools() -> list[str]:
    """The PyPI packages that have to be installed before a build."""
    return [name for name in ("cmake", "ninja") if tool(name) is None]


def run(command: list[str]) -> None:
    # The engine's configure script wants a pkg-config to exist and asks it nothing that a build for one target needs.
    environment = {**os.environ, "PKG_CONFIG": "true"}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
    )
    if done.returncode:
        sys.stderr.write(done.stdout[-8000:])
        raise BuildError(f"{Path(command[0]).name} failed with status {done.returncode}; its output is above")


def compiler_version() -> str:
    compiler = os.environ.get("CC") or "gcc"
    path = shutil.which(compiler)
    if path is None:
        raise BuildError(f"no C compiler ({compiler}): install it, on Debian and Ubuntu with: apt install gcc libc6-dev")
    probe = subprocess.run(
        [path, "-fsyntax-only", "-x", "c", "-"], input="#include <stdlib.h>\n", capture_output=True, text=True, check=False
    )
    if probe.returncode:
        raise BuildError("the C library's headers are missing: install them, on Debian and Ubuntu with: apt install libc6-dev")
    return subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout


def content_key() -> str:
    key = hashlib.sha256()
    for part in (UNICORN_SHA256, compiler_version()):
        key.update(part.encode())
    for name in BUILT_FROM:
        key.update((NATIVE / name).read_bytes())
    return key.hexdigest()[:24]


def verified(archive: Path) -> bool:
    return archive.is_file() and hashlib.sha256(archive.read_bytes()).hexdigest() == UNICORN_SHA256


def fetch(cache: Path) -> Path:
    """The source package, from the cache or by pip, which checks the hash."""
    archive = cache / f"unicorn-{UNICORN_VERSION}.tar.gz"
    if verified(archive):
        return archive
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        wanted = Path(folder) / "requirements.txt"
        wanted.write_text(f"unicorn=={UNICORN_VERSION} --hash=sha256:{UNICORN_SHA256}\n")
        run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
            + ["--require-hashes", "--dest", folder, "--requirement", str(wanted)]
        )
        found = next(Path(folder).glob("unicorn-*.tar.gz"), None)
        if found is None or not verified(found):
            raise BuildError(f"pip did not fetch the source package of unicorn {UNICORN_VERSION} with the expected content")
        found.replace(archive)
    return archive


def apply(edit: Edit, root: Path) -> None:
    path = root / edit.path
    text = path.read_text()
    found = text.count(edit.anchor)
    if found != 1:
        raise BuildError(f"{edit.path}: the anchor {edit.anchor.strip()[:60]!r} occurs {found} times, not once ({edit.why})")
    replacement = {AFTER: edit.anchor + edit.text, BEFORE: edit.text + edit.anchor}.get(edit.where, edit.text)
    path.write_text(text.replace(edit.anchor, replacement))


def prepare(archive: Path, folder: Path) -> Path:
    """The edited source tree."""
    with tarfile.open(archive) as package:
        if hasattr(tarfile, "data_filter"):
            package.extractall(folder, filter="data")
        else:
            package.extractall(folder)
    root = folder / f"unicorn-{UNICORN_VERSION}"
    for edit in EDITS:
        apply(edit, root)
    for name in HEADERS:
        shutil.copy(NATIVE / name, root / "src/include" / name)
    for name in SOURCES:
        shutil.copy(NATIVE / name, root / "src/qemu/target/i386" / name)
    return root / "src"


def compile_library(source: Path, build: Path) -> Path:
    cmake = tool("cmake")
    if cmake is None:
        raise BuildError("cmake is missing: pip install cmake ninja")
    ninja = tool("ninja")
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
    options = ["-DUNICORN_ARCH=x86", "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON", "-DUNICORN_BUILD_TESTS=OFF"]
    options += [
        "-DCMAKE_C_FLAGS=-Werror=implicit-function-declaration",
        "-DUNICORN_INSTALL=OFF",
        "-DUNICORN_LEGACY_STATIC_ARCHIVE=OFF",
        "-DCMAKE_SHARED_LINKER_FLAGS=-Wl,-Bsymbolic -s",
    ]
    run([cmake, "-S", str(source), "-B", str(build), *generator, *options])
    run([cmake, "--build", str(build), "--parallel", str(os.cpu_count() or 1), "--target", "unicorn"])
    return next(path for path in sorted(build.glob("libunicorn.so*")) if not path.is_symlink())


def build() -> Path:
    """The cached library, built if need be. Raises BuildError."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise BuildError("the engine runs on x86-64 Linux only")
    cache = cache_folder()
    target = cache / content_key() / LIBRARY
    if target.is_file():
        return target
    archive = fetch(cache)
    with tempfile.TemporaryDirectory(prefix="pyxen-engine-") as folder:
        source = prepare(archive, Path(folder))
        library = compile_library(source, Path(folder) / "build")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}")
        shutil.copyfile(library, partial)
        partial.replace(target)  # at once, so that a build next to this one never sees half a file
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description="Build pyxen's CPU engine.")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help=f"where {LIBRARY} goes")
    output = parser.parse_args().output
    try:
        library = build()
    except BuildError as error:
        print(f"native/build.py: {error}", file=sys.stderr)
        return 1
    output.mkdir(parents=True, exist_ok=True)
    partial = output / f".{LIBRARY}.{os.getpid()}"
    shutil.copyfile(library, partial)
    partial.replace(output / LIBRARY)
    print(output / LIBRARY)
    return 0


if __name__ == "__main__":
    sys.exit(main())

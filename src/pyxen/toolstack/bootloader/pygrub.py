"""Runs the reader of a guest's disk (``reader``) and hands on what it found; the options are those of Xen 4.17's pygrub."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from pyxen.toolstack.bootloader.errors import BootError
from pyxen.toolstack.bootloader.reader import ReaderOptions
from pyxen.toolstack.configuration import DomainConfig
from pyxen.toolstack.errors import Fault, ToolstackError

#: Seconds for all of it. The disk may be slow; a hostile one must not hold the creation for ever.
TIMEOUT = 120.0
_ANSWER_LIMIT = 1 << 20
_TEXT_LIMIT = 4096


@dataclasses.dataclass(frozen=True)
class BootFiles:
    """What the disk boots, in memory. The paths lead to open files and are good while the context of ``boot_files`` lasts."""

    kernel_path: str
    ramdisk_path: str  #: empty: none
    arguments: str
    kernel_name: str  #: as the disk's menu calls them
    ramdisk_name: str
    disk: str


class _Options(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ToolstackError(f"bootloader_args: {message}", Fault.INVALID)


def parse_options(arguments: Sequence[str]) -> tuple[ReaderOptions, str]:
    """-> what to read, and arguments to add to the kernel's. Raises ``ToolstackError``."""
    parser = _Options(prog="pygrub", add_help=False, allow_abbrev=False)
    parser.add_argument("--kernel", default="")
    parser.add_argument("--ramdisk", default="")
    parser.add_argument("--args", default="")
    parser.add_argument("--entry")
    parser.add_argument("--offset", type=int)
    parser.add_argument("-q", "--quiet", action="store_true")
    given = parser.parse_args(list(arguments))
    if given.offset is not None and given.offset < 0:
        raise ToolstackError("bootloader_args: --offset must not be negative", Fault.INVALID)
    return ReaderOptions(given.offset, given.entry, given.kernel, given.ramdisk), given.args


@contextlib.contextmanager
def boot_files(config: DomainConfig) -> Iterator[BootFiles]:
    """Read the first disk of the domain. Blocks for a second or more: for worker threads. Raises ``ToolstackError``.

    ``kernel``, ``ramdisk`` and ``cmdline`` of the configuration are pygrub's --kernel, --ramdisk and --args, as libxl passes them.
    """
    options, arguments = parse_options(config.bootloader_args)
    options = dataclasses.replace(options, kernel=config.kernel or options.kernel, ramdisk=config.ramdisk or options.ramdisk)
    disk = _boot_disk(config)
    with contextlib.ExitStack() as files:
        opened = _open(disk)
        files.callback(os.close, opened)
        kernel, ramdisk = (os.memfd_create(f"pyxen-{name}", os.MFD_CLOEXEC) for name in ("kernel", "ramdisk"))
        files.callback(os.close, kernel)
        files.callback(os.close, ramdisk)
        try:
            answer = _run(opened, kernel, ramdisk, options)
        except BootError as error:
            raise ToolstackError(f"bootloader: disk {disk}: {error}", Fault.INVALID) from error
        parts = (answer["arguments"], config.command_line or arguments)
        yield BootFiles(
            kernel_path=f"/proc/self/fd/{kernel}",
            ramdisk_path=f"/proc/self/fd/{ramdisk}" if answer["ramdisk"] else "",
            arguments=" ".join(part for part in parts if part),
            kernel_name=answer["kernel"],
            ramdisk_name=answer["ramdisk"],
            disk=disk,
        )


def _boot_disk(config: DomainConfig) -> str:
    disk = next((disk for disk in config.disk if not disk.cdrom), None)
    if disk is None:
        raise ToolstackError("bootloader: the domain has no disk to boot from", Fault.INVALID)
    if disk.format != "raw" or disk.script:
        raise ToolstackError(
            f"bootloader: pygrub reads raw disks only, and {disk.target} is {disk.format};"
            " let GRUB's PV image read it: kernel = (see examples/debian-grub.cfg)",
            Fault.UNSUPPORTED,
        )
    return disk.target


def _open(path: str) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ToolstackError(f"bootloader: disk {path} can't be opened: {error.strerror}", Fault.INVALID) from None
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        os.close(descriptor)
        raise ToolstackError(f"bootloader: disk {path} is neither a file nor a block device", Fault.INVALID)
    return descriptor


def _run(disk: int, kernel: int, ramdisk: int, options: ReaderOptions) -> dict[str, str]:
    command = [sys.executable, "-m", "pyxen.toolstack.bootloader.reader", str(disk), str(kernel), str(ramdisk)]
    source = str(Path(__file__).parents[3])
    try:
        finished = subprocess.run(
            [*command, json.dumps(dataclasses.asdict(options))],
            pass_fds=(disk, kernel, ramdisk),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.defpath, "PYTHONPATH": source, "PYTHONDONTWRITEBYTECODE": "1"},
            cwd="/",
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BootError(f"reading it took more than {TIMEOUT:.0f} s") from None
    return _answer(finished.returncode, finished.stdout[:_ANSWER_LIMIT])


def _answer(status: int, untrusted_output: bytes) -> dict[str, str]:
    """What the reader says, which may be under the disk's control: three texts that are fit to be printed. Raises ``BootError``."""
    try:
        answer = json.loads(untrusted_output)
    except ValueError:
        raise BootError(f"what reads it ended with status {status}; the disk may be damaged") from None
    texts = {name: _text(answer.get(name)) for name in ("error", "kernel", "ramdisk", "arguments")} if isinstance(answer, dict) else {}
    if not texts or texts["error"] or not texts["kernel"]:
        raise BootError(texts.get("error") or "what reads it gave no answer")
    return texts


def _text(untrusted_value: object) -> str:
    text = untrusted_value[:_TEXT_LIMIT] if isinstance(untrusted_value, str) else ""
    return "".join(character if character.isprintable() else "?" for character in text)

"""``pyxen image build``."""

from __future__ import annotations

import re
import secrets
import sys
from pathlib import Path
from typing import Annotated

import typer

from pyxen.cli.ending_signals import ending_signals_raise
from pyxen.cli.failures import EXIT_SUCCESS, CommandFailed
from pyxen.cli.progress import progress_reporter
from pyxen.guests.debian_image import DEFAULT_SIZE, DebianImage
from pyxen.guests.disk_files import ImageError
from pyxen.host.protocol import Progress

image_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Disk images for guests.")
_SIZE = re.compile(r"([0-9]{1,9})([KMGT]?)(?:i?B)?", re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@image_app.callback()
def _group() -> None:
    """Disk images for guests."""


@image_app.command()
def build(
    system: Annotated[str, typer.Argument(help="debian.")],
    out: Annotated[Path, typer.Option(help="The image to make. It must not be there yet.")],
    size: Annotated[str, typer.Option(help="Of the disk: a number with K, M, G or T. A raw image takes only what is used of it.")] = "4G",
    image_format: Annotated[str, typer.Option("--format", help="raw or qcow2 (with qemu-img).")] = "raw",
    suite: Annotated[str, typer.Option(help="The Debian release.")] = "bookworm",
    include: Annotated[list[str] | None, typer.Option(help="More packages, with commas between them; may be repeated.")] = None,
    hostname: Annotated[str, typer.Option(help="The guest's name.")] = "debian",
    root_password: Annotated[str | None, typer.Option(help="Made up and shown if not given.")] = None,
    ssh_key: Annotated[Path | None, typer.Option(help="A public key that may log in as root; installs openssh-server.")] = None,
    mirror: Annotated[str, typer.Option(help="Another archive than deb.debian.org.")] = "",
    cmdline: Annotated[str, typer.Option(help="More arguments for the guest's kernel.")] = "quiet",
) -> int:
    """Make a disk image with a Debian of its own: systemd, a kernel and GRUB's menu in /boot, network by DHCP."""
    if system != "debian":
        raise CommandFailed(f"{system!r}: only debian can be built")
    password = root_password if root_password is not None else secrets.token_urlsafe(9)
    try:
        image = DebianImage(
            path=out.absolute(),
            root_password=password,
            size=_bytes(size),
            image_format=image_format,
            suite=suite,
            include=tuple(name.strip() for names in include or () for name in names.split(",") if name.strip()),
            hostname=hostname,
            ssh_key="" if ssh_key is None else _public_key(ssh_key),
            mirror=mirror,
            kernel_arguments=cmdline,
        )
        with ending_signals_raise(), progress_reporter() as show:
            image.build(lambda stage: show(Progress(stage)) if show else print(f"pyxen: {stage}", file=sys.stderr, flush=True))
    except ImageError as error:
        raise CommandFailed(str(error)) from None
    print(f"{out}: Debian {suite}, {image.size >> 20} MiB, {image_format}")
    if root_password is None:
        print(f"password of root: {password}")
    return EXIT_SUCCESS


def _bytes(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if not match:
        raise ImageError(f"{text!r} is no size; give a number with K, M, G or T, such as {DEFAULT_SIZE >> 30}G")
    return int(match[1]) * _UNITS[match[2].upper()]


def _public_key(path: Path) -> str:
    try:
        text = path.expanduser().read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ImageError(f"the key {path} can't be read: {getattr(error, 'strerror', None) or error}") from None
    if "PRIVATE KEY" in text:
        raise ImageError(f"{path} is a private key; give the public one ({path}.pub)")
    if not text.strip() or not all(line.startswith(("ssh-", "ecdsa-", "sk-", "#")) for line in text.strip().splitlines()):
        raise ImageError(f"{path} is no public key of ssh")
    return text

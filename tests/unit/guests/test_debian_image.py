"""What is refused before a build begins, and what a failed build leaves behind: nothing."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from pyxen.guests.debian_files import GuestSettings, early_files, late_files
from pyxen.guests.debian_image import DebianImage
from pyxen.guests.disk_files import ImageError
from tests.toolstack.xl_command import run


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"suite": "../etc"}, "no name of a Debian release"),
        ({"hostname": "a b"}, "no host name"),
        ({"hostname": "-a"}, "no host name"),
        ({"include": ("fio", "--option")}, "no name of a package"),
        ({"image_format": "vhd"}, "raw, qcow2"),
        ({"size": 1 << 20}, "1024 MiB to"),
        ({"root_password": ""}, "must not be empty"),
        ({"root_password": "a\nb"}, "one line"),
        ({"kernel_arguments": "quiet\nx"}, "one line"),
        ({"mirror": "--x"}, "no http, https or file URL"),
    ],
)
def test_refused(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    settings: dict[str, object] = {"path": tmp_path / "a.img", "root_password": "x"} | changes
    with pytest.raises(ImageError, match=words) as caught:
        DebianImage(**settings)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_file_that_is_there_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.img"
    path.write_text("precious")
    with pytest.raises(ImageError, match="is there already"):
        DebianImage(path, "x").build()
    assert path.read_text() == "precious"


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    """The archive is refused by the first connection: it stands at a port where nobody listens."""
    with pytest.raises(ImageError) as caught:
        DebianImage(tmp_path / "a.img", "x", mirror="http://127.0.0.1:9/debian").build()
    assert "127.0.0.1" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fedora", "--out", "a.img"), "only debian"),
        (("debian", "--out", "a.img", "--size", "much"), "no size"),
        (("debian", "--out", "a.img", "--ssh-key", "none"), "can't be read"),
        (("debian", "--out", "a.img", "--ssh-key", "id"), "private key"),
        (("debian", "--out", "no/such/a.img"), "no/such/a.img can't be made"),
    ],
)
def test_command(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    (tmp_path / "id").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    finished = run("pyxen", "image", "build", *arguments, cwd=tmp_path)
    assert finished.returncode == 1
    assert words in finished.stderr
    assert finished.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["id"]


def test_files_of_a_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    settings = GuestSettings("0b1c", "box", "secret", "ssh-ed25519 AAAA me", "quiet")
    assert (early_files(settings), late_files(settings)) == (early_files(settings), late_files(settings))
    with tarfile.open(fileobj=io.BytesIO(late_files(settings))) as archive:
        members = {member.name: member for member in archive.getmembers()}
        menu = archive.extractfile("boot/grub/grub.cfg")
        assert menu is not None
        assert "\tlinux /vmlinuz root=UUID=0b1c ro console=hvc0 quiet\n\tinitrd /initrd.img\n" in menu.read().decode()
    assert members[".pyxen/password"].mode == 0o600
    assert {(member.uid, member.gid, member.mtime) for member in members.values()} == {(0, 0, 1700000000)}

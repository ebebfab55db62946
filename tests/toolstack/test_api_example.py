"""The example in the API's docstring runs as it stands, but for the paths of its files."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

import pyxen.api
from pyxen.guests.packages import GuestPackages


@pytest.mark.guest
@pytest.mark.timeout(180)
def test_example(runtime_directory: Path, guest_packages: GuestPackages, demo_ramdisk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pyxen.api.__doc__ is not None
    blocks = re.findall(r"(?m)^    .*(?:\n(?:    .*|))*", pyxen.api.__doc__)
    example = textwrap.dedent(blocks[0])
    assert "pyxen.Host()" in example
    for shown, real in (("/boot/vmlinuz", guest_packages.kernel), ("/tmp/initrd.img", demo_ramdisk)):
        assert shown in example
        example = example.replace(shown, str(real))
    exec(compile(example, "example", "exec"), {})
    assert capsys.readouterr().out.strip() == guest_packages.kernel_release

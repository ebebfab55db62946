"""Names of files as a command in some folder sees them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyxen.toolstack.errors import ToolstackError
from pyxen.toolstack.file_paths import absolute_path, image_path


def test_relative_names_are_of_the_folder(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert absolute_path("a/../b", folder) == f"{folder}/b"
    assert absolute_path("/x/y", folder) == "/x/y"
    assert absolute_path("~/z", folder) == os.path.expanduser("~/z")
    assert absolute_path("", folder) == ""
    with pytest.raises(ToolstackError, match="relative"):
        absolute_path("x", "")


def test_a_disk_that_is_not_in_the_folder_may_be_in_dev(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert image_path("null", folder) == "/dev/null"
    (tmp_path / "null").touch()
    assert image_path("null", folder) == f"{folder}/null"
    assert image_path("no-such-volume", folder) == f"{folder}/no-such-volume"
    assert image_path("/null", folder) == "/null"
    assert image_path("", folder) == ""

from __future__ import annotations

from pathlib import Path

import pytest

from pyxen.host.processor import has_reliable_counter


@pytest.mark.parametrize(
    ("text", "reliable"),
    [
        ("processor\t: 0\nflags\t\t: fpu tsc constant_tsc nonstop_tsc\n", True),
        ("flags\t\t: fpu constant_tsc nonstop_tsc\nflags\t\t: fpu constant_tsc\n", False),
        ("flags\t\t: fpu nonstop_tsc\n", False),
        ("model name\t: constant_tsc nonstop_tsc\n", False),
        ("", False),
    ],
)
def test_reliable_counter(tmp_path: Path, text: str, reliable: bool) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(text)
    assert has_reliable_counter(file) == reliable


def test_a_host_that_does_not_tell(tmp_path: Path) -> None:
    assert not has_reliable_counter(tmp_path / "nothing")

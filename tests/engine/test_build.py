"""The build of the engine library, as far as it goes without compiling."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "native"


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(NATIVE))
    sys.modules.pop("build", None)  # there is a package of this name on PyPI
    import build

    monkeypatch.setitem(sys.modules, "build", build)
    return build


def test_without_a_compiler_one_line_says_what_to_install(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, NATIVE / "build.py", "--output", tmp_path],
        env={"PATH": str(tmp_path), "PYXEN_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "apt install gcc" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("content", "times"), [("nothing of the kind", 0), ("anchor anchor", 2)])
def test_an_edit_whose_anchor_is_not_there_once_stops_the_build(build: ModuleType, tmp_path: Path, content: str, times: int) -> None:
    (tmp_path / "file.c").write_text(content)
    edit = build.Edit("file.c", "a reason", "anchor", build.AFTER, "text")
    with pytest.raises(build.BuildError, match=f"occurs {times} times"):
        build.apply(edit, tmp_path)
    assert (tmp_path / "file.c").read_text() == content


@pytest.mark.parametrize(("where", "result"), [("after", "a anchor! b"), ("before", "a !anchor b"), ("replace", "a ! b")])
def test_edits(build: ModuleType, tmp_path: Path, where: str, result: str) -> None:
    (tmp_path / "file.c").write_text("a anchor b")
    build.apply(build.Edit("file.c", "a reason", "anchor", where, "!"), tmp_path)
    assert (tmp_path / "file.c").read_text() == result


def test_every_edit_has_a_reason_and_an_anchor_of_its_own(build: ModuleType) -> None:
    assert all(edit.why.endswith(".") and edit.anchor for edit in build.EDITS)
    places = [(edit.path, edit.anchor) for edit in build.EDITS]
    assert len(set(places)) == len(places)


def test_the_cache_is_by_content(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    key = build.content_key()
    assert build.content_key() == key
    monkeypatch.setattr(build, "UNICORN_SHA256", "0" * 64)
    assert build.content_key() != key


def test_a_source_package_of_other_content_is_not_used(build: ModuleType, tmp_path: Path) -> None:
    archive = tmp_path / f"unicorn-{build.UNICORN_VERSION}.tar.gz"
    archive.write_bytes(b"something else")
    assert not build.verified(archive)
    assert not build.verified(tmp_path / "absent")


def test_everything_in_the_folder_goes_into_the_key(build: ModuleType) -> None:
    sources = {path.name for path in NATIVE.iterdir() if path.suffix in (".c", ".h", ".py")}
    assert sources == set(build.BUILT_FROM)

"""Rules about the tree itself that no other tool checks."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

TREE = Path(__file__).parents[2]


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=TREE, capture_output=True, text=True, check=True).stdout
    return [TREE / name for name in listed.split("\0") if name and (TREE / name).is_file()]


@pytest.fixture(scope="module")
def source_files() -> list[Path]:
    return [path for path in tracked_files() if path.suffix in (".py", ".c", ".h", ".sh", ".toml", ".S") or path.name == "Makefile"]


def test_the_changelog_says_what_is_in_this_version() -> None:
    project = tomllib.loads((TREE / "pyproject.toml").read_text())["project"]
    newest = re.search(r"^## \[?([^\]\s]+)", (TREE / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] in ("Unreleased", project["version"])


def test_the_licence_is_the_whole_gpl_2() -> None:
    text = (TREE / "LICENSE").read_text()
    assert "Version 2, June 1991" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_every_python_package_has_an_init(source_files: list[Path]) -> None:
    folders = {path.parent for path in source_files if path.suffix == ".py" and TREE / "src" in path.parents}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists() and folder != TREE / "src"] == []


def test_no_path_of_this_tree(source_files: list[Path]) -> None:
    """Where a developer has the tree is nobody else's concern."""
    private = re.compile(rf"(?<![\w.}}]){re.escape(str(TREE))}/\w")
    assert [f"{path.relative_to(TREE)}:{number}" for path in source_files for number, line in numbered(path) if private.search(line)] == []


def test_the_native_gate_is_small() -> None:
    """What SPECIFICATION.md promises, comments included. The rest of native/ is the engine's own: how it runs and leaves the guest."""
    parts = [
        path
        for path in tracked_files()
        if re.fullmatch(r"pyxen_(gate|mmu|frames|lock|table_writes|events|timer|hvm|apic)\.[ch]", path.name)
    ]
    assert len(parts) == 11
    assert sum(len(path.read_text().splitlines()) for path in parts) < 3000


def test_no_stub_is_left(source_files: list[Path]) -> None:
    stubs = re.compile(r"\b(?:TODO|FIXME|XXX)\b|raise NotImplementedError")
    own = Path(__file__)
    found = [
        f"{path.relative_to(TREE)}:{number}"
        for path in source_files
        if path != own
        for number, line in numbered(path)
        if stubs.search(line)
    ]
    assert found == []


def numbered(path: Path) -> list[tuple[int, str]]:
    return list(enumerate(path.read_text(errors="replace").splitlines(), 1))

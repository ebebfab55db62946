"""The table of advisories in docs/xsa.md: every number is accounted for, and every test that it names is there, and names the advisory."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from tests.guests import test_xsa

ROOT = Path(__file__).parents[2]
FOLDERS = (ROOT / "tests" / "guests" / "programs", ROOT / "tests" / "guests" / "pvh" / "programs")
LAST = 517


def rows() -> list[list[str]]:
    """The cells of both tables."""
    lines = (ROOT / "docs" / "xsa.md").read_text().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if re.match(r"\| \d", line)]


def numbers(cell: str) -> set[int]:
    """The advisories that a first cell names: "3, 5-7 (part)"."""
    named: set[int] = set()
    for item in re.sub(r"\([^)]*\)", "", cell).split(","):
        first, _, last = item.strip().partition("-")
        named |= set(range(int(first), int(last or first) + 1))
    return named


def source_of(name: str) -> Path:
    """Of a micro-guest, PV or PVH."""
    return next(path for folder in FOLDERS if (path := folder / f"{name}.c").exists())


TRIED = [(int(row[0]), row[3]) for row in rows() if len(row) == 4]


def test_every_advisory_is_accounted_for() -> None:
    named = set().union(*(numbers(row[0]) for row in rows()))
    assert set(range(1, LAST + 1)) - named == set()
    assert max(named) == LAST


@pytest.mark.parametrize(("advisory", "cell"), TRIED, ids=[str(number) for number, _ in TRIED])
def test_the_tests_are_there_and_name_it(advisory: int, cell: str) -> None:
    tests = re.findall(r"`(\w+)`", cell)
    assert tests
    texts = [inspect.getsource(getattr(test_xsa, name)) if name.startswith("test_") else source_of(name).read_text() for name in tests]
    mentioned = [
        re.search(rf"(XSA-|xsa_0*|, ){advisory}\b|xsa_0*{advisory}_", name + text) for name, text in zip(tests, texts, strict=True)
    ]
    assert any(mentioned), f"none of {tests} names XSA-{advisory}"


def test_no_program_is_missing_from_the_table() -> None:
    listed = {name for _, cell in TRIED for name in re.findall(r"`(\w+)`", cell)}
    programs = {path.stem for folder in FOLDERS for path in folder.glob("xsa_*.c")}
    functions = {name for name in vars(test_xsa) if name.startswith("test_xsa_")}
    assert (programs | functions) - listed == set()

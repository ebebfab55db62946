"""The build of micro-guests: tags, errors, the cache, and what is in an image."""

from __future__ import annotations

from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from tests.guests.build import PROGRAMS, Builder, BuildError, Program, all_programs, read_program


def test_tags(tmp_path: Path) -> None:
    source = tmp_path / "some.c"
    source.write_text("/* @expect crash\n * @vcpus 2\n * @known_failure because\n * What it tests. */\n")
    program = read_program(source)
    assert (program.name, program.expect, program.vcpus, program.known_failure, program.silent) == ("some", "crash", 2, "because", False)


@pytest.mark.parametrize("text", ["int x;", "/* @expect nonsense */", "/* @colour red\n */"])
def test_bad_tags(tmp_path: Path, text: str) -> None:
    source = tmp_path / "bad.c"
    source.write_text(text)
    with pytest.raises(BuildError, match="bad.c"):
        read_program(source)


def test_every_program_has_the_name_of_its_file() -> None:
    for program in all_programs():
        assert f"PROGRAM({program.name})" in program.source.read_text(), program.source


def test_compiler_error_names_the_place(tmp_path: Path) -> None:
    source = tmp_path / "broken.c"
    source.write_text("/* Broken. */\nint f(void) { return missing; }\n")
    with pytest.raises(BuildError, match=r"broken\.c:2"):
        Builder(cache=tmp_path / "cache").build([Program(source)])
    assert not [path for path in (tmp_path / "cache" / "micro-guests").iterdir() if path.suffix == ".elf"]


def test_cache_is_keyed_by_content(tmp_path: Path) -> None:
    text = (PROGRAMS / "console_io.c").read_text()
    source = tmp_path / "console_io.c"
    source.write_text(text)
    first = Builder(cache=tmp_path).build([Program(source)])["console_io"]
    written = first.stat().st_mtime_ns
    assert Builder(cache=tmp_path).build([Program(source)])["console_io"] == first
    assert first.stat().st_mtime_ns == written
    source.write_text(text + "\n")
    assert Builder(cache=tmp_path).build([Program(source)])["console_io"] != first


def test_image(guests: dict[str, Path]) -> None:
    with guests["start_of_day"].open("rb") as file:
        elf = ELFFile(file)
        loads = [segment for segment in elf.iter_segments() if segment["p_type"] == "PT_LOAD"]
        assert [segment["p_flags"] for segment in loads] == [5, 4, 6]
        assert all(segment["p_vaddr"] - segment["p_paddr"] == 0xFFFFFFFF80000000 for segment in loads)
        assert elf.get_section_by_name(".note.Xen") is not None

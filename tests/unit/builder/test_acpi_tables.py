"""The ACPI tables of PVH domains, read by ACPICA's own disassembler."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from pyxen.guests.packages import PackageError, fetch_tool
from pyxen.toolstack.builder.acpi_tables import AcpiTables
from pyxen.toolstack.builder.pvh_layout import ACPI_ADDRESS


@pytest.fixture(scope="module")
def iasl() -> str:
    try:
        return shutil.which("iasl") or str(fetch_tool("acpica-tools") / "usr/bin/iasl")
    except PackageError as error:
        pytest.skip(str(error))


def tables_of(acpi: AcpiTables) -> dict[str, bytes]:
    """By signature, followed from the RSDP as an operating system does it."""

    def at(address: int, size: int) -> bytes:
        return acpi.content[address - acpi.address :][:size]

    def table(address: int) -> bytes:
        return at(address, struct.unpack("<I", at(address + 4, 4))[0])

    rsdp = at(acpi.rsdp_address, 36)
    assert rsdp[:8] == b"RSD PTR " and sum(rsdp) & 0xFF == 0 and sum(rsdp[:20]) & 0xFF == 0
    xsdt = table(struct.unpack_from("<Q", rsdp, 24)[0])
    found = [xsdt, *(table(address) for address in struct.unpack(f"<{(len(xsdt) - 36) // 8}Q", xsdt[36:]))]
    fadt = next(content for content in found if content[:4] == b"FACP")
    found.append(table(struct.unpack_from("<Q", fadt, 140)[0]))
    assert struct.unpack_from("<I", fadt, 40)[0] == struct.unpack_from("<Q", fadt, 140)[0]
    return {content[:4].decode(): content for content in found}


@pytest.mark.parametrize("processors", [1, 2, 16, 128])
def test_iasl_understands_them(iasl: str, tmp_path: Path, processors: int) -> None:
    tables = tables_of(AcpiTables(ACPI_ADDRESS, processors))
    assert set(tables) == {"XSDT", "FACP", "APIC", "DSDT"}
    for name, content in tables.items():
        assert sum(content) & 0xFF == 0, name
        path = tmp_path / f"{name.lower()}.dat"
        path.write_bytes(content)
        result = subprocess.run([iasl, "-d", path], capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stdout + result.stderr
        source = path.with_suffix(".dsl").read_text()
        assert not re.search(r"(?i)incorrect checksum|invalid|unknown|error", source + result.stderr), source + result.stderr
        if name == "APIC":
            assert re.findall(r"Local Apic ID : ([0-9A-F]+)", source) == [f"{2 * number & 0xFF:02X}" for number in range(processors)]
        if name == "FACP":
            assert re.search(r"Hardware Reduced \(V5\) : 1", source)
        if name == "DSDT":
            assert source.count('"ACPI0007"') == processors
            recompiled = subprocess.run(
                [iasl, "-p", tmp_path / "again", path.with_suffix(".dsl")], capture_output=True, text=True, timeout=60
            )
            assert recompiled.returncode == 0, recompiled.stdout

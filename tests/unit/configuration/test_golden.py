"""Whole files: what is read from ``golden/*.cfg`` is in the ``.json`` of the same name. Rewrite them with PYXEN_REWRITE_GOLDEN=1."""

import json
import os
from pathlib import Path

import pytest

from pyxen.toolstack.configuration import DomainConfig, parse

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.cfg")), ids=lambda path: path.name)
def test_file_is_read_as_recorded(path: Path) -> None:
    config, warnings = DomainConfig.read(parse(path.read_text(), path.name))
    result = {
        "mapping": config.to_mapping(),
        "command_line": config.command_line,
        "memory_mib": config.memory_mib,
        "maxmem_mib": config.maxmem_mib,
        "max_vcpus": config.max_vcpus,
        "warnings": [str(warning) for warning in warnings],
    }
    recorded = path.with_suffix(".json")
    if os.environ.get("PYXEN_REWRITE_GOLDEN"):
        recorded.write_text(json.dumps(result, indent=2) + "\n")
    assert result == json.loads(recorded.read_text())
    again, _ = DomainConfig.from_mapping(json.loads(json.dumps(config.to_mapping())))
    assert again == config

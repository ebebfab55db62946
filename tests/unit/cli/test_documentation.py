"""docs/xl.md and examples/ against the programs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pyxen.cli.command_module import CommandHandler
from pyxen.cli.command_table import COMMANDS
from pyxen.toolstack.configuration import DomainConfig, parse

ROOT = Path(__file__).parents[3]


def test_the_table_of_commands_is_the_command_table() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| (supported|partial|absent) \| (.*) \|$", (ROOT / "docs/xl.md").read_text(), re.MULTILINE)
    documented = {name: (status, remark) for name, status, remark in rows}
    assert list(documented) == [*(command.name for command in COMMANDS), "help"]
    for command in COMMANDS:
        status, remark = documented[command.name]
        assert (status == "absent") == (command.handler is None), command.name
        if command.handler is None:
            assert remark == command.missing


def test_every_command_is_there() -> None:
    handlers = [command.handler for command in COMMANDS if command.handler is not None]
    assert handlers
    for handler in handlers:
        assert isinstance(handler, CommandHandler) and callable(handler.load()), handler


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.cfg")), ids=lambda path: path.name)
def test_examples_have_no_mistakes(path: Path) -> None:
    config, warnings = DomainConfig.read(parse(path.read_text(), path.name))
    config.require_supported()
    assert warnings == []
    assert config.bootloader or config.kernel.startswith("~/.cache/pyxen/demo/")

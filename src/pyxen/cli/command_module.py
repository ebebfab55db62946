"""A module of commands that is loaded when one of them runs: to load all of them takes longer than most of them run."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from pyxen.cli.command import Context, Handler


@dataclass(frozen=True)
class CommandHandler:
    """The function ``name`` of a module."""

    module: str
    name: str

    def load(self) -> Handler:
        """The function itself. Raises ``AttributeError`` if the module has none of that name."""
        function: Handler = getattr(importlib.import_module(self.module), self.name)
        return function

    def __call__(self, context: Context, arguments: list[str]) -> int:
        return self.load()(context, arguments)


class CommandModule:
    """Its attributes are the functions of a module below ``xl_commands``, whether they are there or not."""

    def __init__(self, name: str) -> None:
        self._module = f"pyxen.cli.xl_commands.{name}"

    def __getattr__(self, name: str) -> CommandHandler:
        return CommandHandler(self._module, name)

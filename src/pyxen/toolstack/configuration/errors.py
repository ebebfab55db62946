"""Mistakes in a configuration, with the place where they are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """A line of a configuration file; line 0 is the file as a whole."""

    source: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


class ConfigError(Exception):
    """The configuration is wrong; its author is at fault. ``str()`` is one line, "file:3: what is wrong"."""

    def __init__(self, place: Place, text: str) -> None:
        super().__init__(f"{place}: {text}")
        self.place = place
        self.text = text


class UnsupportedError(ConfigError):
    """The configuration is right for Xen, but asks for what pyxen does not do."""


@dataclass(frozen=True)
class ConfigWarning:
    """Something in the configuration has no effect, or will soon have none. ``str()`` is one line."""

    place: Place
    text: str

    def __str__(self) -> str:
        return f"{self.place}: warning: {self.text}"

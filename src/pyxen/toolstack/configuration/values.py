"""The types that a key's value can have, with their ranges: from a setting's value to Python and back to JSON.

``read`` raises ``ValueError`` with a text that goes after "`key': ". ``plain`` is the form that travels as JSON and that ``read`` takes
again (as strings, numbers and lists).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from pyxen.toolstack.configuration.cpu_list import check_cpu_list
from pyxen.toolstack.configuration.syntax import Atom, ListValue, Value

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_NUMBER = re.compile(r"\s*([+-]?)(0x[0-9a-f]+|0[0-7]*|[1-9][0-9]*)", re.IGNORECASE)
_INT64 = 1 << 63


class ValueType(Protocol[T_co]):
    """What a key accepts."""

    def read(self, value: Value) -> T_co: ...

    def plain(self, value: Any) -> Any: ...


def _atom(value: Value, wanted: str) -> Atom:
    if isinstance(value, ListValue):
        raise ValueError(f"is a list, but should be {wanted}")
    return value


def _number(text: str) -> int:
    """As strtol with base 0 reads it: decimal, 0x hexadecimal, 0 octal."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is not a number')
    sign, digits = match[1], match[2].lower()
    if len(digits) > 24:
        raise ValueError(f"the number {digits[:20]}... is out of range")
    base = 16 if digits.startswith("0x") else 8 if digits.startswith("0") else 10
    number = int(digits, base) * (-1 if sign == "-" else 1)
    if not -_INT64 <= number < _INT64:
        raise ValueError(f"the number {text.strip()} is out of range")
    return number


@dataclass(frozen=True)
class Integer:
    """A number from ``minimum`` to ``maximum``. A quoted number is one too."""

    minimum: int = 0
    maximum: int = _INT64 - 1

    def read(self, value: Value) -> int:
        number = _number(_atom(value, "a number").text)
        if number < self.minimum:
            raise ValueError(f"{number} is smaller than the minimum, {self.minimum}")
        if number > self.maximum:
            raise ValueError(f"{number} is greater than the maximum, {self.maximum}")
        return number

    def plain(self, value: Any) -> Any:
        return value


@dataclass(frozen=True)
class Flag:
    """A number that means False (0) or True (any other)."""

    def read(self, value: Value) -> bool:
        return _number(_atom(value, "a number: 0 or 1").text) != 0

    def plain(self, value: Any) -> Any:
        return int(value)


@dataclass(frozen=True)
class Text:
    """A string, with characters that can be printed only (a newline or an escape would not survive the command line of a kernel)."""

    maximum: int = 4096

    def read(self, value: Value) -> str:
        text = _atom(value, "a string").text
        if len(text) > self.maximum:
            raise ValueError(f"is longer than {self.maximum} characters")
        if any(ord(character) < 0x20 or ord(character) == 0x7F for character in text):
            raise ValueError("contains a control character")
        return text

    def plain(self, value: Any) -> Any:
        return value


@dataclass(frozen=True)
class Name:
    """A domain's name: it is a part of store paths and of file names."""

    def read(self, value: Value) -> str:
        text = Text(maximum=128).read(value)
        if not text.strip():
            raise ValueError("must not be empty")
        if "/" in text or text in (".", ".."):
            raise ValueError(f'"{text}" is not a name: it must not contain a slash')
        return text

    def plain(self, value: Any) -> Any:
        return value


@dataclass(frozen=True)
class Choice:
    """One of several words."""

    words: tuple[str, ...]

    def read(self, value: Value) -> str:
        text = _atom(value, "a string").text
        if text not in self.words:
            raise ValueError(f'unknown value "{text}"; it must be one of: {", ".join(self.words)}')
        return text

    def plain(self, value: Any) -> Any:
        return value


@dataclass(frozen=True)
class Uuid:
    """A UUID, written with hyphens or without them."""

    def read(self, value: Value) -> str:
        text = _atom(value, "a string").text
        if not re.fullmatch(r"[0-9a-fA-F]{8}(-?)[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1[0-9a-fA-F]{12}", text):
            raise ValueError(f'"{text}" is not a UUID; one is made by: uuidgen')
        return str(uuid.UUID(text))

    def plain(self, value: Any) -> Any:
        return value


@dataclass(frozen=True)
class Cpus:
    """``cpus=``: one CPU list for all vCPUs, or one for each. A bare number is that CPU."""

    def read(self, value: Value) -> str | tuple[str, ...]:
        """A text: for all vCPUs. A tuple: for vCPU 0, 1, ..."""
        if isinstance(value, Atom):
            return check_cpu_list(value.text)
        return tuple(check_cpu_list(_atom(item, "a CPU list").text) for item in value.items)

    def plain(self, value: Any) -> Any:
        return value if isinstance(value, str) else list(value)


@dataclass(frozen=True)
class Texts:
    """A list of strings."""

    def read(self, value: Value) -> tuple[str, ...]:
        if isinstance(value, Atom):
            raise ValueError("is a single value, but should be a list [ ... ]")
        return tuple(Text().read(item) for item in value.items)

    def plain(self, value: Any) -> Any:
        return list(value)


@dataclass(frozen=True)
class Specifications(Generic[T]):
    """A list of device specifications, such as ``disk=`` and ``vif=``."""

    parse: Callable[[str], T]

    def read(self, value: Value) -> tuple[T, ...]:
        return tuple(self._one(text, index) for index, text in enumerate(Texts().read(value)))

    def plain(self, value: Any) -> Any:
        return [str(specification) for specification in value]

    def _one(self, text: str, index: int) -> T:
        try:
            return self.parse(text)
        except ValueError as error:
            raise ValueError(f'entry {index}, "{text}": {error}') from None


@dataclass(frozen=True)
class Anything:
    """A value whose meaning pyxen does not know yet."""

    def read(self, value: Value) -> Value:
        return value

    def plain(self, value: Any) -> Any:
        return value

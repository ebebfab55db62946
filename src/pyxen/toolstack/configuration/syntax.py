"""The syntax of xl.cfg(5), as libxlu reads it: text to settings.

A file is a series of ``key = VALUE`` and ``key += VALUE``, ended by a newline or a semicolon. A value is a quoted string, a number or
a list ``[ VALUE, ... ]``, which may be nested and may go over several lines. ``#`` begins a comment. The last of several assignments to
a key counts; ``+=`` appends to a string or a list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pyxen.toolstack.configuration.errors import ConfigError, Place

#: A configuration is written by hand. What is longer than this, in characters, is some other file given by mistake.
MAX_LENGTH = 1 << 20
#: vnuma, the deepest list of xl.cfg(5), has two levels.
MAX_NESTING = 16


@dataclass(frozen=True)
class Atom:
    """A string or a number. A number is kept as it was written, and a string may stand for a number: libxlu makes no difference."""

    text: str
    quoted: bool
    line: int


@dataclass(frozen=True)
class ListValue:
    """``[ ... ]``. ``line`` is that of the opening bracket."""

    items: tuple[Value, ...]
    line: int


Value = Atom | ListValue

#: What a key looks like.
KEY = re.compile(r"[a-z_][a-z_0-9.]*")


class Settings:
    """The assignments of one or more configuration texts, in the order of the keys' first appearance."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._values: dict[str, tuple[Value, Place]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def value(self, key: str) -> Value | None:
        found = self._values.get(key)
        return found[0] if found else None

    def place(self, key: str) -> Place:
        """Where the key was last assigned; the file as a whole when it never was."""
        found = self._values.get(key)
        return found[1] if found else Place(self.source)

    def assign(self, key: str, value: Value, place: Place) -> None:
        self._values[key] = (value, place)

    def append(self, key: str, value: Value, place: Place) -> None:
        """``key += value``. Raises ``ConfigError`` for a list and a string together, and for numbers."""
        old = self.value(key)
        if old is None:
            self.assign(key, value, place)
        elif isinstance(old, ListValue) and isinstance(value, ListValue):
            self.assign(key, ListValue(old.items + value.items, old.line), place)
        elif isinstance(old, Atom) and isinstance(value, Atom):
            if not (old.quoted and value.quoted):
                raise ConfigError(place, f"`{key}': += works with strings and lists, not with numbers")
            self.assign(key, Atom(old.text + value.text, True, old.line), place)
        else:
            raise ConfigError(place, f"`{key}': can't add a list to a string, or a string to a list")


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    line: int

    def __str__(self) -> str:
        if self.kind == "newline":
            return "the end of the line"
        return "the end of the file" if self.kind == "end" else f"`{self.text}'"


_TOKENS = re.compile(
    r"""(?P<space>[ \t]+|\#[^\n]*)
    |(?P<newline>\n)
    |(?P<key>[a-z_][a-z_0-9.]*)
    |(?P<number>[0-9][0-9a-fx]*)
    |(?P<string>"(?:[^"\\\n]|\\[^\n])*"|'(?:[^'\\\n]|\\[^\n])*')
    |(?P<append>\+=)
    |(?P<mark>[=,;\[\]])""",
    re.VERBOSE,
)
#: What a mistake is shown by: the rest of the line up to a space, at most this long.
_SHOWN = re.compile(r"[^\s;,#]{1,40}")

_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|[0-7]{3}|.)", re.DOTALL)
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", "'": "'", '"': '"'}


def parse(text: str, source: str, into: Settings | None = None) -> Settings:
    """Read ``text``; ``source`` names it in messages. Raises ``ConfigError``.

    With ``into``, the assignments are added to those settings, as ``xl create`` does with ``key=value`` from its command line.
    """
    if len(text) > MAX_LENGTH:
        raise ConfigError(Place(source), f"this is no configuration file: it is longer than {MAX_LENGTH} characters")
    settings = Settings(source) if into is None else into
    _Parser(text, source, settings).parse()
    return settings


class _Parser:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str, source: str, settings: Settings) -> None:
        self._source = source
        self._settings = settings
        self._tokens = self._scan(text)
        self._token = next(self._tokens)

    def parse(self) -> None:
        while True:
            while self._token.kind in ("newline", ";"):
                self._advance()
            if self._token.kind == "end":
                return
            self._setting()
            if self._token.kind not in ("newline", ";", "end"):
                raise self._unexpected("a setting ends with a newline or `;'")

    def _setting(self) -> None:
        key = self._token
        if key.kind != "key":
            raise self._unexpected("a setting begins with a key in lower case: key = value")
        self._advance()
        operator = self._token
        if operator.kind not in ("=", "append"):
            raise self._unexpected(f"the key `{key.text}' must be followed by `=' or `+='")
        self._advance()
        value = self._value(0)
        place = Place(self._source, key.line)
        if operator.kind == "append":
            self._settings.append(key.text, value, place)
        else:
            self._settings.assign(key.text, value, place)

    def _value(self, depth: int) -> Value:
        token = self._token
        if token.kind == "[":
            return self._list(depth)
        if token.kind not in ("string", "number"):
            raise self._unexpected('a value is a "string" in quotes, a number or a list [ ... ]')
        self._advance()
        if token.kind == "number":
            return Atom(token.text, False, token.line)
        return Atom(self._unquote(token), True, token.line)

    def _list(self, depth: int) -> ListValue:
        opening = self._token
        if depth == MAX_NESTING:
            raise self._error(opening.line, f"lists are nested more than {MAX_NESTING} deep")
        self._advance()
        items: list[Value] = []
        self._skip_newlines()
        while self._token.kind != "]":
            items.append(self._value(depth + 1))
            self._skip_newlines()
            if self._token.kind == ",":
                self._advance()
                self._skip_newlines()
            elif self._token.kind != "]":
                raise self._unexpected(f"expected `,' or `]' in the list that began in line {opening.line}")
        self._advance()
        return ListValue(tuple(items), opening.line)

    def _skip_newlines(self) -> None:
        while self._token.kind == "newline":
            self._advance()

    def _advance(self) -> None:
        self._token = next(self._tokens)

    def _unquote(self, token: _Token) -> str:
        def replace(match: re.Match[str]) -> str:
            escape = match[1]
            if escape[0] == "x" and len(escape) == 3:
                code = int(escape[1:], 16)
            elif len(escape) == 3:
                code = int(escape, 8)
            elif escape in _ESCAPES:
                return _ESCAPES[escape]
            else:
                raise self._error(token.line, f"config parsing error near {token}: unknown escape `\\{escape}' in the string")
            if not 0 < code < 0x80:
                raise self._error(token.line, f"config parsing error near {token}: the escape `\\{escape}' is not an ASCII character")
            return chr(code)

        return _ESCAPE.sub(replace, token.text[1:-1])

    def _scan(self, text: str) -> Iterator[_Token]:
        line, position = 1, 0
        while position < len(text):
            match = _TOKENS.match(text, position)
            if match is None:
                raise self._lexical_error(text, position, line)
            kind = match.lastgroup or ""
            if kind != "space":
                yield _Token(match[0] if kind == "mark" else kind, match[0], line)
            line += kind == "newline"
            position = match.end()
        while True:
            yield _Token("end", "", line)

    def _lexical_error(self, text: str, position: int, line: int) -> ConfigError:
        shown = _SHOWN.match(text, position)
        near = f"config parsing error near {shown[0] if shown else text[position]!a}: "
        if text[position] == "\r":
            return self._error(line, near + "the line ends with a carriage return; remove them with: tr -d '\\r'")
        if text[position] in "\"'":
            return self._error(line, near + "the string has no closing quote in its line")
        return self._error(line, near + 'a value is a "string" in quotes, a number or a list [ ... ]; keys are in lower case')

    def _unexpected(self, reason: str) -> ConfigError:
        return self._error(self._token.line, f"config parsing error near {self._token}: {reason}")

    def _error(self, line: int, text: str) -> ConfigError:
        return ConfigError(Place(self._source, line), text)

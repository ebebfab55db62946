"""What a grub.cfg would boot: the entries of its menu, and which of them is the default.

Of GRUB's language (its manual, "Writing full configuration files directly") what the menus of distributions use: quoting, variables,
``set``, ``if`` with tests of strings, ``menuentry``, ``submenu``, ``linux`` and ``initrd``. Other commands have no effect, and functions
are skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pyxen.toolstack.bootloader.errors import BootError

#: Variables that GRUB itself sets on Xen.
_PREDEFINED = {"grub_platform": "xen", "grub_cpu": "x86_64", "feature_menuentry_id": "y", "feature_default_font_path": "y"}
_DEPTH_LIMIT = 16
_WORD_LIMIT = 200_000
_VALUE_LIMIT = 65536
_LINUX = ("linux", "linux16", "linuxefi", "module2")
_INITRD = ("initrd", "initrd16", "initrdefi")
_TOKEN = re.compile(
    r"""
    (?P<space> [ \t\r]+ | \\\n | \#[^\n]* )
    | (?P<end> [\n;] )
    | (?P<word> (?: [^\s;{}'"\\\#] | (?<=[^\s;]) \# | \{[^\s{}]+\} | '[^']*' | "(?:[^"\\]|\\.)*" | \\. )+ )
    | (?P<brace> [{}] )
    """,
    re.VERBOSE | re.DOTALL,
)
_PART = re.compile(r"""'([^']*)' | "((?:[^"\\]|\\.)*)" | \\(.) | ([^'"\\]+)""", re.VERBOSE | re.DOTALL)
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z0-9_]+)\}|([A-Za-z_][A-Za-z0-9_]*|[0-9?]))")


@dataclass
class MenuEntry:
    """An entry, or a submenu, which has entries of its own and nothing else."""

    title: str
    identifier: str = ""
    kernel: str = ""  #: a path in the file system that has the menu
    ramdisks: list[str] = field(default_factory=list)
    arguments: str = ""
    entries: list[MenuEntry] | None = None  #: of a submenu


@dataclass
class Menu:
    """A boot menu."""

    entries: list[MenuEntry]
    default: str = ""  #: a number, title or identifier; ">" leads into submenus

    def chosen(self, choice: str | None = None) -> MenuEntry:
        """The default entry, or one that is named in the same way. Raises ``BootError``; a default that is not there is the first entry."""
        entry = _choose(self.entries, self.default if choice is None else choice)
        if entry is None and choice is not None:
            raise BootError(f"the boot menu has no entry {choice!a}; it has: {', '.join(f'{one.title!a}' for one in self.entries[:20])}")
        for one in (entry, *self.entries):
            bootable = one and _first_bootable(one)
            if bootable:
                return bootable
        raise BootError("the boot menu has no entry with a kernel")


def _choose(entries: list[MenuEntry], choice: str) -> MenuEntry | None:
    name, inside, rest = choice.partition(">")
    found = next((entry for entry in entries if choice in (entry.title, entry.identifier) and choice), None)
    if found is None:
        found = next((entry for entry in entries if name and name in (entry.title, entry.identifier)), None)
        if found is None and name.strip().isdecimal() and int(name[:9]) < len(entries):
            found = entries[int(name[:9])]
        if found is not None and inside and found.entries is not None:
            return _choose(found.entries, rest) or found
    return found


def _first_bootable(entry: MenuEntry) -> MenuEntry | None:
    if entry.entries is None:
        return entry if entry.kernel else None
    return next((found for one in entry.entries if (found := _first_bootable(one))), None)


def parse(untrusted_text: str, environment: Mapping[str, str]) -> Menu:
    """Read a grub.cfg; ``environment``: what GRUB's environment block says. Raises ``BootError``."""
    parser = _Parser(untrusted_text, environment)
    menu = Menu(parser.entries())
    menu.default = parser.variables.get("default", "")
    return menu


def parse_environment(untrusted_block: bytes) -> dict[str, str]:
    """A grubenv file: lines of name=value."""
    lines = untrusted_block.decode("utf-8", "replace").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


class _Parser:
    """Executes the file command by command; the bodies of entries too, because their variables are those of that moment."""

    def __init__(self, untrusted_text: str, environment: Mapping[str, str]) -> None:
        self.variables = dict(_PREDEFINED)
        self._environment = environment
        self._commands = _commands(untrusted_text)

    def entries(self, depth: int = 0) -> list[MenuEntry]:
        """The entries up to the end of the block."""
        found: list[MenuEntry] = []
        self._block(MenuEntry("", entries=found), depth)
        return found

    def _block(self, owner: MenuEntry, depth: int) -> None:
        """Commands up to the block's end, for what they say about ``owner``."""
        if depth > _DEPTH_LIMIT:
            raise BootError("the boot menu is nested too deeply")
        branches: list[tuple[bool, bool]] = []  # of each open if: its branch applies; one has applied
        for words, opens in self._commands:
            if words == ["}"]:
                return
            if words and words[0] in ("then", "else", "do"):
                if words[0] == "else" and branches:
                    branches[-1] = (not branches[-1][1], True)
                words = words[1:]
            if not words:
                continue
            applies = all(branch for branch, _ in branches)
            if words[0] == "if":
                value = applies and self._condition(words[1:])
                branches.append((value, value))
            elif words[0] == "elif" and branches:
                value = not branches[-1][1] and self._condition(words[1:])
                branches[-1] = (value, branches[-1][1] or value)
            elif words[0] == "fi":
                del branches[-1:]
            elif opens:
                self._inner_block(words, owner, depth, applies=applies)
            elif applies:
                self._command(words, owner)

    def _inner_block(self, words: list[str], owner: MenuEntry, depth: int, *, applies: bool) -> None:
        if words[0] in ("menuentry", "submenu") and applies and owner.entries is not None:
            expanded = self._expanded(words[1:])
            entry = MenuEntry(expanded[0] if expanded else "", entries=[] if words[0] == "submenu" else None)
            for option, value in zip(expanded, expanded[1:], strict=False):
                if option == "--id":
                    entry.identifier = value
            owner.entries.append(entry)
            self._block(entry, depth + 1)
        else:
            before = dict(self.variables)
            self._block(MenuEntry(""), depth + 1)
            self.variables = before

    def _command(self, words: list[str], owner: MenuEntry) -> None:
        name, *arguments = self._expanded(words)
        if name == "set" and arguments:
            self._set(arguments[0])
        elif "=" in name and not arguments:
            self._set(name)
        elif name == "load_env":
            self.variables.update(self._environment)
        elif name in _LINUX and arguments and owner.entries is None:
            owner.kernel, owner.arguments = _path(arguments[0]), " ".join(arguments[1:])
        elif name in _INITRD and owner.entries is None:
            owner.ramdisks = [_path(argument) for argument in arguments if not argument.startswith("-")]

    def _set(self, assignment: str) -> None:
        variable, _, value = assignment.partition("=")
        # A menu that boots once what was asked for sets an empty default otherwise: that is none.
        if variable != "default" or value:
            self.variables[variable] = value[:_VALUE_LIMIT]

    def _condition(self, words: list[str]) -> bool:
        """Tests of strings; what asks for anything else is taken to be so."""
        expanded = self._expanded(words)
        if not expanded or expanded[0] not in ("[", "test"):
            return True
        operands = [word for word in expanded[1:] if word != "]"]
        negated = operands[:1] == ["!"]
        match operands[negated:]:
            case [] | [""]:
                value = False
            case ["-n", text]:
                value = bool(text)
            case ["-z", text]:
                value = not text
            case ["-s" | "-e" | "-f", path] if path.endswith("grubenv"):
                value = bool(self._environment)
            case [left, "=" | "==", right]:
                value = left == right
            case [left, "!=", right]:
                value = left != right
            case _:
                value = True
        return value != negated

    def _expanded(self, words: list[str]) -> list[str]:
        """Words without their quotes, and with the values of variables."""
        return [self._unquoted(word) for word in words]

    def _unquoted(self, word: str) -> str:
        parts = []
        for single, double, escaped, plain in _PART.findall(word):
            if double:
                parts.append(re.sub(r'\\(["\\$\n])', lambda match: match[1], self._with_variables(double)))
            else:
                parts.append(single or escaped or self._with_variables(plain))
        return "".join(parts)[:_VALUE_LIMIT]

    def _with_variables(self, text: str) -> str:
        return _VARIABLE.sub(lambda match: self.variables.get(match[1] or match[2], ""), text)[:_VALUE_LIMIT]


def _commands(untrusted_text: str) -> Iterator[tuple[list[str], bool]]:
    """(words as they are written, whether a block begins) of each command; "}" is one of its own."""
    words: list[str] = []
    count = position = 0
    while position < len(untrusted_text):
        match = _TOKEN.match(untrusted_text, position)
        if match is None:  # a quote without its end: GRUB would refuse the whole file
            raise BootError("the boot menu can't be read: a quotation mark without its end")
        position = match.end()
        count += 1
        if count > _WORD_LIMIT:
            raise BootError("the boot menu is too long")
        if match["word"]:
            words.append(match["word"])
        elif match["end"]:
            yield words, False
            words = []
        elif match["brace"] == "{":
            yield words, True
            words = []
        elif match["brace"] == "}":
            if words:
                yield words, False
            yield ["}"], False
            words = []
    yield words, False


def _path(word: str) -> str:
    """A file's name without the disk before it: "(hd0,1)/vmlinuz"."""
    return re.sub(r"^\([^)]*\)", "", word)

"""The configuration that ``xl create`` and ``xl config-update`` are given: the texts of a file and of ``key=value`` arguments.

The host process parses them; here they are only read.
"""

from __future__ import annotations

import os

from pyxen.cli.failures import CommandFailed, UsageError
from pyxen.host.protocol import ConfigText

#: A configuration is written by hand. What is longer than this, in bytes, is some other file given by mistake.
MAX_BYTES = 1 << 20
_STANDARD_INPUT = ("-", "/dev/stdin")
STDIN_DESCRIPTOR = 0


def read_texts(arguments: list[str], path: str | None) -> list[ConfigText]:
    """xl's rule: an argument with ``=`` is a setting, the other is the file. ``path``: from -f.

    Raises ``UsageError``, ``CommandFailed``.
    """
    overrides = []
    for argument in arguments:
        if "=" in argument and not os.path.isfile(argument):
            overrides.append(argument)
        elif path is None:
            path = argument
        else:
            raise UsageError(f"unexpected argument `{argument}': the configuration file is {path} already")
    texts = [_read(path)] if path is not None else []
    return texts + [ConfigText(override, "command line") for override in overrides]


def _read(path: str) -> ConfigText:
    source = "<stdin>" if path in _STANDARD_INPUT else path
    try:
        with open(STDIN_DESCRIPTOR if path in _STANDARD_INPUT else path, "rb", closefd=path not in _STANDARD_INPUT) as file:
            untrusted_data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CommandFailed(f"Failed to read config file: {source}: {error.strerror}") from None
    if len(untrusted_data) > MAX_BYTES:
        raise CommandFailed(f"{source}: this is no configuration file: it is longer than {MAX_BYTES >> 20} MiB")
    try:
        return ConfigText(untrusted_data.decode("utf-8"), source)
    except UnicodeDecodeError as error:
        line = untrusted_data.count(b"\n", 0, error.start) + 1
        raise CommandFailed(f"{source}:{line}: this is no text in UTF-8") from None

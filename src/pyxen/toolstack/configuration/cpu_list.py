"""CPU lists of xl.cfg(5) and xl(1): "all", "0-3,5,^1", "nodes:0-1,^node:1"."""

from __future__ import annotations

import re

_PART = re.compile(r"(?P<exclude>\^?)(?P<node>nodes?:)?(?:(?P<all>all|none)|(?P<first>[0-9]{1,5})(?:-(?P<last>[0-9]{1,5}))?)")
#: Highest CPU number that a list may name. Xen's limit is 4095 (NR_CPUS of its largest builds).
MAX_CPU = 4095


def check_cpu_list(text: str) -> str:
    """``text`` if its syntax is right. Raises ``ValueError``."""
    parse_cpu_list(text, frozenset())
    return text


def parse_cpu_list(text: str, host_cpus: frozenset[int]) -> frozenset[int]:
    """The CPUs that a list names. ``host_cpus``: what "all" and NUMA node 0, the only node, mean. Raises ``ValueError``.

    Parts apply from left to right. CPUs that the host does not have stay in the result: the caller says what that means.
    """
    cpus: frozenset[int] = frozenset()
    for part in text.split(","):
        named, exclude = _parse_part(part.strip(), text, host_cpus)
        cpus = cpus - named if exclude else cpus | named
    return cpus


def _parse_part(part: str, text: str, host_cpus: frozenset[int]) -> tuple[frozenset[int], bool]:
    match = _PART.fullmatch(part)
    if match is None:
        raise ValueError(f'"{text}" is not a list of CPUs such as "0-3,5,^1" or "all"')
    exclude = bool(match["exclude"])
    if match["all"]:
        if exclude:
            raise ValueError(f'"{text}": can\'t combine "^" and "{match["all"]}"')
        return (host_cpus if match["all"] == "all" else frozenset()), False
    first = int(match["first"])
    last = int(match["last"] or first)
    if last < first:
        raise ValueError(f'"{text}": the range {first}-{last} runs backwards')
    if last > MAX_CPU:
        raise ValueError(f'"{text}": CPU {last} is greater than the maximum, {MAX_CPU}')
    if match["node"]:
        return (host_cpus if first == 0 else frozenset()), exclude
    return frozenset(range(first, last + 1)), exclude

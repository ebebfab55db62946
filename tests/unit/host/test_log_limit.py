"""A guest that makes the store or a backend complain without end does not fill the host's log."""

from __future__ import annotations

import logging

from pyxen.host.log_limit import BURST, MESSAGES_PER_SECOND, LogLimit


def record(name: str, message: str = "%s", *arguments: object) -> logging.LogRecord:
    return logging.LogRecord(name, logging.WARNING, __file__, 1, message, arguments or ("x",), None)


def test_a_flood_is_cut_off_and_counted() -> None:
    now = [100.0]
    limit = LogLimit(lambda: now[0])
    passed = sum(limit.filter(record("pyxen.xenstore.ring")) for _ in range(10 * BURST))
    assert passed == BURST
    assert limit.filter(record("pyxen.backends.block")), "each logger has its own allowance"
    now[0] += 1
    first = record("pyxen.xenstore.ring", "domain %d: again", 7)
    assert limit.filter(first)
    assert first.getMessage() == f"domain 7: again ({9 * BURST} messages before it suppressed)"
    second = record("pyxen.xenstore.ring")
    assert limit.filter(second) and second.getMessage() == "x"
    assert sum(limit.filter(record("pyxen.xenstore.ring")) for _ in range(BURST)) == MESSAGES_PER_SECOND - 2


def test_what_no_guest_causes_is_not_limited() -> None:
    limit = LogLimit(lambda: 0.0)
    assert all(limit.filter(record("pyxen.host")) for _ in range(10 * BURST))

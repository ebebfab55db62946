"""Calls about how long starting takes: of a domain, and of the host process itself."""

from __future__ import annotations

from dataclasses import dataclass

from pyxen.host.protocol.common import DomainId, Method, Nothing, StreamMethod


@dataclass(frozen=True)
class StageTime:
    """A stage that was reached."""

    stage: str
    time_s: float  #: of CLOCK_MONOTONIC, so the times of all processes of a machine compare
    more: bool = False  #: another stage was reached already, and follows at once
    complete: bool = False  #: of a domain: nothing more is expected (first console byte, and all devices connected)


@dataclass(frozen=True)
class StageTimes:
    """All stages, in order."""

    stages: list[StageTime]


HOST_TIMELINE = Method("host.timeline", Nothing, StageTimes)


#: An event for each stage, first those that were reached already; ends when the domain is gone.
DOMAIN_TIMELINE = StreamMethod("domain.timeline", DomainId, StageTime, Nothing)

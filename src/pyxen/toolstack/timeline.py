"""When a new domain reached each stage of its start-up."""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


class Stage(enum.StrEnum):
    """The stages of every domain, in the order in which most are reached; a device's stage has its own name ("vbd/51712 connected")."""

    REQUEST = "request received"
    CONFIGURATION = "configuration read"
    KERNEL = "kernel read and unpacked"
    DOMAIN = "domain created"
    MEMORY = "memory allocated"
    KERNEL_LOADED = "kernel loaded"
    RAMDISK_LOADED = "ramdisk loaded"
    P2M = "P2M and M2P written"
    PAGE_TABLES = "page tables written"
    VCPU = "first vCPU ready"
    STORE = "store entries written"
    CONSOLE = "console and store connected"
    DEVICES = "devices attached"
    UNPAUSED = "unpaused"
    FIRST_INSTRUCTION = "first guest instruction"
    FIRST_BYTE = "first console byte"
    STORE_USED = "guest uses the store"


@dataclass(frozen=True)
class StageReached:
    """``time`` is in seconds, of ``time.monotonic()``, which all processes of a machine share."""

    stage: str
    time: float


StageListener = Callable[[StageReached], None]
#: What a domain builder calls when it has done a stage.
ReachStage = Callable[[Stage], None]


class Timeline:
    """One domain's. Any thread may add to it; each stage counts when it is reached first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._expected = {str(Stage.FIRST_INSTRUCTION), str(Stage.FIRST_BYTE)}
        self._reached: dict[str, float] = {}
        self._listeners: set[StageListener] = set()

    def reach(self, stage: str, at: float | None = None) -> None:
        """``at``: of ``time.monotonic()``; now if not given."""
        now = time.monotonic() if at is None else at
        with self._lock:
            if stage in self._reached:
                return
            self._reached[stage] = now
            for listener in self._listeners:
                listener(StageReached(stage, now))

    def has(self, stage: str) -> bool:
        """Whether it was reached."""
        return stage in self._reached

    def expect(self, stage: str) -> None:
        """This stage belongs to a complete start-up, as the first instruction and the first console byte always do."""
        with self._lock:
            self._expected.add(stage)

    @property
    def complete(self) -> bool:
        """Whether everything expected was reached."""
        return self._expected <= self._reached.keys()

    def follow(self, listener: StageListener) -> Callable[[], None]:
        """Have ``listener`` called, on any thread, with each stage: those reached already, in the order of their times, and then each new
        one. It must not block. -> a function that ends it."""
        with self._lock:
            for stage, at in sorted(self._reached.items(), key=lambda item: item[1]):
                listener(StageReached(stage, at))
            self._listeners.add(listener)
        return lambda: self._unfollow(listener)

    def _unfollow(self, listener: StageListener) -> None:
        with self._lock:
            self._listeners.discard(listener)

"""Which port a new event channel gets: the lowest that is free, as on Xen, and found without a search through those in use."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable

#: Ports come into being in groups (Xen's buckets of struct evtchn); those of a group that was begun are closed, others are invalid.
PORTS_PER_GROUP = 64
#: A guest can keep closed ports on its queues. So many of them are passed over for one new port.
MAX_BUSY = 64


class FreePorts:
    """``is_busy`` tells whether a closed port can't be given anew yet."""

    def __init__(self) -> None:
        self._fresh = 1
        self._returned: list[int] = []
        self._busy: deque[int] = deque()

    @property
    def valid(self) -> int:
        """Numbers below this are ports, open or closed."""
        return -(-self._fresh // PORTS_PER_GROUP) * PORTS_PER_GROUP

    def take(self, limit: int, is_busy: Callable[[int], bool]) -> int | None:
        """The lowest free port that is not above ``limit``."""
        for _ in range(min(len(self._busy), MAX_BUSY)):
            self._return(self._busy.popleft(), is_busy)
        for _ in range(MAX_BUSY):
            port = self._returned[0] if self._returned else self._fresh
            if port > limit:
                return None
            if self._returned:
                heapq.heappop(self._returned)
            else:
                self._fresh += 1
            if not is_busy(port):
                return port
            self._busy.append(port)
        return None

    def _return(self, port: int, is_busy: Callable[[int], bool]) -> None:
        if is_busy(port):
            self._busy.append(port)
        else:
            heapq.heappush(self._returned, port)

    def give_back(self, port: int) -> None:
        """It is closed."""
        heapq.heappush(self._returned, port)

    def release_busy(self) -> None:
        """The queues are gone, and no port is on one any more."""
        self._returned += self._busy
        heapq.heapify(self._returned)
        self._busy.clear()

"""The rate limit of a vif (xl-network-configuration(5), "rate"): credit for what the guest sends, as netback accounts it."""

from __future__ import annotations

#: A frame larger than one interval's credit must get through all the same (netback's tx_add_credit).
_LARGEST_BURST = 131072


class RateLimit:
    """So many octets in each interval."""

    def __init__(self, specification: str | None) -> None:
        """``specification``: libxl's, "octets,microseconds"; None: no limit."""
        self._octets, self._interval = 0, 0.0
        if specification is not None:
            octets, _, interval = specification.partition(",")
            self._octets, self._interval = int(octets), int(interval) / 1e6
        self._credit = self._octets
        self._window_ends = 0.0

    def spend(self, size: int, now: float) -> float:
        """Take ``size`` octets off the credit at the time ``now`` (seconds). -> 0, or how many seconds to wait before trying again."""
        if not self._interval:
            return 0.0
        if now >= self._window_ends:
            self._window_ends = now + self._interval
            burst = max(min(size, _LARGEST_BURST), self._octets)
            self._credit = min(self._credit + self._octets, burst)
        if size <= self._credit:
            self._credit -= size
            return 0.0
        return max(self._window_ends - now, 0.001)

"""How many bytes a second a guest may make Domain 0 handle."""

from __future__ import annotations


class ByteBudget:
    """A token bucket: ``rate`` bytes a second in the long run, ``burst`` bytes at once. Times are seconds of one monotonic clock."""

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._available = float(burst)
        self._updated = now

    def available(self, now: float) -> int:
        self._available = min(float(self._burst), self._available + (now - self._updated) * self._rate)
        self._updated = now
        return int(self._available)

    def spend(self, amount: int) -> None:
        self._available -= amount

    def seconds_until(self, amount: int) -> float:
        """From the last ``available`` call, how long until ``amount`` bytes (at most the burst) are there."""
        return max(0.0, (min(amount, self._burst) - self._available) / self._rate)

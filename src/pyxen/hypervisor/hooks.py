"""Hooks: Python code that watches hypercalls, events and the life of domains.

Nobody subscribed costs nothing but one test of a list: the callers look at the lists below before they build anything.
A subscriber runs with the hypervisor lock held, on the thread that caused it; it must be quick and must not raise: one that raises is
removed and logged, and the domain goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HypercallEvent:
    """One hypercall. ``result`` is None before it ran. Arguments are the raw registers."""

    domid: int
    vcpu: int
    number: int
    name: str
    arguments: tuple[int, ...]
    result: int | None


@dataclass(frozen=True, slots=True)
class EventSent:
    """An event became pending on ``port`` of ``domid``. ``source`` is the sending domain, or None for the hypervisor (VIRQs)."""

    domid: int
    port: int
    source: int | None


@dataclass(frozen=True, slots=True)
class LifecycleEvent:
    """``what``: created, unpaused, paused, shutdown, crashed, destroyed."""

    domid: int
    what: str
    detail: str = ""


class Hooks:
    """The subscriber lists. ``subscribe_*`` return a function that unsubscribes."""

    def __init__(self, report: Callable[[str], None], native_work_watched: Callable[[bool], None]) -> None:
        """``native_work_watched`` is told when somebody begins to watch hypercalls or events and when nobody does any more: native code
        serves some of them unseen otherwise."""
        self._report = report
        self._native_work_watched = native_work_watched
        self.before_hypercall: list[Callable[[HypercallEvent], None]] = []
        self.after_hypercall: list[Callable[[HypercallEvent], None]] = []
        self.event_sent: list[Callable[[EventSent], None]] = []
        self.lifecycle: list[Callable[[LifecycleEvent], None]] = []

    @property
    def watches_native_work(self) -> bool:
        """Whether anybody watches what native code does, too."""
        return bool(self.before_hypercall or self.after_hypercall or self.event_sent)

    def subscribe_hypercall(
        self,
        *,
        before: Callable[[HypercallEvent], None] | None = None,
        after: Callable[[HypercallEvent], None] | None = None,
    ) -> Callable[[], None]:
        """Call ``before`` and ``after`` around every hypercall of every guest."""
        return self._watched([_add(self.before_hypercall, before), _add(self.after_hypercall, after)])

    def subscribe_event_sent(self, subscriber: Callable[[EventSent], None]) -> Callable[[], None]:
        """Call ``subscriber`` for every event that becomes pending."""
        return self._watched([_add(self.event_sent, subscriber)])

    def subscribe_lifecycle(self, subscriber: Callable[[LifecycleEvent], None]) -> Callable[[], None]:
        """Call ``subscriber`` when a domain is created, paused, shut down, destroyed."""
        return _add(self.lifecycle, subscriber)

    def _watched(self, undo: list[Callable[[], None]]) -> Callable[[], None]:
        """Subscribers were added. -> what takes them away by calling ``undo``."""
        self._native_work_watched(self.watches_native_work)

        def unsubscribe() -> None:
            for one in undo:
                one()
            self._native_work_watched(self.watches_native_work)

        return unsubscribe

    def publish(self, subscribers: list[Callable[[T], None]], event: T) -> None:
        """Tell everyone in ``subscribers``; drop those that raise."""
        for subscriber in tuple(subscribers):
            try:
                subscriber(event)
            except Exception as error:
                self._report(f"hook {subscriber!r} raised {error!r} and was removed")
                if subscriber in subscribers:
                    subscribers.remove(subscriber)
                    self._native_work_watched(self.watches_native_work)


def _add(subscribers: list[Callable[[T], None]], subscriber: Callable[[T], None] | None) -> Callable[[], None]:
    if subscriber is not None:
        subscribers.append(subscriber)

    def unsubscribe() -> None:
        if subscriber is not None and subscriber in subscribers:
            subscribers.remove(subscriber)

    return unsubscribe

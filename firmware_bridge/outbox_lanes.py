"""What the outbox sends: each kind of message that stands in the journal until the broker has acknowledged it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from firmware_bridge.backoff import Backoff
from firmware_bridge.journal import Journal
from firmware_bridge.mqtt_message import Message

JSON = "application/json"


class Source(Protocol):
    """Where a lane's messages come from. Every method raises ResourceError when the journal cannot be read or written.

    Attributes:
        gives_up: a message that the broker refuses for good is dropped, instead of offered again and again.
    """

    @property
    def gives_up(self) -> bool:
        """See above."""

    def due(self, *, limit: int) -> list[tuple[int, Message]]:
        """(number, message), oldest first; those under way are among them."""

    def mark_sent(self, numbers: Iterable[int]) -> None:
        """The broker has these."""

    def drop(self, number: int, why: str) -> None:
        """The broker never will have this one. Called only where `gives_up`."""


class Results:
    """Result records, to one topic. None is ever dropped."""

    gives_up = False

    def __init__(self, journal: Journal, topic: str) -> None:
        self._journal = journal
        self._topic = topic

    def due(self, *, limit: int) -> list[tuple[int, Message]]:
        """See `Source`."""
        rows = self._journal.unsent(limit=limit)
        return [(seq, Message(self._topic, record.encode(), content_type=JSON)) for seq, record in rows]

    def mark_sent(self, numbers: Iterable[int]) -> None:
        """See `Source`."""
        self._journal.mark_sent(numbers)

    def drop(self, number: int, why: str) -> None:
        """See `Source`; never called."""
        raise AssertionError(f"result {number} must not be dropped: {why}")


class Replies:
    """Answers to requests, each to its own topic. One that nobody may publish there is dropped, and noted so."""

    gives_up = True

    def __init__(self, journal: Journal, kind: str) -> None:
        self._journal = journal
        self._kind = kind

    def due(self, *, limit: int) -> list[tuple[int, Message]]:
        """See `Source`."""
        return [
            (
                reply.seq,
                Message(reply.to.topic, reply.record.encode(), content_type=JSON, correlation=reply.to.correlation),
            )
            for reply in self._journal.unsent_replies(self._kind, limit=limit)
        ]

    def mark_sent(self, numbers: Iterable[int]) -> None:
        """See `Source`."""
        self._journal.mark_replies_sent(numbers)

    def drop(self, number: int, why: str) -> None:
        """See `Source`."""
        self._journal.mark_replies_sent([number], failure=why)


class Lane:
    """A source, and what of it is under way on the present connection."""

    def __init__(self, source: Source, *, longest_wait_s: float) -> None:
        self.source = source
        self.under_way: set[int] = set()
        self.acknowledged: set[int] = set()  # the journal does not know about these yet
        self.given_up: dict[int, str] = {}  # nor about these; number -> why
        self.too_large: set[int] = set()  # for this broker
        self.hold_until_s = 0.0
        self.backoff = Backoff(longest_s=longest_wait_s)

    def next(self, *, limit: int) -> list[tuple[int, Message]]:
        """What is to be sent now, oldest first."""
        taken = self.under_way | self.acknowledged | self.too_large | self.given_up.keys()
        due = self.source.due(limit=len(taken) + limit)
        return [(number, message) for number, message in due if number not in taken][:limit]

    def note_sent(self) -> None:
        """Write into the journal what was acknowledged or given up. Raises what the source raises."""
        if self.acknowledged:
            self.source.mark_sent(self.acknowledged)
            self.acknowledged.clear()
        for number, why in list(self.given_up.items()):
            self.source.drop(number, why)
            del self.given_up[number]

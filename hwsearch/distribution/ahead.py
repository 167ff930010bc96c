"""Ahead: evaluations that lie ready at a worker behind its running one, sent in groups where they are short.

A message to a Ray actor and its answer cost the driver and the worker about a millisecond each. That is nothing beside
an evaluation of seconds; where evaluations take milliseconds, several travel together and are answered together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hwsearch.distribution.executor import Waiting
from hwsearch.distribution.jobs import Job, Slot

GROUP_S, LARGEST = 0.05, 16
"""A group is so many seconds of work at most, and so many evaluations. A worker has two: one runs, one lies ready."""
MESSAGE_S = 1e-4
"""What a job takes at least."""


@dataclass(frozen=True)
class Lying:
    """A job in a worker's own queue.

    Args:
        waiting: the job.
        ref: of the answers of its group, at the first job of a group; None at the others.
    """

    waiting: Waiting
    ref: Any | None


class Ahead:
    """What lies at which worker. Evaluations count as long until they are known to be short."""

    def __init__(self) -> None:
        self._lying: dict[Slot, deque[Lying]] = {}
        self._shared: set[Slot] = set()
        self._usual_s = GROUP_S

    def note(self, seconds: float) -> None:
        """Notes how long an evaluation took at its worker."""
        self._usual_s += 0.2 * (seconds - self._usual_s)

    def __bool__(self) -> bool:
        return bool(self._lying)

    @property
    def group(self) -> int:
        """How many evaluations go in one message; 0: they are long, and none lies ready."""
        return min(LARGEST, int(GROUP_S / (self._usual_s + MESSAGE_S)))

    def room(self, slot: Slot) -> int:
        """Returns how many more evaluations may lie at a worker that has a job: whole groups, so that none is small."""
        group = self.group
        return (2 * group - 1 - len(self._lying.get(slot, ()))) // group * group if group else 0

    def send(
        self, slots: Sequence[Slot], evaluations: deque[Waiting], *, message: Callable[[Slot, list[Job]], Any]
    ) -> None:
        """Lays evaluations ready at workers, as far as there is room.

        Args:
            slots: workers that have a job.
            evaluations: what waits; what is sent is taken out.
            message: sends a group and returns the reference of its answers.
        """
        open_ = sorted((s for s in slots if self.room(s) > 0), key=lambda s: len(self._lying.get(s, ())))
        for n, slot in enumerate(open_):
            if not evaluations or _lost_before(evaluations[0]):
                break
            share = -(-len(evaluations) // (len(open_) - n))  # the last ones of a run go to all workers
            group = self._next_group(evaluations, min(self.group, share))
            ref = message(slot, [waiting.job for waiting in group])
            refs = [ref, *(None for _ in group[1:])]
            self._lying.setdefault(slot, deque()).extend(map(Lying, group, refs))

    def _next_group(self, evaluations: deque[Waiting], most: int) -> list[Waiting]:
        """Takes out the next group, up to what was lost before."""
        group = [evaluations.popleft()]
        while len(group) < most and evaluations and not _lost_before(evaluations[0]):
            group.append(evaluations.popleft())
        return group

    def behind(self, slot: Slot) -> Waiting | None:
        """Returns what comes after a worker's job."""
        lying = self._lying.get(slot)
        return lying[0].waiting if lying else None

    def begin(self, slot: Slot, job: Job) -> Lying | None:
        """Notes that a worker's next job is this one; returns what was known of it, None if it did not lie there."""
        lying = self._lying.get(slot)
        begun = lying.popleft() if lying and lying[0].waiting.job is job else None
        if begun is None or begun.ref is not None:
            self._shared.discard(slot)
            if lying and lying[0].ref is None:
                self._shared.add(slot)
        if not lying:
            self._lying.pop(slot, None)
        return begun

    def shares(self, slot: Slot) -> bool:
        """Whether a worker's job came in one message with others: if it dies, any of them may be to blame."""
        return slot in self._shared

    def withdraw(self, slot: Slot) -> list[Waiting]:
        """Returns what lay behind a job that took its worker along; what came with it is marked as lost once."""
        lying = self._lying.pop(slot, deque())
        for entry in lying:
            if entry.ref is not None:
                break
            entry.waiting.moves += 1
        return [entry.waiting for entry in lying]


def _lost_before(waiting: Waiting) -> bool:
    """Whether a job went down with a worker: it waits for an idle one and runs alone, so that a killer is found.

    With another behind it, it might be blamed for that one: a dying process takes answers along that are on their way.
    """
    return bool(waiting.attempt or waiting.moves)

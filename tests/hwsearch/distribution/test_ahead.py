from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from hwsearch.distribution.ahead import Ahead
from hwsearch.distribution.executor import Waiting
from hwsearch.distribution.jobs import EvaluateJob, Job, Slot


def waiting(*indices: int, attempt: int = 0, moves: int = 0) -> deque[Waiting]:
    return deque(Waiting(EvaluateJob(i, np.zeros(2, dtype=np.uint8)), 0.0, attempt, moves) for i in indices)


def known(seconds: float) -> Ahead:
    """Returns one that has seen evaluations of this length."""
    ahead = Ahead()
    for _ in range(60):
        ahead.note(seconds)
    return ahead


class Sent:
    """Notes messages; a group's reference is its number."""

    def __init__(self) -> None:
        self.groups: list[tuple[str, list[int]]] = []

    def __call__(self, slot: Slot, jobs: list[Job]) -> int:
        self.groups.append((slot.name, [job.index for job in jobs if isinstance(job, EvaluateJob)]))
        return len(self.groups)


@pytest.mark.parametrize(
    ("seconds", "group"), [(1.0, 0), (0.051, 0), (0.04, 1), (0.02, 2), (0.0095, 5), (0.002, 16), (0.0, 16)]
)
def test_the_shorter_evaluations_are_the_more_travel_together(seconds: float, group: int) -> None:
    assert known(seconds).group == group


def test_what_is_not_known_to_be_short_does_not_lie_ready() -> None:
    ahead, sent, slot = Ahead(), Sent(), Slot("a", "h")
    ahead.send([slot], evaluations := waiting(1, 2), message=sent)
    assert (ahead.room(slot), sent.groups, len(evaluations)) == (0, [], 2)


def test_two_groups_per_worker_and_room_for_whole_ones_only() -> None:
    ahead, sent, slot = known(0.0095), Sent(), Slot("a", "h")
    assert ahead.room(slot) == 5  # behind the one job that it has
    ahead.send([slot], evaluations := waiting(*range(12)), message=sent)
    assert sent.groups == [("a", [0, 1, 2, 3, 4])]
    assert ahead.room(slot) == 0
    first = ahead.behind(slot)
    assert first is not None
    begun = ahead.begin(slot, first.job)
    assert begun is not None and begun.ref == 1
    assert ahead.shares(slot)
    assert ahead.room(slot) == 5
    ahead.send([slot], evaluations, message=sent)
    assert sent.groups[1:] == [("a", [5, 6, 7, 8, 9])]
    for n in range(1, 10):
        following = ahead.behind(slot)
        assert following is not None
        begun = ahead.begin(slot, following.job)
        assert begun is not None and begun.ref == (2 if n == 5 else None)
    assert not ahead
    assert ahead.begin(slot, waiting(99)[0].job) is None
    assert not ahead.shares(slot)


def test_the_last_ones_go_to_all_workers() -> None:
    ahead, sent, slots = known(0.0095), Sent(), [Slot("a", "h"), Slot("b", "h"), Slot("c", "h")]
    ahead.send(slots, waiting(1, 2, 3, 4), message=sent)
    assert sent.groups == [("a", [1, 2]), ("b", [3]), ("c", [4])]


def test_what_was_lost_before_goes_alone() -> None:
    ahead, sent, slots = known(0.0095), Sent(), [Slot(name, "h") for name in "abcde"]
    evaluations = waiting(1, 2) + waiting(3, attempt=1) + waiting(4, moves=1) + waiting(5, 6)
    ahead.send(slots, evaluations, message=sent)
    ahead.send(slots, evaluations, message=sent)
    assert sent.groups == [("a", [1, 2])]  # the next one waits for a worker without a job
    evaluations.popleft()
    ahead.send(slots, evaluations, message=sent)
    assert sent.groups == [("a", [1, 2])]
    evaluations.popleft()
    ahead.send(slots, evaluations, message=sent)
    assert sent.groups[1:] == [("b", [5]), ("c", [6])]


def test_those_that_came_with_a_killer_are_marked_and_those_behind_are_not() -> None:
    ahead, sent, slot = known(0.0095), Sent(), Slot("a", "h")
    ahead.send([slot], waiting(1, 2, 3), message=sent)
    first = ahead.behind(slot)
    assert first is not None
    ahead.begin(slot, first.job)
    ahead.send([slot], waiting(4, 5), message=sent)
    back = ahead.withdraw(slot)
    assert ahead.shares(slot)  # until the worker's next job
    assert [(w.job.index, w.moves) for w in back if isinstance(w.job, EvaluateJob)] == [(2, 1), (3, 1), (4, 0), (5, 0)]
    assert not ahead

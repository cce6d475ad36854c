"""How long a stage can be kept waiting under priority inheritance, computed from its set alone.

One processor that can be taken away at any time has the classic bound: a job is blocked for at most
one critical section of each lower job, or of each semaphore (Sha, Rajkumar, Lehoczky, "Priority
Inheritance Protocols", IEEE Transactions on Computers 39(9), 1990, section III). It rests on no
lower job entering a section after the job has arrived. Stages run side by side and await things,
so that does not hold here; what holds is the bound per request of locks with priority queues and
inheritance on several processors (Rajkumar, Sha, Lehoczky, "Real-Time Synchronization Protocols for
Multiprocessors", RTSS 1988; Brandenburg, "Multiprocessor Real-Time Locking Protocols", 2019,
arXiv:1909.09600), here with pools of several units:

* A request waits, because of lower stages, only for units that they hold when it is made: from
  then on whoever is served before it is at least as urgent. A pool of U units has at most U
  holders, each with one section; all are lent its rank, and at any moment at least one of all who
  are reached that way goes on. So the wait is at most the sum, over the U stages with the longest
  sections of that pool, of a section's length (with U = 1, the longest section).
* The length of a section is what it computes and, for each request inside it, the wait of that
  request by this same rule: it is made with the rank that was lent. Pools nest in one order, so
  this ends.
* A request for a slot of the executor waits for one slice that is under way, since slots are not
  taken away: at most the longest slice of a lower stage. This is what a processor that can't be
  preempted adds, once per request.

For a stage that is not the highest, the stages that are as urgent or more come in between: with all
they compute, and all that keeps them waiting by the rule above.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from .task_sets import EXECUTOR, Item, Section, Slice, Task, TaskSet, sections, slices

NONE: Final = 0


class Blocking:
    """What lower stages can cost those of priority `of`, in ticks. Pure."""

    def __init__(self, tasks: TaskSet, of: int) -> None:
        self._pools = tasks.pools
        self._lower = [task for task in tasks.tasks if task.priority < of]
        self._slice_ticks = max(
            (each.ticks for task in self._lower for each in slices(task.body) if each.in_executor),
            default=NONE,
        )
        self._known: dict[str, int] = {EXECUTOR: self._slice_ticks}

    def wait_ticks(self, pool: str) -> int:
        """Of one request: how long lower stages can keep it waiting."""
        if pool not in self._known:
            longest = sorted(
                (
                    max(self.length_ticks(section) for section in own)
                    for task in self._lower
                    if (own := [each for each in sections(task.body) if each.pool == pool])
                ),
                reverse=True,
            )
            self._known[pool] = sum(longest[: self._pools[pool]])
        return self._known[pool]

    def length_ticks(self, section: Section) -> int:
        """How long a section of a lower stage lasts that has this priority for its length."""
        return self.time_ticks(section.body)

    def time_ticks(self, items: Sequence[Item]) -> int:
        """What is computed in `items`, and every wait of a request in them."""
        computed = sum(each.ticks for each in slices(items))
        return computed + sum(self.wait_ticks(pool) for pool in requests(items))


def requests(items: Sequence[Item]) -> Iterator[str]:
    """The pools that `items` ask for, in order; for each slice in the executor, that."""
    for item in items:
        if isinstance(item, Slice):
            if item.in_executor:
                yield EXECUTOR
        else:
            yield item.pool
            yield from requests(item.body)


def request_bounds_ticks(tasks: TaskSet) -> list[int]:
    """Of each request of the highest stage, in order: the longest wait."""
    highest = tasks.tasks[0]
    blocking = Blocking(tasks, highest.priority)
    return [blocking.wait_ticks(pool) for pool in requests(highest.body)]


def stage_bounds_ticks(tasks: TaskSet) -> Mapping[str, int]:
    """Of each stage: the longest sum of its waits."""
    by_priority: dict[int, int] = {}
    for priority in {task.priority for task in tasks.tasks}:
        blocking = Blocking(tasks, priority)
        by_priority[priority] = sum(
            blocking.time_ticks(task.body) for task in tasks.tasks if task.priority >= priority
        )
    return {task.name: by_priority[task.priority] - _own_ticks(task) for task in tasks.tasks}


def _own_ticks(task: Task) -> int:
    return sum(each.ticks for each in slices(task.body))

"""Order and cycles of a graph given as lists of children. Iterative: depth costs no stack."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


def topological(children: Sequence[Sequence[int]]) -> list[int]:
    """Every vertex that is on no cycle and behind none, parents before children.

    Shorter than `children` exactly when there is a cycle. Kahn 1962; ties in index order, so
    equal graphs give equal orders. Time and memory: O(vertices + edges).
    """
    waiting = [0] * len(children)
    for targets in children:
        for target in targets:
            waiting[target] += 1
    ready = deque(vertex for vertex, count in enumerate(waiting) if count == 0)
    order: list[int] = []
    while ready:
        vertex = ready.popleft()
        order.append(vertex)
        for target in children[vertex]:
            waiting[target] -= 1
            if waiting[target] == 0:
                ready.append(target)
    return order


def find_cycle(children: Sequence[Sequence[int]], order: Sequence[int]) -> list[int]:
    """The vertices of one cycle, in edge order. `order` is what `topological` gave, too short."""
    parents: list[int] = [-1] * len(children)
    placed = set(order)
    left = [vertex for vertex in range(len(children)) if vertex not in placed]
    for vertex in left:
        for target in children[vertex]:
            parents[target] = vertex
    # Every vertex left has a parent that is left too; walking back must meet itself.
    vertex, seen = left[0], dict[int, int]()
    path: list[int] = []
    while vertex not in seen:
        seen[vertex] = len(path)
        path.append(vertex)
        vertex = parents[vertex]
    cycle = path[seen[vertex] :]
    cycle.reverse()
    return cycle

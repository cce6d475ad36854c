"""What happens in one story of changes and undos, drawn by Hypothesis: plain data.

Places are three rows, three files and three pages of a service. Numbers stand for whatever they are
taken modulo of, so that any draw is a story.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, TypeAlias

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

RESOURCES: Final = ("rows", "files", "pages")
KEYS: Final = ("a", "b", "c")
Place: TypeAlias = tuple[str, str]
PLACES: Final[tuple[Place, ...]] = tuple((name, key) for name in RESOURCES for key in KEYS)
VALUES: Final = (None, "one", "two", "three")
"""None: nothing is there."""
POINT_MAX: Final = 40
"""Points that a process may come to before it dies: each is before or after a record or a write."""
ACTS: Final = (4, 14)

Kind = Literal["change", "append", "edit", "back", "undo", "form", "send"]
"""`append` makes a value from the one that is there; `edit` is somebody else's write, `back` two of
them that come and go; `form` adds a column to the table, or drops it."""


@dataclass(frozen=True, slots=True)
class Act:
    """One thing that is done, or that others do."""

    kind: Kind
    place: int
    value: int
    """Of `undo`: the step, modulo those there are. Of `send`: the letter."""
    is_permitted: bool = True
    """Of `send`: whether a person said so before."""
    race: int | None = None
    """Of `change`, `append` and `undo`: at its so-many-th point somebody else writes at `place`."""


@dataclass(frozen=True, slots=True)
class Story:
    """Acts in order, and where its processes die."""

    acts: tuple[Act, ...]
    deaths: tuple[int, ...]
    """At which point of its life each process dies; the one after the last lives on."""
    meanwhile: tuple[int | None, ...]
    """While nobody lives, after each death: the place at which somebody else writes."""

    def as_json(self) -> dict[str, Any]:
        """For another process."""
        return asdict(self)


def story_of(data: dict[str, Any]) -> Story:
    """The story again."""
    return Story(
        tuple(Act(**act) for act in data["acts"]), tuple(data["deaths"]), tuple(data["meanwhile"])
    )


_KINDS: Final[tuple[Kind, ...]] = (
    *(("change",) * 5),
    *(("append",) * 2),
    *(("undo",) * 4),
    *(("edit",) * 2),
    *(("back",) * 2),
    "form",
    *(("send",) * 3),
)
_act: Final = st.builds(
    Act,
    kind=st.sampled_from(_KINDS),
    place=st.integers(0, 4 * len(PLACES) - 1).map(lambda n: n if n < len(PLACES) else n % 4),
    value=st.integers(0, 63),
    is_permitted=st.booleans(),
    race=st.one_of(st.none(), st.none(), st.none(), st.integers(0, 12)),
)
"""Most acts are about a few places, so that they meet."""
_deaths: Final = st.lists(st.integers(0, POINT_MAX), max_size=3)


@st.composite
def stories(draw: st.DrawFn, *, deadly: bool) -> Story:
    """Any story; `deadly`: one with a death at least."""
    acts = draw(st.lists(_act, min_size=ACTS[0], max_size=ACTS[1]))
    deaths = draw(_deaths)
    if deadly and not deaths:
        deaths = [draw(st.integers(0, POINT_MAX))]
    meanwhile = [
        draw(st.one_of(st.none(), st.integers(0, len(PLACES) - 1))) for _ in range(len(deaths))
    ]
    return Story((*acts, Act("undo", 0, acts[0].value)), tuple(deaths), tuple(meanwhile))


def drawn(count: int, seed: int, *, deadly: bool = False) -> Sequence[Story]:
    """`count` stories; the same for the same seed. Hypothesis may draw one twice."""
    found: list[Story] = []
    while len(found) < count:

        @hypothesis.settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.seed(seed)
        @hypothesis.given(stories(deadly=deadly))
        def collect(story: Story) -> None:
            found.append(story)

        collect()
        seed += 1
    return found[:count]

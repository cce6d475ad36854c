"""How long a stage's value may stand for another execution of it."""

from __future__ import annotations

from dataclasses import dataclass

from stageflow.model.errors import BuildError


@dataclass(frozen=True, slots=True)
class Cache:
    """A stage's value is kept, and given to later runs of the same tenant instead of running it.

    It is the same execution when body, `version=`, contract, labels and the contents of all
    arguments are the same. `ttl` is how many seconds a value may be old; None, for ever, is for
    stages whose value follows from their arguments alone. What a body reads from elsewhere, an
    ENRICH stage's, grows old: there it must be given.
    """

    ttl: float | None = None

    def __post_init__(self) -> None:
        ttl = self.ttl
        is_number = isinstance(ttl, (int, float)) and not isinstance(ttl, bool)
        if ttl is not None and not (is_number and ttl > 0):
            raise BuildError(
                "policy.cache",
                "a cached value must be allowed some age",
                field="ttl",
                expected="seconds > 0, or None for no end",
                got=repr(ttl)[:80],
                fix="Cache(ttl=60.0)",
            )

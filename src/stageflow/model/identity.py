"""Who a run belongs to, and how it hangs together with others."""

from __future__ import annotations

from typing import Final, NamedTuple

DEFAULT_TENANT: Final = "default"
"""Of runs that nobody said a tenant of."""


class Identity(NamedTuple):
    """Carried by every value, event and record of a run.

    What users are given is a copy: `object.__setattr__` with `__class__` changes any instance of a
    Python class, and one that is shared would move a run to another tenant.
    """

    run: str
    tenant: str = DEFAULT_TENANT
    session: str | None = None
    parent: str | None = None
    """The run that started this one from a stage; None for a run a user started."""
    correlation: str | None = None
    """Shared by a run and all its descendants; the root's run id unless the caller gave one."""

    def copied(self) -> Identity:
        """Another object with the same contents."""
        return Identity._make(self)

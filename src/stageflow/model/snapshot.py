"""The state of a run at a version: immutable, content-hashed, sharing all that did not change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from stageflow.model.bag import Entry, OutputBag
from stageflow.model.identity import Identity
from stageflow.model.session import Seen, Session
from stageflow.model.values import content_hash, thaw


class ContextSnapshot:
    """A view of the first `version` accepted outputs of a run, with its identity and inputs.

    Making one costs nothing but the object: the versions of a run share one append-only list.
    Values come out as private copies; changing one changes nobody else's.
    """

    __slots__ = ("_bag", "_identity", "_inputs", "_names", "_session", "version")

    def __init__(
        self,
        *,
        identity: Identity,
        inputs: Mapping[str, Any],
        names: Mapping[str, int],
        bag: OutputBag,
        version: int,
        session: Seen | None = None,
    ) -> None:
        """`inputs` holds canonical values; `names` maps node names to numbers."""
        self._identity = identity
        self.version = version
        self._inputs = inputs
        self._names = names
        self._bag = bag
        self._session = session

    def __contains__(self, node: str) -> bool:
        number = self._names.get(node)
        position = None if number is None else self._bag.position.get(number)
        return position is not None and position < self.version

    def __getitem__(self, node: str) -> Any:
        """A private view of the node's value. KeyError when it has none at this version."""
        if node not in self:
            raise KeyError(node)
        return thaw(self._bag.accepted[self._bag.position[self._names[node]]].value)

    def __iter__(self) -> Iterator[str]:
        """Names of the nodes that have values, in order of acceptance."""
        by_number = {number: name for name, number in self._names.items()}
        for entry in self._bag.accepted[: self.version]:
            yield by_number[entry.node]

    def __len__(self) -> int:
        return self.version

    @property
    def identity(self) -> Identity:
        """Whose state this is; a private copy."""
        return self._identity.copied()

    @property
    def inputs(self) -> dict[str, Any]:
        """Private views of the run's inputs."""
        return {name: thaw(value) for name, value in self._inputs.items()}

    def canonical(self) -> tuple[Mapping[str, Any], list[tuple[str, Entry]], Seen | None]:
        """Inputs, released entries by node name, and what is seen of the session, as they are
        kept: for codecs, not for users."""
        by_number = {number: name for name, number in self._names.items()}
        accepted = self._bag.accepted[: self.version]
        return self._inputs, [(by_number[entry.node], entry) for entry in accepted], self._session

    @property
    def session(self) -> Session | None:
        """Earlier turns that the run sees; None for a run of no session."""
        return None if self._session is None else Session(self._session)

    @property
    def content_hash(self) -> str:
        """blake2b over inputs and outputs of this version, in order of node name, and over the
        session's earlier turns when there is one.

        Equal for equal contents, whatever the order in which the outputs were accepted.
        """
        digest = hashlib.blake2b(digest_size=32)
        for name in sorted(self._inputs):
            digest.update(f"input {name} {content_hash(self._inputs[name])}\n".encode())
        by_number = {number: name for name, number in self._names.items()}
        accepted = self._bag.accepted[: self.version]
        for entry in sorted(accepted, key=lambda e: by_number[e.node]):
            digest.update(f"node {by_number[entry.node]} {content_hash(entry.value)}\n".encode())
        if self._session is not None:
            digest.update(f"session {Session(self._session).content_hash}\n".encode())
        return digest.hexdigest()

    def __repr__(self) -> str:
        return f"<snapshot {self.version} of run {self._identity.run}>"

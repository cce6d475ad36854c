"""Runs that a stage starts: named by their parent, found again when the stage runs again."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stageflow.model.errors import JournalError, RunError
from stageflow.model.values import content_hash
from stageflow.runtime.history import decode_inputs

if TYPE_CHECKING:
    from stageflow.journal.store import LoadedRun
    from stageflow.runtime.pipeline import Pipeline
    from stageflow.runtime.runtime import Runtime


def child_id(parent: str, node: str, key: str) -> str:
    """The run id of a child: the same whenever its parent's stage asks for it under this key."""
    digest = hashlib.blake2b(f"{parent}\0{node}\0{key}".encode(), digest_size=16).digest()
    return base64.b32hexencode(digest)[:26].decode().lower()


def call_of(pipeline: Pipeline[Any], inputs: Mapping[str, Any]) -> str:
    """Hash of what a child is asked to do: pipeline name and canonical inputs."""
    digest = hashlib.blake2b(pipeline.name.encode(), digest_size=12)
    for name in sorted(inputs):
        digest.update(f"\0{name}={content_hash(inputs[name])}".encode())
    return digest.hexdigest()


async def begun_before(runtime: Runtime, run: str) -> LoadedRun | None:
    """The child's history when the journal has one."""
    assert runtime.journal is not None
    try:
        return await runtime.journal.load(run)
    except JournalError as error:
        if error.code == "journal.unknown_run":
            return None
        raise


def check_same_call(pipeline: Pipeline[Any], loaded: LoadedRun, call: str, key: str) -> None:
    """RunError `step.diverged` when the recorded child was asked something else."""
    before = call_of(pipeline, decode_inputs(pipeline.plan, loaded.records[0]))
    if loaded.header.pipeline != pipeline.name or before != call:
        raise diverged(pipeline.name, key, before, call)


def diverged(pipeline: str, key: str, before: str, call: str) -> RunError:
    """The same key was used for another call."""
    return RunError(
        "step.diverged",
        f"the child under key {key!r} is another call than the one on record",
        pipeline=pipeline,
        field=key,
        expected=f"call {before}",
        got=f"call {call}",
        fix="derive the key from what the child depends on, or give the new call a new key",
    )

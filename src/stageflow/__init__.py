"""Stageflow: pipelines of typed stages for AI agents."""

from stageflow.graph import (
    BranchRef,
    Stage,
    agent,
    any_of,
    approval,
    enrich,
    first_of,
    guard,
    merge_of,
    n_of,
    route,
    transform,
    work,
)
from stageflow.journal.keys import UNSEALED, KeyFile, Keys, LocalKeys
from stageflow.model import merges
from stageflow.model.caching import Cache
from stageflow.model.classification import Classification, ErrorKind, classify
from stageflow.model.dependency import CircuitBreaker, Dependency, RetryBudget
from stageflow.model.errors import (
    BuildError,
    BuildErrors,
    ContractError,
    EffectError,
    EffectUnknown,
    InputError,
    JournalError,
    RunError,
    SandboxError,
    SimulationError,
    StageflowError,
    ToolError,
    ValueRefused,
)
from stageflow.model.identity import Identity
from stageflow.model.kinds import Kind
from stageflow.model.outputs import (
    Allow,
    Block,
    Branch,
    CantTell,
    Decision,
    Feedback,
    Happened,
    LetStand,
    NotHappened,
    Redact,
    Revise,
    StageOutput,
    Stream,
)
from stageflow.model.policy import Retry
from stageflow.model.progress import Progress, Stall
from stageflow.model.session import Session, Turn, Window
from stageflow.model.snapshot import ContextSnapshot
from stageflow.model.values import Adapter
from stageflow.runtime.capacity import Pool, PoolUsage, SharedPool
from stageflow.runtime.connections import Connections
from stageflow.runtime.context import Context
from stageflow.runtime.deps import Dep
from stageflow.runtime.events import Event, EventType, Subscription
from stageflow.runtime.failure import Failure, StageFailed
from stageflow.runtime.handle import Handle
from stageflow.runtime.limits import Limits
from stageflow.runtime.outcome import Candidate, NodeOutcome, Run, Undo
from stageflow.runtime.pipeline import Pipeline, RunStream
from stageflow.runtime.produced import Chunks
from stageflow.runtime.runtime import Runtime
from stageflow.runtime.stream import Emitted
from stageflow.runtime.tenancy import AccessRefused, TenantRuntime
from stageflow.runtime.waiting import Waiting
from stageflow.runtime.waits import Deadlock, Deadlocked, DeadlockMember
from stageflow.runtime.worker import Worker

__all__ = [
    "UNSEALED",
    "AccessRefused",
    "Adapter",
    "Allow",
    "Block",
    "Branch",
    "BranchRef",
    "BuildError",
    "BuildErrors",
    "Cache",
    "Candidate",
    "CantTell",
    "Chunks",
    "CircuitBreaker",
    "Classification",
    "Connections",
    "Context",
    "ContextSnapshot",
    "ContractError",
    "Deadlock",
    "DeadlockMember",
    "Deadlocked",
    "Decision",
    "Dep",
    "Dependency",
    "EffectError",
    "EffectUnknown",
    "Emitted",
    "ErrorKind",
    "Event",
    "EventType",
    "Failure",
    "Feedback",
    "Handle",
    "Happened",
    "Identity",
    "InputError",
    "JournalError",
    "KeyFile",
    "Keys",
    "Kind",
    "LetStand",
    "Limits",
    "LocalKeys",
    "NodeOutcome",
    "NotHappened",
    "Pipeline",
    "Pool",
    "PoolUsage",
    "Progress",
    "Redact",
    "Retry",
    "RetryBudget",
    "Revise",
    "Run",
    "RunError",
    "RunStream",
    "Runtime",
    "SandboxError",
    "Session",
    "SharedPool",
    "SimulationError",
    "Stage",
    "StageFailed",
    "StageOutput",
    "StageflowError",
    "Stall",
    "Stream",
    "Subscription",
    "TenantRuntime",
    "ToolError",
    "Turn",
    "Undo",
    "ValueRefused",
    "Waiting",
    "Window",
    "Worker",
    "agent",
    "any_of",
    "approval",
    "classify",
    "enrich",
    "first_of",
    "guard",
    "merge_of",
    "merges",
    "n_of",
    "route",
    "transform",
    "work",
]

"""What the stages of a tree of runs saw, gave and took, in order, and the lines it makes.

Each value is a list of one text that names its author: path of its pipeline, run, node, owner and
attempt. So whatever turns up anywhere tells where it was made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from stageflow import Context, Run, Subscription
from stageflow.contracts import contract_of
from stageflow.journal.store import LoadedRun
from stageflow.model.record import RecordType
from stageflow.model.values import thaw
from stageflow.runtime.events import RawEvent

from .context_lines import ABSENT
from .pipeline_trees import GIVEN, LAST, Tree

CHILD_FAILED: Final = "a child failed"
CHILD_CANCELLED: Final = "a child was cancelled"
CHILD_GIVEN_UP: Final = "a child was given up by the stage that ran it"
CHILD_OUTLIVED: Final = "a child's stage came back when its run was over"
LATE_REFUSED: Final = "a late value of a child was refused"
PARENT_WROTE: Final = "a parent wrote while its child ran"
TAKEN_OVER: Final = "a tree was taken over by another process"
FAULTS: Final = (
    CHILD_FAILED,
    CHILD_CANCELLED,
    CHILD_GIVEN_UP,
    CHILD_OUTLIVED,
    LATE_REFUSED,
    PARENT_WROTE,
    TAKEN_OVER,
)

VALUE: Final = list[str]
_CONTRACT: Final = contract_of(VALUE)
ROOT: Final = "root"
OUTSIDE: Final = "outside"
"""The author of the root's input."""
DEFACED: Final = "defaced"


class Author(NamedTuple):
    """Who made a value."""

    path: str
    run: str
    node: str
    who: str

    @property
    def text(self) -> str:
        """As a value carries it."""
        return "|".join(self)


def author_of(value: Any) -> Author | None:
    """Who made it; None for what no stage of a tree made, or what was changed since."""
    if type(value) is not list or len(value) != 1 or type(value[0]) is not str:
        return None
    parts = value[0].split("|")
    return Author(*parts) if len(parts) == 4 else None


@dataclass(frozen=True, slots=True)
class Site:
    """One pipeline of the tree: where it stands, and what each of its names means."""

    path: str
    sorts: Mapping[str, str]
    """Node to own, child or export."""
    sources: Mapping[str, tuple[str, str]]
    """Export to (path of the child, the child's stage)."""
    given: str
    """The parent's node whose value is the input, or `given` for the parent's own input."""


def sites_of(tree: Tree) -> dict[str, Site]:
    """Every pipeline of the tree, by path."""
    found = {}
    givens = {ROOT: GIVEN}
    for path, inner in tree.below(ROOT):
        sorts: dict[str, str] = {LAST: "own"}
        sources: dict[str, tuple[str, str]] = {}
        for node in inner.nodes:
            staged = node.child is not None and node.way == "stage"
            sorts[node.name] = "child" if staged else "own"
            below = f"{path}.{node.name}"
            givens[below] = node.takes[0] if node.takes else GIVEN
            for name, of in node.exports:
                sorts[name], sources[name] = "export", (below, of)
        found[path] = Site(path, sorts, sources, givens[path])
    return found


class Op(NamedTuple):
    """One thing that happened. `what` is an author's `who`, or a value that was seen or taken."""

    kind: str
    run: str
    node: str
    what: Any
    at: int
    """Place in the order: of a stage's looks, the start of its attempt, whose snapshot it has."""


@dataclass(slots=True)
class Told:
    """What one tree showed."""

    lines: Counter[str] = field(default_factory=Counter)
    facts: Counter[str] = field(default_factory=Counter)


class TreeLog(Subscription):
    """What one owner's runs of a tree did. Also their subscriber: an event is written down at the
    moment it happens."""

    __slots__ = ("begun", "ops", "owner", "parents", "paths", "sites")

    def __init__(self, tree: Tree, *, owner: str) -> None:
        super().__init__()
        self.owner = owner
        self.sites = sites_of(tree)
        self.ops: list[Op] = []
        self.begun: dict[tuple[str, str, int], int] = {}
        """(run, node, attempt) to the place at which it started."""
        self.paths: dict[str, str] = {}
        """Run to the path of its pipeline, as its stages told."""
        self.parents: dict[str, str | None] = {}

    def push(self, event: RawEvent) -> None:
        kind, run, node, attempt, _, _, status, reason, _ = event
        if kind == "stage_started" and node is not None:
            self.begun[run, node, attempt] = len(self.ops)
            self._note("begun", run, "", "")
        elif kind == "stage_ended" and node is not None:
            self._note("w" if status == "ok" else "x", run, node, f"{self.owner}{attempt}")
        elif kind == "late_write" and node is not None:
            self._note("l", run, node, f"{self.owner}{attempt}")
        elif kind == "run_started":
            self._note("begin", run, "", "")
        elif kind == "run_ended":
            self._note("end", run, "", (status, reason))

    def _note(self, kind: str, run: str, node: str, what: Any, at: int | None = None) -> None:
        place = len(self.ops) if at is None else at
        self.ops.append(Op(kind, run, node, what, place))

    def close(self) -> None:
        """Nothing is queued."""

    # -- what stages tell ----------------------------------------------------------------------

    def enter(self, ctx: Context, path: str, taken: Mapping[str, Any]) -> str:
        """A stage begins: what it was given and what it sees. The hash of its snapshot."""
        identity = ctx.identity
        self.paths[identity.run], self.parents[identity.run] = path, identity.parent
        for source, value in taken.items():
            self._note("take", identity.run, source, _copied(value))
            _deface(value)
        self._look(ctx, path)
        return ctx.snapshot.content_hash

    def got(self, ctx: Context, outputs: dict[str, Any]) -> None:
        """A child that this stage ran has given its outputs."""
        self._note("got", ctx.identity.run, ctx.node, _copied(outputs))
        _deface(outputs)

    def leave(self, ctx: Context, before: str) -> None:
        """A stage is about to end: is its snapshot what it was?"""
        same = ctx.snapshot.content_hash == before
        self._note("h", ctx.identity.run, ctx.node, "=" if same else "!")

    def value(self, ctx: Context, path: str) -> list[str]:
        """The value of an attempt that is about to return it."""
        author = Author(path, ctx.identity.run, ctx.node, f"{self.owner}{ctx.attempt}")
        self._note("v", author.run, author.node, author.who)
        return [author.text]

    def end(self, run: Run[Any]) -> None:
        """The root is over: what its run shows."""
        for name in self.sites[ROOT].sorts:
            seen = run[name] if name in run else ABSENT  # noqa: SIM401 - it has no get
            self._note("f", run.id, name, seen)

    def _look(self, ctx: Context, path: str) -> None:
        run, snapshot = ctx.identity.run, ctx.snapshot
        at = self.begun.get((run, ctx.node, ctx.attempt))
        for name in self.sites[path].sorts:
            value = snapshot[name] if name in snapshot else ABSENT  # noqa: SIM401 - no get
            self._note("o", run, name, _copied(value), at)
            _deface(value)

    @property
    def runs(self) -> set[str]:
        """The runs of the tree that this owner drove, or saw a value of."""
        authors = (
            author_of(value)
            for op in self.ops
            if op.kind in ("o", "f", "take", "got")
            for value in (op.what.values() if isinstance(op.what, dict) else (op.what,))
        )
        seen = {author.run for author in authors if author is not None and author.path != OUTSIDE}
        return seen | self.paths.keys()

    # -- what that makes -------------------------------------------------------------------------

    def told(self, journal: Mapping[str, LoadedRun] | None, *, pid: int = 0) -> Told:
        """The lines of all keys and arguments. `journal` holds the tree's runs by id, for one that
        was journalled by the process `pid`."""
        told = Told()
        self.ops.sort(key=lambda op: op.at)
        reader = _Reader(self, journal)
        for run, path in self.paths.items():
            ended = [op.what[0] for op in self.ops if op.kind == "end" and op.run == run]
            is_lost = journal is not None and _claimed_by(journal.get(run)) not in (pid, None)
            status = ended[-1] if ended and not is_lost else "dead"
            how = f"{status}/{'memory' if journal is None else 'journal'}"
            for node, operations in reader.keys(run, path).items():
                sort = self.sites[path].sorts[node]
                told.lines[" ".join((sort, how, *operations))] += 1
        for op in self.ops:
            if op.kind == "take":
                told.lines[f"take {reader.taken(op)}"] += 1
            elif op.kind == "got":
                path = self.paths[op.run]
                said = reader.of_outputs(op.what, op.run, path, f"{path}.{op.node}")
                told.lines[f"take export {said}"] += 1
        told.facts += self._befell()
        told.facts["runs"] += len(self.paths)
        return told

    def _befell(self) -> Counter[str]:
        facts: Counter[str] = Counter()
        running: dict[str, str | None] = {}
        for op in self.ops:
            parent = self.parents.get(op.run)
            if op.kind == "begin":
                running[op.run] = parent
            elif op.kind == "end":
                running.pop(op.run, None)
                status, reason = op.what
                facts[CHILD_FAILED] += parent is not None and status == "failed"
                facts[CHILD_CANCELLED] += parent is not None and status == "cancelled"
                facts[CHILD_GIVEN_UP] += reason == "parent_cancelled"
            elif op.kind == "l":
                facts[LATE_REFUSED] += parent is not None
                facts[CHILD_OUTLIVED] += parent is not None and op.run not in running
            elif op.kind == "w":
                facts[PARENT_WROTE] += op.run in running.values()
        return +facts


class _Reader:
    """Tells, of a value that was seen somewhere, what it is there."""

    def __init__(self, log: TreeLog, journal: Mapping[str, LoadedRun] | None) -> None:
        self.log = log
        self.journal = journal
        self.parents = dict(log.parents)
        self.paths = dict(log.paths)
        self.accepted: dict[tuple[str, str], set[str]] = {}
        """(run, node) to who was accepted, as this owner was told and as the journal holds."""
        for op in log.ops:
            if op.kind == "w":
                self.accepted.setdefault((op.run, op.node), set()).add(op.what)
        for run, loaded in (journal or {}).items():
            self.parents.setdefault(run, loaded.header.parent)
            for node, author in _kept(loaded, accepted=True):
                self.paths.setdefault(run, author.path)
                self.accepted.setdefault((run, node), set()).add(author.who)
        self.given_up = self._given_up()

    def _given_up(self) -> set[str]:
        """Runs that ended otherwise than ok here, in memory: nothing of them may be exported."""
        if self.journal is not None:
            return set()
        return {op.run for op in self.log.ops if op.kind == "end" and op.what[0] != "ok"}

    def keys(self, run: str, path: str) -> dict[str, list[str]]:
        """Per node of the run, its operations."""
        site = self.log.sites[path]
        found: dict[str, list[str]] = {node: [] for node in site.sorts}
        for op in self.log.ops:
            if op.run != run or op.node not in found or op.kind in ("take", "got"):
                continue
            said = op.what
            if op.kind in "of":
                said = self.seen(run, path, op.node, op.what)
            operations, operation = found[op.node], f"{op.kind}{said}"
            if not operations or operations[-1] != operation:
                operations.append(operation)
        loaded = None if self.journal is None else self.journal.get(run)
        if loaded is not None:
            for node, author in _kept(loaded, accepted=True):
                found[node].append(f"j{self.seen(run, path, node, [author.text])}")
            for node, author in _kept(loaded, accepted=False):
                found[node].append(f"k{author.who}")
        return found

    def seen(self, run: str, path: str, node: str, value: Any) -> str:
        """What the value of that key is."""
        if value == ABSENT:
            return ABSENT
        site = self.log.sites[path]
        sort = site.sorts[node]
        if sort == "child":
            below = f"{path}.{node}"
            return self.of_outputs(value, run, path, below)
        author = author_of(value)
        if author is None:
            return "!defaced"
        if sort == "export":
            return self.of_export(value, run, path, site.sources[node])
        return self.of_own(author, run, path, node)

    def of_own(self, author: Author, run: str, path: str, node: str) -> str:
        """+who for a value that this run made for this key."""
        if (author.path, author.run, author.node) == (path, run, node):
            return f"+{author.who}"
        return self._elsewhere(author, path)

    def of_export(self, value: Any, run: str, path: str, source: tuple[str, str]) -> str:
        """^ for what the declared stage of a child of this run gave, and its run accepted."""
        author = author_of(value)
        if author is None:
            return "!defaced"
        below, of = source
        if (author.path, author.node) != (below, of) or self.parents.get(author.run) != run:
            return self._elsewhere(author, path)
        is_accepted = author.who in self.accepted.get((author.run, of), set())
        return "^" if is_accepted and author.run not in self.given_up else "~"

    def of_outputs(self, value: Any, run: str, path: str, below: str) -> str:
        """As `of_export`, of all that a child gave: the worst of its outputs."""
        if type(value) is not dict:
            return "!defaced"
        each = [self.of_export(inner, run, path, (below, of)) for of, inner in value.items()]
        return next((said for said in each if said[0] == "!"), "~" if "~" in each else "^")

    def _elsewhere(self, author: Author, path: str) -> str:
        if author.path.startswith(f"{path}."):
            return "!below"
        return "!above" if path.startswith(f"{author.path}.") else "!beside"

    def taken(self, op: Op) -> str:
        """The sort of an argument and what it was."""
        path = self.paths[op.run]
        site = self.log.sites[path]
        if op.node != GIVEN:
            sort = site.sorts[op.node]
            said = self.seen(op.run, path, op.node, op.what)
            return f"{sort} {said if said[0] != '+' else '+'}"
        return f"given {self._given(op.run, path, op.what)}"

    def _given(self, run: str, path: str, value: Any) -> str:
        """The value of an input follows from the parent's, level by level."""
        source, at, here = self.log.sites[path].given, run, path
        while here != ROOT:
            above = here.rpartition(".")[0]
            parent = self.parents.get(at)
            if parent is None:
                return "!beside"
            at = parent
            here, of = above, source
            if of != GIVEN:
                said = self.seen(at, here, of, value)
                return said if said[0] != "+" else "+"
            source = self.log.sites[here].given
        author = author_of(value)
        return "+" if author is not None and author.path == OUTSIDE else "!beside"


def _claimed_by(loaded: LoadedRun | None) -> int | None:
    """The process that took the run over last; None when it is its first owner's."""
    pids = [
        int(record.data["pid"])
        for record in (() if loaded is None else loaded.records)
        if record.type is RecordType.CLAIMED
    ]
    return pids[-1] if pids else None


def _kept(loaded: LoadedRun, *, accepted: bool) -> Iterator[tuple[str, Author]]:
    """Values of leaves on record: accepted ones, or those that were refused as late."""
    for record in loaded.records:
        right = record.is_accepted if accepted else record.type is RecordType.LATE
        if right and record.payload is not None and record.node is not None:
            author = _author_on_record(record.payload)
            if author is not None:
                yield record.node, author


def _author_on_record(payload: bytes) -> Author | None:
    try:
        return author_of(thaw(_CONTRACT.decode(payload)))
    except Exception:  # a dict of a child's outputs: of another contract
        return None


def _copied(value: Any) -> Any:
    if isinstance(value, list):
        return list(value)
    if isinstance(value, dict):
        return {name: _copied(inner) for name, inner in value.items()}
    return value


def _deface(value: Any) -> None:
    """Changes what the stage was given, in place: nobody else may notice."""
    if isinstance(value, list):
        value.append(DEFACED)
    elif isinstance(value, dict):
        for inner in value.values():
            _deface(inner)
        value[DEFACED] = [DEFACED]


LOG: ContextVar[TreeLog] = ContextVar("tree_log")
"""The log of the owner in whose run a stage works."""


async def told_to(log: TreeLog, work: Coroutine[Any, Any, Run[Any]]) -> Run[Any]:
    """What `work` gives, its stages writing to `log`."""
    LOG.set(log)
    return await work

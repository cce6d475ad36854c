"""Once for each key: a WORK body whose duplicates, retries and resumes cause no second effect.

What is promised depends on where the effect lands (docs/effects.md). `transactional`: effect and
record are one transaction of the ledger's own database, so exactly once. `keyed`: the receiver
recognises the key, so that doing it again is doing it once. `plain`: at most once, and UNKNOWN when
the body was cut off between the intent and the record.

The key follows the IETF draft "The Idempotency-Key HTTP Header Field": other parameters under a
known key are refused, a duplicate of one in flight waits and then conflicts, a finished one is
given the recorded result.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import string
import sys
import typing
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from stageflow.contracts import Contract, contract_of
from stageflow.graph.decorators import value_type
from stageflow.graph.stage import function_of, innermost
from stageflow.model.errors import (
    BuildError,
    EffectError,
    EffectUnknown,
    StageflowError,
    ValueRefused,
    nearest,
)
from stageflow.model.forms import is_number
from stageflow.model.outputs import (
    CantTell,
    Happened,
    Inquiry,
    NotHappened,
    OutcomeKind,
    StageOutput,
)
from stageflow.model.values import Freezer, content_hash, thaw
from stageflow.runtime.context import Context
from stageflow.stages.work.ledger.entry import (
    Granted,
    InFlight,
    NotKnown,
    OtherParameters,
    Replayed,
)
from stageflow.stages.work.ledger.ledger import Ledger

Sink: TypeAlias = Literal["plain", "keyed", "transactional"]
Reconcile: TypeAlias = Callable[..., Awaitable[Inquiry] | Inquiry]
F = TypeVar("F", bound=Callable[..., Any])

CONTEXT, LEDGER, EFFECT, TRANSACTION = "ctx", "ledger", "effect", "tx"
"""Parameters that are no part of what the effect is about."""
PAUSE_S, PAUSE_MAX_S = 0.005, 0.25
"""Between two looks at an effect in flight: doubled each time, up to the most."""
ROUNDS_MAX = 1_000_000
"""Claims of one call: each waits, so that `wait_s` ends them long before."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What a body may hand on to its receiver. Ask for it with a parameter named `effect`."""

    key: str
    """32 hexadecimal digits, the same for all duplicates: an Idempotency-Key."""
    fence: int
    """Grows with every claim of this key: a receiver that remembers the highest can refuse an
    older holder that comes late."""


def idempotent(
    *,
    key: str | None = None,
    name: str | None = None,
    sink: Sink = "plain",
    reconcile: Reconcile | None = None,
    reconcile_s: float = 30.0,
    unknown_on: Sequence[type[BaseException]] = (TimeoutError, ConnectionError),
    clients: Sequence[str] = (),
    wait_s: float = 30.0,
) -> Callable[[F], F]:
    """Wraps an async body (a sync one when transactional), to be decorated with
    `@work(keyed=True)`. The ledger is a dep named `ledger`.

    `key` names the effect by its parameters, "invoice:{invoice_id}", and is shared by all runs of
    a tenant and by all bodies with the same `name` (default: the function's). Without it the
    effect is this node's of this run. All parameters count for whether two calls are the same
    one, except `ctx`, `effect`, `tx` and those named in `clients`. A transactional body takes
    `tx`, the open connection, and leaves commit and rollback alone.

    A body that raises has failed and may be tried again, also with other parameters; what it
    raises of `unknown_on` leaves a plain effect unknown, as being stopped does. Nothing but a
    value is ever replayed: no failure, skip or retry. `reconcile` takes any of the body's
    parameters and `effect`, and says Happened, NotHappened or CantTell of an unknown effect, in
    `reconcile_s` seconds. A duplicate waits `wait_s` seconds for one that is in flight.

    Raises BuildError `effect.body`, `effect.key`, `effect.option`; while running, EffectError
    `effect.other_parameters`, `effect.in_flight`, `effect.parameter`, and EffectUnknown
    `effect.unknown`.
    """
    caller = sys._getframe(1)
    local_names = None if caller.f_locals is caller.f_globals else dict(caller.f_locals)

    def wrapped(body: F) -> F:
        options = _Options(key, name, sink, reconcile, reconcile_s, unknown_on, clients, wait_s)
        return _Once(body, options, local_names).function()  # type: ignore[return-value]

    return wrapped


def fingerprint(parameters: Mapping[str, Any], freezer: Freezer) -> str:
    """What tells two effects under one key apart: the contents of all their parameters."""
    return content_hash(freezer.freeze(dict(parameters)))


@dataclass(frozen=True, slots=True)
class _Options:
    """As `idempotent` takes them."""

    key: str | None
    name: str | None
    sink: Sink
    reconcile: Reconcile | None
    reconcile_s: float
    unknown_on: Sequence[type[BaseException]]
    clients: Sequence[str]
    wait_s: float


class _Once:
    """One body with its options. Immutable; holds no state of calls."""

    def __init__(
        self, body: Callable[..., Any], options: _Options, local_names: dict[str, Any] | None
    ) -> None:
        function = function_of(body)
        if function is None:
            raise _refused(str(options.name or body)[:80], "effect.body", None, "a function")
        self.body = function
        self.is_named = options.name is not None or inspect.isroutine(body)
        self.options = options
        name = getattr(innermost(body), "__name__", type(body).__name__)
        _check_options(name, options)
        self.name = options.name or name
        self.unknown_on = tuple(options.unknown_on)
        self.clients = tuple(options.clients)
        self.signature = inspect.signature(function)
        self.taken = tuple(self.signature.parameters)
        self.local_names = local_names
        self.repeatable = options.sink != "plain"
        _check_body(self)
        self.fields = _fields(options.key, self.named, self.name)
        self.freezer = Freezer()

    @property
    def named(self) -> list[str]:
        """The parameters that the effect is about."""
        apart = (CONTEXT, LEDGER, EFFECT, TRANSACTION, *self.clients)
        return [name for name in self.taken if name not in apart]

    @functools.cached_property
    def contract(self) -> Contract:
        """Of the body's value; resolved when first needed, as annotations may name what comes
        later in their module."""
        try:
            hints = typing.get_type_hints(
                innermost(self.body), localns=self.local_names, include_extras=True
            )
        except NameError:
            hints = {}
        return contract_of(value_type(hints.get("return", Any), "async"))

    def function(self) -> Callable[..., Any]:
        """The stage's body: takes what the wrapped one takes, the context and the ledger."""

        @functools.wraps(innermost(self.body))
        async def once(**given: Any) -> Any:
            ctx: Context = given[CONTEXT] if CONTEXT in self.taken else given.pop(CONTEXT)
            ledger: Ledger = given[LEDGER] if LEDGER in self.taken else given.pop(LEDGER)
            return await _Call(self, ctx, ledger, given).outcome()

        parameters = [
            each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, each in self.signature.parameters.items()
            if name not in (EFFECT, TRANSACTION)
        ]
        annotations = dict(getattr(innermost(self.body), "__annotations__", {}))
        for name in (EFFECT, TRANSACTION):
            annotations.pop(name, None)
        for name, type_ in ((CONTEXT, Context), (LEDGER, Ledger)):
            if name not in self.taken:
                kind = inspect.Parameter.KEYWORD_ONLY
                parameters.append(inspect.Parameter(name, kind, annotation=type_))
                annotations[name] = type_
        once.__annotations__ = annotations
        once.__signature__ = self.signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return once

    def key_of(self, ctx: Context, given: Mapping[str, Any]) -> str:
        """The effect's key: of tenant, name and declared key; without one, of run and node too."""
        identity = ctx.identity
        if self.options.key is None:
            parts = ["run", identity.tenant, identity.run, ctx.node, self.name]
        else:
            formatter = string.Formatter()
            values = [str(formatter.get_field(field, (), given)[0]) for field in self.fields]
            parts = ["key", identity.tenant, self.name, self.options.key, *values]
        digest = hashlib.blake2b(digest_size=16)
        for part in parts:  # with lengths, so that no two lists of parts read alike
            data = part.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "big") + data)
        return digest.hexdigest()

    def fingerprint(self, given: Mapping[str, Any]) -> str:
        """Of every parameter that the effect is about."""
        try:
            return fingerprint({name: given[name] for name in self.named}, self.freezer)
        except ValueRefused as refused:
            raise EffectError(
                "effect.parameter",
                f"a parameter of {self.name!r} has no contents that could be compared",
                field=refused.field,
                expected="plain values, models and dataclasses; clients are named in clients=",
                got=refused.got,
                fix="idempotent(..., clients=('http',)) for what the effect is not about",
            ) from None

    def encoded(self, value: Any) -> bytes:
        """The value as the ledger keeps it, checked against the body's return type."""
        return self.contract.encode(self.contract.admit(value, self.freezer))

    def decoded(self, outcome: bytes) -> Any:
        """What every duplicate is given, the first one included."""
        return thaw(self.contract.decode(outcome, self.freezer))


class _Call:
    """One call of a body: claims the key, acts or is told what came out."""

    __slots__ = ("_ctx", "_fingerprint", "_given", "_holder", "_key", "_ledger", "_once")

    def __init__(self, once: _Once, ctx: Context, ledger: Ledger, given: Mapping[str, Any]) -> None:
        self._once = once
        self._ctx = ctx
        self._ledger = ledger
        self._given = given
        self._key = once.key_of(ctx, given)
        self._fingerprint = once.fingerprint(given)
        self._holder = ledger.holders.new()

    async def outcome(self) -> Any:
        """The body's value, made now or before; whatever else it returns or raises."""
        once, loop = self._once, asyncio.get_running_loop()
        until_s = loop.time() + once.options.wait_s
        pause_s = PAUSE_S
        for _ in range(ROUNDS_MAX):
            match await self._claimed():
                case Replayed(outcome):
                    return once.decoded(outcome)
                case OtherParameters():
                    raise self._other_parameters()
                case NotKnown(fence):
                    await self._reconcile(fence)
                    continue
                case Granted(fence):
                    is_over, value = await self._acted(fence)
                    if is_over:
                        return value
                    continue
                case InFlight():
                    left_s = until_s - loop.time()
                    if left_s <= 0:
                        break
                    await asyncio.sleep(min(pause_s, left_s))
                    pause_s = min(2 * pause_s, PAUSE_MAX_S)
        raise self._in_flight()

    async def _claimed(self) -> Any:
        if self._once.options.sink == "transactional":
            return await self._ledger.transact(
                self._key, self._act_within, fingerprint=self._fingerprint, holder=self._holder
            )
        return await self._ledger.claim(
            self._key,
            fingerprint=self._fingerprint,
            holder=self._holder,
            repeatable=self._once.repeatable,
        )

    def _act_within(self, transaction: Any) -> bytes:
        """The body in the ledger's transaction; what it raises undoes both."""
        arguments = dict(self._given)
        arguments[TRANSACTION] = transaction
        if EFFECT in self._once.taken:
            arguments[EFFECT] = Effect(self._key, 1)
        return self._once.encoded(self._once.body(**arguments))

    async def _acted(self, fence: int) -> tuple[bool, Any]:
        """(True, what the stage returns), or (False, None) when the claim passed on meanwhile."""
        once, ledger, key = self._once, self._ledger, self._key
        arguments = dict(self._given)
        if EFFECT in once.taken:
            arguments[EFFECT] = Effect(key, fence)
        try:
            async with ledger.renewing(key, fence):
                made = await once.body(**arguments)
        except BaseException as error:
            await self._fell(fence, error)
            raise
        if type(made) is StageOutput:
            if made.kind is not OutcomeKind.OK:
                await ledger.release(key, fence, may_change=True)
                return True, made
            made = made.value
        try:
            outcome = once.encoded(made)
        except StageflowError:  # it happened, and what came of it can't be kept
            await self._left(fence)
            raise
        if await ledger.record(key, fence, outcome):
            return True, once.decoded(outcome)
        if once.repeatable:
            return False, None  # somebody else did it too, under the same key: his result counts
        raise self._unknown("its claim had passed on when it was done") from None

    async def _fell(self, fence: int, error: BaseException) -> None:
        """The body ended without a value: by its own word, or cut off."""
        doubtful: tuple[type[BaseException], ...] = (EffectUnknown, *self._once.unknown_on)
        if isinstance(error, Exception) and not isinstance(error, doubtful):
            await self._ledger.release(self._key, fence, may_change=True)
            return
        await self._left(fence)
        if isinstance(error, self._once.unknown_on) and not self._once.repeatable:
            raise self._unknown(type(error).__name__) from error

    async def _left(self, fence: int) -> None:
        """It may have happened: a receiver that honours keys may be asked again, others not."""
        if self._once.repeatable:
            await self._ledger.release(self._key, fence, may_change=False)
        else:
            await self._ledger.lose(self._key, fence)

    async def _reconcile(self, fence: int) -> None:
        """Asks whether it happened and tells the ledger. EffectUnknown when nobody can say."""
        reconcile = self._once.options.reconcile
        if reconcile is None:
            raise self._unknown("whoever was to cause it went away")
        takes = inspect.signature(reconcile).parameters
        known = {**self._given, CONTEXT: self._ctx, EFFECT: Effect(self._key, fence)}
        try:
            async with asyncio.timeout(self._once.options.reconcile_s):
                found = reconcile(**{name: known[name] for name in takes if name in known})
                if inspect.isawaitable(found):
                    found = await found
        except Exception as error:  # the user's code: whatever it raises, it did not find out
            raise self._unknown(f"reconcile raised {type(error).__name__}") from error
        if isinstance(found, Happened):
            await self._ledger.settle(self._key, fence, self._once.encoded(found.value))
        elif isinstance(found, NotHappened):
            await self._ledger.permit(self._key, fence)
        else:
            reason = found.reason if isinstance(found, CantTell) else type(found).__name__
            raise self._unknown(f"reconcile can't tell: {reason}"[:200])

    # -- refusals ----------------------------------------------------------------------------

    def _unknown(self, why: str) -> EffectUnknown:
        return EffectUnknown(
            "effect.unknown",
            f"nobody knows whether the effect of {self._once.name!r} happened: {why}",
            node=self._ctx.node,
            field=f"effect key {self._key}",
            expected="a receiver that honours keys, a transaction, or reconcile=",
            fix="look whether it happened; if not: ledger.allow(key), then resume with rerun=",
        )

    def _other_parameters(self) -> EffectError:
        return EffectError(
            "effect.other_parameters",
            f"the key of {self._once.name!r} stands for an effect with other parameters",
            node=self._ctx.node,
            field=f"effect key {self._key}",
            expected="the parameters that the key was first used with",
            got=f"others, with fingerprint {self._fingerprint[:16]}",
            fix="make everything that tells two effects apart a part of the key",
        )

    def _in_flight(self) -> EffectError:
        return EffectError(
            "effect.in_flight",
            f"the effect of {self._once.name!r} is being caused by somebody else",
            node=self._ctx.node,
            field=f"effect key {self._key}",
            expected=f"its end within {self._once.options.wait_s:g} s",
            fix="try again later, or idempotent(wait_s=...) for longer",
        )


def _check_body(once: _Once) -> None:
    options, name, taken = once.options, once.name, once.taken
    if options.sink not in get_args(Sink):
        raise _refused(name, "effect.option", "sink", f"one of {', '.join(get_args(Sink))}")
    if options.key is not None and not once.is_named:
        # Two partials of one function do different things, which no parameter tells apart.
        raise _refused(name, "effect.option", "name", "a name for what is no function")
    is_async = inspect.iscoroutinefunction(once.body)
    transactional = options.sink == "transactional"
    if is_async == transactional or transactional != (TRANSACTION in taken):
        expected = (
            "a sync function that takes tx" if transactional else "an async function without tx"
        )
        raise _refused(name, "effect.body", None, expected)
    for client in once.clients:
        if client not in taken:
            close = nearest(client, taken)
            raise _refused(name, "effect.option", "clients", "parameters of the body", close)


def _check_options(name: str, options: _Options) -> None:
    """That each is something of its kind."""
    if options.name is not None and not (isinstance(options.name, str) and options.name):
        raise _refused(name, "effect.option", "name", "text of at least one character")
    if options.key is not None and not isinstance(options.key, str):
        raise _refused(name, "effect.key", "key", "a text: 'invoice:{invoice_id}'")
    if options.reconcile is not None and not callable(options.reconcile):
        raise _refused(name, "effect.option", "reconcile", "a function")
    times = (options.wait_s, options.reconcile_s)
    if not all(map(is_number, times)) or not (options.wait_s >= 0 and options.reconcile_s > 0):
        raise _refused(name, "effect.option", "wait_s", "seconds, wait_s >= 0, reconcile_s > 0")
    for field, values, kind, example in (
        ("clients", options.clients, str, "('http',)"),
        ("unknown_on", options.unknown_on, type, "(TimeoutError, ConnectionError)"),
    ):
        is_several = isinstance(values, Collection) and not isinstance(values, str | type)
        if not is_several or not all(isinstance(each, kind) for each in values):
            raise _refused(name, "effect.option", field, f"a tuple such as {example}")


def _fields(key: str | None, named: Sequence[str], name: str) -> tuple[str, ...]:
    """What stands in the key's braces. BuildError when that is no parameter."""
    if key is None:
        return ()
    try:
        fields = tuple(field for _, field, _, _ in string.Formatter().parse(key) if field)
        roots = [string.Formatter().get_field(f, (), dict.fromkeys(named))[1] for f in fields]
    except (KeyError, AttributeError, ValueError, IndexError) as error:
        wrong = str(error).strip("'")
        if isinstance(error, AttributeError):  # an attribute of a parameter: known when it runs
            return tuple(field for _, field, _, _ in string.Formatter().parse(key) if field)
        raise _refused(
            name, "effect.key", "key", "parameters in braces", nearest(wrong, named)
        ) from None
    if not roots:
        raise _refused(name, "effect.key", "key", "a parameter in braces: 'invoice:{invoice_id}'")
    return fields


def _refused(
    name: str, code: str, field: str | None, expected: str, close: str | None = None
) -> BuildError:
    return BuildError(
        code,
        f"{name!r} can't be made idempotent like this",
        node=name,
        field=field,
        expected=expected,
        fix=f"did you mean {close!r}?" if close else "see docs/effects.md for each kind of sink",
    )

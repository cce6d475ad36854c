"""Durable steps inside a stage: called once, remembered by key."""

from __future__ import annotations

import functools
import hashlib
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stageflow.contracts import Contract, contract_of
from stageflow.model.errors import RunError, StageflowError
from stageflow.model.values import content_hash, thaw
from stageflow.runtime.arguments import check_function, check_key

if TYPE_CHECKING:
    from stageflow.runtime.driver import Driver


@dataclass(slots=True)
class StepResult:
    """What is known of one key of one node."""

    call: str
    """Hash of the function's name and its arguments."""
    value: Any = None
    """Canonical, or still the encoded bytes when it came from a journal."""
    is_done: bool = False
    is_encoded: bool = False


async def do_step(
    driver: Driver,
    number: int,
    key: str,
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Any:
    """The result of a step: recorded, or made and recorded now."""
    check_key(key, "ctx.step('fetch', fetch, url)")
    check_function(function, "ctx.step('fetch', fetch, url)")
    while isinstance(function, functools.partial):  # what it binds is part of the call
        args, kwargs = (*function.args, *args), {**function.keywords, **kwargs}
        function = function.func
    steps = driver.steps_done.setdefault((number, driver.scheduler.revision[number]), {})
    call = _call_hash(driver, function, args, kwargs)
    node = driver.nodes[number].name
    known = steps.get(key)
    contract = _contract(function)
    if known is not None:
        _check(known, call, key=key, node=node, pipeline=driver.plan.name)
        if known.is_encoded:
            known.value = contract.decode(known.value)
            known.is_encoded = False
        return thaw(known.value)
    steps[key] = known = StepResult(call)
    try:
        made = function(*args, **kwargs)
        if inspect.isawaitable(made):
            made = await made
        frozen = contract.admit(made, driver.runtime.freezer)
        if driver.history is not None:
            payload = contract.encode(frozen)
            driver.scheduler.step_done(number, {"key": key, "call": call})
            labels = driver.taken_labels(number)
            driver.history.attach_step(driver.scheduler, payload, contract.hash, labels)
            await driver.history.commit(driver)
    except BaseException as error:
        del steps[key]
        if isinstance(error, StageflowError):
            raise error.at(pipeline=driver.plan.name, node=node, field=f"step {key!r}") from None
        raise
    known.value, known.is_done = frozen, True
    return thaw(frozen)


def _check(known: StepResult, call: str, *, key: str, node: str, pipeline: str) -> None:
    if not known.is_done:
        raise RunError(
            "step.running",
            f"step {key!r} of {node!r} is running already",
            pipeline=pipeline,
            node=node,
            field=key,
            expected="one call at a time per key",
            fix="give the second call a key of its own",
        )
    if known.call != call:
        raise RunError(
            "resume.diverged",
            f"step {key!r} of {node!r} is another call than the one on record",
            pipeline=pipeline,
            node=node,
            field=key,
            expected=f"call {known.call}",
            got=f"call {call}",
            fix="derive the key from what the call depends on, or give the new call a new key",
        )


def _contract(function: Callable[..., Any]) -> Contract:
    """Of the return annotation; Any when there is none that resolves."""
    try:
        annotation = typing.get_type_hints(function, include_extras=True).get("return", Any)
    except (NameError, TypeError):
        annotation = Any
    return contract_of(annotation)


def _call_hash(
    driver: Driver, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> str:
    """Of the function's name and the contents of its arguments. Arguments that have no canonical
    form, such as clients, count by their type."""
    digest = hashlib.blake2b(digest_size=12)
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    digest.update(name.encode())
    for place, value in (*enumerate(args), *sorted(kwargs.items())):
        try:
            known = content_hash(driver.runtime.freezer.freeze(value))
        except StageflowError:
            known = type(value).__qualname__
        digest.update(f"\0{place}={known}".encode())
    return digest.hexdigest()

"""What sorting errors gets wrong, as sabotages of WORK-006."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from stageflow.model.classification import Classification, ErrorKind, sorting
from stageflow.model.classification.reading import Facts
from stageflow.model.classification.sign import Basis, Sign
from stageflow.model.classification.wording import of_wording
from stageflow.runtime import retrying

from ...sabotage import Sabotage, patched, sabotage


@sabotage(metric="accuracy")
def message_substrings_only() -> Iterator[None]:
    """Nothing but the text of messages is looked at."""

    def of_error(error: BaseException, facts: Facts) -> Iterator[Sign]:
        yield from of_texts([str(error)])

    def of_facts(facts: Facts) -> Iterator[Sign]:
        yield from of_texts(facts.texts)

    def of_texts(texts: list[str]) -> Iterator[Sign]:
        kind = of_wording(" ".join(texts))
        if kind is not None:
            yield Sign(kind, Basis.WORDING, "wording")

    with (
        patched(sorting, "_signs_of_error", of_error),
        patched(sorting, "_signs_of_facts", of_facts),
    ):
        yield


@sabotage(metric="cut_off_called_unknown")
def timeout_counted_transient() -> Iterator[None]:
    """What was cut off after it was sent counts as something that never happened."""
    original = sorting._judged

    def judged(signs: list[Sign], delay_s: float | None, sent: bool | None) -> Classification:
        found = original(signs, delay_s, sent)
        if found.kind is not ErrorKind.UNKNOWN or not found.is_placed:
            return found
        evidence, advice = found.evidence, found.advice
        return Classification(ErrorKind.TRANSIENT, found.basis, evidence, advice, delay_s)

    with patched(sorting, "_judged", judged):
        yield


@sabotage(metric="permanent_repeats")
def every_failure_is_tried_again() -> Iterator[None]:
    """What an error means is found out, and not heeded."""

    def final(retry: Any, error: Exception, found: Classification) -> str:
        return ""

    with patched(retrying, "_final", final):
        yield


DEFECTS: Final[tuple[Sabotage, ...]] = (
    message_substrings_only,
    timeout_counted_transient,
    every_failure_is_tried_again,
)

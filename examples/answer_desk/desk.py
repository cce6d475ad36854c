"""The pipeline: a question comes in, an answer with its sources goes out and into the outbox.

    question -> polite                             (a guard: what may be asked)
             -> evidence -> sort -> definition --\\
                                 -> explanation --> answer -> cited (a guard) -> filed
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from functools import cache
from typing import NotRequired

from pydantic import BaseModel

from stageflow import (
    Allow,
    Block,
    Branch,
    Context,
    Decision,
    Pipeline,
    Retry,
    agent,
    enrich,
    first_of,
    guard,
    route,
    transform,
    work,
)

from . import author, reader
from .outbox import file_answer
from .passages import Passage, read_all
from .reader import Answer
from .search import Index, terms
from .settings import Settings

_QUESTION_MAX = 500
_COVERED_MIN = 0.6
"""Least share of the question a passage must speak about; below it the desk says it can't tell."""

_SUPPORTED_MIN = 0.5
"""Least share of an answer's words that its sources must hold too."""

_DEFINITION = re.compile(
    r"^(?:what(?:'s| is| are| does)|define|explain|(?:the )?meaning of)\s+"
    r"(?P<name>.+?)(?:\s+(?:mean|stand for))?(?:\s+in python)?[\s?.!]*$"
)
_ORDER = re.compile(
    r"\b(?:ignore|disregard|forget)\b.{0,40}\b(?:instructions?|rules?|prompt|above|previous)\b"
    r"|\b(?:reveal|print|repeat)\b.{0,30}\b(?:system )?prompt\b"
)


class Question(BaseModel):
    """What was asked, tidied up."""

    text: str
    name: str | None
    """The term whose meaning is asked for; None when the question is of another form."""


class Receipt(BaseModel):
    """Where the answer was filed."""

    file: str


@cache
def library() -> Index:
    """The documents, read once a process; the index is never changed."""
    return Index.of(read_all())


@transform
def question(text: str) -> Question:
    """One line, single spaces; notices when a definition is wanted."""
    Settings.read().note("question")
    tidy = " ".join(text.split())
    wanted = _DEFINITION.match(tidy.lower())
    return Question(text=tidy, name=wanted["name"] if wanted else None)


@guard
def polite(question: Question) -> Decision:
    """Questions only: nothing empty, endless, or that gives the desk orders."""
    Settings.read().note("polite")
    if not re.search(r"\w", question.text):
        return Block("there is no question")
    if len(question.text) > _QUESTION_MAX:
        return Block(f"a question has at most {_QUESTION_MAX} characters")
    if _ORDER.search(question.text.lower()):
        return Block("the question gives orders to the desk")
    return Allow()


@enrich(timeout=10.0)
def evidence(question: Question) -> list[Passage]:
    """The passages to answer from, best first; the term's own entry leads when one is wanted."""
    Settings.read().note("evidence")
    index = library()
    entry = index.define(question.name) if question.name else None
    found = [hit.passage for hit in index.find(question.text)]
    fitting = [each for each in found if index.coverage(question.text, each) >= _COVERED_MIN]
    if entry is not None:
        return [entry, *(each for each in fitting if each != entry)]
    return sorted(fitting, key=lambda each: each.is_definition)


@route(branches=("definition", "explanation"))
def sort_of_question(question: Question, evidence: list[Passage]) -> Branch:
    """A definition when one is asked for and the glossary has it."""
    Settings.read().note("sort_of_question")
    if question.name and evidence and evidence[0].is_definition:
        return Branch("definition", reason=f"the glossary has {evidence[0].heading!r}")
    return Branch("explanation", reason="no entry of the glossary was asked for")


@agent(when=sort_of_question.branch("definition"), retry=Retry(attempts=2))
async def definition(
    question: Question, evidence: list[Passage], model: str | None = None
) -> Answer:
    """Says what a term means."""
    Settings.read().note("definition")
    return await _written(question, evidence, model, offline=reader.define(evidence))


@agent(when=sort_of_question.branch("explanation"), retry=Retry(attempts=2))
async def explanation(
    question: Question, evidence: list[Passage], model: str | None = None
) -> Answer:
    """Says how or why."""
    Settings.read().note("explanation")
    offline = reader.explain(question.text, evidence)
    return await _written(question, evidence, model, offline=offline)


answer = first_of(definition, explanation, name="answer")


@guard(of="answer")
def cited(answer: Answer, evidence: list[Passage]) -> Decision:
    """An answer cites passages that were found and keeps to their words, or says it can't tell."""
    Settings.read().note("cited")
    texts = {passage.source: f"{passage.heading} {passage.text}" for passage in evidence}
    invented = [source for source in answer.sources if source not in texts]
    if invented:
        return Block("cites a passage that was not found")
    if not answer.sources:
        return Allow() if answer.text == reader.UNKNOWN else Block("an answer without a source")
    said = set(terms(answer.text))
    shown = set(terms(" ".join(texts[source] for source in answer.sources)))
    if len(said & shown) < _SUPPORTED_MIN * len(said):
        return Block("says what its sources do not")
    return Allow()


@work(keyed=True)
def filed(question: Question, answer: Answer, ctx: Context) -> Receipt:
    """Files the answer under the effect's key: once, however often it is tried."""
    settings = Settings.read()
    settings.note("filed")
    place = file_answer(settings.outbox, key=ctx.effect_key, question=question.text, answer=answer)
    return Receipt(file=place.name)


desk = Pipeline(
    "answer_desk",
    [question, polite, evidence, sort_of_question, definition, explanation, answer, cited, filed],
    inputs={"text": str, "model": NotRequired[str]},
    outputs=answer,
)


async def _written(
    question: Question, evidence: Sequence[Passage], model: str | None, *, offline: Answer
) -> Answer:
    """By the model that the input or the setting names, else offline."""
    settings = Settings.read()
    name = model or settings.model
    if name is not None and evidence:
        return await author.ask(name, question.text, evidence)
    await asyncio.sleep(settings.pace_s)
    return offline

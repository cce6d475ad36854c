"""The pipeline: a question comes in, an answer with its sources goes out and into the outbox.

    question -> polite                             (a guard: what may be asked)
             -> evidence -> sort_of_question -> definition  -> cited_definition  --\\
                                             -> explanation -> cited_explanation -> answer
                                                            -> complete          --/
    answer -> letter -> release                    (an approval: an editor is asked)
                     -> reply -> released          (a guard: what may go out)
                              -> filed

The guards on an author's answer send it back with what is wrong, until it passes or the author's
revisions are used up.
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
    Feedback,
    Pipeline,
    Retry,
    Revise,
    agent,
    approval,
    enrich,
    first_of,
    guard,
    route,
    transform,
    work,
)

from . import author, reader
from .judging import sentences, unspoken, unsupported
from .letters import Letter, Release
from .outbox import file_letter
from .passages import Passage, read_all
from .reader import Answer
from .search import Index
from .settings import Settings

_QUESTION_MAX = 500
_COVERED_MIN = 0.6
"""Least share of the question a passage must speak about; below it the desk says it can't tell."""

_REVISIONS = 3
"""Answers that an author may write to one question."""

_RELEASE_WITHIN_S = 14 * 24 * 3600.0
"""How long a letter waits for its editor."""

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
    """Where the letter was filed."""

    file: str


@cache
def library() -> Index:
    """The documents, read once a process; the index is never changed."""
    return Index.of(read_all())


# -- what is asked ------------------------------------------------------------------------------


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


# -- the answer, and what it must be like -------------------------------------------------------


@agent(when=sort_of_question.branch("definition"), retry=Retry(attempts=2), revisions=_REVISIONS)
async def definition(
    question: Question,
    evidence: list[Passage],
    feedback: Feedback | None,
    ctx: Context,
    model: str | None = None,
) -> Answer:
    """Says what a term means."""
    Settings.read().note("definition")
    said = () if feedback is None else feedback.texts
    return await ctx.step("draft", _definition, question.text, evidence, said, _author(model))


@agent(when=sort_of_question.branch("explanation"), retry=Retry(attempts=2), revisions=_REVISIONS)
async def explanation(
    question: Question,
    evidence: list[Passage],
    feedback: Feedback | None,
    ctx: Context,
    model: str | None = None,
) -> Answer:
    """Says how or why."""
    Settings.read().note("explanation")
    said = () if feedback is None else feedback.texts
    return await ctx.step("draft", _explanation, question.text, evidence, said, _author(model))


@guard(of="definition")
def cited_definition(definition: Answer, evidence: list[Passage]) -> Decision:
    """A definition keeps to its sources."""
    Settings.read().note("cited_definition")
    return _cited(definition, evidence, of="definition")


@guard(of="explanation")
def cited_explanation(explanation: Answer, evidence: list[Passage]) -> Decision:
    """An explanation keeps to its sources."""
    Settings.read().note("cited_explanation")
    return _cited(explanation, evidence, of="explanation")


@guard(of="explanation")
def complete(question: Question, explanation: Answer, evidence: list[Passage]) -> Decision:
    """An explanation speaks of everything that was asked and that its sources speak of."""
    Settings.read().note("complete")
    missing = unspoken(question.text, explanation, evidence)
    if not missing:
        return Allow()
    words = ", ".join(f'"{word}"' for word in missing)
    return Revise(f"says nothing of {words}", of="explanation", score=1 / (1 + len(missing)))


def _cited(answer: Answer, evidence: list[Passage], *, of: str) -> Decision:
    """An answer cites passages that were found and keeps to what they say, or says it can't tell.

    It goes back until each of its sentences is supported by a passage that it cites.
    """
    if not answer.sources:
        is_unknown = answer.text == reader.UNKNOWN
        return Allow() if is_unknown else Revise("names no source", of=of)
    found = {passage.source for passage in evidence}
    invented = [source for source in answer.sources if source not in found]
    loose = unsupported(answer, evidence)
    if not invented and not loose:
        return Allow()
    wrong = [f"cites {source[:80]}, which is none of the passages" for source in invented[:3]]
    wrong += [f"says what its sources do not: {sentence[:160]}" for sentence in loose[:3]]
    supported = 0.0 if invented else 1 - len(loose) / len(sentences(answer.text))
    return Revise("; ".join(wrong), of=of, score=supported)


answer = first_of(definition, explanation, name="answer")


# -- the letter, and the person who lets it go --------------------------------------------------


@transform
def letter(question: Question, answer: Answer) -> Letter:
    """What an editor is shown: the answer with its question."""
    Settings.read().note("letter")
    return Letter(question=question.text, text=answer.text, sources=answer.sources)


release = approval("release", Release, of=letter, expires=_RELEASE_WITHIN_S)


@transform
def reply(letter: Letter, release: Release) -> Letter:
    """The letter in the editor's words, where there are some."""
    Settings.read().note("reply")
    return letter if release.text is None else letter.model_copy(update={"text": release.text})


@guard(of="reply")
def released(reply: Letter, release: Release) -> Decision:
    """Nothing goes out without the editor's word."""
    Settings.read().note("released")
    return Allow() if release.approved else Block(release.note or "the editor kept it back")


@work(keyed=True)
def filed(reply: Letter, ctx: Context) -> Receipt:
    """Files the letter under the effect's key: once, however often it is tried."""
    settings = Settings.read()
    settings.note("filed")
    return Receipt(file=file_letter(settings.outbox, reply, key=ctx.effect_key).name)


desk = Pipeline(
    "answer_desk",
    [
        *(question, polite, evidence, sort_of_question),
        *(definition, cited_definition, explanation, cited_explanation, complete, answer),
        *(letter, release, reply, released, filed),
    ],
    inputs={"text": str, "model": NotRequired[str]},
    outputs=reply,
)


# -- drafts: the authors' durable steps ---------------------------------------------------------


def _author(model: str | None) -> str | None:
    """The model that the input or the setting names; None for the offline author."""
    return model or Settings.read().model


async def _definition(
    question: str, evidence: list[Passage], feedback: Sequence[str], model: str | None
) -> Answer:
    """A draft of what a term means: the entry's own words, or a model's."""
    return await _drafted(question, evidence, feedback, model, reader.define(evidence))


async def _explanation(
    question: str, evidence: list[Passage], feedback: Sequence[str], model: str | None
) -> Answer:
    """A draft of how or why: the best passage's own words, or a model's."""
    offline = reader.explain(question, evidence, feedback)
    return await _drafted(question, evidence, feedback, model, offline)


async def _drafted(
    question: str,
    evidence: list[Passage],
    feedback: Sequence[str],
    model: str | None,
    offline: Answer,
) -> Answer:
    settings = Settings.read()
    settings.note("draft")
    if model is not None and evidence:
        return await author.ask(model, question, evidence, feedback)
    await asyncio.sleep(settings.pace_s)
    return offline

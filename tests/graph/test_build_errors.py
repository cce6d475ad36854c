"""Each mistake in a pipeline by its smallest example: code, place, and the nearest right name."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any, NotRequired

import pytest

from stageflow import (
    Allow,
    Block,
    Branch,
    BuildError,
    BuildErrors,
    Decision,
    Pipeline,
    Retry,
    agent,
    any_of,
    first_of,
    guard,
    n_of,
    route,
    transform,
)
from stageflow.graph import Parameter, Stage
from stageflow.model.kinds import Kind


@transform
def question(text: str) -> str:
    return text


@transform
def answer(question: str) -> str:
    return question


@route(branches=("short", "long"))
def length(text: str) -> Branch:
    return Branch("short")


def length_of(text: str) -> int:
    return len(text)


def mistake(code: str, *stages: Any, **options: Any) -> BuildError:
    """The one error of a pipeline over the input `text: str`."""
    options.setdefault("inputs", {"text": str})
    with pytest.raises(BuildError) as caught:
        Pipeline("desk", stages, **options)
    assert caught.value.code == code
    assert caught.value.pipeline == "desk" and len(str(caught.value).splitlines()) <= 25
    return caught.value


def test_an_unknown_name_is_told_with_the_nearest_right_one() -> None:
    @transform
    def reply(qestion: str) -> str:
        return qestion

    error = mistake("graph.unknown_name", question, reply)
    assert (error.node, error.field) == ("reply", "qestion")
    assert error.fix == "did you mean 'question'?"


def test_an_unknown_name_is_a_mistake_even_with_a_default() -> None:
    @transform
    def reply(question: str, notes: str = "") -> str:
        return question

    assert mistake("graph.unknown_name", question, reply).field == "notes"


def test_one_name_can_not_stand_for_two_things() -> None:
    @transform
    def text(question: str) -> str:
        return question

    assert mistake("graph.duplicate_name", question, question).node == "question"
    assert "an input" in str(mistake("graph.duplicate_name", question, text))
    assert "a dep" in str(mistake("graph.duplicate_name", question, deps={"question": str}))
    assert "a dep and an input" in str(
        mistake("graph.duplicate_name", question, deps={"text": str})
    )
    assert "an input and the context" in str(mistake("graph.duplicate_name", inputs={"ctx": str}))
    assert "a dep and the context" in str(mistake("graph.duplicate_name", deps={"ctx": str}))


def test_a_type_that_does_not_fit_names_both_sides() -> None:
    @transform
    def count(question: int) -> int:
        return question

    error = mistake("graph.type_mismatch", question, count)
    assert (error.node, error.field, error.expected) == ("count", "question", "int")
    assert error.got == "str from 'question'"


def test_an_input_of_another_type_is_a_mistake() -> None:
    error = mistake("graph.type_mismatch", question, inputs={"text": int})
    assert (error.node, error.field, error.got) == ("question", "text", "int")


def test_an_input_that_may_be_absent_needs_a_default() -> None:
    error = mistake("graph.optional_input", question, inputs={"text": NotRequired[str]})
    assert (error.node, error.field) == ("question", "text")


def test_a_function_that_is_no_stage_is_named() -> None:
    assert "function" in str(mistake("graph.not_a_stage", question, lambda text: text))


def test_a_stage_that_takes_its_own_value_is_a_cycle() -> None:
    @transform
    def echo(echo: str) -> str:
        return echo

    assert mistake("graph.cycle", echo).field == "echo"


def test_a_cycle_is_shown_as_a_path() -> None:
    @transform
    def a(c: str) -> str:
        return c

    @transform
    def b(a: str) -> str:
        return a

    @transform
    def c(b: str) -> str:
        return b

    got = mistake("graph.cycle", a, b, c).got
    assert got is not None
    steps = got.split(" -> ")
    assert steps[0] == steps[-1] and set(steps) == {"a", "b", "c"} and len(steps) == 4


def test_a_reference_to_a_stage_elsewhere_is_told() -> None:
    error = mistake("graph.unknown_stage", question, answer.named("late", after="anwser"))
    assert error.field == "after"
    error = mistake("graph.unknown_stage", question, answer.named("late", question=length))
    assert (error.node, error.field) == ("late", "question")


def test_a_template_that_stands_twice_is_ambiguous() -> None:
    error = mistake(
        "graph.ambiguous_stage",
        question.named("first"),
        question.named("second"),
        answer.named(question=question),
    )
    assert (error.node, error.field) == ("answer", "question")


def test_a_binding_of_no_parameter_is_told_at_once() -> None:
    with pytest.raises(BuildError) as caught:
        answer.named(qestion=question)
    assert caught.value.code == "graph.unknown_parameter"
    assert caught.value.fix == "did you mean 'question'?"


def test_branches_are_checked() -> None:
    with pytest.raises(BuildError) as caught:
        length.branch("shrt")
    assert caught.value.code == "graph.unknown_branch"
    assert caught.value.fix == "did you mean 'short'?"
    with pytest.raises(BuildError) as caught:
        question.branch("short")
    assert caught.value.code == "stage.no_branches"
    only = question.named("brief", when=length.branch("short"))
    error = mistake("graph.branch_unhandled", length, only)
    assert (error.node, error.field) == ("length", "long")


def test_a_stage_that_needs_two_branches_of_one_route_is_unreachable() -> None:
    @transform
    def mix(brief: str, wordy: str) -> str:
        return brief + wordy

    brief = question.named("brief", when=length.branch("short"))
    wordy = question.named("wordy", when=length.branch("long"))
    error = mistake("graph.unreachable", length, brief, wordy, mix)
    assert error.node == "mix" and "'short'" in str(error) and "'long'" in str(error)
    error = mistake("graph.unreachable", length, brief, wordy, n_of(2, brief, wordy, name="pair"))
    assert error.node == "pair"
    Pipeline(
        "fine",
        [length, brief, wordy, first_of(brief, wordy, name="one"), any_of(brief, name="two")],
        inputs={"text": str},
    )


def test_a_join_that_can_not_fire_is_told_at_once() -> None:
    for count in (0, 3, True):
        with pytest.raises(BuildError) as caught:
            n_of(count, question, answer, name="some")
        assert caught.value.code == "graph.join_never_fires"
    with pytest.raises(BuildError) as caught:
        first_of(name="none")  # type: ignore[call-overload]
    assert caught.value.code == "graph.join_never_fires"


def test_what_a_guard_gates_is_checked() -> None:
    @guard(of="qestion")
    def strict(question: str) -> Decision:
        return Allow()

    error = mistake("graph.guard_of", question, strict)
    assert error.field == "of" and error.fix == "did you mean 'question'?"

    @guard
    def idle() -> Decision:
        return Allow()

    assert mistake("graph.guard_of", question, idle).node == "idle"

    @guard
    def twice(idle_text: Decision) -> Decision:
        return Allow()

    @guard
    def idle_text(text: str) -> Decision:
        return Allow()

    assert mistake("graph.guard_of", twice, idle_text).node == "twice"


def test_a_guard_over_values_made_from_one_another_is_told_its_mend() -> None:
    @guard
    def wide(question: str, answer: str) -> Decision:
        return Allow()

    error = mistake("graph.guard_cycle", question, answer, wide)
    assert error.node == "wide" and error.fix is not None and "@guard(of='answer')" in error.fix

    @guard(of="answer")
    def narrow(question: str, answer: str) -> Decision:
        return Allow()

    Pipeline("fine", [question, answer, narrow], inputs={"text": str})


def test_an_output_that_is_no_stage_is_told() -> None:
    error = mistake("graph.unknown_output", question, outputs="qestion")
    assert error.fix == "did you mean 'question'?"
    mistake("graph.unknown_output", question, outputs=answer)
    mistake("graph.unknown_output", question.named("a"), question.named("b"), outputs=question)


def test_all_mistakes_are_told_at_once() -> None:
    @transform
    def one(nothing: str) -> str:
        return nothing

    @transform
    def two(question: int) -> int:
        return question

    with pytest.raises(BuildErrors) as caught:
        Pipeline("desk", [question, one, two], inputs={"text": str})
    assert [e.code for e in caught.value.errors] == ["graph.unknown_name", "graph.type_mismatch"]


@pytest.mark.parametrize("name", ["", "two words", "a-b", "1st", 7])
def test_names_are_identifiers(name: Any) -> None:
    for make in (lambda: question.named(name), lambda: transform(name=name)(length_of)):
        with pytest.raises(BuildError) as caught:
            make()
        assert caught.value.code == "stage.name"
    with pytest.raises(BuildError):
        Pipeline("desk", [], inputs={name: str})
    with pytest.raises(BuildError):
        Pipeline("desk", [], deps={name: str})


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), "2", True])
def test_timeouts_are_positive_seconds(timeout: Any) -> None:
    with pytest.raises(BuildError) as caught:
        transform(timeout=timeout)(answer.function)  # type: ignore[arg-type]
    assert caught.value.code == "policy.timeout"
    with pytest.raises(BuildError):
        answer.named(timeout=timeout)
    with pytest.raises(BuildError):
        Pipeline("desk", [question], inputs={"text": str}).using(deadline=-1.0)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": 3}, "name"),
        ({"stages": question}, "stages"),
        ({"stages": "question"}, "stages"),
        ({"stages": None}, "stages"),
        ({"inputs": ["text"]}, "inputs"),
        ({"deps": "db"}, "deps"),
    ],
)
def test_arguments_of_a_pipeline_have_their_forms(given: dict[str, Any], field: str) -> None:
    arguments = {"name": "desk", "stages": [question], "inputs": {"text": str}, **given}
    with pytest.raises(BuildError) as caught:
        Pipeline(arguments.pop("name"), arguments.pop("stages"), **arguments)
    assert (caught.value.code, caught.value.field) == ("graph.argument", field)


def test_stages_may_come_from_any_iterable() -> None:
    assert len(Pipeline("desk", (s for s in [question]), inputs={"text": str}).plan.nodes) == 1


@pytest.mark.parametrize(
    ("option", "value", "code"),
    [
        ("run_id", "", "run.option"),
        ("run_id", 4711, "run.option"),
        ("session", "", "run.option"),
        ("correlation", b"c", "run.option"),
        ("request_key", 7, "run.option"),
        ("target", "", "run.option"),
        ("seed", "7", "run.option"),
        ("seed", True, "run.option"),
        ("window", 5, "run.option"),
        ("events", print, "run.option"),
        ("events", [print], "run.option"),
        ("tenant", 7, "run.option"),
        ("deadline", "1s", "policy.timeout"),
        ("deadline", True, "policy.timeout"),
        ("deadline", float("nan"), "policy.timeout"),
        ("priority", "high", "policy.priority"),
    ],
)
def test_options_of_runs_have_their_forms(option: str, value: Any, code: str) -> None:
    with pytest.raises(BuildError) as caught:
        Pipeline("desk", [question], inputs={"text": str}).using(**{option: value})
    assert (caught.value.code, caught.value.field) == (code, option)


@pytest.mark.parametrize(
    "options",
    [{"attempts": 0}, {"base_s": -1.0}, {"factor": 0.5}, {"max_s": -1.0}],
)
def test_retries_are_checked(options: Any) -> None:
    with pytest.raises(BuildError) as caught:
        Retry(**options)
    assert caught.value.code == "policy.retry"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("on_failure", "isolated"),
        ("when", "short"),
        ("retry", 3),
        ("retry", Retry),
        ("fallback", 3),
    ],
)
def test_a_misspelt_policy_is_not_another_policy(option: str, value: Any) -> None:
    for make in (
        lambda: transform(**{option: value})(length_of),
        lambda: question.named(**{option: value}),
    ):
        with pytest.raises(BuildError) as caught:
            make()
        assert (caught.value.code, caught.value.field) == ("stage.option", option)


def test_one_branch_may_be_given_as_text() -> None:
    @route(branches="short")  # type: ignore[arg-type]
    def way(text: str) -> Branch:
        return Branch("short")

    assert way.branches == ("short",)


def test_decorators_refuse_what_they_can_not_run() -> None:
    with pytest.raises(BuildError) as caught:
        transform(question)  # type: ignore[call-overload]
    assert caught.value.code == "stage.twice"
    with pytest.raises(BuildError) as caught:
        transform(7)  # type: ignore[call-overload]
    assert caught.value.code == "stage.not_callable"
    with pytest.raises(BuildError) as caught:

        @transform
        def many(*texts: str) -> str:
            return ""

    assert (caught.value.code, caught.value.field) == ("stage.variadic", "texts")
    with pytest.raises(BuildError) as caught:
        transform(timout=1.0)(length_of)  # type: ignore[call-overload]
    assert caught.value.code == "stage.unknown_option"
    assert caught.value.fix == "did you mean 'timeout'?"
    with pytest.raises(BuildError) as caught:

        @agent(place="thread")
        async def slow(text: str) -> str:
            return text

    assert caught.value.code == "stage.place"
    with pytest.raises(BuildError) as caught:
        Pipeline("desk", [transform(place="process", name="s")(lambda: "")])
    assert caught.value.code == "stage.place_process"


def test_an_async_generator_is_no_process_stage() -> None:
    with pytest.raises(BuildError) as caught:

        @agent(place="process")
        async def stream(text: str) -> AsyncIterator[str]:
            yield text

    assert caught.value.code == "stage.place"


def bare(name: str, *takes: str) -> Stage[..., Any]:
    return Stage(
        name=name,
        kind=Kind.TRANSFORM,
        function=question.function,
        mode="sync",
        parameters=tuple(Parameter(parameter, Any, False) for parameter in takes),
        returns=Any,
    )


def test_a_chain_of_100_000_stages_is_built_in_seconds() -> None:
    stages = [bare("s0", "text")] + [bare(f"s{n}", f"s{n - 1}") for n in range(1, 100_000)]
    begun = time.process_time()
    built = Pipeline("long", stages[::-1], inputs={"text": str}, outputs="s99999")
    assert time.process_time() - begun < 20
    assert len(built.plan.nodes) == len(built.plan.order) == 100_000


def test_a_cycle_through_100_000_stages_is_a_short_verdict_in_seconds() -> None:
    stages = [bare(f"s{n}", f"s{(n - 1) % 100_000}") for n in range(100_000)]
    begun = time.process_time()
    error = mistake("graph.cycle", *stages)
    assert time.process_time() - begun < 20
    assert "100000 stages" in str(error) and "(99988 more)" in str(error)


@transform
def score(text: str) -> int:
    return len(text)


@transform
def inner(score: int) -> str:
    return str(score)


CHECKS = Pipeline("checks", [score, inner], inputs={"text": str}, outputs=[score])


def test_an_export_that_the_child_does_not_declare_names_both_stages() -> None:
    with pytest.raises(BuildError) as caught:
        CHECKS.as_stage("review", exports=[inner])
    error = caught.value
    assert (error.code, error.node) == ("graph.unknown_export", "review")
    assert "'review'" in str(error) and "'inner'" in str(error)
    assert error.expected == "outputs of the pipeline: score"
    with pytest.raises(BuildError, match="did you mean 'score'"):
        CHECKS.as_stage("review", exports=["scor"])


@pytest.mark.parametrize("first", ["export", "stage"])
def test_an_export_under_the_name_of_a_stage_names_both(first: str) -> None:
    review = CHECKS.as_stage("review", exports={"question": score})
    stages = (review, question) if first == "export" else (question, review)
    error = mistake("graph.export_collides", *stages)
    assert (error.node, error.field) == ("review", "question")
    assert "'review'" in str(error) and "stage 'question'" in str(error)


def test_two_exports_under_one_name_name_both_stages() -> None:
    first, second = (CHECKS.as_stage(name, exports=[score]) for name in ("first", "second"))
    error = mistake("graph.export_collides", first, second)
    assert "'second'" in str(error) and "an export of 'first'" in str(error)


def test_an_export_under_the_name_of_an_input_or_of_its_own_stage_collides() -> None:
    error = mistake("graph.export_collides", CHECKS.as_stage("review", exports={"text": score}))
    assert "an input" in str(error)
    error = mistake("graph.export_collides", CHECKS.as_stage("review", exports={"review": score}))
    assert error.node == "review"


def test_taking_a_childs_stage_that_is_not_exported_names_both_stages() -> None:
    @transform
    def report(score: int) -> str:
        return str(score)

    error = mistake("graph.not_exported", CHECKS.as_stage("review"), report)
    assert (error.node, error.field) == ("report", "score")
    assert "stage 'report'" in str(error) and "stage 'review' runs" in str(error)
    later = question.named("later", text="text", after="inner")
    error = mistake("graph.not_exported", CHECKS.as_stage("review", exports=[score]), later)
    assert error.field == "after"


def test_a_childs_inputs_are_wired_and_typed_like_any_parameter() -> None:
    counts = transform(length_of, name="counts")
    error = mistake("graph.type_mismatch", counts, CHECKS.as_stage("review").named(text=counts))
    assert (error.node, error.field) == ("review", "text")
    error = mistake("graph.unknown_name", CHECKS.as_stage("review"), inputs={"txt": str})
    assert error.field == "text"


@pytest.mark.parametrize(
    ("makes", "returns", "code"),
    [
        (guard, bool, "contract.no_decision"),
        (guard, None, "contract.no_decision"),
        (guard, bool | None, "contract.no_decision"),
        (guard, dict[str, bool], "contract.no_decision"),
        (route(branches=("l", "r")), str, "contract.no_branch"),
    ],
)
def test_who_says_that_he_never_decides_is_refused(makes: Any, returns: Any, code: str) -> None:
    def decides(question: str) -> Any:
        return None

    decides.__annotations__["return"] = returns
    error = mistake(code, question, makes(decides))
    assert (error.node, error.field) == ("decides", "return")


@pytest.mark.parametrize("returns", [Any, Decision, Block | None, object, "unannotated"])
def test_who_may_decide_is_looked_at_when_he_returns(returns: Any) -> None:
    def decides(question: str) -> Any:
        return None

    if returns == "unannotated":
        del decides.__annotations__["return"]
    else:
        decides.__annotations__["return"] = returns
    Pipeline("desk", [question, guard(decides)], inputs={"text": str}, outputs=question)

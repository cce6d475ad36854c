"""The report: one file that stands alone, escapes everything and shows every row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path

import pytest

from stageflow_lab import LabError, Picture
from stageflow_lab.report.chart import bar, line_chart
from stageflow_lab.report.figures import duration, figure
from stageflow_lab.report.html import page, write_html
from stageflow_lab.results import AuditResult, Result, SabotageResult, Standing
from stageflow_lab.roadmap import entries
from stageflow_lab.verdict import MetricResult, Verdict

EVIL = '<script>alert("x")</script>&'
NOTHING = Standing(None, None)


def metric(**changed: object) -> MetricResult:
    given: dict[str, object] = {
        "name": "lost",
        "op": "<=",
        "threshold": 10,
        "value": 5,
        "bound": None,
        "n": 100,
        "unit": "",
        "passed": True,
        "gate": True,
    }
    return MetricResult(**{**given, **changed})  # type: ignore[arg-type]


def standings(result: Result, audit: AuditResult | None = None) -> Mapping[str, Standing]:
    every = dict.fromkeys(entries(), NOTHING)
    return {**every, result.row: Standing(result, audit)}


def evil_result() -> Result:
    return Result(
        row="CORE-001",
        verdict=Verdict.FAIL,
        size="quick",
        seed=1,
        reason=EVIL,
        metrics=(metric(name=EVIL, unit=EVIL, note=EVIL, doc=EVIL, passed=False),),
        params={EVIL: EVIL},
        notes=(EVIL,),
        versions={"stageflow": EVIL, "packages": {EVIL: EVIL}},
        evidence=(f'CORE-001/{EVIL}"onclick="x.txt',),
        pictures=(Picture(EVIL, EVIL, EVIL, {EVIL: [(1, 1), (2, 4)]}),),
        folders=(EVIL,),
        scenario_hash="a",
    )


def evil_audit() -> AuditResult:
    sabotage = SabotageResult(
        name=EVIL, metric=EVIL, defect=EVIL, killed=0, of=5, plain_works=False
    )
    return AuditResult(
        row="CORE-001",
        scale=0.1,
        seeds=(1,),
        sabotages=(sabotage,),
        healthy_failures=(EVIL,),
        started="",
        duration_s=1.0,
        scenario_hash="a",
    )


class Reader(HTMLParser):
    """Collects what a browser would see, and checks that tags close in order."""

    VOID = frozenset({"meta", "rect", "line", "polyline", "circle", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value is not None]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return reader


def test_everything_is_escaped() -> None:
    text = page(standings(evil_result(), evil_audit()), evidence="results")
    assert "<script" not in text
    reader = read(text)
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)


def test_the_file_needs_nothing_else() -> None:
    text = page(standings(evil_result()), evidence="results")
    assert not re.search(r"https?://|@import|url\(|<link|<script|<img|<iframe", text)


def test_every_row_is_on_the_page_once() -> None:
    reader = read(page(standings(evil_result()), evidence="results"))
    rows = [each for each in reader.ids if each in entries()]
    assert sorted(rows) == sorted(entries())
    targets = {value for tag, a in reader.tags if tag == "a" and (value := a.get("href"))}
    assert {f"#{row}" for row in entries()} <= targets


def test_tables_and_pictures_can_be_read_unseen() -> None:
    reader = read(page(standings(evil_result(), evil_audit()), evidence="results"))
    names = [tag for tag, _ in reader.tags]
    assert names.count("table") == names.count("caption") > 2
    assert names.count("h1") == 1 and names.index("h1") < names.index("h2") < names.index("h3")
    assert all("scope" in attributes for tag, attributes in reader.tags if tag == "th")
    for tag, attributes in reader.tags:
        if tag == "svg":
            assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"


def test_a_report_before_any_run_says_how_to_begin() -> None:
    text = page(dict.fromkeys(entries(), NOTHING), evidence="results")
    assert "No row has been run yet" in text and "Missing rows (308)" in text


def test_evidence_links_lead_from_the_report_to_the_results(tmp_path: Path) -> None:
    evidence = tmp_path / "results" / "CORE-001" / "run one" / "history.jsonl"
    evidence.parent.mkdir(parents=True)
    evidence.write_text("{}")
    result = Result(
        row="CORE-001",
        verdict=Verdict.PASS,
        size="quick",
        seed=1,
        evidence=("CORE-001/run one/history.jsonl",),
    )
    target = write_html(tmp_path / "out", standings(result), root=tmp_path / "results")
    (link,) = re.findall(r'href="([^"]*history\.jsonl)"', target.read_text())
    assert (target.parent / link.replace("%20", " ")).resolve() == evidence


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError) as caught:
        write_html(tmp_path / "file", {}, root=tmp_path)
    assert caught.value.code == "lab.output"


def test_a_bar_says_its_figure_in_words() -> None:
    drawn = bar(metric(value=5, bound=7))
    assert 'aria-label="lost: 5 (bound 7), threshold ≤ 10"' in drawn
    assert bar(metric(value=None)) == ""


@pytest.mark.parametrize(
    "points",
    [
        [(1.0, 1.0)],
        [(0.0, 0.0), (0.0, 0.0)],
        [(-5.0, 3.0), (1e9, -1e9)],
        [(1.0, float("nan")), (2.0, 2.0)],
        [(float(x), 7.0) for x in range(5_000)],
    ],
)
@pytest.mark.parametrize("log", [False, True])
def test_any_points_make_a_chart_within_its_frame(
    points: list[tuple[float, float]], log: bool
) -> None:
    drawn = line_chart(Picture("t", "x", "y", {"a": points}, log_x=log, log_y=log))
    assert len(drawn) < 20_000
    for pair in re.findall(r'points="([^"]*)"', drawn):
        for point in pair.split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= 640 and 0 <= y <= 300


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "", "0"),
        (1_234_567, "", "1,234,567"),
        (0.12345, "", "0.1235"),
        (64 * 1024**2, "bytes", "64 MiB"),
        (500, "bytes", "500 bytes"),
        (0.0042, "s", "4.2 ms"),
        (0.0000042, "s", "4.2 µs"),
        (1.5, "x", "1.5\N{MULTIPLICATION SIGN}"),
        (True, "", "yes"),
        (None, "s", "-"),
    ],
)
def test_figures_read_as_people_write_them(value: int | float | None, unit: str, text: str) -> None:
    assert figure(value, unit) == text


def test_durations_read_as_people_say_them() -> None:
    said = [duration(seconds) for seconds in (0.42, 12.3, 200, 7_500)]
    assert said == ["0.4 s", "12 s", "3 min 20 s", "2 h 5 min"]

"""What a tool's output may be before anybody looks at what it says: size, depth, form, repairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from stageflow.model.errors import BuildError

Form: TypeAlias = Literal["json", "text"]
RepairKind: TypeAlias = Literal["bom", "fence", "encoded"]
Unknown: TypeAlias = Literal["refuse", "keep"]
Duplicates: TypeAlias = Literal["refuse", "report"]

REPAIRS: Final[tuple[RepairKind, ...]] = get_args(RepairKind)
BYTES_MAX: Final = 1024 * 1024
DEPTH_MAX: Final = 64
DEPTH_BOUND: Final = 190
"""Past 200 the recursion limit of pydantic's parser would decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRules:
    """Bounds and choices of one tool's output. Raises BuildError `tool.option`.

    `bytes_max`: of the text, before it is parsed. `depth_max`: of objects and arrays in each other.
    `form`: "json" is RFC 8259; "text" takes the whole as one string. `unknown`: what is done with a
    field that a JSON Schema does not name, "refuse" or "keep"; a type keeps those that its own
    config keeps, and any other is refused: dropped it is never. `duplicates`: of names in one
    object, "refuse", or "report" in the provenance and take the last, as most parsers do.
    `repairs`: the lossless ones that may be made: "bom" takes a byte order mark away, "fence" the
    lines of a Markdown code fence around the text, "encoded" opens a string that holds the
    document. `error_fields`: fields that make a document an error, unless the contract names them.
    """

    bytes_max: int = BYTES_MAX
    depth_max: int = DEPTH_MAX
    form: Form = "json"
    unknown: Unknown = "refuse"
    duplicates: Duplicates = "refuse"
    repairs: tuple[RepairKind, ...] = REPAIRS
    error_fields: tuple[str, ...] = ("error", "errors", "isError")

    def __post_init__(self) -> None:
        choices = (
            ("form", self.form, get_args(Form)),
            ("unknown", self.unknown, get_args(Unknown)),
            ("duplicates", self.duplicates, get_args(Duplicates)),
            *(("repairs", each, REPAIRS) for each in self.repairs),
        )
        for field, value, known in choices:
            if value not in known:
                raise _refused(field, " or ".join(known), repr(value)[:80])
        if type(self.bytes_max) is not int or self.bytes_max < 1:
            raise _refused("bytes_max", "a number of bytes, at least 1", repr(self.bytes_max)[:80])
        if type(self.depth_max) is not int or not 1 <= self.depth_max <= DEPTH_BOUND:
            raise _refused("depth_max", f"1 to {DEPTH_BOUND}", repr(self.depth_max)[:80])


def _refused(field: str, expected: str, got: str) -> BuildError:
    return BuildError(
        "tool.option",
        f"{field}= of a tool's output has a value that it can't have",
        field=field,
        expected=expected,
        got=got,
        fix="OutputRules(bytes_max=65_536, unknown='refuse')",
    )

"""What a child process is asked to do, as a JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..discovery import Found

Mode = Literal["judge", "plain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One run of one row. `mode` "judge" loads and checks; "plain" only uses the component.

    `evidence` is where the child writes; `scratch` where the load may. `keep` leaves the scratch
    folder in place afterwards. `folders` are the user's scenario folders, for the reproduction.
    """

    found: Found
    size: str
    seed: int
    evidence: Path
    scratch: Path
    mode: Mode = "judge"
    scale: float = 1.0
    sabotage: str | None = None
    keep: bool = False
    folders: tuple[str, ...] = ()

    def write(self, path: Path) -> None:
        """ResultStore it for the child."""
        data = asdict(self)
        path.write_text(json.dumps(data, default=str), "utf-8")

    @classmethod
    def read(cls, path: Path) -> Request:
        """What `write` stored."""
        data: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
        found = data["found"]
        return cls(
            **{
                **data,
                "found": Found(found["row"], Path(found["path"]), found["module"]),
                "evidence": Path(data["evidence"]),
                "scratch": Path(data["scratch"]),
                "folders": tuple(data["folders"]),
            }
        )

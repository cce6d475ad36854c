"""Tools: what comes from outside is checked before anybody downstream sees it (docs/tools.md)."""

from stageflow.stages.work.tools.arguments import Arguments
from stageflow.stages.work.tools.check import OutputCheck
from stageflow.stages.work.tools.output import EXTERNAL, Provenance, ToolOutput
from stageflow.stages.work.tools.reading import Incoming
from stageflow.stages.work.tools.rules import OutputRules
from stageflow.stages.work.tools.tool_stage import tool

__all__ = [
    "EXTERNAL",
    "Arguments",
    "Incoming",
    "OutputCheck",
    "OutputRules",
    "Provenance",
    "ToolOutput",
    "tool",
]

"""A sandbox for code and commands that nobody vouches for. Told in docs/sandbox.md.

`Sandbox(policy)` runs programs; `SandboxPolicy` says what they may do, all else is denied;
`python_tool` and `command_tool` make bodies of WORK stages of it.
"""

from stageflow.stages.work.sandbox.machine import Machine, probe
from stageflow.stages.work.sandbox.needs import Need, needs
from stageflow.stages.work.sandbox.policy import SandboxPolicy
from stageflow.stages.work.sandbox.result import ExitReason, SandboxResult, Usage
from stageflow.stages.work.sandbox.sandbox import Sandbox
from stageflow.stages.work.sandbox.tool import command_tool, python_tool

__all__ = [
    "ExitReason",
    "Machine",
    "Need",
    "Sandbox",
    "SandboxPolicy",
    "SandboxResult",
    "Usage",
    "command_tool",
    "needs",
    "probe",
    "python_tool",
]

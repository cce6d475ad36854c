"""A desk that answers questions about Python from its own documentation, and cites it.

Try it from the project's root:

    stageflow run examples.answer_desk:desk --input text="How do I copy an object?"
    stageflow waiting
    python -m examples.answer_desk "What is duck typing?"
"""

from .desk import answer, desk, filed, release, reply
from .letters import Letter, Release
from .passages import Passage
from .reader import Answer

__all__ = [
    "Answer",
    "Letter",
    "Passage",
    "Release",
    "answer",
    "desk",
    "filed",
    "release",
    "reply",
]

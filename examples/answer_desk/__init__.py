"""A desk that answers questions about Python from its own documentation, and cites it.

Try it from the project's root:

    stageflow run examples.answer_desk:desk --input text="How do I copy an object?"
    python -m examples.answer_desk "What is duck typing?"
"""

from .desk import answer, desk
from .passages import Passage
from .reader import Answer

__all__ = ["Answer", "Passage", "answer", "desk"]

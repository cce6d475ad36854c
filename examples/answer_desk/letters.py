"""What goes out, and the word of the person who lets it go."""

from __future__ import annotations

from pydantic import BaseModel


class Letter(BaseModel):
    """An answer with the question it answers: what an editor is shown, and what is filed."""

    question: str
    text: str
    sources: list[str]


class Release(BaseModel):
    """An editor's word on a letter."""

    approved: bool
    """False keeps the letter in the house."""
    note: str = ""
    """Why; told to whoever looks at the run."""
    text: str | None = None
    """The answer in the editor's own words; None leaves it as it is."""

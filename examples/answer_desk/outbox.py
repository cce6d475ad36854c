"""Where answers are filed: one JSON file an effect, written once whatever is tried again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path

from .letters import Letter


def file_letter(folder: Path, letter: Letter, *, key: str) -> Path:
    """Writes the letter under its key; a second call with the key finds the first one's file.

    The key becomes a name by hashing, so it may hold any character. The file appears whole or not
    at all: it is written aside, flushed to disk, then linked into place, which fails if it exists.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}.json"
    handle, aside = tempfile.mkstemp(dir=folder, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"key": key, **letter.model_dump()}, file, ensure_ascii=False, indent=2)
            file.flush()
            os.fsync(file.fileno())
        # Where an earlier attempt under this key got here first, its letter stands.
        with contextlib.suppress(FileExistsError):
            os.link(aside, place)
    finally:
        Path(aside).unlink()
    return place

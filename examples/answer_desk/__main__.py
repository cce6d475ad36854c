"""Asks the desk one question at the terminal."""

from __future__ import annotations

import argparse
import asyncio
import sys

from . import answer, desk


async def ask(text: str, model: str | None) -> int:
    """Prints the answer and its sources; 1 when there is none to print."""
    run = await (desk.run(text=text) if model is None else desk.run(text=text, model=model))
    if run.status != "ok":
        print(f"{run.status} ({run.reason})", file=sys.stderr)
        for node in run.nodes.values():
            if node.reason:
                print(f"  {node.name}: {node.reason}", file=sys.stderr)
        return 1
    reply = run[answer]
    print(reply.text)
    for source in reply.sources:
        print(f"  -- {source}")
    return 0


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m examples.answer_desk", description=__doc__)
    parser.add_argument("question")
    parser.add_argument("--model", help="a pydantic-ai model name; without one the desk is offline")
    chosen = parser.parse_args()
    return asyncio.run(ask(chosen.question, chosen.model))


sys.exit(main())

"""Shows the reference what a decorator says of itself: `agent = ValueMaker(Kind.AGENT, "...")`.

An extension of griffe (https://mkdocstrings.github.io/griffe/guide/users/extending/), which reads
the source and doesn't run it. Named in mkdocs.yml.
"""

from __future__ import annotations

import ast
from typing import Any

import griffe


class DecoratorDocstrings(griffe.Extension):
    """Takes the last argument of a maker's call for the docstring of what it makes."""

    def on_attribute_instance(
        self, *, node: ast.AST | griffe.ObjectNode, attr: griffe.Attribute, **others: Any
    ) -> None:
        """Called by griffe for each assignment of a module or class."""
        call = getattr(node, "value", None)
        if not isinstance(call, ast.Call) or not call.args:
            return
        said = call.args[-1]
        if not ast.unparse(call.func).endswith("Maker") or not isinstance(said, ast.Constant):
            return
        attr.docstring = griffe.Docstring(str(said.value), lineno=said.lineno, parent=attr)
        attr.value = None

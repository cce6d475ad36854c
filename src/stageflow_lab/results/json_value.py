"""Any value as JSON has it."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any


def json_value(value: Any) -> Any:
    """`value` as JSON has it: null for NaN and infinity, string keys, reprs for the rest."""
    if isinstance(value, Mapping):
        return {str(key): json_value(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(each) for each in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):  # NumPy's integers too, which json does not know
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    return str(value) if isinstance(value, str) else repr(value)

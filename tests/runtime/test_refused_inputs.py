"""A value that cannot be kept is refused before the run starts, and the error tells which input."""

from typing import Any

import pytest

from stageflow import Pipeline, ValueRefused, transform


class Handle:
    """A custom object without an adapter."""


@transform
def size(first: Any, second: Any) -> int:
    return 1


async def test_the_path_of_a_refused_input_begins_with_the_inputs_name() -> None:
    pipeline = Pipeline("sizes", [size], inputs={"first": Any, "second": Any}, outputs=size)
    with pytest.raises(ValueRefused) as refused:
        await pipeline.run(first=1, second={"rows": [1, Handle()]})
    assert refused.value.field == "second.rows[1]"
    assert refused.value.pipeline == "sizes"
    assert "field: second.rows[1]" in str(refused.value)
    assert "Adapter(Handle" in str(refused.value.fix)

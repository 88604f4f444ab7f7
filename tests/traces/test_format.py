"""A trace: what is chosen from it, and what its digest follows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from harness.traces.format import PHASES

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.traces.format import Trace


def test_selecting_is_filtering_row_by_row(make: Callable[..., Trace]) -> None:
    trace = make()
    for layer in (None, 0, 3, 7):
        for phase in (None, *PHASES):
            for request in (None, 0, 1, 2):
                found = trace.select(layer=layer, phase=phase, request=request)
                expected = [
                    row
                    for row in range(len(trace))
                    if layer in {None, trace.layer[row]}
                    and phase in {None, PHASES[trace.phase[row]]}
                    and request in {None, trace.request[row]}
                ]
                assert found.position.tolist() == trace.position[expected].tolist()
                assert found.ids.tolist() == trace.ids[expected].tolist()


def test_a_window_of_a_selection(make: Callable[..., Trace]) -> None:
    trace = make()
    layer = trace.select(layer=3)
    assert trace.select(layer=3, start=2, tokens=4).ids.tolist() == layer.ids[2:6].tolist()
    assert trace.select(layer=3, start=2).ids.tolist() == layer.ids[2:].tolist()
    assert len(trace.select(layer=3, start=len(layer))) == 0


@pytest.mark.parametrize("wrong", [{"phase": "training"}, {"start": -1}, {"tokens": -1}])
def test_a_selection_that_makes_no_sense(make: Callable[..., Trace], wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"one of prefill, decode|at least 0"):
        make().select(**wrong)


def test_what_there_is(make: Callable[..., Trace]) -> None:
    trace = make(layers=(2, 5), prompts=(3, 1, 2), decoded=1)
    assert (trace.layers, trace.requests, trace.phases) == ([2, 5], [0, 1, 2], list(PHASES))
    assert len(trace) == 2 * (3 + 1 + 2 + 3)
    assert make(decoded=0).phases == ["prefill"]
    assert "weights" not in make(weighed=False).columns()


def test_the_digest_follows_the_routing_and_nothing_else(make: Callable[..., Trace]) -> None:
    trace = make()
    renamed = msgspec.structs.replace(trace.info, model="other", created="today", source="elsewhere")
    assert make().digest == trace.digest
    assert type(trace)(renamed, *(getattr(trace, name) for name in list(trace.__dataclass_fields__)[1:])).digest == (
        trace.digest
    )
    others = [make(seed=1), make(weighed=False), make(layers=(0, 4)), make(prompts=(5, 4)), trace.select(start=1)]
    assert len({trace.digest, *(other.digest for other in others)}) == 6


def test_a_digest_sees_each_column(make: Callable[..., Trace]) -> None:
    trace = make()
    for name, column in trace.columns().items():
        changed = np.copy(column)
        changed.flat[-1] += 1
        fields = {**trace.columns(), name: changed}
        assert type(trace)(info=trace.info, **fields).digest != trace.digest

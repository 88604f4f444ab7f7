"""The trace that is shipped, and the script that made it."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from harness.cases.shipped import shipped_traces
from harness.traces.reading import read_trace
from harness.traces.writing import write_trace
from suites.traces import make_trace as script


@pytest.mark.parametrize("name", shipped_traces())
def test_a_shipped_trace_is_small_and_says_where_it_is_from(name: str) -> None:
    path = shipped_traces()[name]
    trace = read_trace(path)
    assert path.stat().st_size < 300_000
    assert "make_trace.py" in trace.info.source
    assert trace.info.model
    assert trace.info.created


def test_pydoc_is_what_the_script_makes() -> None:
    trace = read_trace(shipped_traces()["pydoc"])
    effort = script.Effort()
    assert (trace.info.experts, trace.info.top_k, trace.info.decoding, trace.info.template) == (64, 8, "sampled", "raw")
    assert (trace.layers, trace.requests) == ([0, 1, 2], list(range(effort.prompts)))
    for layer in trace.layers:
        assert len(trace.select(layer=layer, phase="prefill")) == effort.prompts * effort.prompt_tokens
        assert len(trace.select(layer=layer, phase="decode")) == effort.prompts * effort.decode_tokens
    assert f"{effort.steps} steps of {effort.batch} x {effort.context}" in trace.info.source
    assert trace.weights is not None
    assert np.array_equal(script.rounded(trace.weights), trace.weights)


def test_the_router_is_no_random_one() -> None:
    from harness.fitting.figures import choices_of, first_excess, shared_excess

    trace = read_trace(shipped_traces()["pydoc"])
    for layer in trace.layers:
        choices = choices_of(trace.select(layer=layer))
        assert first_excess(choices) > 2
        assert shared_excess(choices) > 1.5


def test_rounding_keeps_what_bf16_keeps() -> None:
    weights = np.random.default_rng(0).random(1000, dtype=np.float32)
    kept = script.rounded(weights)
    assert np.abs(kept / weights - 1).max() <= 2.0 ** -(script.WEIGHT_BITS + 1)
    assert (kept.view(np.uint32) & ((1 << (23 - script.WEIGHT_BITS)) - 1) == 0).all()


def test_prompts_are_cut_from_what_was_not_trained_on() -> None:
    effort = script.Effort(prompts=3, prompt_tokens=4)
    assert script.held_out_prompts(bytes(range(20)), effort) == [bytes(range(n, n + 4)) for n in (0, 8, 16)]
    text = script.corpus()
    assert len(text) > 100_000
    assert len(hashlib.sha256(text).hexdigest()) == 64


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_script_makes_a_trace(tmp_path: object) -> None:
    from pathlib import Path

    effort = script.Effort(steps=3, batch=2, context=16, prompts=2, prompt_tokens=8, decode_tokens=3)
    trace = script.make(effort)
    assert trace.info.source.startswith("suites/traces/make_trace.py: byte-level OLMoE of 3 layers, 3 steps of 2 x 16")
    assert len(trace) == 3 * 2 * (8 + 3)
    assert trace.info.decoding == "sampled"
    write_trace(trace, Path(str(tmp_path)) / "t.npz")
    assert read_trace(Path(str(tmp_path)) / "t.npz").digest == trace.digest

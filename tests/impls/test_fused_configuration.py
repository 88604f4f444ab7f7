"""Tiles chosen without measuring, and what a tuner may try: always something the kernels can run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.cases.shape import Router, Shape
from impls._interpreter import interpreted
from impls.fused.candidates import candidates
from impls.fused.configuration import RESERVED_BYTES, Configuration, Tiles, block_for, shared_bytes, shared_limit, valid
from impls.fused.defaults import default

CAPABILITIES = [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)]
QWEN3 = Shape(hidden=2048, expert_hidden=768, experts=128, top_k=8)

shapes = st.builds(
    lambda experts, top_k, mixture, **rest: Shape(
        experts=experts, top_k=min(top_k, experts), router=Router(kind="mixture" if mixture else "softmax"), **rest
    ),
    experts=st.integers(1, 512),
    top_k=st.integers(1, 16),
    mixture=st.booleans(),
    hidden=st.integers(1, 8192),
    expert_hidden=st.integers(1, 16384),
    gated=st.booleans(),
)
Question = tuple[Shape, int, str, str]
questions = st.tuples(
    shapes, st.integers(0, 40000), st.sampled_from(["bf16", "fp16", "fp32"]), st.sampled_from(["forward", "training"])
)


@pytest.fixture
def gpu_cases() -> list[Question]:
    return [(QWEN3, tokens, "bf16", pass_) for tokens in (16, 64, 4096) for pass_ in ("forward", "training")]


@settings(max_examples=150, deadline=None)
@given(questions, st.sampled_from(CAPABILITIES))
def test_the_default_can_always_be_run(question: Question, capability: tuple[int, int]) -> None:
    made = default(*question, capability=capability)
    assert valid(made, *question, capability=capability)
    assert made == default(*question, capability=capability)


@settings(max_examples=40, deadline=None)
@given(questions, st.sampled_from(CAPABILITIES))
def test_whatever_a_tuner_may_try_can_be_run(question: Question, capability: tuple[int, int]) -> None:
    start = default(*question, capability=capability)
    tried = candidates(*question, capability=capability)
    assert tried[0] == start
    assert len(set(tried)) == len(tried) > 1
    assert all(valid(one, *question, capability=capability) for one in tried)
    again = candidates(*question, base=tried[-1], capability=capability)
    assert again[0] == tried[-1]


def test_other_ways_to_fetch_come_first(gpu_cases: list[Question]) -> None:
    """A tuner asks a dozen at a time, and may have no time for more."""
    for question in gpu_cases:
        start, all_tma, *others = candidates(*question)
        assert not start.first.tma
        assert all(tiles.tma for name, tiles in all_tma.tiles().items() if name != "grad_weight")
        if start.regime == "prefill":
            assert all(tiles.persistent for name, tiles in others[0].tiles().items() if name != "grad_weight")
            alone = [one for one in others[:11] if one.second == start.second and one.first.persistent]
            assert alone, "and one kernel alone"


def test_two_programs_a_multiprocessor_are_one_step_away() -> None:
    """Narrower and shallower at once: with only one of both a program still has the multiprocessor to itself."""
    tried = {one.second for one in candidates(QWEN3, 32768, "bf16", "forward")}
    half = Tiles(128, 128, 64, 4, 3)
    assert {half, replace(half, tma=True, persistent=True)} <= tried
    assert 2 * (shared_bytes(half, "second", QWEN3, "bf16") + RESERVED_BYTES) <= 228 << 10


def test_no_time_is_lost_on_rows_that_nobody_would_choose() -> None:
    for tokens, around in ((32768, {64, 128}), (1024, {32, 64, 128}), (64, {16, 32}), (16, {16, 32})):
        tried = candidates(QWEN3, tokens, "bf16", "forward")
        assert {one.first.block_m for one in tried if one.regime == "prefill"} == around, tokens


def test_where_a_gpu_is_busy_for_long_tma_fetches_what_lies_together() -> None:
    made = default(QWEN3, 32768, "bf16", "training")
    copied = {name for name, tiles in made.tiles().items() if tiles.tma and tiles.persistent}
    assert copied == {name for name, tiles in made.tiles().items() if tiles.tma} == {"second", "grad_input"}
    small = Shape(hidden=256, expert_hidden=128, experts=8, top_k=2)
    for shape, tokens, dtype, capability in (
        (small, 32768, "bf16", (9, 0)),
        (QWEN3, 256, "bf16", (9, 0)),
        (QWEN3, 32768, "fp32", (9, 0)),
        (QWEN3, 32768, "bf16", (8, 0)),
        (QWEN3, 32768, "bf16", (10, 0)),
    ):
        other = default(shape, tokens, dtype, "training", capability)
        assert not any(tiles.tma for tiles in other.tiles().values())


def test_nothing_is_fetched_by_tma_where_it_cannot_be() -> None:
    uneven = Shape(hidden=100, expert_hidden=36, experts=5, top_k=2)
    for shape, dtype, capability in ((uneven, "bf16", (9, 0)), (QWEN3, "fp32", (9, 0)), (QWEN3, "bf16", (8, 0))):
        tried = candidates(shape, 512, dtype, "training", capability=capability)
        assert not any(tiles.tma or tiles.persistent for one in tried for tiles in one.tiles().values())


@pytest.mark.parametrize(
    ("tokens", "regime", "rows"), [(1, "decode", 16), (16, "decode", 16), (17, "prefill", 16), (4096, "prefill", 128)]
)
def test_regime_and_rows_follow_the_tokens(tokens: int, regime: str, rows: int) -> None:
    made = default(QWEN3, tokens, "bf16", "forward")
    assert (made.regime, made.first.block_m) == (regime, rows)
    assert default(QWEN3, tokens, "bf16", "training").regime == "prefill"


def test_few_tokens_leave_no_multiprocessor_without_work() -> None:
    first = default(QWEN3, 1, "bf16", "forward").first
    assert QWEN3.top_k * QWEN3.expert_hidden / first.block_n >= 264


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"block_n": 48}, "no power of two"),
        ({"block_n": 8}, "smaller than a product takes"),
        ({"warps": 3}, "no number of warps"),
        ({"block_n": 256, "warps": 4}, "more accumulators than registers"),
        ({"stages": 9}, "more than shared memory"),
        ({"block_m": 64}, "other rows than the second kernel's"),
        ({"persistent": True}, "persistent programs by pointers"),
        ({"stages": 0}, "no stage"),
    ],
)
def test_what_cannot_be_run_is_not_valid(changed: dict[str, Any], why: str) -> None:
    good: dict[str, Any] = {"block_m": 128, "block_n": 128, "block_k": 64, "warps": 8, "stages": 3}
    second = Tiles(128, 128, 64, 8, 3)
    question = QWEN3, 4096, "bf16", "forward"
    assert valid(Configuration("prefill", Tiles(**good), second), *question)
    assert not valid(Configuration("prefill", Tiles(**{**good, **changed}), second), *question), why


def test_tma_copies_no_more_than_256_rows_at_a_time() -> None:
    second = Tiles(16, 64, 64, 4, 3)
    for width, fits in ((256, True), (512, False)):
        wide = Tiles(16, width, 16, 8, 2)
        for tiles, expected in ((wide, True), (replace(wide, tma=True), fits)):
            assert valid(Configuration("prefill", tiles, second), QWEN3, 64, "bf16", "forward") is expected


def test_decode_is_for_few_tokens_without_gradients() -> None:
    tiles = Tiles(16, 32, 64, 4, 3)
    decode = Configuration("decode", tiles, tiles)
    assert valid(decode, QWEN3, 16, "bf16", "forward")
    assert not valid(decode, QWEN3, 17, "bf16", "forward")
    assert not valid(decode, QWEN3, 16, "bf16", "training")


@given(st.integers(0, 100_000))
def test_a_block_holds_its_size_and_is_no_larger_than_needed(size: int) -> None:
    block = block_for(size)
    assert block >= max(size, 16)
    assert block == 16 or block // 2 < size


def test_shared_memory_counts_gate_and_up() -> None:
    assert shared_bytes(Tiles(128, 128, 64, 8, 3), "first", QWEN3, "bf16") == 3 * (128 + 2 * 128) * 64 * 2
    assert shared_bytes(Tiles(128, 128, 64, 8, 3), "second", QWEN3, "bf16") == 3 * (128 + 128) * 64 * 2
    tma = Tiles(128, 128, 64, 8, 3, tma=True)
    turned = shared_bytes(replace(tma, persistent=True), "first", QWEN3, "bf16") - shared_bytes(
        tma, "first", QWEN3, "bf16"
    )
    assert turned == 128 * 128 * 2
    assert shared_limit((9, 0)) == 227 * 1024
    assert shared_limit((8, 3)) == shared_limit((12, 0)) == 99 * 1024


@pytest.mark.parametrize(("word", "holds"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_the_interpreter_is_asked_for_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, word: str, holds: bool
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", word)
    assert interpreted() is holds

"""How far a tensor is from the truth, held against the formula written out in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.measure import errors
from harness.measure.errors import count_nonfinite, measure_errors

SHAPES = st.tuples(st.integers(1, 7), st.integers(1, 5))


def random(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(SHAPES, st.integers(0, 99), st.sampled_from([0.0, 1e-3, 1.0]), st.sampled_from([0.0, 5.0]))
def test_errors_are_relative_norms(shape: tuple[int, int], seed: int, share: float, least: float) -> None:
    truth = random(shape, seed)
    got = truth + 1e-3 * random(shape, seed + 1)
    found = measure_errors(got, truth, row_share=share, least_norm=least, columns=True)
    t, e = truth.numpy(), (got - truth).numpy()
    size = max(float(np.linalg.norm(t)), least)
    rows = np.maximum(np.linalg.norm(t, axis=1), share * size / math.sqrt(len(t)))
    columns = np.maximum(np.linalg.norm(t, axis=0), np.linalg.norm(t) / math.sqrt(t.shape[1]))
    assert found.rel == pytest.approx(np.linalg.norm(e) / size)
    assert found.worst_row == pytest.approx((np.linalg.norm(e, axis=1) / rows).max())
    assert found.worst_column == pytest.approx((np.linalg.norm(e, axis=0) / columns).max())
    assert found.max_abs == pytest.approx(np.abs(e).max() / np.abs(t).max())
    assert found.cosine == pytest.approx(1.0, abs=1e-3)
    assert found.nonfinite == 0


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_blocks_change_nothing(rows: int, block: int, seed: int) -> None:
    truth, got = random((rows, 3, 2), seed), random((rows, 3, 2), seed + 1)
    whole = measure_errors(got, truth)
    before, errors.BLOCK_ELEMENTS = errors.BLOCK_ELEMENTS, block * 6
    try:
        parts = measure_errors(got, truth)
    finally:
        errors.BLOCK_ELEMENTS = before
    assert (parts.rel, parts.worst_row, parts.max_abs) == pytest.approx((whole.rel, whole.worst_row, whole.max_abs))


def test_equal_tensors_have_no_error() -> None:
    zeros = torch.zeros(3, 2)
    assert measure_errors(zeros, zeros, columns=True) == errors.Errors(0.0, 0.0, 0.0, 0.0, 1.0, 0)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_nothing_to_compare_is_no_error(shape: tuple[int, int]) -> None:
    assert measure_errors(torch.empty(shape), torch.empty(shape), columns=True).rel == 0


def test_a_row_that_is_truly_zero_must_be_exactly_zero() -> None:
    truth = torch.ones(4, 8)
    truth[2] = 0
    got = truth.clone()
    got[2, 0] = 1e-30
    assert measure_errors(got, truth, row_share=1e-3).worst_row == math.inf
    assert measure_errors(got, truth, row_share=1.0).worst_row < 1e-29


def test_small_rows_count_against_their_share_of_the_usual_row() -> None:
    truth = torch.ones(4, 8)
    truth[2] = 1e-9
    got = truth.clone()
    got[2] = 0
    assert measure_errors(got, truth).worst_row == pytest.approx(1.0)
    assert measure_errors(got, truth, row_share=1e-3).worst_row == pytest.approx(1e-6, rel=0.2)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_counted_even_in_rows_left_out(value: float) -> None:
    truth = torch.ones(4, 8)
    got = truth.clone()
    got[1, :2] = value
    keep = torch.tensor([True, False, True, True])
    found = measure_errors(got, truth, keep)
    assert (found.nonfinite, found.rel, found.worst_row) == (2, math.inf, math.inf)


def test_rows_left_out_count_nothing() -> None:
    truth = torch.ones(4, 8)
    got = truth.clone()
    got[1] = 7
    assert measure_errors(got, truth, torch.tensor([True, False, True, True]), columns=True).rel == 0
    assert measure_errors(got, truth).worst_row == pytest.approx(6.0)


def test_rows_left_out_do_not_make_the_usual_row_smaller() -> None:
    """Two rows are judged as they would be alone, whoever else is left out."""
    truth = torch.zeros(100, 8)
    truth[0], truth[1] = 1.0, 1e-3
    got = truth + 1e-3
    keep = torch.arange(100) < 2
    among, alone = (
        measure_errors(a, b, k, row_share=0.1) for a, b, k in ((got, truth, keep), (got[:2], truth[:2], None))
    )
    assert among.worst_row == pytest.approx(alone.worst_row)


def test_what_should_be_zero_and_is_not_is_infinitely_wrong() -> None:
    found = measure_errors(torch.ones(2, 2), torch.zeros(2, 2))
    assert (found.rel, found.max_abs) == (math.inf, 1.0)
    assert measure_errors(torch.ones(2, 2), torch.zeros(2, 2), row_share=1.0, least_norm=20.0).rel == 0.1


@pytest.mark.parametrize("block", [1, 3, 100])
def test_what_is_not_finite_is_counted_in_every_block(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(errors, "BLOCK_ELEMENTS", block)
    value = torch.ones(4, 5, dtype=torch.bfloat16)
    assert count_nonfinite(value) == count_nonfinite(value[:0]) == 0
    value[0, 0], value[3, 4], value[1, 2] = math.nan, math.inf, -math.inf
    assert count_nonfinite(value) == count_nonfinite(value.T) == 3

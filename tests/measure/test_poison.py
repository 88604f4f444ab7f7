"""Fresh memory is NaN while an implementation runs, and only then."""

from __future__ import annotations

import warnings

import pytest
import torch

from harness.measure.poison import poisoned


def settings() -> tuple[int, bool]:
    return torch.get_deterministic_debug_mode(), torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_floats_are_nan(dtype: torch.dtype) -> None:
    like = torch.zeros(3, 5, dtype=dtype)
    with poisoned("cpu"):
        for fresh in (torch.empty(7, dtype=dtype), torch.empty_like(like), like.new_empty(4)):
            assert fresh.isnan().all()


def test_integers_point_nowhere() -> None:
    with poisoned("cpu"):
        ids = torch.empty(5, dtype=torch.int64)
    with pytest.raises(IndexError):
        torch.zeros(9)[ids]


def test_settings_are_put_back_even_after_an_error() -> None:
    before = settings()

    def failing() -> None:
        with poisoned("cpu"):
            assert settings()[0] == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert settings() == before


def test_what_has_no_deterministic_way_runs_without_a_word() -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with poisoned("cpu"):
            torch.zeros(4).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)
    assert heard == []


def test_other_warnings_are_heard() -> None:
    with pytest.warns(UserWarning, match="mine"), poisoned("cpu"):
        warnings.warn("mine", stacklevel=1)


@pytest.mark.cuda
def test_memory_of_a_gpu_is_nan_too() -> None:
    with poisoned("cuda"):
        assert torch.empty(1000, device="cuda").isnan().all()
        assert torch.empty(1000, device="cuda", dtype=torch.bfloat16).isnan().all()

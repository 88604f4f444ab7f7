"""Traces that a generator made are recognised as its own, and what no generator does is said."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from harness.fitting.ensemble import SEEDS, is_one_of, ranges
from harness.fitting.figures import Choices
from harness.fitting.fit import fit_layers
from harness.fitting.load import GRIDS, Shelf, best_parameter, curves, energy_score, make_shelves
from harness.fitting.repeats import fit_repeats
from harness.fitting.results import Range
from harness.traces.format import TraceInfo
from harness.traces.writing import make_trace, write_trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.fitting.ensemble import Draw
    from harness.fitting.fit import Fitter
    from harness.fitting.results import Candidate, Fit

    Fitted = Callable[[str], Fit]

EXPERTS, UNSEEN = 64, 2_000_003


def of_kind(fit: Fit, kind: str) -> Candidate:
    return next(one for one in fit.candidates if one.kind == kind)


@pytest.mark.parametrize(("kind", "parameter"), [("gaussian", 0.3), ("zipf", 0.7), ("dirichlet", 3.0)])
def test_a_generator_recognises_its_own(fitted: Fitted, kind: str, parameter: float) -> None:
    fit = fitted(f"{kind}:{parameter}")
    own = of_kind(fit, kind)
    assert own.reproduces
    assert fit.by_load == {"load": True, "bursts": True, "repeats": True, "co-activation": True}
    assert own.low is not None
    assert own.high is not None
    assert own.low < own.parameter < own.high  # type: ignore[operator]
    assert own.high / own.low < 2.2


@pytest.mark.parametrize(("kind", "parameter"), [("gaussian", 0.3), ("zipf", 0.7), ("dirichlet", 3.0)])
def test_parameters_are_found_without_bias(draw: Draw, fitter: Fitter, kind: str, parameter: float) -> None:
    shelves = fitter._shelves or make_shelves(draw, EXPERTS, lambda _: None)
    shelf = next(one for one in shelves if one.kind == kind)
    traces = curves(lambda spread, seed: draw(spread, UNSEEN + 1 + seed), f"{kind}:{parameter}", EXPERTS, 40)
    found = [best_parameter(trace, shelf) for trace in traces]
    assert np.median(found) == pytest.approx(parameter, rel=0.12)
    assert np.std(np.log(found)) < 0.3


def test_zipf_is_like_nothing_else(fitted: Fitted) -> None:
    fit = fitted("zipf:0.7")
    assert fit.candidates[0].kind == "zipf"
    assert [one.kind for one in fit.candidates if one.reproduces] == ["zipf"]


@pytest.mark.parametrize("kind", ["uniform", "single_hot", "k_hot", "tile"])
def test_traffic_without_a_parameter_is_recognised(fitted: Fitted, kind: str) -> None:
    best = fitted(kind).candidates[0]
    assert best.kind == kind
    assert best.reproduces
    assert best.parameter is None


def test_temporal_is_recognised_by_its_repeats(fitted: Fitted) -> None:
    fit = fitted("temporal:0.5")
    assert fit.repeats is not None
    assert fit.repeats.low < 0.5 < fit.repeats.high
    assert fit.repeats.high - fit.repeats.low < 0.1
    assert not fit.by_load["repeats"]
    assert fit.by_repeats["repeats"]
    assert of_kind(fit, "gaussian").parameter == pytest.approx(0.15, rel=0.35)


def test_independent_tokens_have_no_rho(fitted: Fitted) -> None:
    repeats = fitted("gaussian:0.3").repeats
    assert repeats is not None
    assert repeats.rho < 0.05


def test_experts_tied_together_are_beyond_every_generator(fitter: Fitter) -> None:
    rng = np.random.default_rng(1)
    bands = np.repeat(rng.integers(0, 8, 1024 // 32), 32)
    ids = np.stack([8 * band + rng.permutation(8)[:4] for band in bands])
    fit = fitter.fit(3, Choices(ids, EXPERTS, np.zeros(1024, dtype=np.int64)))
    assert fit.layer == 3
    assert not fit.by_load["co-activation"]
    assert not fit.by_repeats["co-activation"]
    assert not fit.by_repeats["repeats"]
    lift = next(one for one in fit.figures if one.figure == "closest_lift")
    assert lift.trace is not None
    assert lift.load is not None
    assert lift.trace > 2 * lift.load.high


def test_one_expert_a_token_has_no_co_activation() -> None:
    from harness.fitting.draw import drawing
    from harness.fitting.fit import Fitter

    draw = drawing(256, 4, 1)
    fit = Fitter(draw, lambda _: None).fit(0, Choices(draw("zipf:1", 77), 4, np.zeros(256, dtype=np.int64)))
    assert "co-activation" not in fit.by_load
    assert "bursts" not in fit.by_load
    assert all(one.trace is None for one in fit.figures if one.figure in {"lift_scatter", "window_max_over_mean"})


def test_nothing_follows_nothing(draw: Draw, fitter: Fitter) -> None:
    alone = Choices(draw("uniform", 5), EXPERTS, np.arange(1024))
    assert fitter._ladder is None or fit_repeats(alone, fitter._ladder, draw) is None


def test_the_energy_score_is_lowest_for_the_truth_on_average() -> None:
    rng = np.random.default_rng(0)

    def drawn(scatter: float, count: int) -> np.ndarray:
        tilt = rng.normal(0.3, scatter, (count, 1))
        return np.concatenate([0.5 + tilt / 4, 0.5 - tilt / 4], axis=1)

    traces = drawn(0.2, 200)
    scores = [np.mean([energy_score(t, drawn(scatter, 60)) for t in traces]) for scatter in (0.02, 0.2, 0.8)]
    assert scores[1] == min(scores)


def test_a_parameter_between_two_of_the_grid_is_found() -> None:
    grid = tuple(np.geomspace(0.1, 10, 9))
    shelf = Shelf(
        "gaussian", grid, tuple(np.array([[0.5 + 0.04 * math.log(p), 0.5 - 0.04 * math.log(p)]]) for p in grid)
    )
    wanted = math.log(0.8)
    found = best_parameter(np.array([0.5 + 0.04 * wanted, 0.5 - 0.04 * wanted]), shelf)
    assert grid[3] < found < grid[5]
    edge = best_parameter(np.array([0.9, 0.1]), shelf)
    assert edge == grid[-1]


def test_one_draw_in_forty_one_is_turned_away() -> None:
    rng = np.random.default_rng(2)

    def draws(count: int) -> list[dict[str, float]]:
        return [{"cv2": a, "gini": b} for a, b in rng.normal(size=(count, 2))]

    told = [is_one_of(one, draws(SEEDS), "load") for one in draws(400)]
    assert told.count(False) == pytest.approx(400 / 41, abs=12)
    assert is_one_of({"cv2": 9.0, "gini": 0.0}, draws(SEEDS), "load") is False
    assert is_one_of({"cv2": math.nan, "gini": math.nan}, draws(SEEDS), "load") is None


def test_each_figure_is_held_against_its_own_scatter() -> None:
    rng = np.random.default_rng(3)
    draws = [{"cv2": a, "gini": 0.01 * b} for a, b in rng.normal(size=(SEEDS, 2))]
    assert is_one_of({"cv2": 0.0, "gini": 0.0}, draws, "load")
    assert not is_one_of({"cv2": 0.0, "gini": 0.1}, draws, "load"), "ten standard deviations, though a small number"


def test_a_figure_that_a_draw_does_not_define_has_no_range() -> None:
    draws = [{"cv2": 0.5, "gini": value} for value in (0.1, math.nan, 0.3)]
    assert ranges(draws) == {"cv2": Range(mean=0.5, low=0.5, high=0.5)}


def test_a_distance_is_the_share_of_slots_that_would_have_to_go_elsewhere() -> None:
    trace = np.array([0.75, 0.25])
    assert energy_score(trace, np.array([[0.5, 0.5]])) == pytest.approx(0.25)
    draws = np.array([[1.0, 0.0], [0.5, 0.5]])  # 0.25 from the trace both, 0.5 from each other
    assert energy_score(trace, draws) == pytest.approx(0.25 - 0.5 / 2)


def test_a_constant_figure_holds_itself_and_nothing_else() -> None:
    draws = [{"cv2": 0.5} for _ in range(SEEDS)]
    assert is_one_of({"cv2": 0.5}, draws, "load")
    assert not is_one_of({"cv2": 0.6}, draws, "load")
    assert ranges(draws)["cv2"].holds(0.5)


def test_layers_of_a_file(draw: Draw, tmp_path: Path) -> None:
    ids = np.concatenate([draw("uniform", 11), draw("zipf:1.5", 12)])
    trace = make_trace(
        TraceInfo(model="m", experts=EXPERTS, top_k=4),
        ids=ids,
        weights=None,
        layer=np.repeat([2, 5], 1024),
        request=np.zeros(2048, dtype=int),
        position=np.tile(np.arange(1024), 2),
        phase=np.zeros(2048, dtype=int),
    )
    write_trace(trace, tmp_path / "t.npz")
    said: list[str] = []
    fits = list(fit_layers(str(tmp_path / "t.npz"), (2, 5), "", 512, said.append))
    assert [(fit.layer, fit.tokens, fit.candidates[0].kind) for fit in fits] == [(2, 512, "uniform"), (5, 512, "zipf")]
    assert said.count("drawing gaussian") == 1
    with pytest.raises(ValueError, match="tokens = 20: at least 64"):
        list(fit_layers(str(tmp_path / "t.npz"), (2,), "", 20, said.append))


def test_grids_rise() -> None:
    assert all(list(grid) == sorted(grid) for grid in GRIDS.values())

"""Replayed traffic: the recorded experts arrive, whatever the router, and draws are windows of the trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.cases.case import Case
from harness.cases.replay import replayed, resolve_replay
from harness.cases.shape import Router, Shape
from harness.cases.traffic import Traffic
from harness.layer.inputs import make_inputs
from harness.layer.replay import replayed_rows, window
from harness.layer.weights import make_weights
from harness.traces.format import TraceInfo
from harness.traces.writing import make_trace, write_trace

if TYPE_CHECKING:
    from pathlib import Path

    from harness.cases.case import Scope

E, K, ROWS = 16, 4, 96
V3 = Router(kind="sigmoid", renormalise=True, groups=4, top_groups=2, scale=2.5, selection_bias=True)
ROUTERS = {
    "softmax": Router(),
    "renormalised": Router(renormalise=True),
    "softmax, groups": Router(groups=4, top_groups=2, selection_bias=True),
    "topk_softmax": Router(kind="topk_softmax"),
    "sigmoid": Router(kind="sigmoid"),
    "deepseek-v3": V3,
    "noisy_topk": Router(kind="noisy_topk"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Traces within two of four groups of experts: with weights over five decades, and without any."""
    folder, rng = tmp_path_factory.mktemp("traces"), np.random.default_rng(0)
    groups = rng.random((ROWS, 4)).argsort(axis=1)[:, :2]
    within = np.concatenate([groups[:, :1] * 4 + np.arange(4), groups[:, 1:] * 4 + np.arange(4)], axis=1)
    ids = rng.permuted(within, axis=1)[:, :K]
    weights = -np.sort(-(10.0 ** rng.uniform(-5, 0, (ROWS, K))), axis=1)
    weights /= weights.sum(axis=1, keepdims=True)
    zeros = np.zeros(ROWS, dtype=int)
    for name, given_weights in (("weighed", weights), ("bare", None)):
        trace = make_trace(
            TraceInfo(model="m", experts=E, top_k=K),
            ids=ids,
            weights=given_weights,
            layer=zeros,
            request=zeros,
            position=np.arange(ROWS),
            phase=zeros,
        )
        write_trace(trace, folder / f"{name}.npz")
    return folder


def case_of(folder: Path, name: str, router: Router, **changes: Any) -> Case:
    traffic = Traffic(tokens=changes.pop("tokens", 24), spread=resolve_replay(f"trace:{folder}/{name}.npz"))
    shape = Shape(hidden=32, expert_hidden=8, experts=E, top_k=K, router=router)
    return Case(shape=shape, traffic=traffic, **{"dtype": "bf16", **changes})


@pytest.mark.parametrize("router", ROUTERS.values(), ids=ROUTERS)
@pytest.mark.parametrize("pass_", ["forward", "training"])
def test_scope_experts_replays_ids_and_weights_to_the_bit(folder: Path, router: Router, pass_: str) -> None:
    case = case_of(folder, "weighed", router, pass_=pass_)
    weights = make_weights(case)
    for draw in (0, 1, 2):
        routing, rows = make_inputs(case, weights, draw).routing, replayed_rows(case.traffic, draw)
        assert routing.expert_ids.tolist() == rows.ids.tolist()
        assert routing.weights.tolist() == (rows.weights if rows.weights is not None else rows.ids).tolist()
        assert (routing.expert_ids.dtype, routing.weights.dtype) == (torch.int64, torch.float32)


@pytest.mark.parametrize("router", ROUTERS.values(), ids=ROUTERS)
def test_scope_experts_without_recorded_weights(folder: Path, router: Router) -> None:
    case = case_of(folder, "bare", router)
    routing = make_inputs(case, make_weights(case), 0).routing
    assert routing.expert_ids.tolist() == replayed_rows(case.traffic, 0).ids.tolist()
    torch.testing.assert_close(routing.weights.sum(-1), torch.ones(24))
    assert (routing.weights > 0).all()


@pytest.mark.parametrize("router", ROUTERS.values(), ids=ROUTERS)
@pytest.mark.parametrize("name", ["weighed", "bare"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_scope_layer_leads_the_router_to_the_recorded_experts(
    folder: Path, router: Router, name: str, dtype: str
) -> None:
    """Their order within a token is the router's, after x was rounded to the layer's type."""
    case = case_of(folder, name, router, scope="layer", dtype=dtype, tokens=ROWS)
    weights = make_weights(case)
    for draw in range(3):
        routing, rows = make_inputs(case, weights, draw).routing, replayed_rows(case.traffic, draw)
        assert routing.expert_ids.sort(-1).values.tolist() == np.sort(rows.ids, axis=1).tolist()


def test_scope_layer_keeps_the_proportions_of_moderate_weights(folder: Path) -> None:
    case = case_of(folder, "weighed", ROUTERS["renormalised"], scope="layer", dtype="fp32", tokens=ROWS)
    routing, rows = make_inputs(case, make_weights(case), 0).routing, replayed_rows(case.traffic, 0)
    assert rows.weights is not None
    logs = np.log(rows.weights)
    moderate = np.abs(logs - logs.mean(axis=1, keepdims=True)).max(axis=1) < 1.9
    assert moderate.any()
    order = rows.ids.argsort(axis=1)
    found = routing.weights.gather(1, routing.expert_ids.argsort(1))[torch.from_numpy(moderate)]
    expected = np.take_along_axis(rows.weights, order, axis=1)[moderate]
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-3, atol=1e-5)


def test_a_switch_router_drops_in_scope_layer_only(tmp_path: Path) -> None:
    zeros = [0] * 8
    trace = make_trace(
        TraceInfo(model="m", experts=4, top_k=1),
        ids=[[1]] * 8,
        weights=None,
        layer=zeros,
        request=zeros,
        position=range(8),
        phase=zeros,
    )
    write_trace(trace, tmp_path / "a.npz")
    router = Router(kind="switch", capacity_factor=1.0)
    shape = Shape(hidden=8, expert_hidden=8, experts=4, top_k=1, router=router)
    traffic = Traffic(tokens=8, spread=resolve_replay(f"trace:{tmp_path}/a.npz"))
    found = {}
    scopes: tuple[Scope, ...] = ("experts", "layer")
    for scope in scopes:
        case = Case(shape=shape, traffic=traffic, scope=scope)
        found[scope] = make_inputs(case, make_weights(case), 0).routing.expert_ids.flatten().tolist()
    assert found == {"experts": [1] * 8, "layer": [1, 1, 4, 4, 4, 4, 4, 4]}


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(0, 300), st.integers(0, 5), st.integers(0, 400))
def test_windows(rows: int, tokens: int, seed: int, draw: int) -> None:
    """Consecutive rows; the same again for the same draw; fresh as long as there are unseen windows."""
    chosen = window(rows, tokens, seed, draw)
    assert len(chosen) == tokens
    assert set(np.diff(chosen).tolist()) <= {1, 1 - rows}
    assert chosen.tolist() == window(rows, tokens, seed, draw).tolist()
    assert not tokens or 0 <= chosen.min() <= chosen.max() < rows
    if 0 < tokens <= rows:
        windows = rows // tokens
        starts = [int(window(rows, tokens, seed, draw + n)[0]) for n in range(windows)]
        assert len(set(starts)) == windows
        assert all(abs(a - b) >= tokens for a in starts for b in starts if a != b)
        assert int(window(rows, tokens, seed, draw + windows)[0]) == starts[0]


def test_seeds_go_through_windows_in_another_order() -> None:
    orders = [[int(window(1000, 10, seed, draw)[0]) for draw in range(100)] for seed in range(3)]
    assert len({tuple(order) for order in orders}) == 3


def test_more_tokens_than_rows_repeat_them_in_a_circle(folder: Path) -> None:
    spread = resolve_replay(f"trace:{folder}/weighed.npz")
    rows = replayed(spread)
    traffic = Traffic(tokens=ROWS + 10, spread=spread)
    first, second = (replayed_rows(traffic, draw).position.tolist() for draw in (0, 1))
    assert first == [*range(ROWS), *range(10)]
    assert second == [*range(10, ROWS), *range(20)]
    assert len(rows) == ROWS


def test_no_tokens(folder: Path) -> None:
    for scope in ("experts", "layer"):
        case = case_of(folder, "weighed", Router(), scope=scope, tokens=0)
        assert make_inputs(case, make_weights(case), 0).routing.expert_ids.shape == (0, K)

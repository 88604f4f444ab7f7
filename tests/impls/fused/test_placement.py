"""The counting sort against torch's, in its one-launch and its three-launch form."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.layer.contract import Routing
from impls._dispatch import sort_slots
from impls.fused import placement
from impls.fused.placement import Placement, place, row_tiles

FORMS = {"one launch": 10**9, "three launches": 0}


def random_ids(tokens: int, top_k: int, experts: int, seed: int) -> Tensor:
    """Without order, no expert twice in a token, about one slot in E + 1 dropped."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(tokens, experts + 1, generator=generator)
    return scores.argsort(1)[:, :top_k].contiguous()


def placed(ids: Tensor, experts: int, block_m: int, form: str) -> Placement:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "FEW_SLOTS", FORMS[form])
        return place(Routing(ids, torch.ones(ids.shape)), experts, block_m)


def is_dense(form: str) -> bool:
    return form == "three launches"


def assert_right(made: Placement, ids: Tensor, experts: int, block_m: int, *, dense: bool) -> None:
    _, order, ends = sort_slots(Routing(ids, torch.ones(ids.shape)), experts)
    assert all(tensor.dtype == torch.int32 for tensor in made)
    kept = int(ends[-1]) if len(ends) else 0
    assert torch.equal(made.slots[:kept].long(), order[:kept])
    assert made.starts.tolist() == [0, *ends.tolist()]
    rows = torch.empty_like(order).scatter_(0, order, torch.arange(len(order))).view(ids.shape)
    assert torch.equal(made.rows.long(), torch.where(ids < experts, rows, -1))
    starts = made.starts.tolist()
    expected = [(e, row) for e in range(experts) for row in range(starts[e], starts[e + 1], block_m)]
    used = made.tile_experts >= 0
    found = zip(made.tile_experts[used].tolist(), made.tile_rows[used].tolist(), strict=True)
    assert list(found) == expected
    assert made.tile_count.tolist() == [len(expected) if dense else len(used)]
    assert not dense or bool(used[: len(expected)].all())
    assert len(made.tile_experts) == len(made.tile_rows) == row_tiles(ids.numel(), experts, block_m)
    assert bool((made.tile_experts[~used] == -1).all())


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=25, deadline=None)
@given(
    tokens=st.integers(1, 90),
    experts=st.integers(1, 40),
    top_k=st.integers(1, 9),
    block_m=st.sampled_from([16, 32, 128]),
    seed=st.integers(0, 1000),
)
def test_sorts_as_torch_does(form: str, tokens: int, experts: int, top_k: int, block_m: int, seed: int) -> None:
    ids = random_ids(tokens, min(top_k, experts), experts, seed)
    assert_right(placed(ids, experts, block_m, form), ids, experts, block_m, dense=is_dense(form))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "ids",
    [
        pytest.param([[2]] * 70, id="one expert takes all"),
        pytest.param([[3, 3]] * 70, id="everything dropped"),
        pytest.param([[3, 0], [2, 3]] * 35, id="dropped slots, an empty expert"),
        pytest.param([[1]], id="one slot"),
        pytest.param([[2, 1, 0]] * 1000, id="several chunks and blocks"),
    ],
)
def test_the_edges(form: str, ids: list[list[int]]) -> None:
    for block_m in (16, 64):
        assert_right(placed(torch.tensor(ids), 3, block_m, form), torch.tensor(ids), 3, block_m, dense=is_dense(form))


@pytest.mark.parametrize("shape", [(0, 2), (5, 0)])
def test_no_slots(shape: tuple[int, int]) -> None:
    made = place(Routing(torch.empty(shape, dtype=torch.int64), torch.empty(shape)), 4, 16)
    assert made.starts.tolist() == [0] * 5
    assert made.tile_experts.tolist() == [-1] * 4
    assert made.rows.shape == shape


@pytest.mark.parametrize("form", FORMS)
def test_ids_need_not_be_contiguous(form: str) -> None:
    ids = random_ids(40, 4, 6, 0)
    strided = ids.T.contiguous().T
    assert not strided.is_contiguous()
    assert_right(placed(strided, 6, 16, form), ids, 6, 16, dense=is_dense(form))


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_left_unwritten(form: str, lab: object) -> None:
    """On memory full of the largest integer."""
    ids = random_ids(50, 3, 7, 1)
    with lab.poison():  # type: ignore[attr-defined]
        assert_right(placed(ids, 7, 16, form), ids, 7, 16, dense=is_dense(form))


def test_who_needs_the_tiles_without_gaps_gets_them_for_few_slots_too() -> None:
    ids = random_ids(40, 2, 6, 3)
    made = place(Routing(ids, torch.ones(ids.shape)), 6, 16, dense=True)
    assert_right(made, ids, 6, 16, dense=True)


def test_more_chunks_than_are_added_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "SCAN_CHUNKS", 8)
    ids = random_ids(1500, 2, 9, 5)
    assert ids.numel() > 2 * 8 * placement.CHUNK
    assert_right(placed(ids, 9, 64, "three launches"), ids, 9, 64, dense=True)

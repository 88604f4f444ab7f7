"""Cases that are not the same have other names."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from harness.cases.case import Case
from harness.cases.labels import CHANGED, peculiarities
from harness.cases.presets import presets
from harness.cases.shape import Router, Shape
from harness.cases.traffic import Traffic
from harness.report.labels import group_label

PLAIN = Shape(hidden=8, expert_hidden=4, experts=4, top_k=1)
SHAPES: list[tuple[dict[str, Any], str]] = [
    ({"activation": "relu"}, "relu"),
    ({"gated": False}, "plain"),
    ({"bias": True}, "biases"),
    ({"shared_experts": 2, "shared_hidden": 16}, "2 shared of 16"),
    ({"shared_experts": 2, "shared_hidden": 16, "shared_gated": True}, "2 shared of 16 gated"),
    ({"router": Router(kind="sigmoid")}, "sigmoid router"),
    ({"router": Router(renormalise=True)}, "weights renormalised"),
    ({"router": Router(groups=4, top_groups=2)}, "2 of 4 groups"),
    ({"router": Router(selection_bias=True)}, "selection bias"),
    ({"router": Router(scale=2.5)}, "scale 2.5"),
    ({"router": Router(kind="switch", capacity_factor=1.5)}, "switch router capacity factor 1.5"),
]


def case(shape: Shape, **fields: Any) -> Case:
    given: dict[str, Any] = {"shape": shape, "traffic": Traffic(tokens=8), "dtype": "fp32"}
    return Case(**(given | fields))


@pytest.mark.parametrize(("fields", "words"), SHAPES, ids=[words for _, words in SHAPES])
def test_whatever_is_not_ordinary_is_said(fields: dict[str, Any], words: str) -> None:
    shape = replace(PLAIN, **fields)
    assert " ".join(peculiarities(shape)) == words
    assert f" {words} " in case(shape).label()
    assert f" {words.replace(' router ', ' router, ')}," in group_label(case(shape))


def test_an_ordinary_layer_has_none() -> None:
    assert peculiarities(PLAIN) == []
    assert case(PLAIN).label() == "H8 I4 E4 k1 T=8 gaussian:0.15 fp32 cpu"


def test_a_models_name_says_it_all_but_for_the_router() -> None:
    """Nothing more is said of a preset as it is; of one that was changed, everything."""
    for name, one in presets().items():
        kind = one.shape.router.kind
        assert peculiarities(one.shape) == ([] if kind == "softmax" else [f"{kind} router"]), name
    changed = replace(presets()["gpt-oss-20b"].shape, hidden=64, name="gpt-oss-20b" + CHANGED)
    assert {"clamped_swiglu", "biases"} <= set(peculiarities(changed))


def test_cases_that_differ_in_one_thing_have_different_names() -> None:
    cases = [case(PLAIN), *(case(replace(PLAIN, **fields)) for fields, _ in SHAPES)]
    cases += [case(PLAIN, traffic=Traffic(tokens=8, seed=seed)) for seed in (1, 2)]
    cases += [case(PLAIN, pass_="training"), case(PLAIN, scope="layer"), case(PLAIN, execution="graph", device="cuda")]
    assert len({one.label() for one in cases}) == len({one.case_id for one in cases}) == len(cases)
    assert "seed 2" in cases[-4].label()

"""Published figures in a suite: what they may say, and which of our cases ask for the same work."""

from __future__ import annotations

from typing import Any

import pytest

from harness.cases.axes import make_case
from harness.cases.published import Published, parse_published
from harness.cases.shipped import find_suite, shipped_suites
from harness.cases.suite import load_suite

TABLE: dict[str, Any] = {
    "source": "somebody #7",
    "implementation": "their kernel",
    "device": "H100",
    "figure": 11,
    "unit": "ms",
    "ours": "grouped",
    "hidden": 32,
    "expert_hidden": 16,
    "experts": 8,
    "top_k": 2,
    "tokens": 64,
    "traffic": "uniform",
    "dtype": "bf16",
}
OURS = {key: TABLE[key] for key in ("hidden", "expert_hidden", "experts", "top_k", "tokens", "traffic", "dtype")}


def test_a_table_is_read() -> None:
    one = parse_published(TABLE)
    assert (one.source, one.implementation, one.device, one.ours) == ("somebody #7", "their kernel", "H100", "grouped")
    assert (one.figure, one.unit, one.note, one.verified) == (11.0, "ms", "", False)
    assert one.case.traffic.tokens == 64


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"device": "cuda:0", "execution": "graph", "seed": 5}, True),
        ({"tokens": 65}, False),
        ({"dtype": "fp32"}, False),
        ({"pass": "training"}, False),
        ({"scope": "layer"}, False),
        ({"traffic": "zipf:1"}, False),
        ({"top_k": 1}, False),
        ({"activation": "gelu"}, False),
    ],
    ids=str,
)
def test_what_is_the_same_work(changes: dict[str, Any], same: bool) -> None:
    assert parse_published(TABLE).same_work(make_case({**OURS, **changes}, "cpu")) is same


def test_a_name_of_a_layer_means_nothing() -> None:
    named = {key: value for key, value in TABLE.items() if key not in {"hidden", "expert_hidden", "experts", "top_k"}}
    one = parse_published({**named, "preset": "olmoe-1b-7b"})
    sizes = {"hidden": 2048, "expert_hidden": 1024, "experts": 64, "top_k": 8, "renormalise": False}
    assert one.same_work(make_case({**OURS, **sizes}, "cpu"))


@pytest.mark.parametrize(
    ("device", "name", "same"),
    [
        ("H100", "NVIDIA H100 80GB HBM3", True),
        ("h100", "NVIDIA H100 PCIe", True),
        ("H100", "NVIDIA H1000", False),
        ("H100", "NVIDIA H200", False),
        ("", "NVIDIA H100 80GB HBM3", False),
    ],
)
def test_what_is_the_same_device(device: str, name: str, same: bool) -> None:
    one = Published(
        source="s", implementation="i", figure=1.0, unit="ms", case=parse_published(TABLE).case, device=device
    )
    assert one.same_device(name) is same


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"figure": 0}, "figure = 0: a number above 0"),
        ({"figure": True}, "figure = True: a number"),
        ({"figure": "11"}, "figure = '11': a number"),
        ({"figure": float("inf")}, "figure = inf: a number"),
        ({"unit": "s"}, "unit = 's': one of TFLOP/s, ms"),
        ({"unit": []}, r"unit = \[\]: one of"),
        ({"source": ""}, "source = '': a text"),
        ({"device": 100}, "device = 100: a text"),
        ({"implementation": ["a"]}, r"implementation = \['a'\]: a text"),
        ({"verified": 1}, "verified = 1: true or false"),
        ({"seed": 1}, "seed = 1: not a key of"),
        ({"figures": 1}, r"figures = 1: not a key of \[\[published\]\], did you mean 'figure'"),
        ({"tokens": [1, 2]}, r"tokens = \[1, 2\]: one value"),
        ({"tokens": "many"}, "tokens = 'many': a whole number"),
        ({"dtype": "fp8"}, "dtype = 'fp8': one of"),
    ],
    ids=str,
)
def test_what_a_table_may_not_say(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        parse_published(TABLE | changes)


@pytest.mark.parametrize("key", ["source", "implementation", "figure", "unit"])
def test_what_a_table_must_say(key: str) -> None:
    with pytest.raises(ValueError, match=f"^{key} missing"):
        parse_published({name: value for name, value in TABLE.items() if name != key})
    with pytest.raises(ValueError, match="tokens is missing"):
        parse_published({name: value for name, value in TABLE.items() if name != "tokens"})


@pytest.mark.parametrize("name", [name for name in shipped_suites() if name.startswith("published-")])
def test_a_suite_measures_what_it_sets_beside_figures(name: str) -> None:
    suite = load_suite(find_suite(name))
    planned = suite.cases("cuda:0")
    for one in suite.published:
        assert not one.verified
        same = [p for p in planned if one.same_work(p.case)]
        assert same
        assert not one.ours or any(one.ours in (p.implementations or ()) for p in same)
    if name != "published-transformers":
        assert suite.published

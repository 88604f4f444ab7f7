"""Axes: typing of values, overrides, and the case a choice makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cases.axes import combine_axes, make_case, parse_override, parse_values
from harness.cases.case import Case
from harness.cases.keys import KEYS, MEANINGS
from harness.cases.presets import preset
from harness.cases.shape import Router, Shape
from harness.cases.traffic import Traffic

if TYPE_CHECKING:
    from harness.cases.axes import Value

SIZES: dict[str, Value] = {"hidden": 16, "expert_hidden": 8, "experts": 4, "top_k": 2, "tokens": 5}


def test_a_scalar_is_a_list_of_one() -> None:
    assert parse_values("tokens", 3) == parse_values("tokens", [3]) == (3,)


def test_whole_numbers_pass_for_numbers() -> None:
    (value,) = parse_values("routed_scale", 2)
    assert value == 2.0
    assert isinstance(value, float)


@pytest.mark.parametrize(
    ("key", "given_", "message"),
    [
        ("tokens", ["many"], "tokens = 'many': a whole number"),
        ("tokens", True, "tokens = True: a whole number"),
        ("tokens", 1.0, r"tokens = 1\.0: a whole number"),
        ("tokens", [[1]], r"tokens = \[1\]: a whole number"),
        ("tokens", {"a": 1}, "tokens = {'a': 1}: a whole number"),
        ("tokens", [], r"tokens = \[\]: at least one value"),
        ("gated", "yes", "gated = 'yes': true or false"),
        ("gated", 1, "gated = 1: true or false"),
        ("routed_scale", "big", "routed_scale = 'big': a number"),
        ("routed_scale", False, "routed_scale = False: a number"),
        ("capacity_factor", float("inf"), "capacity_factor = inf: a number"),
        ("capacity_factor", float("nan"), "capacity_factor = nan: a number"),
        ("dtype", 16, "dtype = 16: a text"),
        ("preset", "", "preset = '': a text"),
        ("token", 1, "token = 1: not a key of a sweep, did you mean 'tokens'"),
        ("qqq", 1, "qqq = 1: not a key of a sweep, one of preset, model, hidden"),
    ],
)
def test_malformed_values(key: str, given_: object, message: str) -> None:
    with pytest.raises(ValueError, match="^" + message):
        parse_values(key, given_)


@pytest.mark.parametrize(
    ("text", "key", "values"),
    [
        ("tokens=1,64", "tokens", [1, 64]),
        ("tokens = 1, 64 ", "tokens", [1, 64]),
        ("gated=true,false", "gated", [True, False]),
        ("routed_scale=2.5,1", "routed_scale", [2.5, 1.0]),
        ("traffic=zipf:1.0,uniform", "traffic", ["zipf:1.0", "uniform"]),
        ("implementation=loop", "implementation", ["loop"]),
        ("model=a=b/config.json", "model", ["a=b/config.json"]),
    ],
)
def test_overrides(text: str, key: str, values: list[Value]) -> None:
    assert parse_override(text) == (key, values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tokens", "--set = 'tokens': key=value, or key=value,value"),
        ("=3", "--set = '=3': key=value"),
        ("tokenz=1", "--set: tokenz = '1': not a key of a sweep, did you mean 'tokens'"),
        ("tokens=", "--set: tokens = '': a whole number"),
        ("tokens=1,,2", "--set: tokens = '': a whole number"),
        ("tokens=many", "--set: tokens = 'many': a whole number"),
        ("tokens=1.5", r"--set: tokens = '1\.5': a whole number"),
        ("gated=1", "--set: gated = '1': true or false"),
        ("gated=True", "--set: gated = 'True': true or false"),
        ("routed_scale=nan", "--set: routed_scale = 'nan': a number"),
        ("preset=", "--set: preset = '': a text"),
    ],
)
def test_malformed_overrides(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="^" + message):
        parse_override(text)


words = st.text("abc-_:.0123456789", min_size=1, max_size=8).map(str.strip).filter(bool)
VALUES: dict[type, st.SearchStrategy[Any]] = {
    int: st.integers(-(10**6), 10**6),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    str: words,
}


@given(
    st.sampled_from(sorted(KEYS)).flatmap(lambda key: st.tuples(st.just(key), st.lists(VALUES[KEYS[key]], min_size=1)))
)
def test_overrides_written_out_read_back(pair: tuple[str, list[Value]]) -> None:
    key, values = pair
    written = ",".join(str(value).lower() if isinstance(value, bool) else str(value) for value in values)
    assert parse_override(f"{key}={written}") == (key, values)
    assert parse_values(key, values) == tuple(dict.fromkeys(values))


def test_a_choice_of_sizes_makes_a_case() -> None:
    choice: dict[str, Value] = {
        **SIZES,
        "activation": "relu",
        "gated": False,
        "router": "sigmoid",
        "routed_scale": 2.0,
        "groups": 2,
        "top_groups": 1,
        "traffic": "zipf",
        "seed": 7,
        "dtype": "fp32",
        "pass": "training",
        "scope": "layer",
        "execution": "compile",
    }
    router = Router(kind="sigmoid", scale=2.0, groups=2, top_groups=1)
    shape = Shape(hidden=16, expert_hidden=8, experts=4, top_k=2, activation="relu", gated=False, router=router)
    traffic = Traffic(tokens=5, spread="zipf:1", seed=7)
    about: dict[str, Any] = {"dtype": "fp32", "pass_": "training", "scope": "layer", "execution": "compile"}
    assert make_case(choice, "cpu") == Case(shape=shape, traffic=traffic, **about)


def test_every_field_of_a_case_has_a_key() -> None:
    fields = {f.name for s in (Shape, Router, Traffic, Case) for f in msgspec.structs.fields(s)}
    renamed = {"kind": "router", "scale": "routed_scale", "spread": "traffic", "pass_": "pass"}
    keys = {renamed.get(name, name) for name in fields} - {"name", "shape"}
    assert keys | {"preset", "model", "implementation"} == set(KEYS)


def test_a_preset_stays_itself_and_a_changed_one_says_so() -> None:
    olmoe = preset("olmoe-1b-7b")
    assert make_case({"preset": "olmoe-1b-7b", "tokens": 1}, "cpu").shape == olmoe
    assert make_case({"preset": "olmoe-1b-7b", "experts": 64, "tokens": 1}, "cpu").shape == olmoe
    changed = make_case({"preset": "olmoe-1b-7b", "experts": 8, "renormalise": True, "tokens": 1}, "cpu").shape
    assert changed.name == "olmoe-1b-7b changed"
    assert (changed.experts, changed.hidden, changed.router.renormalise) == (8, olmoe.hidden, True)


def test_device_is_the_choices_or_the_callers() -> None:
    assert make_case(SIZES, "cuda:1").device == "cuda:1"
    assert make_case({**SIZES, "device": "auto"}, "cuda:1").device == "cuda:1"
    assert make_case({**SIZES, "device": "cpu"}, "cuda:1").device == "cpu"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top_k": 16}, "top_k = 16: at most experts = 4"),
        ({"groups": 3}, "groups = 3: a divisor of experts = 4"),
        ({"tokens": -1}, "tokens = -1: a whole number of at least 0"),
        ({"hidden": 0}, "hidden = 0: a whole number of at least 1"),
        ({"router": "switch"}, "top_k = 2: 1 for router 'switch'"),
        ({"router": "best"}, "router = 'best': one of softmax"),
        ({"traffic": "poisson"}, "traffic = 'poisson': one of uniform"),
        ({"traffic": "zipf:99"}, "traffic = 'zipf:99': zipf:s with s from 0 to 10"),
        ({"dtype": "fp8"}, "dtype = 'fp8': one of fp32, bf16, fp16"),
        ({"device": "tpu"}, "device = 'tpu': cpu, cuda or cuda:N"),
        ({"preset": "olmo"}, "preset = 'olmo': "),
        ({"model": "/nowhere/config.json"}, "/nowhere/config.json: cannot be read"),
    ],
)
def test_values_that_do_not_go_together(change: dict[str, Value], message: str) -> None:
    with pytest.raises(ValueError, match="^" + message):
        make_case({**SIZES, **change}, "cpu")


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match=r"^tokens is missing"):
        make_case({"preset": "olmoe-1b-7b"}, "cpu")
    with pytest.raises(ValueError, match=r"^experts, top_k missing: give preset, model, or all of hidden"):
        make_case({"hidden": 8, "expert_hidden": 8, "tokens": 1}, "cpu")


def test_combining_replaces_an_axis_in_place_and_appends_new_ones() -> None:
    combined = combine_axes({"tokens": (1, 2), "seed": (0,)}, {"tokens": [9], "dtype": ["fp32"]})
    assert list(combined.items()) == [("tokens", (9,)), ("seed", (0,)), ("dtype", ("fp32",))]


def test_a_named_layer_on_the_command_line_replaces_the_whole_layer() -> None:
    sweep = {"hidden": (8,), "experts": (4, 8), "router": ("sigmoid",), "tokens": (1,), "dtype": ("fp32",)}
    combined = combine_axes(sweep, {"model": ["m/config.json"], "top_k": [1]})
    assert combined == {"tokens": (1,), "dtype": ("fp32",), "model": ("m/config.json",), "top_k": (1,)}


def test_two_named_layers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^model = 'b': not together with preset"):
        combine_axes({"preset": ("a",), "model": ("b",)}, {})
    with pytest.raises(ValueError, match=r"^model = 'b': not together with preset"):
        combine_axes({}, {"preset": ["a"], "model": ["b"]})


def test_overrides_are_checked_again() -> None:
    with pytest.raises(ValueError, match=r"^tokens = 'x': a whole number"):
        combine_axes({}, {"tokens": ["x"]})


def test_every_key_says_what_it_means() -> None:
    assert list(MEANINGS) == list(KEYS)

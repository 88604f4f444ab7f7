"""Suites: products, overrides, merging, and one line for everything malformed."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.cases.cost import memory_estimate_bytes
from harness.cases.shipped import find_suite
from harness.cases.suite import Suite, Sweep, check_memory, load_suite, parse_budget

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.cases.case import PlannedCase

    Write = Callable[[str], Path]

HEAD = '[suite]\nname = "x"\n'
SIZES = "hidden = 16\nexpert_hidden = 8\nexperts = 8\ntop_k = 2\n"
SWEEP = f"{HEAD}[[sweep]]\n{SIZES}"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(text: str) -> Path:
        path = tmp_path / "x.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return to_file


def test_a_whole_suite(write: Write) -> None:
    suite = load_suite(
        write("""
[suite]
name = "quick"
description = "What a laptop can tell"
budget = "4m"

[[sweep]]
preset = ["olmoe-1b-7b"]
tokens = [1, 16]
traffic = ["uniform", "zipf:1.0"]
dtype = ["fp32"]

[[sweep]]
hidden = [64]
expert_hidden = 32
experts = [8, 32]
top_k = [1, 8]
tokens = [512]
implementation = ["loop", "grouped"]

[[case]]
preset = "olmoe-1b-7b"
tokens = 3
pass = "training"
""")
    )
    assert (suite.name, suite.description, suite.budget_s) == ("quick", "What a laptop can tell", 240.0)
    planned = suite.cases("cpu")
    told = [(p.case.shape.experts, p.case.shape.top_k, p.case.traffic.tokens, p.case.traffic.spread) for p in planned]
    assert told == [
        (64, 8, 1, "uniform"),
        (64, 8, 1, "zipf:1"),
        (64, 8, 16, "uniform"),
        (64, 8, 16, "zipf:1"),
        (8, 1, 512, "gaussian:0.15"),
        (8, 8, 512, "gaussian:0.15"),
        (32, 1, 512, "gaussian:0.15"),
        (32, 8, 512, "gaussian:0.15"),
        (64, 8, 3, "gaussian:0.15"),
    ]
    assert [p.implementations for p in planned] == [None] * 4 + [("loop", "grouped")] * 4 + [None]
    assert planned[-1].case.pass_ == "training"


def test_suite_says_little_by_default(write: Write) -> None:
    suite = load_suite(write(SWEEP + "tokens = 1"))
    assert (suite.description, suite.budget_s) == ("", None)


def test_device_command_line_over_file_over_caller(write: Write) -> None:
    suite = load_suite(write(SWEEP + 'tokens = 1\ndevice = ["cuda", "auto"]'))
    assert [p.case.device for p in suite.cases("cpu")] == ["cuda:0", "cpu"]
    assert [p.case.device for p in suite.cases("cpu", {"device": ["cuda:3"]})] == ["cuda:3"]


def test_equal_cases_are_measured_once_for_all_who_asked(write: Write) -> None:
    one = f"[[sweep]]\n{SIZES}tokens = 1\n"
    first, second = one + 'implementation = ["loop", "soft"]\n', one + 'implementation = ["soft", "dense"]\n'
    planned = load_suite(write(HEAD + first + second)).cases("cpu")
    assert [p.implementations for p in planned] == [("loop", "soft", "dense")]
    assert [p.implementations for p in load_suite(write(HEAD + first + one)).cases("cpu")] == [None]
    assert [p.implementations for p in load_suite(write(HEAD + one + first)).cases("cpu")] == [None]


def test_spellings_of_one_case_are_one_case(write: Write) -> None:
    assert len(load_suite(write(SWEEP + 'tokens = [1, 1]\ntraffic = ["gaussian", "gaussian:0.15"]')).cases("cpu")) == 1


def test_a_model_is_found_beside_the_suite_and_replaced_as_a_whole(write: Write, tmp_path: Path) -> None:
    config = {
        "model_type": "mixtral",
        "hidden_act": "silu",
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    }
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    suite = load_suite(write(HEAD + '[[sweep]]\nmodel = "mine/config.json"\ntokens = [1, 2]\ntop_k = [1, 4]'))
    assert [(p.case.shape.hidden, p.case.shape.top_k) for p in suite.cases("cpu")] == [(32, 1), (32, 4)] * 2
    other = suite.cases("cpu", {"preset": ["olmoe-1b-7b"]})
    assert [p.case.shape.name for p in other] == ["olmoe-1b-7b"] * 2
    again = load_suite(write(SWEEP + "tokens = [1, 2]")).cases(
        "cpu", {"model": [str(tmp_path / "mine" / "config.json")]}
    )
    assert [p.case.shape.name for p in again] == ["mine"] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tokens = 1 2", "not TOML: "),
        ("[suite", "not TOML: "),
        ("a = 1\na = 2", "not TOML: "),
        ("", "no cases: at least one [[sweep]] or [[case]]"),
        (HEAD, "no cases: at least one [[sweep]] or [[case]]"),
        ("sweep = []\n" + HEAD, "no cases"),
        (HEAD + "[sweep]\ntokens = 1", "sweep: a list of tables, each written [[sweep]]"),
        ("sweep = [1]\n" + HEAD, "sweep: a list of tables"),
        ("[[suite]]\nname = 'x'", "suite: one table, written [suite]"),
        (HEAD + "[[sweeps]]\ntokens = 1", "[sweeps]: not a part of a suite, did you mean 'sweep'?"),
        (HEAD + "[other]", "[other]: not a part of a suite, one of suite, sweep, case"),
        (f"[[sweep]]\n{SIZES}tokens = 1", "[suite]: name = None: a word of letters"),
        (f"[suite]\nname = 'a b'\n[[sweep]]\n{SIZES}tokens = 1", "[suite]: name = 'a b': a word"),
        (f"[suite]\nname = 1\n[[sweep]]\n{SIZES}tokens = 1", "[suite]: name = 1: a word"),
        (f"[suite]\nname = 'x'\nbudgets = '4m'\n[[sweep]]\n{SIZES}tokens = 1", "[suite]: budgets = '4m': not a key of"),
        (f"[suite]\nname = 'x'\nbudget = '4'\n[[sweep]]\n{SIZES}tokens = 1", "[suite]: budget = '4': a time above 0"),
        (f"[suite]\nname = 'x'\nbudget = 4\n[[sweep]]\n{SIZES}tokens = 1", "[suite]: budget = 4: a time above 0"),
        (f"[suite]\nname = 'x'\ndescription = 4\n[[sweep]]\n{SIZES}tokens = 1", "[suite]: description = 4: a text"),
        (SWEEP, "sweep 1: tokens is missing"),
        (SWEEP + "tokens = 1\ntoken = 2", "sweep 1: token = 2: not a key of a sweep, did you mean 'tokens'"),
        (SWEEP + "tokens = ['many']", "sweep 1: tokens = 'many': a whole number"),
        (SWEEP + "tokens = true", "sweep 1: tokens = True: a whole number"),
        (SWEEP + "tokens = 1.0", "sweep 1: tokens = 1.0: a whole number"),
        (SWEEP + "tokens = 2024-01-01", "sweep 1: tokens = datetime.date(2024, 1, 1): a whole number"),
        (SWEEP + "tokens = []", "sweep 1: tokens = []: at least one value"),
        (SWEEP + "tokens = [1, -5]", "sweep 1: tokens = -5: a whole number of at least 0"),
        (SWEEP + "tokens = 1\nseed = -1", "sweep 1: seed = -1: a whole number from 0 to"),
        (
            SWEEP + "tokens = 1\nseed = 1099511627777",
            "sweep 1: seed = 1099511627777: a whole number from 0 to 1099511627776",
        ),
        (SWEEP + "tokens = 1\ntraffic = 'tile:1.5'", "sweep 1: traffic = 'tile:1.5': tile:rows with rows a whole"),
        (SWEEP + "tokens = 1\ngroups = 3", "sweep 1: groups = 3: a divisor of experts = 8"),
        (SWEEP + "tokens = 1\ngroups = 4\ntop_groups = 5", "sweep 1: top_groups = 5: 1 to groups = 4"),
        (SWEEP + "tokens = 1\ngroups = 8", "sweep 1: top_groups = 1: enough groups for top_k = 2"),
        (SWEEP + "tokens = 1\ntraffic = 'gauss'", "sweep 1: traffic = 'gauss': one of uniform"),
        (SWEEP + "tokens = 1\ntraffic = 'zipf:x'", "sweep 1: traffic = 'zipf:x': zipf:s with s from 0 to 10"),
        (SWEEP + "tokens = 1\nrouter = 'topk'", "sweep 1: router = 'topk': one of softmax"),
        (SWEEP + "tokens = 1\ndtype = 'fp8'", "sweep 1: dtype = 'fp8': one of fp32"),
        (SWEEP + "tokens = 1\npass = 'backward'", "sweep 1: pass = 'backward': one of forward, training"),
        (SWEEP + "tokens = 1\nscope = 'model'", "sweep 1: scope = 'model': one of experts, layer"),
        (SWEEP + "tokens = 1\nexecution = 'jit'", "sweep 1: execution = 'jit': one of eager"),
        (SWEEP + "tokens = 1\ndevice = 'gpu'", "sweep 1: device = 'gpu': cpu, cuda or cuda:N"),
        (SWEEP + "tokens = 1\nactivation = 'tanh'", "sweep 1: activation = 'tanh': one of silu"),
        (SWEEP + "tokens = 1\nshared_experts = 1", "sweep 1: shared_hidden = 0: above 0 exactly when"),
        (SWEEP + "tokens = 1\nimplementation = []", "sweep 1: implementation = []: at least one value"),
        (SWEEP + "tokens = 1\nimplementation = [1]", "sweep 1: implementation = 1: a text"),
        (SWEEP + 'tokens = 1\ndtype = "a\\nb"', r"sweep 1: dtype = 'a\nb': one of"),
        (f"{HEAD}[[sweep]]\nhidden = 8\ntokens = 1", "sweep 1: expert_hidden, experts, top_k missing: give preset"),
        (f"{HEAD}[[sweep]]\npreset = 'olmo'\ntokens = 1", "sweep 1: preset = 'olmo': "),
        (f"{HEAD}[[sweep]]\npreset = 'a'\nmodel = 'b'\ntokens = 1", "sweep 1: model = "),
        (f"{HEAD}[[sweep]]\nmodel = 'no.json'\ntokens = 1", "sweep 1: "),
        (f"{SWEEP}tokens = 1\n[[sweep]]\n{SIZES}tokens = 1\n[[sweep]]\nx = 1", "sweep 3: x = 1: not a key"),
        (
            f"{SWEEP}tokens = 1\n[[sweep]]\n{SIZES.replace('top_k = 2', 'top_k = [1, 16]')}tokens = 1",
            "sweep 2: top_k = 16: at most experts = 8",
        ),
        (f"{SWEEP}tokens = 1\n[[case]]\n{SIZES}tokens = [1]", "case 1: tokens = [1]: one value in [[case]]"),
        (f"{SWEEP}tokens = 1\n[[case]]\n{SIZES}", "case 1: tokens is missing"),
    ],
)
def test_malformed_suites_say_so_in_one_line(text: str, message: str, write: Write) -> None:
    path = write(text)
    with pytest.raises(ValueError, match=r"x\.toml: ") as caught:
        load_suite(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_bad_toml_names_line_and_column(write: Write) -> None:
    with pytest.raises(ValueError, match=r"not TOML: .*line 3, column"):
        load_suite(write("[suite]\nname = 'x'\ntokens = = 1"))


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.toml: cannot be read: No such file"):
        load_suite(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"[suite]\nname = '\xe9'")
    with pytest.raises(ValueError, match=r"latin\.toml: not TOML: "):
        load_suite(tmp_path / "latin.toml")


def test_an_override_can_be_what_does_not_fit(write: Write) -> None:
    suite = load_suite(write(SWEEP + "tokens = 1"))
    with pytest.raises(
        ValueError, match=r"x\.toml: sweep 1, as the command line changes it: top_k = 9: at most experts = 8$"
    ):
        suite.cases("cpu", {"top_k": [9]})
    with pytest.raises(
        ValueError, match=r"x\.toml: sweep 1, as the command line changes it: tokenz = \[1\]: not a key"
    ):
        suite.cases("cpu", {"tokenz": [1]})


def test_a_suite_may_leave_its_layer_to_the_command_line(write: Write) -> None:
    path = write('[suite]\nname = "x"\n[[sweep]]\ntokens = 1')
    with pytest.raises(
        ValueError, match=r"x\.toml: sweep 1: hidden, expert_hidden, experts, top_k missing: give preset"
    ):
        load_suite(path)
    layer = {"preset": ["olmoe-1b-7b"]}
    (one,) = load_suite(path, layer).cases("cpu", layer)
    assert one.case.shape.name == "olmoe-1b-7b"


def test_nested_too_deep_is_one_line(write: Write) -> None:
    with pytest.raises(ValueError, match=r"x\.toml: not TOML: maximum recursion depth"):
        load_suite(write(SWEEP + "tokens = " + "[" * 5000 + "]" * 5000))


@pytest.mark.parametrize("key", ["hidden", "expert_hidden", "experts", "shared_hidden", "tokens"])
def test_sizes_that_no_float_holds_are_refused(write: Write, key: str) -> None:
    suite = load_suite(write(SWEEP + "tokens = 1"))
    sizes = {"shared_experts": [1], "shared_hidden": [8], key: [10**400]}
    with pytest.raises(ValueError, match=rf"{key} = 10+: a whole number of at most {2**40}$"):
        suite.cases("cpu", sizes)


def test_implementation_override_replaces_the_filter(write: Write) -> None:
    suite = load_suite(write(SWEEP + 'tokens = 1\nimplementation = ["loop"]'))
    assert [p.implementations for p in suite.cases("cpu", {"implementation": ["soft", "soft"]})] == [("soft",)]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("4m", 240), ("1h", 3600), ("1.5m", 90), ("0.5s", 0.5)])
def test_budgets(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "4", "m", "4 m", "-4m", "0s", "4min", "1h30m", "infs", 4, None, "4m\n", "9" * 400 + "s", "8761h"]
)
def test_malformed_budgets(text: object) -> None:
    with pytest.raises(ValueError, match=r"^budget = "):
        parse_budget(text)


def some(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(values, min_size=1, max_size=3, unique=True)


AXES = st.fixed_dictionaries(
    {"experts": some(st.integers(4, 9)), "tokens": some(st.integers(0, 9))},
    optional={
        "top_k": some(st.integers(1, 4)),
        "traffic": some(st.sampled_from(["uniform", "zipf:1", "gaussian:0.15"])),
        "dtype": some(st.sampled_from(["fp32", "bf16"])),
    },
)


def a_suite(axes: dict[str, list[str | int]]) -> Suite:
    from pathlib import Path

    fixed: dict[str, tuple[str | int, ...]] = {"hidden": (8,), "expert_hidden": (4,), "top_k": (2,)}
    sweep = Sweep("sweep 1", {**fixed, **{key: tuple(values) for key, values in axes.items()}})
    return Suite(Path("x.toml"), "x", "", None, (sweep,))


def coordinates(planned: list[PlannedCase], keys: list[str]) -> list[tuple[object, ...]]:
    def one(key: str, p: PlannedCase) -> object:
        found = {
            "experts": p.case.shape.experts,
            "top_k": p.case.shape.top_k,
            "tokens": p.case.traffic.tokens,
            "traffic": p.case.traffic.spread,
            "dtype": p.case.dtype,
        }
        return found[key]

    return [tuple(one(key, p) for key in keys) for p in planned]


@settings(max_examples=50, deadline=None)
@given(AXES)
def test_cases_are_the_product_in_order_each_once(axes: dict[str, list[str | int]]) -> None:
    planned = a_suite(axes).cases("cpu")
    keys = sorted(axes, key=["top_k", *axes].index)
    assert coordinates(planned, keys) == list(itertools.product(*(axes[key] for key in keys)))
    assert len(planned) == math.prod(len(values) for values in axes.values())
    assert len({p.case.case_id for p in planned}) == len(planned)


@settings(max_examples=50, deadline=None)
@given(AXES, AXES)
def test_overriding_is_like_having_written_it(
    axes: dict[str, list[str | int]], overrides: dict[str, list[str | int]]
) -> None:
    overridden = {p.case.case_id for p in a_suite(axes).cases("cpu", overrides)}
    written = {p.case.case_id for p in a_suite({**axes, **overrides}).cases("cpu")}
    assert overridden == written


def test_memory_is_checked_before_anything_runs() -> None:
    planned = a_suite({"experts": [8], "tokens": [4, 4096]}).cases("cpu")
    needed = [memory_estimate_bytes(p.case) for p in planned]
    check_memory(planned, {"cpu": max(needed)})
    check_memory(planned, {"cuda:0": 1})
    with pytest.raises(
        ValueError, match=r"T=4096 .*too large for memory: case needs 0\.\d GiB, cpu has 0\.\d GiB; lower"
    ):
        check_memory(planned, {"cpu": min(needed)})


def test_no_part_of_the_room_imports_torch() -> None:
    code = (
        "import pkgutil, sys, importlib, harness.cases as room\n"
        "for info in pkgutil.iter_modules(room.__path__): importlib.import_module('harness.cases.' + info.name)\n"
        "from harness.cases.shipped import find_suite\n"
        "from harness.cases.suite import load_suite\n"
        "load_suite(find_suite('tiny')).cases('cpu')\n"
        "print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


TRACED = """
[[sweep]]
preset = "olmoe-1b-7b"
tokens = 16
traffic = ["uniform", "trace:pydoc?layer=1&phase=decode"]
"""


def test_a_trace_that_another_layer_cannot_follow_is_left_out_and_named(write: Write) -> None:
    suite = load_suite(write(HEAD + TRACED))
    left_out: list[str] = []
    planned = suite.cases("cpu", {"preset": ["qwen3-30b-a3b", "mixtral-8x7b"]}, left_out)
    assert [(one.case.shape.name, one.case.traffic.spread) for one in planned] == [
        ("qwen3-30b-a3b", "uniform"),
        ("mixtral-8x7b", "uniform"),
    ]
    assert len(left_out) == 2
    assert "sweep 1: traffic = 'trace:pydoc?layer=1&phase=decode" in left_out[0]
    assert "the trace has experts = 64, top_k = 8, the shape experts = 128, top_k = 8" in left_out[0]
    same = suite.cases("cpu", {"tokens": [7]}, left_out)
    assert [one.case.traffic.tokens for one in same] == [7, 7]
    assert len(left_out) == 2


def test_a_trace_that_was_asked_for_must_fit(write: Write) -> None:
    suite = load_suite(write(HEAD + TRACED))
    with pytest.raises(
        ValueError,
        match=r"sweep 1, as the command line changes it: traffic = 'trace:pydoc.*: the trace has experts = 64",
    ):
        suite.cases("cpu", {"preset": ["mixtral-8x7b"], "traffic": ["trace:pydoc?layer=1"]})
    only = load_suite(write(HEAD + TRACED.replace('"uniform", ', "")))
    with pytest.raises(ValueError, match=r"sweep 1: traffic = 'trace:pydoc.*: the trace has experts = 64"):
        only.cases("cpu", {"preset": ["mixtral-8x7b"]})
    with pytest.raises(ValueError, match="the trace has experts = 64"):
        load_suite(write(HEAD + TRACED.replace("olmoe-1b-7b", "mixtral-8x7b")))


@pytest.mark.parametrize("name", ["quick", "skew", "reference", "decode", "prefill", "models", "training", "peers"])
@pytest.mark.parametrize("preset", ["qwen3-30b-a3b", "mixtral-8x7b"])
def test_shipped_suites_take_another_layer(name: str, preset: str) -> None:
    planned = load_suite(find_suite(name)).cases("cpu", {"preset": [preset]})
    assert {one.case.shape.name.removesuffix(" changed") for one in planned} == {preset}

"""Candidates as implementations: their names, and what they are prepared with."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.layer.contract import Implementation, Tunable
from harness.records.tuned import TunedBook
from harness.running import jobs
from harness.running.worker.tuner import candidate, candidate_name, tune_all

VALUES = st.dictionaries(st.text(max_size=5), st.integers(-9, 9) | st.text(max_size=5), max_size=4)


@settings(deadline=None)
@given(VALUES, VALUES)
def test_equal_values_have_equal_names(one: dict[str, int | str], other: dict[str, int | str]) -> None:
    assert candidate_name("mine", one) == candidate_name("mine", dict(reversed(one.items())))
    assert (candidate_name("mine", one) == candidate_name("mine", other)) == (one == other)


def test_what_is_refused_needs_no_weights_and_no_budget(plans: Any) -> None:
    tunable = Tunable(
        candidates=lambda _case, _base: [], prepare=lambda _layer, _values: never(), book=TunedBook("mine")
    )
    about: dict[str, Any] = dict.fromkeys(("version", "summary", "source_hash", "origin"), "")
    about |= {"devices": ("cuda",), "passes": ("forward",), "dtypes": ("fp32",)}
    mine = Implementation(name="mine", family="fused", prepare=lambda _: never(), tunable=tunable, **about)
    job = jobs.TuneJob(impl="mine", cases=[plans.case(4), plans.case(8)], environment_id="e", budget_s=0)
    heard: list[Any] = []
    tune_all(job, mine, lambda _: never(), lambda *_: never(), heard.append)
    assert [outcome.case_id for outcome in heard] == [case.case_id for case in job.cases]
    assert [outcome.records[0].status for outcome in heard] == ["unsupported", "unsupported"]


def test_a_candidate_is_prepared_with_its_values() -> None:
    seen: list[Any] = []

    def prepare(layer: Any, values: Any) -> Any:
        seen.append((layer, values))
        return "forward"

    tunable = Tunable(candidates=lambda _case, _base: [], prepare=prepare, book=TunedBook("mine"))
    about: dict[str, Any] = dict.fromkeys(("devices", "passes", "dtypes"), ())
    about |= dict.fromkeys(("version", "summary", "source_hash", "origin"), "")
    mine = Implementation(name="mine", family="fused", prepare=lambda _: never(), tunable=tunable, **about)
    made = candidate(mine, tunable, {"block": 3})
    assert made.family == "fused"
    assert made.name == candidate_name("mine", {"block": 3}) != "mine"
    layer: Any = "layer"
    assert made.prepare(layer) == "forward"  # type: ignore[comparison-overlap]
    assert seen == [("layer", {"block": 3})]


def never() -> Any:
    raise AssertionError("the default was prepared")

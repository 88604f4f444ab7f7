"""Series: their names, and the values read off records."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cases.case import DTYPE_BYTES, EXECUTIONS, PASSES, SCOPES, Case
from harness.cases.shape import ACTIVATIONS, Router, Shape
from harness.cases.traffic import Traffic
from harness.export import series
from harness.export.series import METRICS, ORDINARY, Outcome, case_name, outcomes, parameter, series_name, series_title

if TYPE_CHECKING:
    from harness.records.record import Record
    from tests.export.conftest import Maker

SHAPE: dict[str, Any] = {"hidden": 8, "expert_hidden": 4, "experts": 4, "top_k": 2}


def shapes() -> st.SearchStrategy[Shape]:
    routers = st.builds(
        Router,
        kind=st.sampled_from(["softmax", "sigmoid"]),
        renormalise=st.booleans(),
        selection_bias=st.booleans(),
        scale=st.sampled_from([1.0, 2.5, 2.05, 1e-5, 1e5]),
    )
    return st.builds(
        Shape,
        hidden=st.sampled_from([8, 16]),
        expert_hidden=st.sampled_from([4, 8]),
        experts=st.just(4),
        top_k=st.sampled_from([1, 2]),
        activation=st.sampled_from([name for name in ACTIVATIONS if name != "clamped_swiglu"]),
        gated=st.booleans(),
        bias=st.booleans(),
        router=routers,
    )


def cases() -> st.SearchStrategy[Case]:
    spreads = ["uniform", "gaussian:0.15", "gaussian:1.5", "dirichlet:0.001", "dirichlet:1000000", "zipf:1"]
    traffic = st.builds(
        Traffic, tokens=st.sampled_from([1, 11]), spread=st.sampled_from(spreads), seed=st.sampled_from([0, 1])
    )
    return st.builds(
        Case,
        shape=shapes(),
        traffic=traffic,
        dtype=st.sampled_from(list(DTYPE_BYTES)),
        pass_=st.sampled_from(PASSES),
        scope=st.sampled_from(SCOPES),
        execution=st.sampled_from(EXECUTIONS),
        device=st.sampled_from(["cpu", "cuda:0", "cuda:1"]),
    )


@given(cases(), cases())
def test_names_are_equal_for_equal_cases_only(first: Case, second: Case) -> None:
    names = [case_name(msgspec.to_builtins(case)) for case in (first, second)]
    assert (names[0] == names[1]) == (first.case_id == second.case_id)


@given(cases())
def test_names_are_what_asv_can_take(case: Case) -> None:
    """asv splits names at '.' and '-', makes files of them, and knows what to call by their last part."""
    for metric in METRICS:
        assert re.fullmatch(
            r"[A-Za-z0-9_]+\.[A-Za-z0-9_]+\.track_[a-z_]+", series_name(msgspec.to_builtins(case), metric)
        )


@pytest.mark.parametrize(("struct", "key"), [(Shape, "shape"), (Router, "router"), (Case, "case")])
def test_what_names_leave_out_is_what_cases_have_by_default(struct: Any, key: str) -> None:
    fields = msgspec.structs.fields(struct)
    named = {*series.SIZES, "name", "router", "dtype", "device"}
    defaults = {f.encode_name: f.default for f in fields if not f.required and f.encode_name not in named}
    assert defaults == ORDINARY[key]


def test_a_name_can_be_read() -> None:
    case = Case(shape=Shape(**SHAPE, name="tiny"), traffic=Traffic(tokens=16, spread="zipf:1.5"), pass_="training")
    plain = msgspec.to_builtins(case)
    assert series_name(plain, series.TIME) == "H8_I4_E4_k2.T16_zipf_1_5_bf16_pass_training_cpu.track_time"
    assert series_title(plain, series.TIME) == "time of a call: tiny H8 I4 E4 k2, T16 zipf 1 5 bf16 pass training cpu"


def test_a_layers_name_is_no_part_of_the_series() -> None:
    named, nameless = (
        msgspec.to_builtins(Case(shape=Shape(**SHAPE, name=name), traffic=Traffic(tokens=1))) for name in ("a", "")
    )
    assert case_name(named) == case_name(nameless)


def test_a_raised_version_is_another_series() -> None:
    assert [parameter("loop"), parameter("loop", "1"), parameter("loop", "2")] == ["loop", "loop", "loop@2"]


def read(*repeats: list[Record]) -> dict[str, dict[str, Outcome]]:
    """The series of records, by their last part."""
    found = outcomes([msgspec.to_builtins(records) for records in repeats])
    return {name.rpartition(".track_")[2]: by_who for name, by_who in found.items()}


def test_values(make: Maker) -> None:
    found = read([make.record("dense"), make.record("loop")])
    assert found["time"]["loop"].values == pytest.approx([3e-3 * (1 + 0.01 * (i % 5)) for i in range(15)])
    assert found["relative_time"].keys() == {"loop"}
    assert found["relative_time"]["loop"].values == [pytest.approx(3.0)]
    assert found["peak_bytes"]["loop"].values == [float(1 << 20)]
    assert found["joules_per_token"]["loop"].values == [pytest.approx(10.0 / 1000 / 8)]
    assert found["error"]["loop"].values == [pytest.approx(0.25)]


def test_what_was_prepared_counts_as_memory(make: Maker) -> None:
    copying = make.record("loop")
    assert copying.memory
    copying.memory.prepared_bytes = 5
    assert read([make.record("dense"), copying])["peak_bytes"]["loop"].values == [float((1 << 20) + 5)]


def test_the_worst_of_all_criteria_is_the_error(make: Maker) -> None:
    worst = make.record("loop")
    assert worst.agreement
    (tensor,) = worst.agreement.tensors.values()
    tensor.worst_column = tensor.row_tolerance / 2
    assert tensor.used == 0.5
    assert read([make.record("dense"), worst])["error"]["loop"].values == [pytest.approx(tensor.used)]


def test_a_process_is_a_value(make: Maker) -> None:
    """Times are compared within the rounds of one process, and each process counts once."""
    records = [make.record("dense"), make.record("loop")]
    for record, factor in zip(records, (1.0, 2.0), strict=True):
        assert record.timing
        record.timing.processes = [i % 3 for i in range(15)]
        record.timing.samples_ns = [1e6 * (factor if i % 3 == 2 else 1.0) for i in range(15)]
    assert read(records)["relative_time"]["loop"].values == [1.0, 1.0, 2.0]


def test_rounds_that_only_one_of_the_two_was_timed_in_say_nothing(make: Maker) -> None:
    records = [make.record("dense"), make.record("loop")]
    for record, rounds in zip(records, (range(1, 16), range(15)), strict=True):
        assert record.timing
        record.timing.rounds = list(rounds)
        record.timing.samples_ns = [2e6 if number == 7 else 1e6 for number in rounds]
    assert read(records)["relative_time"]["loop"].values == [1.0]
    assert records[1].timing
    records[1].timing.rounds = list(range(100, 115))
    skipped = read(records)["relative_time"]["loop"].skipped
    assert skipped == "not timed in the same rounds as the dense baseline"


def test_repeats_stand_side_by_side(make: Maker) -> None:
    found = read(
        [make.record("dense"), make.record("loop")],
        [make.record("dense"), make.record("loop", 2.0, memory=make.record("loop").memory)],
    )
    assert found["relative_time"]["loop"].values == [pytest.approx(3.0), pytest.approx(6.0)]
    assert len(found["time"]["loop"].values) == 30
    assert found["peak_bytes"]["loop"].values == [float(1 << 20)]


def test_who_failed_once_has_failed(make: Maker) -> None:
    found = read([make.record("dense"), make.record("loop")], [make.record("dense"), make.failed("loop")])
    assert all(by_who["loop"].failed == "crashed: it fell over" for by_who in found.values())
    assert not found["time"]["dense"].failed


def test_what_cannot_be_is_skipped_with_a_reason(make: Maker) -> None:
    lean = make.record("loop", memory=None, energy=None)
    found = read([make.failed("dense", "unsupported", "not here"), lean])
    assert found["time"]["dense"] == Outcome([], skipped="not here")
    assert found["relative_time"]["loop"].skipped == "no dense baseline was timed in the same bout"
    assert found["peak_bytes"]["loop"].skipped == "memory was not metered"
    assert found["joules_per_token"]["loop"].skipped == "energy was not metered"


def test_unreliable_energy_is_no_value(make: Maker) -> None:
    record = make.record("loop")
    assert record.energy
    record.energy.status, record.energy.reason = "unreliable", "the window was shorter than 1 s"
    assert read([record])["joules_per_token"]["loop"].skipped == "the window was shorter than 1 s"


@given(slower=st.floats(1.01, 10.0))
def test_a_slower_call_has_no_lower_value(make: Maker, slower: float) -> None:
    """Every value rises or stays when tokens/s fall: asv takes a fall for progress."""
    found = [read([make.record("dense"), make.record("loop", factor)]) for factor in (1.0, slower)]
    for name in found[0]:
        assert all(b >= a for a, b in zip(found[0][name]["loop"].values, found[1][name]["loop"].values, strict=True))
    assert found[1]["time"]["loop"].values > found[0]["time"]["loop"].values
    assert found[1]["relative_time"]["loop"].values > found[0]["relative_time"]["loop"].values


def test_there_is_no_metric_that_a_higher_value_is_better_for() -> None:
    assert {metric.name: metric.unit for metric in METRICS} == {
        "time": "seconds",
        "relative_time": "times dense",
        "peak_bytes": "bytes",
        "joules_per_token": "J",
        "error": "tolerances",
    }
    assert {metric.kind for metric in METRICS} == {"time", "track"}

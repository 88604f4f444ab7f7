"""Pairs that need no statistics: figures absent or impossible, other machines, what stopped working."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from harness.records.comparison import Comparison, Result, compare_runs
from harness.records.environment import Device
from harness.records.metrics import METRICS
from harness.records.pairs import Question
from harness.records.record import Energy, ImplInfo, Memory

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.records.environment import Environment
    from tests.records.conftest import Maker

MS = 1e6
PLAIN = Question()


def asked(metric: str = "time", across: Iterable[str] = ()) -> Question:
    return Question(METRICS[metric], across=frozenset(across))


def only(result: Result) -> Comparison:
    (one,) = result.comparisons
    return one


# Absent and impossible figures


def test_what_is_missing_on_a_side_is_listed(make: Maker) -> None:
    base = make.run(make.timed("loop", MS), make.timed("einsum", MS), make.timed("loop", MS, tokens=16))
    new = make.run(make.timed("loop", MS), make.timed("grouped", MS))
    result = compare_runs(base, new, PLAIN)
    told = {(one.impl, one.case.split()[4]): (one.outcome, one.reason) for one in result.comparisons}
    assert told == {
        ("loop", "T=8"): ("SAME", ""),
        ("einsum", "T=8"): ("NOT COMPARABLE", "only in base"),
        ("loop", "T=16"): ("NOT COMPARABLE", "only in base"),
        ("grouped", "T=8"): ("NOT COMPARABLE", "only in new"),
    }
    assert len(result.compared) == 1
    assert result.regressions == []


def test_runs_of_different_shapes_have_nothing_in_common(make: Maker) -> None:
    result = compare_runs(make.run(make.timed("loop", MS)), make.run(make.timed("loop", MS, tokens=16)), PLAIN)
    assert result.compared == []
    assert result.mean is None
    assert compare_runs(make.run(), make.run(), PLAIN).comparisons == []


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("everywhere", [False, True])
def test_samples_that_are_no_times_are_not_compared(make: Maker, value: float, everywhere: bool) -> None:
    base, new = make.timed("loop", MS), make.timed("loop", MS)
    assert new.timing
    new.timing.samples_ns = [value] * 25 if everywhere else [value, *new.timing.samples_ns[1:]]
    new.timing.median_ns = float(np.median(new.timing.samples_ns))
    for pair in ((base, new), (new, base)):
        found = only(compare_runs(make.run(pair[0]), make.run(pair[1]), PLAIN))
        assert found.outcome == "NOT COMPARABLE"
        assert "is not a time" in found.reason or "is no figure to compare" in found.reason
        msgspec.json.decode(msgspec.json.encode(found))


@pytest.mark.parametrize("metric", ["time", "tokens_per_second", "memory", "energy"])
def test_an_absent_figure_says_on_which_side_and_why(make: Maker, metric: str) -> None:
    bare = make.record(
        bout="b",
        memory=Memory(status="unavailable", reason="no allocator"),
        energy=Energy(status="unavailable", reason="no meter on this board"),
    )
    why = {"memory": "no allocator", "energy": "no meter on this board"}.get(metric, "not measured")
    full = make.run(make.metered(1.0))
    assert only(compare_runs(make.run(bare), full, asked(metric))).reason == f"no {metric} in base: {why}"
    assert only(compare_runs(full, make.run(bare), asked(metric))).reason == f"no {metric} in new: {why}"
    both = only(compare_runs(make.run(bare), make.run(bare), asked(metric)))
    assert (both.outcome, both.reason) == ("NOT COMPARABLE", f"no {metric} in base and new: {why}")


def test_two_reasons_are_both_told(make: Maker) -> None:
    one, other = (make.record(bout="b", energy=Energy(status="unreliable", reason=why)) for why in ("too hot", "short"))
    found = only(compare_runs(make.run(one), make.run(other), asked("energy")))
    assert found.reason == "no energy in base: too hot; no energy in new: short"


# Machines


def cuda(make: Maker, name: str = "H100", torch: str = "2.13.0", uuid: str | None = None) -> Environment:
    gpu = Device(name=name, kind="cuda", memory_bytes=80 << 30, cache_bytes=50 << 20, uuid=uuid)
    cpu = make.environment().devices["cpu"]
    return make.environment(devices={"cpu": cpu, "cuda:0": gpu}, versions={"torch": torch})


def test_devices_of_one_run_are_kept_apart(make: Maker) -> None:
    gpu = make.case(device="cuda:0")
    runs = [
        make.run(make.timed("loop", cpu_ms * MS), make.timed("loop", MS, case=gpu), environment=cuda(make))
        for cpu_ms in (3.0, 6.0)
    ]
    found = {one.case.split()[-1]: one.outcome for one in compare_runs(runs[0], runs[1], PLAIN).comparisons}
    assert found == {"cpu": "SLOWER", "cuda:0": "SAME"}


@pytest.mark.parametrize(("field", "said"), [("name", "device H100 / A100"), ("torch", "torch 2.13.0 / 2.12.0")])
def test_another_machine_or_torch_is_never_a_regression(make: Maker, field: str, said: str) -> None:
    case = make.case(device="cuda:0")
    other = cuda(make, **{field: {"name": "A100", "torch": "2.12.0"}[field]})
    base = make.run(make.timed("loop", MS, case=case), make.timed("dense", MS, case=case), environment=cuda(make))
    crashed = make.record("dense", case=case, status="crashed", reason="segfault")
    new = make.run(make.timed("loop", 9 * MS, case=case), crashed, environment=other)
    result = compare_runs(base, new, PLAIN)
    assert {one.outcome for one in result.comparisons} == {"NOT COMPARABLE"}
    assert {one.reason for one in result.comparisons} == {said}
    assert result.regressions == []


def test_across_devices_raw_times_are_compared_and_nothing_is_a_regression(make: Maker) -> None:
    case = make.case(device="cuda:0")
    base = make.run(make.timed("loop", MS, case=case, bout="b1"), environment=cuda(make))
    new = make.run(make.timed("loop", 2 * MS, case=case, bout="b2"), environment=cuda(make, "A100"))
    found = only(compare_runs(base, new, asked(across=["device"])))
    assert (found.verdict, found.regression) == ("SLOWER", False)
    assert found.ratio == pytest.approx(2, rel=0.01)
    assert found.how.startswith("raw times, device H100 / A100; processes are assumed to differ by up to 5.1%")


def test_a_gpu_can_be_held_against_a_cpu(make: Maker) -> None:
    cpu = make.run(make.timed("loop", 50 * MS, bout="b1"), environment=cuda(make))
    gpu = make.run(make.timed("loop", MS, case=make.case(device="cuda:0"), bout="b2"), environment=cuda(make))
    assert compare_runs(cpu, gpu, PLAIN).compared == []
    found = only(compare_runs(cpu, gpu, asked(across=["device"])))
    assert found.verdict == "FASTER"
    assert found.ratio == pytest.approx(1 / 50, rel=0.01)


def test_across_devices_it_must_be_clear_which(make: Maker) -> None:
    both = make.run(make.timed("loop", MS), make.timed("loop", MS, case=make.case(device="cuda:0")))
    with pytest.raises(ValueError, match="--across device: run holds the same cases on cpu and cuda:0"):
        compare_runs(both, both, asked(across=["device"]))


def test_raw_times_of_one_machine_at_two_times_allow_for_processes(make: Maker) -> None:
    runs = [
        make.run(*make.bout(f"b{seed}", slow=slow, seed=seed), environment=make.environment(versions={"torch": torch}))
        for seed, slow, torch in ((1, 1.0, "2.12"), (2, 1.04, "2.13"))
    ]
    found = compare_runs(runs[0], runs[1], asked(across=["torch"])).comparisons
    assert {one.outcome for one in found} == {"AMBIGUOUS"}
    assert {one.how.split(";")[0] for one in found} == {"raw times, torch 2.12 / 2.13"}


def test_energy_is_compared_on_one_board_only(make: Maker) -> None:
    case = make.case(device="cuda:0")
    runs = [make.run(make.metered(1.0, case=case), environment=cuda(make, uuid=uuid)) for uuid in ("GPU-1", "GPU-2")]
    assert only(compare_runs(runs[0], runs[1], asked("energy"))).reason.startswith("board GPU-1 / GPU-2")
    assert only(compare_runs(runs[0], runs[1], asked("energy", across=["device"]))).verdict == "SAME"
    assert only(compare_runs(runs[0], runs[1], PLAIN)).outcome == "SAME"


# What works, and what an author changed on purpose


@pytest.mark.parametrize("status", ["disagrees", "crashed", "oom", "timeout", "error", "unsupported", "impossible"])
@pytest.mark.parametrize("metric", ["time", "memory"])
def test_what_stopped_working_is_a_regression_and_what_works_again_is_not(
    make: Maker, status: str, metric: str
) -> None:
    works = make.run(make.metered(1.0))
    fails = make.run(make.record(status=status, reason="because"))
    fails.records[0].impl = works.records[0].impl
    broken, fixed = (only(compare_runs(*pair, asked(metric))) for pair in ((works, fails), (fails, works)))
    assert (broken.outcome, broken.verdict, broken.regression) == ("BROKEN", "BROKEN", True)
    assert broken.reason == f"{status}: because"
    assert broken.base is not None
    assert broken.new is None
    assert (fixed.outcome, fixed.regression, fixed.reason) == ("FIXED", False, f"was {status}: because")
    neither = only(compare_runs(fails, fails, asked(metric)))
    assert (neither.outcome, neither.reason) == ("NOT COMPARABLE", f"{status} in base, {status} in new")


def test_a_raised_version_is_not_compared_unless_asked_to(make: Maker) -> None:
    base, new = make.run(make.timed("loop", MS)), make.run(make.timed("loop", 2 * MS, impl={"version": "2"}))
    found = only(compare_runs(base, new, PLAIN))
    assert (found.outcome, found.reason) == ("NOT COMPARABLE", "version 1 / 2: its speed was meant to change")
    asked_to = only(compare_runs(base, new, asked(across=["version"])))
    assert (asked_to.outcome, asked_to.regression) == ("SLOWER", False)


def test_a_raised_version_excuses_nothing_that_stopped_working(make: Maker) -> None:
    works, fails = make.run(make.timed("loop", MS)), make.run(make.record(status="oom", reason="too large"))
    fails.records[0].impl = ImplInfo(name="loop", family="loop", version="2")
    assert only(compare_runs(works, fails, PLAIN)).outcome == "BROKEN"
    assert only(compare_runs(fails, works, PLAIN)).outcome == "FIXED"

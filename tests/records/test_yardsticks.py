"""Two runs at different times: who serves as a yardstick, what processes differ by, and what may be said then."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from harness.records.comparison import Comparison, Result, compare_runs
from harness.records.environment import Calibration, Device, Rates
from harness.records.estimates import exact
from harness.records.pairs import Question
from harness.records.yardsticks import ASSUMED_PROCESS_FLOOR, Yard, measured_by_yardstick, process_scatter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.records.record import Record
    from tests.records.conftest import Maker

MS = 1e6
PLAIN = Question()


def by_name(result: Result) -> dict[str, Comparison]:
    return {one.impl: one for one in result.comparisons}


@pytest.fixture
def bouts(make: Maker) -> tuple[list[Record], list[Record]]:
    """The same four implementations twice; the machine is twice as slow the second time. ``dense`` is the control."""
    speeds = {"dense": MS, "loop": 3 * MS, "einsum": 5 * MS, "grouped": 2 * MS}
    base, new = (
        [make.timed(name, slow * time, seed=seed, bout=bout) for name, time in speeds.items()]
        for seed, bout, slow in ((1, "b1", 1), (2, "b2", 2))
    )
    for bout in (base, new):
        assert bout[0].timing
        bout[0].timing.control_ns = list(bout[0].timing.samples_ns)
    return base, new


def chosen(base: Sequence[Record], new: Sequence[Record], name: str = "grouped") -> str:
    """Name of the yardstick for an implementation of the bouts."""
    compared = [next(one for one in bout if one.impl.name == name) for bout in (base, new)]
    yard = Yard.between(base, new, compared[0], compared[1])
    return yard.base.impl.name if yard else ""


def change(record: Record, **fields: Any) -> None:
    """Replace fields of a record's implementation, or of the record."""
    for name, value in fields.items():
        if hasattr(record.impl, name):
            record.impl = msgspec.structs.replace(record.impl, **{name: value})
        else:
            setattr(record, name, value)


def test_the_control_is_the_yardstick_of_all_but_itself(bouts: tuple[list[Record], list[Record]]) -> None:
    for bout in bouts:
        assert bout[0].timing
        del bout[0].timing.samples_ns[12:], bout[0].timing.rounds[12:]
    assert chosen(*bouts) == chosen(*bouts, "loop") == "dense", "though others have more samples"
    assert chosen(*bouts, "dense") in {"loop", "einsum", "grouped"}


@pytest.mark.parametrize(
    "fields",
    [{"source_hash": "bbb"}, {"source_hash": "unknown"}, {"version": "2"}, {"status": "crashed"}, {"timing": None}],
)
def test_a_control_that_changed_or_failed_is_not(
    bouts: tuple[list[Record], list[Record]], fields: dict[str, Any]
) -> None:
    base, new = bouts
    change(new[0], **fields)
    assert chosen(base, new) in {"loop", "einsum"}


def test_of_others_the_one_with_most_samples_is_taken(make: Maker, bouts: tuple[list[Record], list[Record]]) -> None:
    base, new = bouts
    del new[0]
    base[2], new[1] = (make.timed(name, MS, rounds=60) for name in ("einsum", "einsum"))
    assert chosen(base, new) == "einsum"


def test_many_samples_in_one_bout_do_not_make_up_for_few_in_the_other(
    make: Maker, bouts: tuple[list[Record], list[Record]]
) -> None:
    base, new = bouts
    del new[0]
    base[2], new[1] = make.timed("einsum", MS, rounds=60), make.timed("einsum", MS, rounds=12)
    assert chosen(base, new) == "loop"


def test_a_control_in_one_bout_alone_is_worth_no_more_than_others(
    make: Maker, bouts: tuple[list[Record], list[Record]]
) -> None:
    base, new = bouts
    assert new[0].timing
    new[0].timing.control_ns = None
    base[2], new[2] = (make.timed("einsum", MS, rounds=60) for _ in range(2))
    assert chosen(base, new) == "einsum"


def test_a_yardstick_is_timed_alike(make: Maker, bouts: tuple[list[Record], list[Record]]) -> None:
    base, new = bouts
    assert new[0].timing
    new[0].timing.cache = "hot"
    assert chosen(base, new) != "dense"


def test_without_any_other_unchanged_code_there_is_none(bouts: tuple[list[Record], list[Record]]) -> None:
    base, new = bouts
    for record in new[:3]:
        change(record, source_hash="bbb")
    assert chosen(base, new) == chosen(base[3:], new[3:]) == ""
    with pytest.raises(ValueError, match="no other implementation of unchanged code"):
        measured_by_yardstick(base[3], new[3], None)


def test_two_implementations_are_not_their_own_yardstick(bouts: tuple[list[Record], list[Record]]) -> None:
    base, new = bouts
    yard = Yard.between(base, new, base[0], new[1])
    assert yard
    assert yard.base.impl.name not in {"dense", "loop"}


def test_a_machine_twice_as_slow_cancels(bouts: tuple[list[Record], list[Record]]) -> None:
    base, new = bouts
    found, how = measured_by_yardstick(base[3], new[3], Yard(base[0], new[0]))
    assert found
    assert abs(found.log_ratio) < 0.005
    assert how == "through dense, measured both times"


def test_what_changed_on_top_of_it_stays(make: Maker, bouts: tuple[list[Record], list[Record]]) -> None:
    base, new = bouts
    slower = make.timed("grouped", 2 * 2 * MS * 1.1, bout="b2")
    found, _ = measured_by_yardstick(base[3], slower, Yard(base[0], new[0]))
    assert found
    assert found.low < math.log(1.1) < found.high
    assert found.low > math.log(1.08)


def test_too_few_shared_rounds_give_nothing(make: Maker, bouts: tuple[list[Record], list[Record]]) -> None:
    base, new = bouts
    short = make.timed("grouped", MS, rounds=6)
    assert measured_by_yardstick(base[3], short, Yard(base[0], new[0]))[0] is None


def test_hot_against_cold_is_refused(make: Maker, bouts: tuple[list[Record], list[Record]]) -> None:
    base, new = bouts
    hot = make.timed("grouped", MS, timing={"cache": "hot"})
    with pytest.raises(ValueError, match="timed differently: cache cold / hot"):
        measured_by_yardstick(base[3], hot, Yard(base[0], new[0]))


# What processes differ by


def calibration(floor: float | None, processes: int = 6) -> Calibration:
    return Calibration(
        case="a case",
        impl="loop",
        trials=10,
        threshold=0.02,
        trial_s=1.0,
        call_ns=1e6,
        rates=[Rates(planted_percent=0.0, same=10)],
        resolves={},
        processes=processes,
        process_floor=floor,
        taken_at="2026-01-01T00:00:00+00:00",
    )


def test_it_is_learnt_from_five_implementations_of_unchanged_code() -> None:
    same_code = [0.01, -0.02, 0.03, 0.0, -0.01]
    found, words = process_scatter(same_code, [calibration(0.5)])
    assert found.freedom == 5
    assert found.floor == pytest.approx(2.5706 * math.sqrt(np.mean(np.square(same_code))), rel=1e-3)
    assert words.startswith("unchanged code differed by about 4.6% between the runs")


def test_or_from_the_noisier_calibration_of_the_two_machines() -> None:
    found, words = process_scatter([0.5] * 4, [calibration(0.03), calibration(0.08, processes=4), calibration(None)])
    assert (found.floor, found.freedom) == (0.08, 3)
    assert words == "processes differ by up to 8.3% here, as calibrated"


@pytest.mark.parametrize("calibrations", [[], [calibration(None)], [calibration(0.01, processes=1)]])
def test_or_else_assumed(calibrations: list[Calibration]) -> None:
    found, words = process_scatter([], calibrations)
    assert (found.floor, found.freedom) == (ASSUMED_PROCESS_FLOOR, math.inf)
    assert words == "processes are assumed to differ by up to 5.1%; `moebench calibrate` finds out"


def test_identical_processes_do_not_scatter() -> None:
    found, _ = process_scatter([0.0] * 9, [])
    assert found.floor == 0
    assert found.chance(exact(0.0)) == 1


def test_the_floor_is_exceeded_by_one_in_twenty() -> None:
    generator, beyond = np.random.default_rng(3), []
    for _ in range(4000):
        *same_code, another = generator.normal(0, 0.02, 7)
        beyond.append(abs(another) > process_scatter(same_code, [])[0].floor)
    assert 0.04 <= np.mean(beyond) <= 0.06


# Two runs at different times


def test_a_machine_twice_as_slow_is_the_same_through_the_control(make: Maker) -> None:
    result = compare_runs(make.run(*make.bout("b1", seed=1)), make.run(*make.bout("b2", slow=2.0, seed=2)), PLAIN)
    assert {one.outcome for one in result.comparisons} == {"SAME"}
    how = {one.impl: one.how for one in result.comparisons}
    assert how.pop("dense").startswith("through ")
    assert {words.split(",")[0] for words in how.values()} == {"through dense"}


def test_what_became_slower_besides_is_found(make: Maker) -> None:
    base, new = make.bout("b1", seed=1), make.bout("b2", slow=2.0, seed=2, grouped=1.2)
    new[3].impl = msgspec.structs.replace(new[3].impl, source_hash="bbb")
    result = compare_runs(make.run(*base), make.run(*new), PLAIN)
    assert {one.impl for one in result.regressions} == {"grouped"}
    found = by_name(result)["grouped"]
    assert found.ratio == pytest.approx(1.2, rel=0.01)
    assert "unchanged code differed by about" in found.how


def test_a_control_whose_own_code_changed_is_no_yardstick(make: Maker) -> None:
    base, new = make.bout("b1", seed=1), make.bout("b2", seed=2, dense=1.5)
    new[0].impl = msgspec.structs.replace(new[0].impl, source_hash="bbb")
    found = by_name(compare_runs(make.run(*base), make.run(*new), PLAIN))
    assert {name for name, one in found.items() if one.regression} == {"dense"}
    assert not any("through dense" in one.how for one in found.values())


def test_a_control_that_failed_in_one_run_is_none_either(make: Maker) -> None:
    base, new = make.bout("b1", seed=1), make.bout("b2", seed=2)
    new[0] = make.record("dense", status="crashed", reason="segfault", bout="b2")
    found = by_name(compare_runs(make.run(*base), make.run(*new), PLAIN))
    assert found.pop("dense").outcome == "BROKEN"
    assert {one.outcome for one in found.values()} == {"SAME"}


def test_when_all_code_changed_nothing_can_be_said(make: Maker) -> None:
    base, new = make.bout("b1"), make.bout("b2")
    for record in new:
        record.impl = msgspec.structs.replace(record.impl, source_hash="bbb")
    result = compare_runs(make.run(*base), make.run(*new), PLAIN)
    assert result.compared == []
    assert "share no other implementation of unchanged code" in result.comparisons[0].reason
    without = [msgspec.structs.replace(record, bout="") for record in make.bout("")]
    assert compare_runs(make.run(*without), make.run(*without), PLAIN).compared == []


@pytest.mark.parametrize(("unchanged", "known"), [(6, "unchanged code differed"), (4, "processes are assumed")])
def test_few_unchanged_implementations_do_not_tell_what_processes_differ_by(
    make: Maker, unchanged: int, known: str
) -> None:
    base, new = make.bout("b1", seed=1), make.bout("b2", seed=2)
    for record in new[unchanged:]:
        record.impl = msgspec.structs.replace(record.impl, source_hash="bbb")
    found = compare_runs(make.run(*base), make.run(*new), PLAIN).compared
    assert found
    assert all(known in one.how for one in found)


def test_what_processes_differ_by_on_a_cpu_says_nothing_of_a_gpu(make: Maker) -> None:
    gpu = make.case(device="cuda:0")
    device = Device(name="H100", kind="cuda", memory_bytes=80 << 30, cache_bytes=50 << 20)
    machine = make.environment(devices={"cuda:0": device} | make.environment().devices)
    runs = []
    for side, off in enumerate(([0.0] * 6, [0.0, 0.1, -0.1, 0.08, -0.05, 0.1])):
        records = make.bout(f"c{side}", seed=side, **dict(zip(make.speeds_ms, np.exp(off), strict=True)))
        for record in make.bout(f"g{side}", seed=7 + side):
            records.append(msgspec.structs.replace(record, case=gpu, case_id=gpu.case_id))
        runs.append(make.run(*records, environment=machine))
    counts = {one.case.split()[-1]: one.delta for one in compare_runs(runs[0], runs[1], PLAIN).comparisons}
    assert counts["cpu"]
    assert counts["cpu"] > 0.1
    assert counts["cuda:0"] == pytest.approx(0.02)


def test_the_noise_floors_of_both_bouts_count_together(make: Maker) -> None:
    base, new = make.bout("b1", seed=1), make.bout("b2", seed=2)
    for record, floor in zip([*base, *new], [0.03] * 6 + [0.04] * 6, strict=True):
        assert record.timing
        record.timing.noise_floor = floor
    found = compare_runs(make.run(*base), make.run(*new), PLAIN).comparisons
    assert {round(one.delta or 0, 6) for one in found} == {round(math.expm1(0.05), 6)}


def test_identical_runs_at_two_times_raise_no_alarms(make: Maker) -> None:
    """Ten pairs of runs, each implementation off by 3 % in each process for no reason that rounds would show."""
    generator, alarms = np.random.default_rng(4), 0
    for pair in range(10):
        runs = []
        for side in range(2):
            off = dict(zip(make.speeds_ms, np.exp(generator.normal(0, 0.03, 6)), strict=True))
            runs.append(make.run(*make.bout(f"b{side}", seed=10 * pair + side, **off)))
        alarms += len([one for one in compare_runs(runs[0], runs[1], PLAIN).comparisons if one.outcome == "SLOWER"])
    assert alarms <= 1, "of 60"

"""Series over hand-made runs. The runs are written and read again, as everything that comes from a disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.cases.shape import Shape
from harness.records.derive import derive
from harness.records.figures import TRACKED
from harness.records.history import Series, collect, selection, what_there_is
from harness.records.record import Energy, ImplInfo, Memory, Record
from harness.records.runs import DatedRun, find_runs
from harness.records.store import RunInfo, RunStore

ROOT = Path(__file__).parents[2]


class History:
    """A folder of runs, one a day."""

    def __init__(self, make: Any, folder: Path) -> None:
        self.make = make
        self.folder = folder
        self.day = 0

    def add(self, *records: Record, name: str = "", **environment: Any) -> None:
        self.day += 1
        store = RunStore(self.folder / (name or f"run-{self.day:02d}"))
        started = f"2026-09-{self.day:02d}T10:00:00+00:00"
        store.write_info(RunInfo(name="r", command="moebench run", started_at=started))
        given = {"git_sha": f"{self.day:07d}" + "0" * 33} | environment
        store.write_environment(self.make.environment(**given))
        store.append(records)

    def record(self, ns: float = 100.0, name: str = "loop", *, control: bool = False, **fields: Any) -> Record:
        version = fields.pop("version", "1")
        timing = self.make.timing([ns * (1 + 0.001 * n) for n in (-3, -2, -1, 0, 1, 2, 3)])
        timing.control_ns = timing.samples_ns if control else None
        given = {"timing": timing, "work": self.make.work(), "bout": f"bout-{self.day}"} | fields
        record = derive(self.make.record(name, **given), None)
        record.impl = ImplInfo(name=name, family="loop", version=version)
        return record

    def failed(self, status: str, name: str = "loop", **fields: Any) -> Record:
        return self.make.record(name, status=status, reason="it says why", **fields)  # type: ignore[no-any-return]

    @property
    def runs(self) -> tuple[DatedRun, ...]:
        return find_runs(self.folder).runs

    def series(self, measure: str = "time", what: str = "loop", only: tuple[str, ...] | None = None) -> list[Series]:
        runs = self.runs
        return collect(runs, TRACKED[measure], selection(runs, what, only))


@pytest.fixture
def past(make: Any, tmp_path: Path) -> History:
    return History(make, tmp_path)


def test_points_in_the_order_of_their_runs(past: History) -> None:
    past.add(past.record(100.0), name="z")
    past.add(past.record(103.0), name="a", git_dirty="changes")
    past.add(past.record(101.0), name="sub/m")
    (series,) = past.series()
    assert [point.run for point in series.points] == ["z", "a", "sub/m"]
    assert [point.value for point in series.points] == pytest.approx([100.0, 103.0, 101.0])
    assert [point.commit for point in series.points] == ["0000001", "0000002+", "0000003"]
    assert series.measured[-1].date.isoformat() == "2026-09-03T10:00:00+00:00"
    assert series.steps.note.endswith("3 of 4")


def test_several_runs_on_one_commit_are_several_points(past: History) -> None:
    for _ in range(3):
        past.add(past.record(), git_sha="a" * 40)
    (series,) = past.series()
    assert [point.commit for point in series.points] == ["aaaaaaa"] * 3


PLANTED: dict[str, Any] = {
    "time": ("slower", lambda past, size: past.record(100.0 * size)),
    "tokens_per_second": ("fewer tokens/s", lambda past, size: past.record(100.0 * size)),
    "memory": ("more memory", lambda past, size: past.record(memory=Memory(status="ok", peak_bytes=int(4096 * size)))),
    "energy": (
        "more energy",
        lambda past, size: past.record(energy=Energy(status="ok", joules=size, window_s=1.0, calls=1)),
    ),
    "relative": ("slower", lambda past, size: past.record(100.0 * size)),
}


@pytest.mark.parametrize("measure", PLANTED)
def test_a_planted_step_is_found_at_its_run(past: History, measure: str) -> None:
    word, planted = PLANTED[measure]
    for size in [1.0] * 4 + [1.2] * 4:
        past.add(planted(past, size), past.record(50.0, "dense", control=True))
    (series,) = past.series(measure)
    (step,) = series.steps.steps
    assert (series.points[step.at].commit, series.points[step.before].commit) == ("0000005", "0000004")
    assert step.word == word
    assert step.worse


def test_the_machine_drifts_but_the_relative_time_does_not(past: History) -> None:
    for slow in [1.0] * 4 + [1.4] * 4:
        past.add(past.record(100.0 * slow), past.record(50.0 * slow, "dense", control=True))
    assert [step.word for step in past.series()[0].steps.steps] == ["slower"]
    (relative,) = past.series("relative")
    assert not relative.steps.steps
    assert [point.value for point in relative.points] == pytest.approx([2.0] * 8)
    assert [point.relative for point in past.series()[0].points] == pytest.approx([2.0] * 8)


@pytest.mark.parametrize("measure", ["time", "tokens_per_second"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"versions": {"torch": "2.14.0"}}, "torch 2.13.0 → 2.14.0"),
        ({"driver": "600.1"}, "driver ? → 600.1"),
        ({"threads": 1}, "threads 2 → 1"),
        ({"version": "2"}, "loop version 1 → 2"),
    ],
    ids=["torch", "driver", "threads", "version"],
)
def test_what_is_not_the_code_starts_a_new_series(
    past: History, measure: str, change: dict[str, Any], said: str
) -> None:
    cpu = past.make.environment().devices["cpu"]
    device = {key: value for key, value in change.items() if key in {"driver", "threads"}}
    after = {"versions": change["versions"]} if "versions" in change else {}
    after |= {"devices": {"cpu": msgspec.structs.replace(cpu, **device)}} if device else {}
    for _ in range(5):
        past.add(past.record(100.0))
    for _ in range(5):
        past.add(past.record(150.0, version=change.get("version", "1")), **after)
    new, old = past.series(measure)
    assert [len(old.points), len(new.points)] == [5, 5]
    assert (old.begins, new.begins) == ((), (said,))
    assert not old.steps.steps
    assert not new.steps.steps


def test_what_changed_is_told_since_the_series_before_not_since_the_first(past: History) -> None:
    for version in "123":
        past.add(past.record(version=version))
    assert [one.begins for one in past.series()] == [("loop version 2 → 3",), ("loop version 1 → 2",), ()]


def test_another_host_is_another_series_and_no_change(past: History) -> None:
    past.add(past.record())
    past.add(past.record(), hostname="there")
    assert [(one.key.machine.hostname, one.begins) for one in past.series()] == [("there", ()), ("here", ())]


def test_a_relative_time_against_another_yardstick_is_another_series(past: History) -> None:
    past.add(past.record(), past.record(50.0, "dense", control=True))
    past.add(past.record(), past.record(70.0, "batched", control=True))
    new, _ = past.series("relative")
    assert new.begins == ("yardstick dense version 1 → batched version 1",)
    (times,) = past.series()
    assert [point.yardstick for point in times.points] == ["dense", "batched"]


def test_a_case_that_stopped_working_is_a_gap_with_its_status(past: History) -> None:
    past.add(past.record())
    past.add(past.failed("disagrees"))
    past.add(past.failed("crashed"))
    (series,) = past.series()
    assert [(point.value is None, point.gap, point.reason) for point in series.points] == [
        (False, "", ""),
        (True, "disagrees", "it says why"),
        (True, "crashed", "it says why"),
    ]
    assert len(series.measured) == 1


def test_a_bout_that_died_is_a_gap_in_the_relative_series_too(past: History) -> None:
    past.add(past.record(), past.record(50.0, "dense", control=True))
    past.add(past.failed("crashed"), past.failed("crashed", "dense"))
    (series,) = past.series("relative")
    assert [point.gap for point in series.points] == ["", "crashed"]


def test_ok_without_the_figure_is_a_gap_too(past: History) -> None:
    past.add(past.record(memory=Memory(status="unavailable", reason="no meter")))
    (series,) = past.series("memory")
    assert [(point.gap, point.reason) for point in series.points] == [("no figure", "no meter")]


def test_a_copy_of_a_run_counts_once(past: History) -> None:
    record = past.record(taken_at="2026-09-01T10:00:05+00:00")
    past.add(record)
    past.day -= 1
    past.add(record, name="backup/run")
    assert [len(series.points) for series in past.series()] == [1]


def test_what_is_asked_for(past: History) -> None:
    shape = Shape(hidden=64, expert_hidden=16, experts=4, top_k=2, name="Loopy")
    named = past.make.case(shape=shape)
    plain = past.make.case()
    past.add(past.record(), past.record(name="dense"), past.record(case=named))

    def asked(what: str, only: tuple[str, ...] | None = None) -> set[tuple[str, str]]:
        return {(one.key.impl, one.key.case_id) for one in past.series(what=what, only=only)}

    assert asked("loop") == {("loop", plain.case_id), ("loop", named.case_id)}, "the implementation, not the label"
    assert asked(plain.case_id[:4]) == {("loop", plain.case_id), ("dense", plain.case_id)}
    assert asked(plain.case_id[:4], ("dense",)) == {("dense", plain.case_id)}
    assert asked("loopy") == {("loop", named.case_id)}
    assert asked("t=8") == asked("loop") | asked("dense")
    assert asked(plain.case_id[:3]) == set(), "too short for an id"
    assert asked("nothing of that name") == asked("loop", ("grouped",)) == set()
    said = what_there_is(past.runs)
    assert said.startswith("there are the implementations dense, loop, and the cases ")
    assert plain.case_id in said
    assert "Loopy" in said


def test_more_cases_than_one_line_holds_are_counted(past: History) -> None:
    past.add(*(past.record(tokens=tokens) for tokens in (1, 2, 3, 4, 5)))
    assert what_there_is(past.runs).endswith("; and 2 more")


def test_runs_without_records(past: History) -> None:
    past.add()
    assert past.series() == []
    assert what_there_is(past.runs) == "there are the implementations none, and the cases none"


def test_those_measured_last_come_first(past: History) -> None:
    past.add(past.record(tokens=1), past.record(tokens=2))
    past.add(past.record(tokens=2))
    assert [series.points[0].run for series in past.series()] == ["run-01", "run-01"]
    assert [len(series.points) for series in past.series()] == [2, 1]


def test_collecting_needs_neither_pandas_nor_matplotlib() -> None:
    code = "import sys, harness.records.history; print({'pandas', 'matplotlib', 'asv'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

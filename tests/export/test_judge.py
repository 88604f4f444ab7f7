"""Two commits' results, made by hand, and what is said of them."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from asv.results import Results
from asv.runner import BenchmarkResult
from hypothesis import given
from hypothesis import strategies as st

from harness.export import continuous
from harness.export.judge import Finding, estimate_of, findings, summary, undecided

if TYPE_CHECKING:
    from pathlib import Path

    from tests.export.conftest import History

RELATIVE, BYTES, ERROR, TIME = (f"layer.case.track_{name}" for name in ("relative_time", "peak_bytes", "error", "time"))
QUIET = [2.00, 2.02, 1.98, 2.01, 1.99]
Given = dict[str, dict[str, Any]]
"""Series, implementation, and its samples, its one value, None for failed or NaN for skipped."""


def results(given: Given, commit: str = "a" * 40, version: str = "1") -> Results:
    made = Results({"machine": "lab"}, {}, commit, 0, "3.11", "virtualenv-py3.11", {})
    for series, by_who in given.items():
        values = list(by_who.values())
        sampled = [isinstance(value, list) for value in values]
        result = BenchmarkResult(
            result=[True if many else value for value, many in zip(values, sampled, strict=True)],
            samples=[value if many else None for value, many in zip(values, sampled, strict=True)],
            number=[1 if many else None for many in sampled],
            errcode=0,
            stderr="",
            profile=None,
        )
        benchmark = {"name": series, "version": version, "params": [[repr(who) for who in by_who]]}
        made.add_result(benchmark, result, started_at=datetime.now(UTC), record_samples=True)
    return made


def times(factor: float, samples: list[float] = QUIET) -> list[float]:
    return [factor * value for value in samples]


def words(base: Given, new: Given) -> list[str]:
    return [one.word for one in findings(results(base), results(new))]


@pytest.mark.parametrize(
    ("factor", "word"), [(1.0, "SAME"), (1.1, "SLOWER"), (0.9, "FASTER"), (1.01, "SAME"), (1.035, "AMBIGUOUS")]
)
def test_relative_times(factor: float, word: str) -> None:
    shaken = [value * (1 + 0.005 * (-1) ** i) for i, value in enumerate(times(factor))]
    assert words({RELATIVE: {"loop": QUIET}}, {RELATIVE: {"loop": shaken}}) == [word]


def test_what_the_moment_does_to_both_is_nobodys() -> None:
    """In turns: the i-th of one beside the i-th of the other. Apart, the same values say nothing."""
    drifting = [2.0, 2.4, 3.1, 2.2, 4.0]
    paired, apart = estimate_of(drifting, times(1.1, drifting)), estimate_of(drifting, times(1.1, drifting)[:4])
    assert paired
    assert apart
    assert paired.low == pytest.approx(paired.high) == pytest.approx(math.log(1.1))
    assert apart.low < 0 < apart.high


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_processes_are_ambiguous(count: int) -> None:
    [one] = findings(
        results({RELATIVE: {"loop": [2.0] * count or 2.0}}), results({RELATIVE: {"loop": [3.0] * count or 3.0}})
    )
    assert (one.word, one.suspect) == ("AMBIGUOUS", False)
    assert "processes" in one.text


def test_ambiguous_ones_that_look_slower_are_measured_longer() -> None:
    noisy = [1.9, 2.9, 2.0, 2.6, 2.1]
    [slower] = findings(results({RELATIVE: {"loop": QUIET}}), results({RELATIVE: {"loop": noisy}}))
    [faster] = findings(results({RELATIVE: {"loop": noisy}}), results({RELATIVE: {"loop": QUIET}}))
    assert (slower.word, slower.suspect, faster.word, faster.suspect) == ("AMBIGUOUS", True, "AMBIGUOUS", False)


def test_raw_times_are_not_judged() -> None:
    assert words({TIME: {"loop": QUIET}}, {TIME: {"loop": times(9.0)}}) == []


@pytest.mark.parametrize(
    ("series", "factor", "word"),
    [
        (BYTES, 1.0, "SAME"),
        (BYTES, 1.05, "MORE MEMORY"),
        (BYTES, 0.5, "SAME"),
        (ERROR, 1.2, "SAME"),
        (ERROR, 2.0, "LESS EXACT"),
    ],
)
def test_figures_that_repeat(series: str, factor: float, word: str) -> None:
    assert words({series: {"loop": 0.25}}, {series: {"loop": 0.25 * factor}}) == [word]


def test_what_worked_and_fails_is_broken() -> None:
    base: Given = {TIME: {"loop": QUIET, "dense": QUIET}, BYTES: {"loop": 1.0}}
    new: Given = {TIME: {"loop": None, "dense": QUIET}, BYTES: {"loop": None}}
    assert words(base, new) == ["BROKEN", "BROKEN"]
    assert words(new, base) == []


def test_what_is_skipped_or_of_another_version_now_is_said() -> None:
    assert words({TIME: {"loop": QUIET}}, {TIME: {"loop": math.nan}}) == ["GONE"]
    assert words({RELATIVE: {"loop": QUIET}}, {RELATIVE: {"loop@2": times(2.0)}}) == ["GONE"]


def test_series_of_another_version_or_only_in_one_are_left_alone() -> None:
    base, new = results({RELATIVE: {"loop": QUIET}}), results({RELATIVE: {"loop": times(2.0)}}, version="2")
    assert findings(base, new) == []
    assert findings(base, results({BYTES: {"loop": 1.0}})) == []


@given(st.lists(st.floats(1.0, 1.002), min_size=5, max_size=5), st.integers(1, 12))
def test_small_noise_is_never_a_regression(noise: list[float], count: int) -> None:
    base: Given = {RELATIVE: {f"i{i}": QUIET for i in range(count)}}
    new: Given = {RELATIVE: {f"i{i}": [a * b for a, b in zip(QUIET, noise, strict=True)] for i in range(count)}}
    assert set(words(base, new)) == {"SAME"}


MOMENTS = [1.0, 1.3, 0.8, 1.1, 0.95]
"""What the machine did to everybody in turn, as seen in practice: far more than what is looked for."""
NAMES = ("a", "b", "c", "d")


def side(slower: dict[str, float], moments: list[float]) -> Given:
    values = {who: [2.0 * slower.get(who, 1.0) * m for m in moments] for who in NAMES}
    return {RELATIVE: {who: [v * (1 + 0.004 * (-1) ** i) for i, v in enumerate(values[who])] for who in NAMES}}


@pytest.mark.parametrize("slower", [["a"], ["a", "b"]])
def test_what_happens_to_everybody_alike_does_not_hide_who_became_slower(slower: list[str]) -> None:
    found = findings(results(side({}, [1.0] * 5)), results(side(dict.fromkeys(slower, 1.1), MOMENTS)))
    assert {one.implementation for one in found if one.word == "SLOWER"} == set(slower)


def test_everybody_slower_is_found_where_the_machine_is_quiet() -> None:
    found = findings(results(side({}, [1.0] * 5)), results(side(dict.fromkeys(NAMES, 1.1), [1.0] * 5)))
    assert [one.implementation for one in found if one.word == "SLOWER"] == ["every implementation"]


def test_nobody_is_slower_because_the_others_became_faster() -> None:
    found = findings(results(side({}, [1.0] * 5)), results(side(dict.fromkeys("abc", 0.8), [1.0] * 5)))
    assert "SLOWER" not in {one.word for one in found}
    [left] = [one for one in found if one.implementation == "d"]
    assert (left.word, left.suspect) == ("AMBIGUOUS", False)
    assert "relative to dense it does not show" in left.text


def test_shaken_but_unchanged_is_silent() -> None:
    found = findings(results(side({}, [1.0] * 5)), results(side({}, MOMENTS)))
    assert {one.word for one in found if one.implementation in NAMES} == {"SAME"}
    assert {one.word for one in found if one.implementation not in NAMES} == {"AMBIGUOUS"}


def test_worst_first_and_counted() -> None:
    base: Given = {RELATIVE: {"a": QUIET, "b": QUIET}, BYTES: {"a": 1.0}, TIME: {"a": QUIET}}
    new: Given = {RELATIVE: {"a": QUIET, "b": times(1.5)}, BYTES: {"a": 2.0}, TIME: {"a": None}}
    found = findings(results(base), results(new))
    assert [one.word for one in found] == ["BROKEN", "SLOWER", "MORE MEMORY", "SAME"]
    assert summary(found) == "1 broken, 1 slower, 1 more memory, 1 same"
    assert str(found[1]).startswith(f"SLOWER: b in {RELATIVE}: 1.500 times the time beside dense (1.500 to 1.500")


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (["SAME", "FASTER", "AMBIGUOUS"], 0),
        (["SAME", "SLOWER"], 1),
        (["MORE MEMORY"], 1),
        (["LESS EXACT", "SAME"], 1),
        (["BROKEN", "SLOWER"], 2),
        (["GONE"], 3),
        ([], 3),
    ],
)
def test_exit_codes(found: list[Any], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert continuous.conclude([Finding(word, "series", "loop") for word in found]) == code
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 + sum(word != "SAME" for word in found)


def test_what_could_not_be_told_is_named_with_what_would_tell(capsys: pytest.CaptureFixture[str]) -> None:
    assert continuous.conclude([Finding("AMBIGUOUS", f"s{n}", "loop") for n in range(5)]) == 0
    counted, named = capsys.readouterr().out.splitlines()
    assert counted == "5 ambiguous"
    assert "loop in s0; loop in s1; loop in s2 and 2 more; " in named
    assert "a quieter machine would decide, or more samples: `moebench compare --rev BASE --pairs 20`" in named
    assert undecided([Finding("SAME", "s", "loop")]) == ""


class Asv:
    """Stands for asv: writes results by hand for the commits it is asked to run, and counts its calls."""

    def __init__(self, base: Given, new: Given, code: int = 0) -> None:
        self.given, self.code, self.calls = (base, new), code, 0

    def __call__(self, root: Path, *words: str, **variables: str) -> int:
        from pathlib import Path

        self.calls += 1
        assert ("--append-samples" in words) == (self.calls > 1)
        assert int(variables["MOEBENCH_ASV_ROUNDS"]) >= 5
        commits = Path(words[words.index("--show-stderr") + 1].removeprefix("HASHFILE:")).read_text().split()
        machine = root / "results" / "asv" / "lab" / "machine.json"
        machine.parent.mkdir(parents=True, exist_ok=True)
        machine.write_text('{"machine": "lab", "version": 1}')
        for content, commit in zip(self.given, commits, strict=True):
            if content:
                results(content, commit).save(str(root / "results" / "asv"))
        return self.code


@pytest.fixture
def run(history: History, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(history.root)
    monkeypatch.setattr(continuous, "know_machine", lambda: "lab")

    def compare(asv: Asv, *names: str) -> int:
        monkeypatch.setattr(continuous, "call_asv", asv)
        return continuous.main(names or ("HEAD~1", "HEAD"))

    return compare


def test_the_whole_way(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    base: Given = {RELATIVE: {"loop": QUIET}}
    assert run(Asv(base, base)) == 0
    assert run(Asv(base, {RELATIVE: {"loop": times(1.1)}})) == 1
    assert run(Asv(base, {RELATIVE: {"loop": None}}, code=2)) == 2
    assert run(Asv({RELATIVE: {"loop": None}}, base, code=2)) == 3
    assert "SLOWER: loop" in capsys.readouterr().out


def test_nothing_more_is_measured_once_the_answer_is_known(run: Any) -> None:
    asv = Asv(
        {RELATIVE: {"loop": QUIET, "einsum": QUIET}},
        {RELATIVE: {"loop": times(1.5), "einsum": [1.9, 2.9, 2.0, 2.6, 2.1]}},
    )
    assert run(asv) == 1
    assert asv.calls == 1


def test_more_is_measured_only_where_it_may_help(run: Any) -> None:
    settled, open_question = ({RELATIVE: {"loop": values}} for values in (QUIET, [1.9, 2.9, 2.0, 2.6, 2.1]))
    for new, calls in ((settled, 1), (open_question, continuous.MOST_BATCHES)):
        asv = Asv(settled, new)
        assert run(asv) == 0
        assert asv.calls == calls


@pytest.mark.parametrize("names", [("nowhere", "HEAD"), ("HEAD", "--nowhere"), ("HEAD",)])
def test_bad_usage_is_one_line(run: Any, capsys: pytest.CaptureFixture[str], names: tuple[str, ...]) -> None:
    asv = Asv({}, {})
    assert run(asv, *names) == 2
    assert asv.calls == 0
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_asv_that_cannot_measure_is_broken(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Asv({}, {}, code=1)) == 2
    assert run(Asv({RELATIVE: {"loop": QUIET}}, {})) == 2
    assert "see above" in capsys.readouterr().err


def test_older_results_do_not_count(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    both: Given = {RELATIVE: {"loop": QUIET}}
    assert run(Asv(both, both)) == 0
    monkeypatch.setattr("time.time", lambda: datetime.now(UTC).timestamp() + 60)
    assert run(Asv({}, {})) == 2


def test_a_commit_against_itself(run: Any, history: History) -> None:
    """Its twin has the same files and is forgotten afterwards."""
    asv = Asv({RELATIVE: {"loop": QUIET}}, {RELATIVE: {"loop": QUIET}})
    assert run(asv, "HEAD", "main") == 0
    assert [path.name[:8] for path in history.results.glob("lab/*-*.json")] == [history.commits[-1][:8]]
    assert history.git("rev-parse", "HEAD") == history.commits[-1]

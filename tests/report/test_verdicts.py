"""What ``compare`` shows: rows, notes, the summary and the JSON, for every kind of comparison."""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec
import pytest

from harness.records.comparison import Comparison, Result
from harness.records.estimates import exact, geometric_mean
from harness.records.metrics import METRICS
from harness.records.pairs import Question
from harness.report.verdicts import (
    HEADERS,
    OF_CHANGE,
    OF_MEMORY,
    change,
    verdict_json,
    verdict_notes,
    verdict_rows,
    verdict_summary,
)


def one(outcome: str, impl: str = "loop", **fields: Any) -> Comparison:
    given = {"case_id": "0" * 12, "case": "H8 T=4", "impl": impl, "outcome": outcome, "verdict": outcome}
    return Comparison(**(given | fields))


def judged(outcome: str, ratio: float, impl: str = "loop", **fields: Any) -> Comparison:
    given = {"base": 2e6, "new": 2e6 * ratio, "ratio": ratio, "interval": (0.99 * ratio, 1.01 * ratio), "delta": 0.02}
    return one(outcome, impl, **(given | {"p": 0.001, "rounds": 25, "processes": 1, "how": "side by side"} | fields))


def result(*comparisons: Comparison, metric: str = "time", ratios: tuple[float, ...] = ()) -> Result:
    mean = geometric_mean([exact(math.log(ratio)) for ratio in ratios])
    return Result(Question(METRICS[metric]), list(comparisons), mean)


SLOWER, SAME = judged("SLOWER", 1.1, regression=True), judged("SAME", 1.0, "einsum")
BROKEN = one("BROKEN", "fused", reason="oom: too large", base=1e6, regression=True)
ABSENT = one("NOT COMPARABLE", "soft", reason="only in base")


@pytest.mark.parametrize(
    ("ratio", "said"),
    [(1.032, "+3.2 %"), (0.9, "-10.0 %"), (1.0, "+0.0 %"), (1 - 1e-9, "+0.0 %"), (None, "-"), (3, "+200.0 %")],
)
def test_a_change_is_in_percent_and_nothing_has_no_sign_of_its_own(ratio: float | None, said: str) -> None:
    assert change(ratio) == said


def test_rows_are_the_comparable_in_their_order() -> None:
    rows = verdict_rows(result(BROKEN, SLOWER, SAME, ABSENT))
    assert [len(row) for row in rows] == [len(HEADERS)] * 3
    assert rows[0] == ("BROKEN", "fused", "1.00 ms", "-", "-", "", "", "H8 T=4")
    assert rows[1] == (
        "SLOWER", "loop", "2.00 ms", "2.20 ms", "+10.0 %", "+8.9 % to +11.1 %", "2.0 %", "H8 T=4"
    )  # fmt: skip


def test_one_figure_a_side_has_no_interval_in_its_row() -> None:
    row = verdict_rows(result(judged("SLOWER", 1.1, verdict="MORE", interval=None), metric="memory"))[0]
    assert (row[0], row[5]) == ("MORE", "")
    assert OF_MEMORY in verdict_notes(result(judged("SLOWER", 1.1), metric="memory"))
    assert OF_MEMORY not in verdict_notes(result(judged("SLOWER", 1.1)))


def test_notes_say_why_and_count_what_repeats() -> None:
    ambiguous = [judged("AMBIGUOUS", 1.0, reason="measure longer") for _ in range(3)]
    fixed = one("FIXED", "batched", reason="was error: no")
    notes = verdict_notes(result(BROKEN, fixed, SLOWER, *ambiguous, ABSENT, ABSENT))
    assert notes == [
        "BROKEN: fused on H8 T=4: oom: too large",
        "FIXED: batched on H8 T=4: was error: no",
        OF_CHANGE,
        "ambiguous (3): measure longer",
        "compared (4): side by side",
        "not comparable (2): only in base",
    ]
    assert verdict_notes(result()) == []


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"how": "side by side"}, True),
        ({"how": "through loop, measured both times; processes differ"}, True),
        ({"how": "raw times, torch 2.11 / 2.13"}, False),
        ({"how": "one figure each", "interval": None}, False),
    ],
)
def test_a_change_that_is_no_ratio_of_the_medians_is_explained(fields: dict[str, Any], said: bool) -> None:
    row = judged("SAME", 0.988, base=97.2e3, new=97.4e3, **fields)
    assert (OF_CHANGE in verdict_notes(result(row))) == said


def test_notes_that_differ_in_a_number_are_one_with_its_range() -> None:
    shares = [
        judged("SAME", 1.0, notes=[f"base: others took {share}%: stop them", "base: it drifted"]) for share in (40, 7)
    ]
    notes = [note for note in verdict_notes(result(*shares, SAME)) if note.startswith("not quiet")]
    assert notes == ["not quiet (2): base: others took 7 to 40%: stop them", "not quiet (2): base: it drifted"]


def test_the_summary_counts_and_gives_the_mean_of_several() -> None:
    assert verdict_summary(result()) == "nothing comparable."
    assert verdict_summary(result(ABSENT)) == "nothing comparable."
    assert verdict_summary(result(SLOWER, ABSENT, ratios=(1.1,))) == "1 SLOWER."
    said = verdict_summary(result(BROKEN, SLOWER, SAME, ratios=(1.21, 1.21)))
    assert said == "1 BROKEN, 1 SLOWER, 1 SAME. Geometric mean of the change in time: +21.0 %.", "nothing is uncertain"


def test_the_mean_of_several_has_its_interval() -> None:
    said = verdict_summary(result(SLOWER, SAME, ratios=(1.1, 1.2, 1.15)))
    assert re.search(r"time: \+14\.9 % \(\+\d\.\d % to \+\d\d\.\d %\)\.$", said)


def test_the_mean_points_the_way_of_the_metric() -> None:
    both = result(SLOWER, SAME, metric="tokens_per_second", ratios=(1.25, 1.25))
    assert "change in tokens per second: -20.0 %" in verdict_summary(both)
    assert verdict_json(both)["geometric_mean"]["ratio"] == pytest.approx(0.8)


def test_json_holds_everything_and_is_json() -> None:
    content = verdict_json(result(BROKEN, SLOWER, SAME, ABSENT, ratios=(1.1, 1.0)))
    decoded = msgspec.json.decode(msgspec.json.encode(content))
    assert (decoded["metric"], decoded["unit"], decoded["threshold"], decoded["across"]) == ("time", "ns", 0.02, [])
    assert (decoded["compared"], decoded["regressions"]) == (3, 2)
    low, high = decoded["geometric_mean"]["interval"]
    assert low < decoded["geometric_mean"]["ratio"] < high
    assert [row["outcome"] for row in decoded["comparisons"]] == ["BROKEN", "SLOWER", "SAME", "NOT COMPARABLE"]
    assert decoded["comparisons"][1]["interval"] == pytest.approx([1.089, 1.111])
    assert decoded["comparisons"][0]["ratio"] is None
    assert verdict_json(result())["geometric_mean"] is None

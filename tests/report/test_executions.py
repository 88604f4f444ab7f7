"""Executions side by side: which groups belong together, who changes places, and what the page says about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from matplotlib.figure import Figure

from harness.report import execution_tables, style
from harness.report.executions import Contrast, contrasts
from harness.report.page import write_report
from harness.report.plots import executions

if TYPE_CHECKING:
    from pathlib import Path

    from harness.records.record import Record
    from harness.records.store import Run
    from tests.report.conftest import Factory

Times = dict[str, dict[str, float]]
"""Milliseconds by execution and implementation."""

FLIP: Times = {"eager": {"loop": 3.0, "grouped_mm": 1.0, "batched": 2.0}, "compile": {"loop": 2.8, "batched": 0.8}}
FLIP["compile"]["grouped_mm"] = 1.2


def run_of(make: Factory, by_tokens: dict[int, Times], *more: Record) -> Run:
    records = [
        make.timed(make.case(tokens, execution=execution), impl, 1e6 * ms)
        for tokens, times in by_tokens.items()
        for execution, of in times.items()
        for impl, ms in of.items()
    ]
    return make.run([*records, *more])


def contrast_of(make: Factory, by_tokens: dict[int, Times], *more: Record) -> Contrast:
    (found,) = contrasts(make.groups(run_of(make, by_tokens, *more)))
    return found


def of(**ms: float) -> dict[str, float]:
    """Milliseconds by implementation."""
    return ms


def order(contrast: Contrast) -> str:
    """The last cell of the only case's row."""
    (row,) = [line for line in execution_tables.winners_table(contrast, 1).splitlines() if line.startswith("| 8 ")]
    return row.strip("| ").rpartition("|")[2].strip()


def test_groups_that_differ_otherwise_are_not_joined(make: Factory) -> None:
    cases = [make.case(64), make.case(64, execution="graph", dtype="fp16"), make.case(8, pass_="training")]
    assert contrasts(make.groups(make.run([make.timed(case, "loop") for case in cases]))) == []


def test_groups_without_a_case_in_common_are_not_joined(make: Factory) -> None:
    cases = [make.case(64), make.case(8, execution="graph")]
    assert contrasts(make.groups(make.run([make.timed(case, "loop") for case in cases]))) == []


def test_executions_come_in_their_own_order(make: Factory) -> None:
    times = {name: {"loop": 1.0} for name in ("compile", "graph", "eager")}
    found = contrast_of(make, {64: times})
    assert found.executions == ["eager", "graph", "compile"]
    assert found.label == "tiny-moe (H2048 I768 E64 k8), bf16 forward, experts, cuda:0"


def test_places_change_beyond_the_noise_only(make: Factory) -> None:
    noise = {"eager": {"loop": 1.0, "batched": 1.01}, "compile": {"loop": 1.0, "batched": 0.99}}
    flip, same = contrast_of(make, {8: FLIP, 64: noise}).matches
    assert flip.swapped("compile") == [("grouped_mm", "batched")]
    assert flip.other_winner("compile")
    assert same.swapped("compile") == []
    assert not same.other_winner("compile")
    assert not same.told_apart("compile")


def test_the_fastest_execution_may_be_shared(make: Factory) -> None:
    level = {"eager": {"loop": 1.0}, "compile": {"loop": 1.01}}
    flip, shared = contrast_of(make, {8: FLIP, 64: level}).matches
    assert flip.fastest == ("compile",)
    assert set(shared.fastest) == {"eager", "compile"}


def test_one_implementation_in_common_has_no_order_to_compare(make: Factory) -> None:
    (match,) = contrast_of(make, {8: {"eager": of(loop=1, batched=2), "graph": of(loop=1, grouped_mm=2)}}).matches
    assert not match.comparable("graph")
    assert not match.told_apart("graph")


def test_what_each_execution_tells_apart_by_itself_is_no_common_ground(make: Factory) -> None:
    level = of(loop=1.0, batched=1.01)
    contrast = contrast_of(make, {8: {"eager": level | of(grouped_mm=2), "graph": level | of(einsum=2)}})
    (match,) = contrast.matches
    assert match.comparable("graph")
    assert not match.told_apart("graph")
    assert order(contrast) == "nothing told apart"


def test_no_winner_under_one_execution_is_no_other_winner(make: Factory) -> None:
    broken = [make.failed(make.case(8, execution="graph"), name, "crashed") for name in ("loop", "batched")]
    contrast = contrast_of(make, {8: {"eager": of(loop=1, batched=2)}}, *broken)
    assert not contrast.matches[0].other_winner("graph")
    assert order(contrast) == "nothing to compare"
    assert "against" not in execution_tables.in_words(contrast)


def test_the_noisier_execution_decides_whether_one_is_the_fastest(make: Factory) -> None:
    """Told apart by both, were it not that identical code differed by 10 % under one of them."""
    records = [
        make.timed(make.case(8, execution=execution), "loop", 1e6 * ms, spread=0.001)
        for execution, ms in (("eager", 1.05), ("graph", 1.0))
    ]
    for record in records:
        assert record.timing
        record.timing.noise_floor = 0.1
        assert contrasts(make.groups(make.run(records)))[0].matches[0].fastest == ("graph", "eager")
        record.timing.noise_floor = 0.001
        assert contrasts(make.groups(make.run(records)))[0].matches[0].fastest == ("graph",)


@pytest.mark.parametrize(
    ("eager", "graph", "said"),
    [
        (of(loop=1, batched=2, grouped_mm=3), of(loop=0.5, batched=1, grouped_mm=2), "the same"),
        (
            of(loop=1, batched=2, grouped_mm=3),
            of(loop=0.5, batched=2, grouped_mm=1),
            "the same wins (`grouped_mm` passes `batched`)",
        ),
        (
            of(a=1, b=2, c=3, d=4),
            of(a=4, b=3, c=2, d=1),
            "another wins (`b` passes `a`, `c` passes `a`, `d` passes `a`, 3 more)",
        ),
        (
            of(a=1, b=2, c=3),
            of(a=3, b=2, c=1),
            "another wins (`b` passes `a`, `c` passes `a`, `c` passes `b`)",
        ),
    ],
)
def test_the_order_in_words(make: Factory, eager: dict[str, float], graph: dict[str, float], said: str) -> None:
    assert order(contrast_of(make, {8: {"eager": eager, "graph": graph}})) == said


def test_ties_and_cases_without_a_rank_are_counted(make: Factory) -> None:
    by_tokens: dict[int, Times] = {
        8: FLIP,
        16: {"eager": {"loop": 1.0}, "compile": {"loop": 1.01}},
        32: {"eager": {"loop": 1.0}, "compile": {"loop": 0.99}},
    }
    broken = [make.failed(make.case(64, execution=execution), "loop", "crashed") for execution in ("eager", "compile")]
    said = execution_tables.in_words(contrast_of(make, by_tokens, *broken))
    assert said == (
        "Of 4 cases under several executions: compile alone is fastest in 1, 2 are ties, in 1 nothing could be ranked."
        " Compile against eager: another implementation wins in 1 of 1, some change places in 1."
    )


def test_the_table_says_who_wins_by_how_much_and_what_changes(make: Factory) -> None:
    failed = make.failed(make.case(8, execution="graph"), "loop", "unsupported")
    table = execution_tables.winners_table(contrast_of(make, {8: FLIP}, failed), 1)
    (row,) = [line for line in table.splitlines() if line.startswith("| 8 ")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2:] == [
        "grouped\\_mm 1.00 ms, 2.00x",
        "unsupported",
        "**batched 800 µs, 1.50x**",
        "graph: nothing to compare; compile: another wins (`batched` passes `grouped_mm`)",
    ]


def test_words_count_cases(make: Factory) -> None:
    said = execution_tables.in_words(contrast_of(make, {8: FLIP, 64: FLIP}))
    assert said == (
        "Of 2 cases under several executions: compile alone is fastest in 2. Compile against eager: another "
        "implementation wins in 2 of 2, some change places in 2."
    )


def test_first_calls_are_shown_apart(make: Factory) -> None:
    record = make.timed(make.case(8, execution="compile"), "loop", 0.5e6)
    assert record.timing
    record.timing.first_call_ns = 7_000_000_000
    table = execution_tables.times_table(contrast_of(make, {8: {"eager": {"loop": 1.0}}}, record), 1)
    assert "| first call, compile" in table
    (row,) = [line for line in table.splitlines() if "loop" in line]
    assert [cell.strip() for cell in row.strip("|").split("|")][3:] == [
        "1.00 ms",
        "500 µs (0.50x)",
        "35.0 ms",
        "7.00 s",
    ]


def test_a_line_for_each_implementation(make: Factory) -> None:
    with style.in_style():
        drawn = executions.draw(contrast_of(make, {8: FLIP, 64: FLIP, 512: FLIP, 4096: FLIP}))
    assert isinstance(drawn, Figure)
    assert [axes.get_title(loc="left").partition(";")[0] for axes in drawn.axes] == ["T = 8", "T = 512", "T = 4096"]
    assert [container.get_label() for container in drawn.axes[0].containers] == ["loop", "batched", "grouped_mm"]


def test_nothing_is_drawn_without_two_times(make: Factory) -> None:
    failed = make.failed(make.case(8, execution="graph"), "loop", "unsupported")
    drawn = executions.draw(contrast_of(make, {8: {"eager": {"loop": 1.0}}}, failed))
    assert drawn == "The ranking by execution: not drawn, no case has a time under two of them."


@pytest.mark.parametrize("several", [False, True])
def test_the_page_has_a_part_about_executions_where_there_are_several(
    make: Factory, tmp_path: Path, several: bool
) -> None:
    run = run_of(make, {8: FLIP if several else {"eager": FLIP["eager"]}})
    text = write_report([run], tmp_path).read_text()
    assert ("## Executions" in text) == several
    assert ("- **Executions of tiny-moe" in text) == several
    assert (tmp_path / "executions-01.png").exists() == several

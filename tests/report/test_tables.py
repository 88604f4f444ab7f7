"""Tables of times, rates, machines and methods."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from harness.records import derive
from harness.records.record import Chosen, Energy, Memory, Neighbours, Work
from harness.report.machines import ceilings_table, machines_table
from harness.report.method import FLAGS, count, method_table, neighbours
from harness.report.summary import summary_tables
from harness.report.tables import Axis, absences, rates_table, times_table

if TYPE_CHECKING:
    from harness.records.record import Record
    from tests.report.conftest import Factory


def body(table: str) -> list[list[str]]:
    """Cells of a Markdown table without its rule."""
    lines = table.splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for n, line in enumerate(lines) if n != 1]


def times(make: Factory, records: list[Record], runs: int = 1) -> list[list[str]]:
    (group,) = make.groups(make.run(records))
    return body(times_table(group, Axis.of(group, runs)))


def test_the_winner_is_marked_and_shows_its_interval(make: Factory) -> None:
    case = make.case()
    head, row = times(make, [make.timed(case, "loop", 2e6), make.timed(case, "batched", 1e6)])
    assert head == ["tokens", "traffic", "loop", "batched"]
    assert row[:2] == ["64", "gaussian:0.15"]
    assert row[3].startswith("**1.00 ms (0.")
    assert row[3].endswith("★**")
    assert "**" not in row[2]


def test_a_tie_has_two_marks_and_no_star(make: Factory) -> None:
    case = make.case()
    _, row = times(make, [make.timed(case, "loop", 1e6), make.timed(case, "batched", 1.001e6)])
    assert [cell.endswith("≈**") for cell in row[2:]] == [True, True]


def test_the_baseline_stands_apart_and_is_never_marked(make: Factory) -> None:
    case = make.case()
    head, row = times(make, [make.timed(case, "dense", 1e5), make.timed(case, "loop", 1e6)])
    assert head[2:] == ["loop", "dense (baseline)", "cost of sparsity"]
    assert "★" in row[2]
    assert "★" not in row[3]
    assert row[4] == "10.0x"


def test_failures_show_their_word_and_gaps_a_dash(make: Factory) -> None:
    one, two = make.case(1), make.case(2)
    records = [make.failed(one, "loop", "oom"), make.timed(one, "batched"), make.timed(two, "loop")]
    _, first, second = times(make, records)
    assert first[2] == "oom"
    assert second[3] == "-"


def test_impossible_times_are_not_shown_as_times(make: Factory) -> None:
    case = make.case()
    _, row = times(make, [make.timed(case, "loop", 1.0, status="impossible", reason="r"), make.timed(case, "batched")])
    assert row[2] == "impossible"


def test_impossible_rates_are_called_so(make: Factory) -> None:
    record = make.timed(make.case(), "loop", 1.0, status="impossible", reason="r", flags=["drift"])
    (group,) = make.groups(make.run([record]))
    head, row = body(rates_table(group, Axis.of(group, 1)))
    assert row[head.index("flags")] == "impossible, drift"


def test_another_bout_is_marked(make: Factory) -> None:
    case = make.case()
    records = [make.timed(case, "loop"), make.timed(case, "batched", 2e6), make.timed(case, "x", 1.0, bout="later")]
    _, row = times(make, records)
    assert row[4].endswith("†")
    assert "★" in row[2]


def test_machine_and_seed_columns_appear_when_needed(make: Factory) -> None:
    records = [make.timed(make.case(seed=seed), "loop") for seed in (0, 1)]
    head, first, _ = times(make, records, runs=2)
    assert head[:4] == ["machine", "tokens", "traffic", "seed"]
    assert first[3] == "0"


def test_rates_leave_empty_columns_out(make: Factory) -> None:
    case = make.case()
    (group,) = make.groups(make.run([make.timed(case, "loop"), make.failed(case, "batched", "oom")]))
    head, row = body(rates_table(group, Axis.of(group, 1)))
    assert head == ["tokens", "traffic", "implementation", "rounds", "fastest call"]
    assert row[2:4] == ["loop", "15"]


def test_rates_show_everything_that_was_measured(make: Factory) -> None:
    (group,) = make.groups(make.machine([make.case(64)]))
    head, *rows = body(rates_table(group, Axis.of(group, 1)))
    assert head[3:] == [
        "tokens/s",
        "TFLOP/s",
        "share of floor",
        "rounds",
        "fastest call",
        "workspace",
        "beside weights",
        "J/token",
    ]
    assert len(rows) == 8
    assert all("-" not in row for row in rows)


def test_unreliable_joules_say_so(make: Factory) -> None:
    energy = Energy(status="unreliable", reason="short window", joules_per_token=0.5)
    work = Work(distinct_experts=1, useful_flops=1, min_bytes=1)
    (group,) = make.groups(make.run([make.timed(make.case(), "loop", energy=energy, work=work)]))
    assert "500 mJ (unreliable)" in rates_table(group, Axis.of(group, 1))


def test_absences_give_reasons(make: Factory) -> None:
    energy = Energy(status="unavailable", reason="no NVML | here")
    memory = Memory(status="unavailable", reason="not on this system")
    case = make.case()
    records = [make.timed(case, "loop", energy=energy, memory=memory), make.timed(case, "batched", samples=2)]
    (group,) = make.groups(make.run(records))
    said = " ".join(absences(group))
    assert "no NVML \\| here" in said
    assert "not on this system" in said
    assert "no ceilings" in said
    assert "1 record of 2 with fewer than 3 samples" in said


def test_machines_stand_side_by_side(make: Factory) -> None:
    runs = [make.run([]), make.run([], environment=make.environment("other", "NVIDIA A100", 0.5))]
    rows = {row[0]: row[1:] for row in body(machines_table(runs))}
    assert rows["host"] == ["gpu-07", "other"]
    assert rows["transformers"] == ["not installed", "not installed"]
    assert "container" not in rows
    ceilings = {row[0]: row[1:] for row in body(ceilings_table(runs))}
    assert ceilings["cuda:0: GEMM bf16"] == ["700 TFLOP/s", "350 TFLOP/s"]


def test_no_ceilings_no_table(make: Factory) -> None:
    environment = make.environment()
    environment.ceilings = {}
    assert ceilings_table([make.run([], environment=environment)]) == ""


def test_method_tells_how_it_was_measured(make: Factory) -> None:
    case = make.case()
    records = [make.modelled(case, "loop", make.environment()), make.failed(case, "batched", "oom")]
    records[0].flags.append("drift")
    rows = {row[0]: row[1] for row in body(method_table([make.run(records, torn_lines=1)]))}
    assert rows["kept"] == "2 records of 1 case, 1 torn line skipped"
    assert rows["A/A noise floor"] == "0.60 %"
    assert rows["rounds"] == "15"
    assert rows["flags"] == "drift"
    assert rows["time in measured calls"] == "480 s of 600 s, 80 %"
    assert rows["command"] == "moebench run suites/demo.toml"


def test_neighbours_are_told_in_the_table_and_in_short(make: Factory) -> None:
    case = make.case()
    records = [make.timed(case, name) for name in ("loop", "batched", "dense")]
    assert neighbours([make.run(records)]) == ""
    assert "not quiet" not in method_table([make.run(records)])
    for record, share in zip(records, (0.5, 0.75, 0.01), strict=True):
        record.neighbours = Neighbours(others_share=share)
    said = neighbours([make.run(records), make.run([])])
    assert said.startswith(
        "Not quiet: while 2 of 3 timed records were taken, other processes took 50 to 75% of the CPUs (2). "
    )
    rows = {row[0]: row[1] for row in body(method_table([make.run(records)]))}
    assert rows["not quiet"].startswith("2 of 3 timed records: other processes took 50 to 75% of the CPUs: stop them")
    assert rows["not quiet"].endswith("(2)")


def test_every_flag_is_explained() -> None:
    source = (Path(derive.__file__).parent / "derive.py").read_text(encoding="utf-8")
    given = set(re.findall(r'flags\.append\("([^"]+)"\)', source))
    assert given == set(FLAGS)


def test_method_of_an_unfinished_run(make: Factory) -> None:
    rows = {row[0]: row[1] for row in body(method_table([make.run([], finished_at=None, wall_s=0.0)]))}
    assert rows["finished"] == "not finished"
    assert rows["clock"] == "nothing was timed"


def test_count_orders_by_frequency() -> None:
    assert count(["a", "b", "b", ""]) == "b (2), a (1)"
    assert count(["a", "a"]) == "a"
    assert count([]) == ""


def test_terminal_summary(make: Factory) -> None:
    case = make.case()
    records = [
        make.timed(case, "loop", 2e6),
        make.timed(case, "batched", 1e6),
        make.timed(case, "dense", 1e5),
        make.failed(case, "odd\x1b[31m\nname", "timeout"),
    ]
    ((title, text),) = summary_tables(make.run(records))
    assert title.startswith("tiny-moe")
    head, _, row, legend = text.splitlines()
    assert "(dense)" in head
    assert "\x1b" not in text
    assert "1.00 ms ★" in row, "as the report and `compare` write it"
    assert text.count("★") == 2
    assert "timeout" in row
    assert legend == "★ the single fastest; in brackets: the dense baseline, never ranked"


def test_terminal_summary_shares_wins(make: Factory) -> None:
    case = make.case()
    ((_, text),) = summary_tables(make.run([make.timed(case, "loop"), make.timed(case, "batched")]))
    assert text.count("1.00 ms ≈") == 2
    assert text.splitlines()[-1].startswith("≈ a shared win")
    assert summary_tables(make.run([])) == []


def test_terminal_summary_marks_what_was_measured_apart(make: Factory) -> None:
    case = make.case()
    records = [make.timed(case, "loop", 2e6), make.timed(case, "batched", 1e6), make.timed(case, "dense", 1e5)]
    late = make.timed(case, "hf_grouped", 5e5, bout="another")
    ((_, text),) = summary_tables(make.run([*records, late]))
    _, _, row, legend = text.splitlines()
    assert "500 µs †" in row
    assert "1.00 ms ★" in row
    assert row.count("†") == 1
    assert "† not measured side by side" in legend
    ((_, text),) = summary_tables(make.run(records))
    assert "†" not in text


def test_configurations_are_shown_where_somebody_told(make: Factory) -> None:
    case = make.case()
    chosen = Chosen(values={"block": 64, "kind": "wide"}, tuned=True, source="own gpu.json, at 64 tokens")
    records = [make.timed(case, "fused_triton", configuration=chosen), make.timed(case, "loop")]
    (group,) = make.groups(make.run(records))
    head, first, second = body(rates_table(group, Axis.of(group, 1)))
    assert second[head.index("configuration")] == "block=64 kind=wide (tuned)"
    assert first[head.index("configuration")] == ""
    assert "| configurations " in method_table([make.run(records)])
    assert "configurations" not in method_table([make.run(records[1:])])

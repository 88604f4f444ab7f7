"""Published figures beside ours: only for the same work, only on the device they name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from harness.cases.case import PlannedCase
from harness.cases.published import Published
from harness.records.record import Work
from harness.report.page import write_report
from harness.report.published import published_table

if TYPE_CHECKING:
    from pathlib import Path

    from harness.records.store import Run
    from tests.report.conftest import Factory


def published(make: Factory, **changes: Any) -> Published:
    about: dict[str, Any] = {
        "source": "somebody #7",
        "implementation": "theirs",
        "device": "H100",
        "figure": 4.0,
        "unit": "ms",
        "case": make.case(64, "uniform"),
    }
    return Published(**about | changes)


def run_with(make: Factory, *told: Published, **given: Any) -> Run:
    case = make.case(64, "uniform")
    records = [
        make.measured(case, "grouped_mm", [2.1e6, 2e6, 2.2e6] * 5, "grouped"),
        make.measured(case, "loop", [4e6, 4.1e6, 4.2e6] * 5, "loop"),
        make.measured(case, "dense", [1e6, 1.1e6, 1.2e6] * 5, "dense"),
    ]
    plan = [PlannedCase(case=case, implementations=("loop",))]
    return make.run(records, published=list(told), plan=plan, **given)


def cells(table: str) -> list[str]:
    return [cell.strip() for cell in table.splitlines()[2].split("|")[1:-1]]


def test_ours_stands_beside_theirs(make: Factory) -> None:
    row = cells(published_table([run_with(make, published(make, ours="loop"))]))
    assert row[0] == "somebody \\#7"
    assert row[2:] == ["4.00 ms (theirs)", "H100", "2.10 ms (grouped\\_mm)", "4.10 ms (loop)", "1.90x", "unverified"]


def test_rates_are_compared_the_other_way_round(make: Factory) -> None:
    run = run_with(make, published(make, unit="TFLOP/s", figure=100.0, note="at best"))
    for record in run.records:
        record.work = Work(distinct_experts=64.0, useful_flops=1e9, min_bytes=1e9, tflops=200.0)
    row = cells(published_table([run]))
    assert row[4] == "200 TFLOP/s (grouped\\_mm)"
    assert row[-2:] == ["2.00x", "unverified; at best"]


def test_another_device_stands_beside_nothing(make: Factory) -> None:
    for device, said in (("H200", "not measured on H200"), ("", "their device is not known")):
        row = cells(published_table([run_with(make, published(make, device=device))]))
        assert row[4:7] == [said, "-", "-"]


def test_other_work_stands_beside_nothing(make: Factory) -> None:
    for case in (make.case(65, "uniform"), make.case(64, "zipf"), make.case(64, "uniform", pass_="training")):
        row = cells(published_table([run_with(make, published(make, case=case))]))
        assert row[4:7] == ["not measured on H100", "-", "-"]


def test_what_was_planned_and_failed(make: Factory) -> None:
    run = run_with(make, published(make))
    failed = [make.failed(make.case(64, "uniform"), "loop", "oom")]
    row = cells(published_table([make.run(failed, published=run.info.published, plan=run.info.plan)]))
    assert row[4] == "no time was taken"


def test_graphs_are_named(make: Factory) -> None:
    run = run_with(make, published(make))
    graph = msgspec.structs.replace(make.case(64, "uniform"), execution="graph")
    run.records.append(make.measured(graph, "grouped_mm", [1e6] * 15, "grouped"))
    assert cells(published_table([run]))[4] == "1.00 ms (grouped\\_mm, graph)"


def test_only_suites_that_bring_figures_have_the_table(make: Factory, tmp_path: Path) -> None:
    assert published_table([run_with(make)]) == ""
    assert "Beside published figures" not in write_report([run_with(make)], tmp_path).read_text()
    page = write_report([run_with(make, published(make))], tmp_path).read_text()
    assert "## Beside published figures" in page
    assert "4.00 ms (theirs)" in page


def test_cases_left_out_are_named(make: Factory, tmp_path: Path) -> None:
    record = make.measured(make.case(), "loop", [1e6] * 15, "loop")
    run = make.run([record], left_out=["deepseek-v3 T=1"])
    assert "deepseek-v3 T=1" in write_report([run], tmp_path).read_text()

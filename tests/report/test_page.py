"""The whole report: a golden page, and pages about odd runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.cases.shape import Shape
from harness.report.page import write_report

if TYPE_CHECKING:
    from harness.records.store import Run
    from tests.report.conftest import Factory

GOLDEN = Path(__file__).parent / "golden" / "report.md"
UPDATE = "MOEBENCH_UPDATE_GOLDEN"


def report(runs: list[Run], out: Path) -> str:
    """Write a report, check what holds for every report, and return its text."""
    page = write_report(runs, out)
    text = page.read_text(encoding="utf-8")
    assert page == out / "report.md"
    for file in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text):
        assert (out / file).read_bytes().startswith(b"\x89PNG")
        assert (out / file).stat().st_size > 5_000
    assert not re.search(r"\b(nan|NaN|None|inf)\b", text)
    assert "\n\n\n" not in text
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    return text


def test_golden(make: Factory, tmp_path: Path) -> None:
    cases = [make.case(tokens, spread) for tokens in (8, 4096) for spread in ("uniform", "zipf", "single_hot")]
    text = report([make.machine(cases)], tmp_path)
    if os.environ.get(UPDATE):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8"), f"if this is meant, run again with {UPDATE}=1"


def test_an_empty_run(make: Factory, tmp_path: Path) -> None:
    text = report([make.run([])], tmp_path)
    assert "The run holds no records" in text
    assert "## Machine" in text
    assert "nothing was timed" in text


def test_only_failures(make: Factory, tmp_path: Path) -> None:
    case = make.case()
    log = "Traceback\n```\n| <b>boom</b> |"
    records = [
        make.failed(case, "loop", "crashed", "signal | 11 `x`", log),
        make.failed(case, "batched", "unsupported"),
    ]
    text = report([make.run(records)], tmp_path)
    assert "nothing could be ranked in 1 case (statuses: crashed, unsupported)" in text
    assert "signal \\| 11 \\`x\\`" in text
    assert "````text\nTraceback\n```\n| <b>boom</b> |\n````" in text
    assert list(tmp_path.glob("*.png")) == []


def test_a_single_token_count(make: Factory, tmp_path: Path) -> None:
    text = report([make.machine([make.case(64)])], tmp_path)
    assert "Throughput against tokens: not drawn, only T = 64 has a time." in text
    assert "there is only one case" in text
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [
        "01-tiny-moe-forward-balance.png",
        "01-tiny-moe-forward-memory.png",
    ]


def test_several_machines_in_one_report(make: Factory, tmp_path: Path) -> None:
    case = make.case(64)
    there = make.environment("other", "NVIDIA A100", 0.5)
    there.ceilings = {}
    runs = [make.run([make.timed(case, "loop")]), make.run([make.timed(case, "loop")], environment=there)]
    text = report(runs, tmp_path)
    assert ", from 2 runs:" in text
    assert "| machine " in text
    assert "  - other, NVIDIA A100: `loop` is the only one ranked" in text


def test_a_sweep_is_drawn_once(make: Factory, tmp_path: Path) -> None:
    shapes = [Shape(hidden=64, expert_hidden=32, experts=e, top_k=k) for e in (8, 16) for k in (1, 2)]
    text = report([make.machine([make.case(8, shape=shape) for shape in shapes])], tmp_path)
    assert "## Experts and top-k at H64, I32" in text
    assert text.count("who wins is drawn in the map above") == 4
    assert [path.name for path in tmp_path.glob("*.png")] == ["sweep-01-1.png"]


def test_a_report_takes_away_what_an_earlier_one_showed(make: Factory, tmp_path: Path) -> None:
    (tmp_path / "my-own.png").write_bytes(b"")
    report([make.machine([make.case(tokens) for tokens in (8, 64, 4096)])], tmp_path)
    assert (tmp_path / "01-tiny-moe-forward-throughput.png").exists()
    report([make.machine([make.case(64)])], tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [
        "01-tiny-moe-forward-balance.png",
        "01-tiny-moe-forward-memory.png",
        "my-own.png",
    ]


def test_hostile_names_stay_text(make: Factory, tmp_path: Path) -> None:
    environment = make.environment("evil|host\n# heading", "<img src=x>")
    record = make.timed(make.case(), "a|`b`", flags=["x|y"])
    text = report([make.run([record], environment=environment, name="*name*", command="rm `x` | y")], tmp_path)
    assert "\n# heading" not in text
    assert "<img" not in text
    assert "\\*name\\*" in text


def test_a_report_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one run"):
        write_report([], tmp_path)


def test_the_report_never_imports_torch() -> None:
    code = "import sys, harness.report.page; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0

"""``moebench history`` from the outside: what it prints and writes, and its exit codes."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness import cli, terminal
from harness.cli.app import BAD_INPUT, DONE, NOTHING
from harness.records.record import ImplInfo, Record
from harness.records.store import RunInfo, RunStore

if TYPE_CHECKING:
    from collections.abc import Callable


def maker() -> Any:
    """The record builder of the tests of records."""
    path = Path(__file__).parent / "records" / "conftest.py"
    spec = importlib.util.spec_from_file_location("records_conftest", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Maker()


MAKE = maker()


def record(ns: float, name: str = "loop", **fields: Any) -> Record:
    interval = (ns * 0.998, ns * 1.002)
    timing = MAKE.timing([ns] * 7, median_ns=ns, interval_ns=interval)
    made: Record = MAKE.record(name, timing=timing, **fields)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight nightly runs; ``loop`` got slower by a fifth in the fifth, and ``fused`` never ran."""
    for n in range(8):
        store = RunStore(tmp_path / "results" / f"nightly-{n}")
        started = f"2026-09-{n + 1:02d}T10:00:00+00:00"
        store.write_info(RunInfo(name=f"nightly-{n}", command="moebench run quick", started_at=started))
        store.write_environment(MAKE.environment(git_sha=f"{n}abcdef0123"))
        fused = MAKE.record("fused", status="unsupported", reason="no kernel here")
        store.append([record(1000.0 + n % 2 + 200 * (n >= 4)), record(500.0 + n % 3, "dense"), fused])
    return tmp_path / "results"


@pytest.fixture
def history(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    def run(*words: str, runs: Path = folder) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["moebench", "history", *words, "--runs", str(runs)])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        out, err = capfd.readouterr()
        return int(exited.value.code or 0), out, err

    return run


def test_a_table_the_steps_and_a_page(history: Any, folder: Path) -> None:
    code, out, err = history("loop")
    assert (code, err) == (DONE, "")
    assert "1 series of 1 case in 8 runs, 2026-09-01 to 2026-09-08" in out
    assert "4abcdef" in out
    assert "slower by 20 % since 4abcdef (2026-09-05): 1.00 µs until 3abcdef (2026-09-04), then 1.20 µs" in out
    page = folder / "history" / "loop-time" / "history.md"
    assert out.splitlines()[-1] == f"History: {page}"
    assert page.exists()
    assert (page.parent / "history.png").stat().st_size > 5000


def test_a_title_is_wider_than_its_table(history: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A narrow table does not break the name of its case into three lines."""
    monkeypatch.setattr(terminal.out, "_width", 80)
    _, out, _ = history("loop", "--impl", "loop")
    title = next(line for line in out.splitlines() if " T=8 " in line)
    assert title.endswith("; here, a")
    assert len(title) > max(len(line) for line in out.splitlines() if line.startswith(" 2026-09-0"))


def test_the_pages_are_no_runs(history: Any) -> None:
    assert history("loop")[0] == DONE
    code, out, err = history("loop")
    assert (code, err) == (DONE, "")
    assert "in 8 runs" in out


def test_out_and_impl(history: Any, folder: Path, tmp_path: Path) -> None:
    code, out, _ = history("E4", "--impl", "dense,fused", "--out", str(tmp_path / "mine"))
    assert code == DONE
    assert "No step that is larger than the noise." in out
    assert "fused: 8 records of 1 case, none with a figure; the newest is unsupported: no kernel here" in out
    assert "loop" not in out
    assert (tmp_path / "mine" / "history.md").exists()
    assert not (folder / "history").exists()


def test_json_writes_nothing_unless_asked(history: Any, folder: Path, tmp_path: Path) -> None:
    code, out, _ = history("loop", "--json")
    content = json.loads(out)
    assert code == DONE
    assert (content["metric"], content["unit"]) == ("time", "ns")
    (series,) = content["series"]
    assert series["key"]["impl"] == "loop"
    assert [point["value"] for point in series["points"]][:2] == [1000.0, 1001.0]
    (step,) = series["steps"]["steps"]
    assert (step["word"], series["points"][step["at"]]["commit"]) == ("slower", "4abcdef")
    assert not (folder / "history").exists()
    assert json.loads(history("loop", "--json", "--out", str(tmp_path / "o"))[1]) == content
    assert (tmp_path / "o" / "history.md").exists()


def test_many_runs_are_left_to_the_page(history: Any, folder: Path) -> None:
    for n in range(8, 50):
        store = RunStore(folder / f"nightly-{n:02d}")
        store.write_info(RunInfo(name="n", command="c", started_at=f"2026-10-01T10:{n:02d}:00+00:00"))
        store.write_environment(MAKE.environment(git_sha=f"{n:02d}abcdef"))
        store.append([record(1200.0 + n % 2)])
    code, out, _ = history("loop")
    assert code == DONE
    assert "last measured" in out
    assert "2026-10-01" in out
    assert "08abcde" not in out


def test_nothing_matches(history: Any) -> None:
    code, out, err = history("groupd")
    assert (code, out) == (NOTHING, "")
    assert err.startswith(
        "moebench: nothing matches 'groupd': there are the implementations dense, fused, loop, and the"
    )
    assert MAKE.case().case_id in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("fused",), "no record of 'fused' holds a figure for time. fused: 8 records of 1 case"),
        (("loop", "--metric", "energy"), "no record of 'loop' holds a figure for energy. loop: 8 records of 1 case"),
    ],
)
def test_no_figure_at_all(history: Any, words: tuple[str, ...], said: str) -> None:
    code, _, err = history(*words)
    assert code == NOTHING
    assert said in err


def test_an_unknown_metric(history: Any) -> None:
    code, _, err = history("loop", "--metric", "speed")
    assert (code, err.count("\n")) == (BAD_INPUT, 1)
    assert "--metric = 'speed': one of time, tokens_per_second, memory, energy, relative" in err


def test_no_run_at_all(history: Any, tmp_path: Path) -> None:
    code, _, err = history("loop", runs=tmp_path / "elsewhere")
    assert code == BAD_INPUT
    assert "no run in it; a run directory holds run.json, environment.json and records.jsonl" in err


def test_what_cannot_be_read_costs_a_line_and_no_more(history: Any, folder: Path) -> None:
    (folder / "nightly-0" / "environment.json").write_text("{")
    with (folder / "nightly-1" / "records.jsonl").open("ab") as file:
        file.write(b'{"torn')
    code, out, err = history("loop")
    assert code == DONE
    assert "in 7 runs" in out
    first, second = err.splitlines()
    assert "nightly-0/environment.json" in first
    assert first.endswith("this run is left out")
    assert second.endswith("nightly-1: the last line of records.jsonl is torn and was skipped")


def test_terminal_codes_in_names_do_not_reach_the_terminal(history: Any, folder: Path) -> None:
    evil = record(1000.0)
    evil.impl = ImplInfo(name="e\x1b[31mvil[bold]", family="x")
    RunStore(folder / "nightly-7").append([evil])
    for words in (("E4",), ("nothing",)):
        _, out, err = history(*words)
        assert "evil[bold]" in out + err
        assert "\x1b" not in out + err

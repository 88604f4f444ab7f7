"""Records as a flat table: every figure under its name, every record a row."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import msgspec
import pandas as pd
import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from harness.export.csv import ORDER, columns, table
from harness.records.store import RunStore

if TYPE_CHECKING:
    from pathlib import Path


OF_THEIR_OWN = ("environment.versions.", "environment.variables.", "agreement.tensors.", "configuration.values.")


def read(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text))


def test_figures_stand_under_the_names_they_have_in_the_record(make: Any) -> None:
    record = make.record("loop")
    run = make.run(None, [record])
    (row,) = read(table([run]).to_csv(index=False)).to_dict("records")
    assert row["impl.name"] == "loop"
    assert row["case.traffic.tokens"] == 8
    assert row["case.shape.expert_hidden"] == 16
    assert row["timing.median_ns"] == pytest.approx(record.timing.median_ns)
    assert (row["timing.interval_ns_low"], row["timing.interval_ns_high"]) == pytest.approx(record.timing.interval_ns)
    assert row["timing.samples"] == len(record.timing.samples_ns)
    assert row["work.tokens_per_second"] == pytest.approx(record.work.tokens_per_second)
    assert row["device.name"] == run.environment.devices[record.case.device].name
    assert row["environment.versions.torch"] == run.environment.versions["torch"]


def test_what_fits_into_no_cell_is_left_to_the_records(make: Any) -> None:
    found = table([make.run(None, [make.record("loop", log_tail="a\nb")])])
    assert not {"timing.samples_ns", "timing.rounds", "balance.histogram", "log_tail"} & set(found.columns)
    assert not any(isinstance(value, list | dict) for value in found.to_numpy().flat)


def test_tables_of_different_runs_have_the_same_columns_and_names_for_runs(make: Any) -> None:
    """Whether one run is exported or two, flagged or not, measured or not: what is put below one another fits."""
    flagged = make.record("loop")
    flagged.flags = ["drift"]
    one, two = make.run(None, [flagged]), make.run(None, [make.failed("crashing")])
    alone, both = table([one]), table([one, two])
    assert list(both["run"]) == [one.path.name, two.path.name]
    assert list(alone["run"]) == [one.path.name]
    for found in (alone, both, table([two])):
        assert set(columns()) <= set(found.columns)
        others = [name for name in found.columns if name not in columns()]
        assert all(name.startswith(OF_THEIR_OWN) for name in others)
    assert table([two])["flags"].isna().all()
    assert alone["memory.beside_weights_bytes"][0] == flagged.memory.beside_weights_bytes


def test_every_figure_of_a_record_has_its_column(make: Any) -> None:
    """What is declared and what is walked are the same."""
    found = msgspec.to_builtins(make.record("loop"))
    for part in ("timing", "memory", "balance", "work", "impl"):
        single = {
            f"{part}.{name}" for name, value in (found[part] or {}).items() if isinstance(value, str | int | float)
        }
        assert single <= set(columns())
    assert not {"environment.ceilings", "environment.devices", "timing.samples_ns", "log_tail"} & set(columns())


def test_records_that_failed_have_a_row_too(make: Any) -> None:
    failed = make.failed("crashing", reason='signal 11, "quoted",\nover two lines')
    failed.flags = ["drift", "throttled"]
    found = read(table([make.run(None, [failed, make.record("loop")])]).to_csv(index=False))
    assert list(found["status"]) == ["crashed", "ok"]
    assert found["reason"][0] == failed.reason
    assert found["flags"][0] == "drift; throttled"
    assert pd.isna(found["timing.median_ns"][0])
    parts = [str(name).partition(".")[0] for name in found]
    assert parts == sorted(parts, key=ORDER.index)


def test_whole_numbers_stay_whole_beside_missing_ones(make: Any) -> None:
    without = make.record("dense")
    without.memory = None
    text = table([make.run(None, [make.record("loop"), without])]).to_csv(index=False)
    found = pd.read_csv(io.StringIO(text), dtype=str)
    assert list(found["memory.peak_bytes"].fillna("")) == [str(1 << 20), ""]


def test_no_records_no_table(make: Any) -> None:
    with pytest.raises(ValueError, match="none of them holds a record"):
        table([make.run(None, [])])


def stored(make: Any, path: Path) -> Path:
    run = make.run(None, [make.record("loop"), make.record("grouped")])
    store = RunStore(path)
    store.append(run.records)
    store.write_info(run.info)
    store.write_environment(run.environment)
    return path


def test_the_command_writes_a_file_or_to_the_terminal(make: Any, tmp_path: Path) -> None:
    path = stored(make, tmp_path / "run")
    shown = CliRunner().invoke(app, ["export", "csv", str(path)])
    assert shown.exit_code == 0
    assert list(read(shown.stdout)["impl.name"]) == ["loop", "grouped"]
    written = CliRunner().invoke(app, ["export", "csv", str(path), "--out", str(tmp_path / "t.csv")])
    assert written.exit_code == 0
    assert (tmp_path / "t.csv").read_text(encoding="utf-8") == shown.stdout


def test_a_place_that_cannot_be_written_is_bad_input(make: Any, tmp_path: Path) -> None:
    path = stored(make, tmp_path / "run")
    failed = CliRunner().invoke(app, ["export", "csv", str(path), "--out", str(tmp_path / "no" / "t.csv")])
    assert isinstance(failed.exception, ValueError)
    assert "--out" in str(failed.exception)

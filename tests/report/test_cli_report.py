"""``moebench report`` over runs of which some hold nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.cli.app import DONE, NOTHING
from harness.records.store import RunStore

if TYPE_CHECKING:
    from pathlib import Path

    from harness.records.record import Record
    from tests.report.conftest import Factory


def report(*words: object) -> Any:
    return CliRunner().invoke(app, ["report", *map(str, words)])


@pytest.fixture
def empty(make: Factory, tmp_path: Path) -> Path:
    return written(make, tmp_path / "em pty", [])


def written(make: Factory, path: Path, records: list[Record]) -> Path:
    store = RunStore(path)
    store.write_info(make.info())
    store.write_environment(make.environment())
    store.append(records)
    return path


def test_a_run_without_a_record_has_no_report(empty: Path) -> None:
    done = report(empty)
    assert done.exit_code == NOTHING
    assert done.stderr.count("\n") == 1
    assert "nothing was measured there" in done.stderr
    assert f"moebench run --resume '{empty}'" in done.stderr
    assert not (empty / "report.md").exists()


def test_among_several_it_is_left_out(make: Factory, empty: Path, tmp_path: Path) -> None:
    full = written(make, tmp_path / "full", [make.timed(make.case(), "loop")])
    done = report(empty, full, "--out", tmp_path / "out")
    assert done.exit_code == DONE, done.output
    assert done.stderr.count("nothing was measured there") == 1
    alone = report(full, "--out", tmp_path / "alone")
    assert alone.stderr == ""
    assert (tmp_path / "out" / "report.md").read_text() == (tmp_path / "alone" / "report.md").read_text()
    other = written(make, tmp_path / "other", [])
    assert report(empty, other, "--out", tmp_path / "none").exit_code == NOTHING
    assert not (tmp_path / "none").exists()

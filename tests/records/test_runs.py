from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from harness.records.runs import find_runs
from harness.records.store import RunInfo, RunStore

if TYPE_CHECKING:
    from pathlib import Path


def write(make: Any, path: Path, day: int = 1, started: str = "", **environment: Any) -> None:
    store = RunStore(path)
    info = RunInfo(name=path.name, command="moebench run", started_at=started or f"2026-09-{day:02d}T10:00:00+00:00")
    store.write_info(info)
    store.write_environment(make.environment(**environment))
    store.append([make.record()])


def test_runs_at_any_depth_oldest_first(make: Any, tmp_path: Path) -> None:
    write(make, tmp_path / "b" / "deep" / "run", day=1, git_sha="abcdef1234567890")
    write(make, tmp_path / "a", day=2, git_sha="abcdef1234567890", git_dirty="0123")
    write(make, tmp_path / ".trash" / "run", day=3)
    found = find_runs(tmp_path)
    assert [run.name for run in found.runs] == ["b/deep/run", "a"]
    assert [run.commit for run in found.runs] == ["abcdef1", "abcdef1+"]
    assert found.runs[0].revision != found.runs[1].revision
    assert not found.problems


def test_a_run_directory_itself(make: Any, tmp_path: Path) -> None:
    write(make, tmp_path / "one")
    (run,) = find_runs(tmp_path / "one").runs
    assert (run.name, run.commit, run.revision) == ("one", "", "")


def test_dates_with_and_without_an_offset(make: Any, tmp_path: Path) -> None:
    write(make, tmp_path / "late", started="2026-09-01T10:00:00")
    write(make, tmp_path / "early", started="2026-09-01T11:00:00+02:00")
    assert [run.name for run in find_runs(tmp_path).runs] == ["early", "late"]


def test_what_cannot_be_read_is_named_in_a_line_and_left_out(make: Any, tmp_path: Path) -> None:
    for name in ("fine", "garbled", "lonely", "undated", "overflowing", "torn"):
        write(make, tmp_path / name)
    with (tmp_path / "garbled" / "records.jsonl").open("ab") as file:
        file.write(b"{}\n")
    (tmp_path / "lonely" / "run.json").unlink()
    for name, date in (("undated", "yesterday"), ("overflowing", "0001-01-01T00:00:00+14:00")):
        path = tmp_path / name / "run.json"
        info = msgspec.json.decode(path.read_bytes(), type=RunInfo)
        path.write_bytes(msgspec.json.encode(msgspec.structs.replace(info, started_at=date)))
    with (tmp_path / "torn" / "records.jsonl").open("ab") as file:
        file.write(b'{"case": ')
    found = find_runs(tmp_path)
    assert [run.name for run in found.runs] == ["fine", "torn"]
    assert all("\n" not in line and str(tmp_path) in line for line in found.problems)
    told = {line.split(": ")[0].removeprefix(f"{tmp_path}/").split("/")[0]: line for line in found.problems}
    assert sorted(told) == ["garbled", "lonely", "overflowing", "torn", "undated"]
    assert told["torn"].endswith("the last line of records.jsonl is torn and was skipped")
    assert "line 2" in told["garbled"]
    assert all(line.endswith("this run is left out") for name, line in told.items() if name != "torn")


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_no_run_at_all(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "run.json").write_text("{}")  # somebody else's
    with pytest.raises(ValueError, match=r"no run in it; a run directory holds run.json, environment.json and records"):
        find_runs(tmp_path / name)


def test_no_run_that_can_be_read(make: Any, tmp_path: Path) -> None:
    write(make, tmp_path / "one", started="?")
    with pytest.raises(ValueError, match=r"no run in it; 1 could not be read: .*started_at = '\?'"):
        find_runs(tmp_path)

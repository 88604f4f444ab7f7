"""Runs in asv's result files: what is written, what is kept, what is refused."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import pytest
from asv.results import Results
from asv.util import load_json
from typer.testing import CliRunner

from harness.cli import app
from harness.export.asv import export_runs
from harness.export.asv_definitions import KEPT, Definition, union
from harness.records.store import RunStore

if TYPE_CHECKING:
    from pathlib import Path

    from harness.records.store import Run
    from tests.export.conftest import History, Maker

SERIES = "H32_I16_E4_k2.T8_gaussian_0_15_fp32_cpu.track_"
EVERYBODY = ["'dense'", "'loop'", "'grouped'"]


def value(file: Path, metric: str, who: str) -> float | None:
    results = Results.load(str(file))
    values = results.get_result_value(SERIES + metric, results.get_result_params(SERIES + metric))
    found: float | None = values[results.get_result_params(SERIES + metric)[0].index(repr(who))]
    return found


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_run_becomes_asvs_files(history: History, make: Maker) -> None:
    [file] = export_runs([make.run(history.commits[0])], history.results, history.root)
    assert file == history.results / "gpu-07" / f"{history.commits[0][:8]}-moebench-py3.12-torch2.13.json"
    results = Results.load(str(file), machine_name="gpu-07")
    assert results.commit_hash == history.commits[0]
    assert results.date == int(history.git("log", "-1", "--format=%at", history.commits[0])) * 1000
    assert value(file, "time", "loop") == pytest.approx(3.06e-3)
    assert value(file, "relative_time", "grouped") == pytest.approx(2.0)
    samples = results.get_result_samples(SERIES + "time", [EVERYBODY])
    assert [len(one) for one in samples] == [15, 15, 15]
    stats = results.get_result_stats(SERIES + "time", [EVERYBODY])[1]
    assert stats["number"] == 1
    assert stats["ci_99_a"] <= 3.06e-3 <= stats["ci_99_b"]


def test_the_machine_is_described(history: History, make: Maker) -> None:
    export_runs([make.run(history.commits[0])], history.results, history.root)
    about = load_json(str(history.results / "gpu-07" / "machine.json"), 1)
    assert about["machine"] == "gpu-07"
    assert about["gpu"] == "NVIDIA H100 80GB HBM3"
    assert (about["cpu"], about["num_cpu"], about["ram"]) == ("a CPU", "2", "1 GiB")
    assert "driver" not in about  # a new driver would start every series anew


def test_what_asv_says_of_the_machine_stays(history: History, make: Maker) -> None:
    path = history.results / "gpu-07" / "machine.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"machine": "gpu-07", "os": "Linux 6.8.0", "arch": "x86_64", "version": 1}')
    [file] = export_runs([make.run(history.commits[0])], history.results, history.root)
    about = load_json(str(path), 1)
    assert (about["os"], about["arch"], about["gpu"]) == ("Linux 6.8.0", "x86_64", "NVIDIA H100 80GB HBM3")
    assert Results.load(str(file)).params["os"] == "Linux 6.8.0"


def test_exporting_twice_changes_nothing(history: History, make: Maker) -> None:
    runs = [make.run(history.commits[0])]
    export_runs(runs, history.results, history.root)
    before = contents(history.results)
    export_runs(runs, history.results, history.root)
    assert contents(history.results) == before
    assert set(before) == {
        "benchmarks.json",
        KEPT,
        "gpu-07/machine.json",
        f"gpu-07/{history.commits[0][:8]}-moebench-py3.12-torch2.13.json",
    }


def test_runs_of_one_commit_do_not_erase_each_other(history: History, make: Maker) -> None:
    sha = history.commits[0]
    first = make.run(sha, [make.record("dense"), make.record("loop")])
    second = make.run(sha, [make.record("dense"), make.record("grouped")])
    export_runs([first], history.results, history.root)
    [file] = export_runs([second], history.results, history.root)
    assert value(file, "relative_time", "loop") == pytest.approx(3.0)
    assert value(file, "relative_time", "grouped") == pytest.approx(2.0)
    listed = load_json(str(history.results / "benchmarks.json"), 2)
    assert listed[SERIES + "time"]["params"] == [["'dense'", "'loop'", "'grouped'"]]


def test_a_later_export_replaces_what_it_measured_again(history: History, make: Maker) -> None:
    sha = history.commits[0]
    export_runs([make.run(sha)], history.results, history.root)
    again = make.run(sha, [make.record("dense"), make.record("loop", 2.0, energy=None)])
    [file] = export_runs([again], history.results, history.root)
    assert value(file, "relative_time", "loop") == pytest.approx(6.0)
    assert value(file, "relative_time", "grouped") == pytest.approx(2.0)
    assert value(file, "joules_per_token", "loop") == pytest.approx(10.0 / 1000 / 8)  # nothing new to say


def test_runs_given_together_are_repeats(history: History, make: Maker) -> None:
    sha = history.commits[0]
    slow = make.run(sha, [make.record("dense"), make.record("loop", 2.0)], path="other")
    [file] = export_runs([make.run(sha), slow], history.results, history.root)
    samples = Results.load(str(file)).get_result_samples(SERIES + "relative_time", [["'loop'"]])
    assert samples == [[pytest.approx(3.0), pytest.approx(6.0)]]


def test_failures_and_skips(history: History, make: Maker) -> None:
    records = [
        make.record("dense"),
        make.failed("loop", "disagrees", "y is off"),
        make.failed("grouped", "unsupported"),
    ]
    [file] = export_runs([make.run(history.commits[0], records)], history.results, history.root)
    assert value(file, "time", "loop") is None
    skipped = value(file, "time", "grouped")
    assert skipped is not None
    assert math.isnan(skipped)


def test_a_series_that_nobody_has_a_value_in_is_left_out(history: History, make: Maker) -> None:
    records = [make.record(name, energy=None) for name in ("dense", "loop")]
    [file] = export_runs([make.run(history.commits[0], records)], history.results, history.root)
    names = {name.removeprefix(SERIES) for name in Results.load(str(file)).get_all_result_keys()}
    assert names == {"time", "relative_time", "peak_bytes", "error"}


def test_commits_and_machines_have_their_own_files(history: History, make: Maker) -> None:
    runs = [make.run(sha) for sha in history.commits]
    files = export_runs(runs, history.results, history.root, machine="lab")
    assert [file.parent.name for file in files] == ["lab", "lab"]
    assert len(set(files)) == 2


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"git_dirty": "0123456789ab"}, "taken with uncommitted changes"),
        ({"git_sha": None}, "not taken in a git checkout"),
    ],
)
def test_code_that_no_commit_holds_is_refused(history: History, make: Maker, fields: dict[str, str], says: str) -> None:
    run = make.run(history.commits[0])
    run = type(run)(run.path, run.info, msgspec.structs.replace(run.environment, **fields), run.records, 0)
    with pytest.raises(ValueError, match=rf"^RUN = 'runs/run': it was {says}.*--commit SHA$"):
        export_runs([run], history.results, history.root)
    assert not history.results.exists()
    assert export_runs([run], history.results, history.root, commit="HEAD")


def test_a_commit_from_elsewhere_is_refused(history: History, make: Maker) -> None:
    with pytest.raises(ValueError, match=r"^commit = '1234567812345678': no commit of .*; a branch, tag or id"):
        export_runs([make.run("1234567812345678")], history.results, history.root)
    assert not history.results.exists()


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden"])
def test_a_machine_is_a_folder(history: History, make: Maker, name: str) -> None:
    with pytest.raises(ValueError, match=r"^--machine = .*: a name without '/'"):
        export_runs([make.run(history.commits[0])], history.results, history.root, machine=name)


def test_a_run_without_records_is_refused(history: History, make: Maker) -> None:
    with pytest.raises(ValueError, match=r"^RUN = 'runs/run': runs that hold a record"):
        export_runs([make.run(history.commits[0], [])], history.results, history.root)


def test_broken_files_are_named(history: History, make: Maker) -> None:
    [file] = export_runs([make.run(history.commits[0])], history.results, history.root)
    file.write_text("{")
    with pytest.raises(ValueError, match=rf"^{file}: not results that asv wrote"):
        export_runs([make.run(history.commits[0])], history.results, history.root)


def write(run: Run, path: Path) -> Path:
    store = RunStore(path)
    store.write_environment(run.environment)
    store.write_info(run.info)
    store.append(run.records)
    return path


def test_the_command(history: History, make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(history.root)
    path = write(make.run(history.commits[0]), tmp_path / "run")
    done = CliRunner().invoke(app, ["export", "asv", str(path), str(path), "--machine", "lab"])
    assert done.exit_code == 0, done.output
    [file] = history.results.glob("lab/*-moebench-*.json")
    samples = Results.load(str(file)).get_result_samples(SERIES + "relative_time", [["'loop'"]])
    assert [len(one) for one in samples] == [1]  # the same run named twice is no repeat


def test_a_run_that_is_not_there(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(history.root)
    done = CliRunner().invoke(app, ["export", "asv", "nowhere"])
    assert isinstance(done.exception, ValueError)
    assert "a run directory holds" in str(done.exception)


def test_lists_are_joined() -> None:
    def definition(version: str, *who: str) -> Definition:
        return {"version": version, "params": [list(who)]}

    first: dict[str, Definition] = {
        "a": definition("1", "x"),
        "b": definition("2", "x"),
        "own": {"version": "1", "params": []},
    }
    second = {"a": definition("1", "y", "x"), "b": definition("1", "y"), "c": definition("1", "z")}
    joined = union(first, second)
    assert joined["a"]["params"] == [["x", "y"]]
    assert joined["b"] == definition("2", "x")
    assert joined["c"] == definition("1", "z")
    assert joined["own"] == {"version": "1", "params": []}
    assert union(joined, second) == joined

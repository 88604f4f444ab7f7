"""Runs from the outside, with real workers: exit codes, third parties, Ctrl-C, reports."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.cli.app import BAD_INPUT, DONE, FAILURES, INTERRUPTED, NOTHING
from harness.records.store import RECORDS, load_run, read_records

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
Finished = tuple[Path, "subprocess.CompletedProcess[str]"]


def moebench(*words: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False, **options)  # type: ignore[call-overload, no-any-return]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Workers on a busy machine: two threads that wait for each other cost a hundred times what one takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One small case measured from start to end."""
    out = tmp_path_factory.mktemp("cli") / "run"
    words = (
        "tiny",
        "--set",
        "tokens=4",
        "--set",
        "pass=forward",
        "--set",
        "scope=experts",
        "--impl",
        "loop,dense,fused",
    )
    return out, moebench("run", *words, "--budget", "1s", "--out", out)


def test_a_run_from_start_to_end(finished: Finished) -> None:
    out, done = finished
    assert done.returncode == DONE, done.stderr
    assert "Traceback" not in done.stderr
    assert "after start-up was spent measuring" in done.stdout
    assert (out / "report.md").exists()
    run = load_run(out)
    assert {record.impl.name: record.status for record in run.records} == {
        "loop": "ok", "dense": "ok", "fused": "unsupported",
    }  # fmt: skip
    assert run.info.command.startswith("moebench run tiny --set")


@pytest.mark.slow
def test_a_directory_that_holds_a_run_is_refused(finished: Finished) -> None:
    done = moebench("run", "tiny", "--out", finished[0])
    assert done.returncode == BAD_INPUT
    assert "holds a run already; continue it with --resume" in done.stderr


@pytest.mark.slow
def test_a_finished_run_can_be_resumed(finished: Finished) -> None:
    before = read_records(finished[0])
    done = moebench("run", "--resume", finished[0])
    assert done.returncode == DONE, done.stderr
    assert "Report: " in done.stdout
    assert read_records(finished[0]) == before


def test_a_run_can_be_reported_again(finished: Finished, tmp_path: Path) -> None:
    shutil.copytree(finished[0], tmp_path / "moved")
    (tmp_path / "moved" / "report.md").unlink()
    assert moebench("report", tmp_path / "moved").returncode == DONE
    assert (tmp_path / "moved" / "report.md").exists()
    done = moebench("report", finished[0], "--out", tmp_path / "report")
    assert done.returncode == DONE, done.stderr
    assert (tmp_path / "report" / "report.md").exists()
    assert done.stderr == ""


def test_a_torn_line_is_mentioned_by_the_report(finished: Finished, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished[0], copy)
    with (copy / RECORDS).open("ab") as file:
        file.write(b'{"case":')
    done = moebench("report", copy, "--out", tmp_path / "report")
    assert done.returncode == DONE
    assert "the last line of records.jsonl is torn and was skipped" in done.stderr


@pytest.mark.slow
def test_an_implementation_that_is_always_refused_measures_nothing(tmp_path: Path) -> None:
    done = moebench("run", "tiny", "--set", "tokens=4", "--impl", "fused", "--budget", "1s", "--out", tmp_path / "run")
    assert done.returncode == NOTHING
    assert "nothing was measured" in done.stderr
    assert {record.status for record in read_records(tmp_path / "run")[0]} == {"unsupported"}


THEIRS = """
import os
from harness import implementation

@implementation("theirs", family="peer", devices=("cpu",), dtypes=("fp32",))
def theirs(layer):
    "One multiplication too few."
    return lambda x, routing: 2 * x

@implementation("falls", family="peer", devices=("cpu",), dtypes=("fp32",))
def falls(layer):
    "Takes the worker with it."
    os._exit(3)
"""


@pytest.fixture(scope="module")
def third_party(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A package of somebody else, installed in a folder on the path; returns the environment that has it."""
    site = tmp_path_factory.mktemp("site")
    (site / "theirs.py").write_text(THEIRS)
    (site / "theirs-1.0.dist-info").mkdir()
    (site / "theirs-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (site / "theirs-1.0.dist-info" / "entry_points.txt").write_text("[moebench.impls]\ntheirs = theirs\n")
    return {**os.environ, "PYTHONPATH": str(site)}


@pytest.mark.slow
def test_a_third_partys_package_is_listed(third_party: dict[str, str]) -> None:
    done = moebench("list", "--json", env=third_party)
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["theirs"]["from"] == "theirs"
    assert rows["theirs"]["what it does"] == "One multiplication too few."
    assert "loop" in rows


@pytest.mark.slow
def test_a_third_partys_package_is_validated(third_party: dict[str, str]) -> None:
    done = moebench("validate", "--impl", "theirs", "--json", env=third_party)
    rows = json.loads(done.stdout)
    assert done.returncode == FAILURES
    assert {row["implementation"] for row in rows} == {"theirs"}
    (checked,) = (row for row in rows if (row["dtype"], row["pass"]) == ("fp32", "forward"))
    assert checked["failed"] > 0
    assert all(row["unsupported"] == row["cases"] for row in rows if row is not checked)


@pytest.mark.slow
def test_a_third_partys_package_is_run_and_its_failures_make_exit_code_1(
    third_party: dict[str, str], tmp_path: Path
) -> None:
    words = ("tiny", "--set", "tokens=4", "--set", "pass=forward", "--set", "scope=experts", "--budget", "1s")
    done = moebench("run", *words, "--impl", "loop,theirs,falls", "--out", tmp_path / "run", env=third_party)
    found = {record.impl.name: record for record in read_records(tmp_path / "run")[0]}
    assert done.returncode == FAILURES, done.stderr
    assert {name: record.status for name, record in found.items()} == {
        "loop": "ok", "theirs": "disagrees", "falls": "crashed",
    }  # fmt: skip
    assert "disagrees theirs on" in done.stderr
    assert "the process exited with code 3" in done.stderr


def interrupted(out: Path, when: str, number: int = signal.SIGINT) -> subprocess.CompletedProcess[str]:
    """Start a run of some minutes and send Ctrl-C once this file is there."""
    command = [
        sys.executable,
        "-m",
        "harness",
        "run",
        "tiny",
        "--impl",
        "loop,dense",
        "--budget",
        "5m",
        "--out",
        str(out),
    ]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores Ctrl-C,
    try:  # and hands that on to its children
        parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        end = time.monotonic() + 120
        while not (out / when).exists() and parent.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        parent.send_signal(number)
        said = parent.communicate(timeout=60)
    finally:
        parent.kill()
    return subprocess.CompletedProcess(command, parent.returncode, *said)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_was_measured_and_says_how_to_go_on(tmp_path: Path, number: int) -> None:
    """So does whoever ends it politely, as ``timeout`` and schedulers do."""
    done = interrupted(tmp_path / "run", RECORDS, number)
    assert done.returncode == INTERRUPTED
    assert f"moebench run --resume {tmp_path / 'run'}" in done.stderr
    assert "Traceback" not in done.stderr
    run = load_run(tmp_path / "run")
    assert run.torn_lines == 0
    assert 1 <= len(run.records) < 6
    assert run.info.finished_at is None
    assert run.info.wall_s > 0


@pytest.mark.slow
def test_ctrl_c_before_anything_is_measured(tmp_path: Path) -> None:
    done = interrupted(tmp_path / "run", "run.json")
    assert done.returncode == INTERRUPTED
    assert "--resume" in done.stderr
    assert "Traceback" not in done.stderr

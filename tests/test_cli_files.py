"""What the system refuses and what other processes hold: one line, nothing lost. And plain terminals."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness import cli, terminal
from harness.cli import measuring
from harness.cli.app import BAD_INPUT, DONE, NOTHING
from harness.records.locking import locked
from harness.records.store import RECORDS, Run, RunStore, load_run
from harness.report import page

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[1]
Main = Callable[..., tuple[int, str, str]]


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Main:
    """Run the command in this process and return exit code, standard output and standard error."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["moebench", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        sys.stdout.flush()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture(scope="module")
def reference() -> Run:
    return load_run(ROOT / "results" / "reference" / "cpu-epyc-2-cores")


@pytest.fixture
def copy(reference: Run, tmp_path: Path) -> Callable[..., Path]:
    """Write the first records of the reference run again."""

    def write(name: str, records: int = 2) -> Path:
        store = RunStore(tmp_path / name)
        store.append(reference.records[:records])
        store.write_info(reference.info)
        store.write_environment(reference.environment)
        return tmp_path / name

    return write


def one_line(err: str) -> str:
    lines = err.splitlines()
    assert len(lines) == 1, err
    return lines[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report", "{run}", "--out", "/proc/nope"], "moebench: /proc/nope: No such file or directory"),
        (["report", "{run}", "--out", "{file}"], "moebench: {file}: File exists"),
        (["export", "asv", "{run}", "--commit", "HEAD", "--out", "{file}"], "moebench: {file}: File exists"),
        (["report", "{broken}"], "moebench: {broken}/records.jsonl: Is a directory"),
        (["run", "--resume", "{broken}"], "moebench: {broken}/records.jsonl: Is a directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_the_system_refuses_is_one_line(
    main: Main, copy: Callable[..., Path], tmp_path: Path, words: list[str], said: str
) -> None:
    (tmp_path / "file").write_text("")
    broken = copy("broken", 0)
    (broken / RECORDS).unlink()
    (broken / RECORDS).mkdir()
    places = {"run": str(copy("run")), "file": str(tmp_path / "file"), "broken": str(broken)}
    code, out, err = main(*(word.format(**places) for word in words))
    assert (code, out) == (BAD_INPUT, "")
    assert one_line(err) == said.format(**places)


def no_space(*_: object, **__: object) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("words", [["suites"], ["suites", "--json"]], ids=["table", "json"])
def test_an_output_that_takes_nothing_is_one_line(words: list[str]) -> None:
    command = [sys.executable, "-m", "harness", "list", *words]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == BAD_INPUT
    assert one_line(done.stderr).endswith(": No space left on device")


def test_a_reader_that_leaves_is_not_talked_about() -> None:
    command = [sys.executable, "-m", "harness", "list", "presets", "--json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.close()
        assert process.stderr
        assert process.stderr.read() == b""


def test_a_full_disk_while_measuring_says_what_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    class Stopped:
        complaint, torn_lines, path = "", 0, "my run"

        def to_do(self) -> list[Any]:
            return []

        measure = no_space

    session: Any = Stopped()
    assert measuring._measure(session) == BAD_INPUT
    said = one_line(capfd.readouterr().err.strip())
    assert said.endswith(
        "No space left on device; what was measured is kept. Go on with: moebench run --resume 'my run'"
    )


def test_a_report_that_cannot_be_written_costs_no_summary(
    copy: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = load_run(copy("run", 12))
    monkeypatch.setattr(page, "write_report", no_space)
    assert measuring._conclude(run) == BAD_INPUT
    out, err = capfd.readouterr()
    assert "after start-up was spent measuring" in out
    again = f"all records are kept. For a report: moebench report {run.path} --out DIR"
    assert one_line(err) == f"moebench: {run.path}: No space left on device; {again}"


def test_the_report_is_written_before_the_summary_is_shown(
    copy: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def write(runs: Sequence[Run], out: Path) -> Path:
        written.append(out)
        return out

    run = load_run(copy("run", 12))
    monkeypatch.setattr(page, "write_report", write)
    monkeypatch.setattr(terminal.out, "print", no_space)
    with pytest.raises(OSError, match="No space"):
        measuring._conclude(run)
    assert written == [run.path]


def test_letters_that_a_terminal_lacks_are_spelled_out() -> None:
    code = 'from harness.cli import streams; streams.spell_out(); print("3 µs → 4 … ü")'
    plain = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=plain, check=True)
    assert done.stdout == "3 us -> 4 ... ?\n"


def test_a_table_in_the_c_locale(copy: Callable[..., Path]) -> None:
    """What it holds besides ASCII was taken for bad input."""
    bare = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "300"}
    command = [sys.executable, "-m", "harness", "compare", str(copy("a", 12)), str(copy("b", 12))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=bare, check=False)
    assert done.returncode == DONE, done.stderr
    assert done.stdout.isascii()
    assert "?" not in done.stdout
    assert "SAME" in done.stdout
    assert done.stderr == ""


def test_a_report_keeps_away_from_other_runs(main: Main, copy: Callable[..., Path]) -> None:
    mine, other = copy("mine"), copy("other")
    (other / "report.md").write_text("precious")
    code, out, err = main("report", mine, "--out", other)
    assert (code, out) == (BAD_INPUT, "")
    assert one_line(err).startswith(f"moebench: --out = '{other}': holds another run")
    assert (other / "report.md").read_text() == "precious"


@pytest.mark.parametrize("command", ["report", "compare"])
def test_the_same_run_twice_is_refused(main: Main, copy: Callable[..., Path], command: str) -> None:
    run = copy("run")
    more = ["--out", run.parent / "page"] if command == "report" else []
    code, out, err = main(command, run, run.parent / "." / "x" / ".." / "run", *more)
    assert (code, out) == (BAD_INPUT, "")
    assert one_line(err).endswith("run': the same directory twice")


def test_a_run_in_progress_is_neither_resumed_nor_called_abandoned(main: Main, copy: Callable[..., Path]) -> None:
    empty, begun = copy("empty", 0), copy("begun")
    with locked(empty), locked(begun):
        code, _, err = main("report", empty)
        assert code == NOTHING
        assert (
            one_line(err) == f"moebench: {empty}: still being measured, and there is no record yet, so it is left out"
        )
        code, _, err = main("report", begun)
        assert code == DONE
        assert one_line(err).endswith("still being measured; the report is about the 2 records so far")
    code, _, err = main("report", empty)
    assert f"go on with: moebench run --resume {empty}" in err


def test_an_unknown_revision_is_refused_before_anything_is_promised(main: Main) -> None:
    code, out, err = main("compare", "--rev", "nosuchrev", "tiny")
    assert (code, out) == (BAD_INPUT, "")
    assert one_line(err).startswith("moebench: --rev = 'nosuchrev': a commit")

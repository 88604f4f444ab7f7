"""``moebench compare`` from the outside: exit codes, one line for bad input, valid JSON, on a run taken for real."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
import pytest
from rich.console import Console

from harness import cli, terminal
from harness.records.store import Run, RunStore, load_run

if TYPE_CHECKING:
    from pathlib import Path

    from harness.records.record import Record

Main = Callable[..., tuple[int, str, str]]
CASES = 4
"""Of the reference run's, in copies."""


@pytest.fixture(scope="module")
def reference(request: pytest.FixtureRequest) -> Path:
    return request.config.rootpath / "results" / "reference" / "cpu-epyc-2-cores"


@pytest.fixture(scope="module")
def whole(reference: Path) -> Run:
    return load_run(reference)


@pytest.fixture(scope="module")
def twin(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same records in another directory."""
    return shutil.copytree(reference, tmp_path_factory.mktemp("twin") / "run")


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Main:
    """Run ``moebench compare`` in this process and return exit code, standard output and standard error."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["moebench", "compare", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        sys.stdout.flush()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture
def copy(whole: Run, tmp_path: Path) -> Callable[..., Path]:
    """Write part of the reference run again, each record changed by a function or left out where it gives None."""

    def write(name: str, change: Callable[[Record], Record | None] = lambda record: record) -> Path:
        keep = list(dict.fromkeys(record.case_id for record in whole.records))[:CASES]
        records = [
            msgspec.json.decode(msgspec.json.encode(record), type=type(record))
            for record in whole.records
            if record.case_id in keep
        ]
        store = RunStore(tmp_path / name)
        store.append(changed for record in records if (changed := change(record)))
        store.write_info(whole.info)
        store.write_environment(whole.environment)
        return tmp_path / name

    return write


def slower(record: Record) -> Record:
    """``grouped`` takes twice as long."""
    if record.impl.name == "grouped" and record.timing:
        record.timing.samples_ns = [2 * sample for sample in record.timing.samples_ns]
    return record


def crashed(record: Record) -> Record:
    """``loop`` crashes."""
    if record.impl.name != "loop":
        return record
    return msgspec.structs.replace(record, status="crashed", reason="segmentation fault", timing=None)


def test_a_run_against_itself_has_no_regression(main: Main, reference: Path, twin: Path, whole: Run) -> None:
    code, out, _ = main(reference, twin, "--json")
    told = json.loads(out)
    assert code == 0
    assert told["regressions"] == 0
    assert told["compared"] == sum(record.status == "ok" for record in whole.records)
    assert {one["outcome"] for one in told["comparisons"]} == {"SAME", "AMBIGUOUS", "NOT COMPARABLE"}
    assert {one["ratio"] for one in told["comparisons"] if one["outcome"] == "SAME"} == {1.0}
    assert all(one["rounds"] == 0 for one in told["comparisons"] if one["outcome"] == "AMBIGUOUS"), "too few rounds"


def test_within_the_run_the_winners_are_those_of_its_report(main: Main, reference: Path) -> None:
    """The report: prefill of 1024 tokens goes to loop, many small experts and training of 1024 tokens to grouped."""
    code, out, _ = main(reference, "--impl", "loop,grouped", "--json")
    words = {one["case"]: one["verdict"] for one in json.loads(out)["comparisons"]}
    assert code == 1, "grouped is slower somewhere"
    for traffic in ("uniform", "gaussian:0.15", "zipf:1"):
        assert words[f"olmoe-1b-7b (H2048 I1024 E64 k8) T=1024 {traffic} bf16 cpu"] == "SLOWER"
    for top_k in (2, 8):
        assert words[f"H1024 I512 E128 k{top_k} T=512 gaussian:0.15 bf16 cpu"] == "FASTER"
    assert words["H512 I256 E16 k2 T=1024 gaussian:0.15 fp32 training cpu"] == "FASTER"


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (slower, 1, "SLOWER"),
        (crashed, 1, "BROKEN: loop"),
        (lambda record: record, 0, "SAME"),
        (lambda _: None, 3, "nothing comparable."),
    ],
    ids=["slower", "crashed", "nothing changed", "nothing there"],
)
def test_exit_codes(
    main: Main, copy: Callable[..., Path], change: Callable[[Record], Record | None], code: int, said: str
) -> None:
    ended, out, err = main(copy("base"), copy("new", change))
    assert ended == code
    assert said in out
    assert ("not the ratio of the two medians" in out) == (code != 3), "a word under the table, where there is one"
    assert err == ""


def test_the_reverse_is_an_improvement(main: Main, copy: Callable[..., Path]) -> None:
    code, out, _ = main(copy("base", slower), copy("new"))
    assert code == 0
    assert "FASTER" in out
    code, out, _ = main(copy("base2", crashed), copy("new2"))
    assert code == 0
    assert "FIXED: loop" in out


def test_ambiguous_alone_is_no_failure(main: Main, copy: Callable[..., Path]) -> None:
    def short(record: Record) -> Record:
        if record.timing:
            record.timing.samples_ns, record.timing.rounds = record.timing.samples_ns[:3], record.timing.rounds[:3]
        return record

    code, out, _ = main(copy("base"), copy("new", short))
    assert code == 0
    assert "AMBIGUOUS." in out


def test_another_machine_is_not_comparable_unless_asked_for(main: Main, copy: Callable[..., Path]) -> None:
    base, new = copy("base"), copy("new", slower)
    environment = load_run(new).environment
    environment.devices["cpu"].name = "Another CPU"
    RunStore(new).write_environment(environment)
    code, out, _ = main(base, new)
    assert code == 3
    assert "device AMD EPYC / Another CPU" in out
    code, out, _ = main(base, new, "--across", "device")
    assert code == 0, "never a regression"
    assert "raw times" not in out, "the copies share their bouts"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere", "{base}"], "nowhere/run.json: No such file"),
        (["{base}", "nowhere"], "nowhere/run.json: No such file"),
        (["{base}", "{new}", "--threshold", "200%"], "--threshold = '200%'"),
        (["{base}", "{new}", "--threshold", "two"], "--threshold = 'two'"),
        (["{base}", "{new}", "--metric", "speed"], "--metric = 'speed'"),
        (["{base}", "{new}", "--across", "gpu"], "--across = 'gpu'"),
        (["{base}", "{new}", "--impl", "nobody"], "--impl = 'nobody'"),
        (["{base}", "--impl", "loop,nobody"], "--impl = 'nobody'"),
        (["{base}", "--impl", "loop,loop"], "--impl = 'loop,loop': two different implementations"),
        (["{base}", "--impl", "loop, loop"], "two different implementations"),
        (["{base}", "--impl", "loop"], "give two run directories"),
        (["{base}"], "give two run directories"),
        ([], "give two run directories"),
    ],
)
def test_bad_input_is_one_line(main: Main, reference: Path, twin: Path, words: list[str], said: str) -> None:
    code, out, err = main(*(word.format(base=reference, new=twin) for word in words))
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("metric", ["time", "tokens_per_second", "memory", "energy"])
@pytest.mark.parametrize("change", [slower, crashed])
def test_json_is_strict_and_stable(
    main: Main, copy: Callable[..., Path], metric: str, change: Callable[[Record], Record]
) -> None:
    words = (copy("base"), copy("new", change), "--json", "--metric", metric, "--threshold", "5%")
    code, out, _ = main(*words)
    told = json.loads(out, parse_constant=pytest.fail)
    assert (told["metric"], told["threshold"]) == (metric, 0.05)
    assert code == (1 if told["regressions"] else 0 if told["compared"] else 3)
    assert main(*words)[1] == out


def test_an_absent_meter_is_said_in_its_own_words(main: Main, reference: Path, twin: Path) -> None:
    code, out, _ = main(reference, twin, "--metric", "energy")
    assert code == 3
    assert "no energy in base and new: energy is read from NVIDIA boards" in out


def test_a_machine_twice_as_slow_at_another_time_is_no_regression(main: Main, copy: Callable[..., Path]) -> None:
    def later(record: Record) -> Record:
        if record.timing:
            record.timing.samples_ns = [2 * sample for sample in record.timing.samples_ns]
        return msgspec.structs.replace(record, bout=f"later {record.bout}")

    code, out, _ = main(copy("base"), copy("new", later), "--json")
    told = json.loads(out)["comparisons"]
    assert code == 0
    assert {one["verdict"] for one in told} <= {"SAME", "AMBIGUOUS", "NOT COMPARABLE"}
    assert any("through dense, measured both times" in one["how"] for one in told)


def test_only_some_implementations(main: Main, copy: Callable[..., Path]) -> None:
    code, out, _ = main(copy("base"), copy("new", slower), "--impl", "loop,dense", "--json")
    assert code == 0
    assert {one["impl"] for one in json.loads(out)["comparisons"]} == {"loop", "dense"}


@pytest.mark.parametrize("words", [("--pairs", "2"), ("--pairs", "0")])
def test_too_few_pairs_are_refused_before_anything_is_measured(main: Main, words: tuple[str, str]) -> None:
    code, _, err = main("--rev", "HEAD", *words)
    assert code == 2
    assert "--pairs = " in err
    assert "3 or more" in err


def test_two_suites_are_one_too_many(main: Main) -> None:
    code, _, err = main("--rev", "HEAD", "compare", "tiny")
    assert code == 2
    assert "--rev REV takes one SUITE" in err


@pytest.mark.parametrize(("columns", "full"), [("80", False), ("150", True)])
def test_a_narrow_terminal_leaves_columns_out_rather_than_fold_them(
    main: Main, reference: Path, twin: Path, monkeypatch: pytest.MonkeyPatch, columns: str, full: bool
) -> None:
    monkeypatch.setattr(terminal, "out", Console(width=int(columns)))
    _, out, _ = main(reference, twin)
    assert "95 % interval" in out
    assert ("counts from" in out) == full


def test_directories_that_are_taken_are_no_run_to_resume(main: Main, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "run.json").write_text("{}")
    code, _, err = main("--rev", "HEAD", "tiny", "--out", tmp_path)
    assert code == 2
    assert "choose another --out" in err
    assert "resume" not in err


@pytest.mark.parametrize("complete", [True, False])
def test_what_complete_pairs_gave_is_pointed_at_after_ctrl_c(
    main: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reference: Path, complete: bool
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        if complete:
            shutil.copytree(reference, tmp_path / "base")
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.running.versus.run.measure_versus", interrupted)
    code, _, err = main("--rev", "HEAD", "tiny", "--out", tmp_path)
    assert code == 130
    assert (f"{tmp_path / 'base'} {tmp_path / 'new'}" in err) == complete
    assert ("nothing was kept" in err) != complete

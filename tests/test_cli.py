"""The command from the outside: exit codes, one line for bad input, JSON, Ctrl-C. Most of it runs no worker."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from harness import cli, terminal
from harness.cli.app import BAD_INPUT, INTERRUPTED, NOTHING
from harness.running import machine as machine_module
from harness.running.machine import Machine, MachineError, look_around

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
NO_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "impls", "transformers"}:
            raise ImportError(f"the parent imported {name}")
sys.meta_path.insert(0, Refuse())
from harness import cli, terminal
"""


def without_torch(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", NO_TORCH + code], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Workers on a busy machine: two threads that wait for each other cost a hundred times what one takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def machine() -> Machine:
    """This machine, looked at once."""
    return look_around()


@pytest.fixture
def main(machine: Machine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Main:
    return Main(machine, monkeypatch, capfd)


class Main:
    """Runs the command in this process, without looking at the machine again."""

    def __init__(self, machine: Machine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._patch = monkeypatch
        self._capfd = capfd
        monkeypatch.setattr(machine_module, "look_around", lambda **_: machine)

    def __call__(self, *words: str | Path) -> tuple[int, str, str]:
        self._patch.setattr(sys, "argv", ["moebench", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        sys.stdout.flush()
        out, err = self._capfd.readouterr()
        return int(ended.value.code or 0), out, err


def test_help_needs_no_torch() -> None:
    done = without_torch("sys.argv = ['moebench', '--help']\ncli.main()")
    assert done.returncode == 0, done.stderr
    for command in ("list", "plan", "run", "validate", "report", "doctor"):
        assert command in done.stdout


@pytest.mark.parametrize("command", ["list", "plan", "run", "validate", "report", "doctor"])
def test_every_command_has_help(main: Main, command: str) -> None:
    code, out, _ = main(command, "--help")
    assert code == 0
    assert "Usage" in out


@pytest.mark.parametrize("what", ["suites", "presets", "traffic", "routers"])
def test_lists_of_data_need_no_torch(what: str) -> None:
    code = f"sys.argv = ['moebench', 'list', {what!r}, '--json']\ncli.main()"
    done = without_torch(code)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) >= 3


def test_the_library_s_face_needs_no_torch() -> None:
    done = without_torch("assert 'torch' not in sys.modules and cli.app")
    assert done.returncode == 0, done.stderr


def test_no_words_show_help(main: Main) -> None:
    code, out, err = main()
    assert code in {0, 2}
    assert "Usage" in out + err


@pytest.mark.parametrize("what", ["implementations", "suites", "presets", "traffic", "routers"])
def test_lists_as_json_and_as_tables_say_the_same(main: Main, what: str) -> None:
    code, out, _ = main("list", what, "--json")
    rows = json.loads(out)
    assert code == 0
    code, table, _ = main("list", what)
    assert code == 0
    squeezed = re.sub(r"\s+", "", table)
    for row in rows:
        assert next(iter(row.values()))[:6] in squeezed


def test_a_narrow_list_breaks_no_name_and_spares_what_is_known_otherwise(
    main: Main, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for columns, whole in (("80", False), ("110", True)):
        monkeypatch.setattr(terminal, "out", Console(width=int(columns)))
        _, out, _ = main("list")
        words = {line.split()[0] for line in out.splitlines() if line.strip()}
        assert set(machine.listed) <= words
        assert ("impls.loop" in out) == whole
        assert "`" not in out


def test_the_list_of_implementations(main: Main) -> None:
    rows = json.loads(main("list", "--json")[1])
    by_name = {row["name"]: row for row in rows}
    assert {"loop", "grouped", "dense", "fused"} <= set(by_name)
    assert by_name["loop"]["from"] == "impls.loop"
    assert by_name["loop"]["family"] == "loop"


def test_plan_as_json(main: Main) -> None:
    code, out, _ = main("plan", "tiny", "--impl", "loop,dense", "--budget", "9s", "--set", "tokens=4", "--json")
    plan = json.loads(out)
    assert code == 0
    assert (plan["suite"], plan["budget_s"]) == ("tiny", 9.0)
    assert plan["expected_s"] > 9.0
    assert len(plan["cases"]) == 2
    for case in plan["cases"]:
        assert case["implementations"] == ["dense", "loop"] or case["implementations"] == ["loop", "dense"]
        assert case["case"]["traffic"]["tokens"] == 4
        assert case["memory_bytes"] > 0
        assert len(case["case_id"]) == 12


def test_plan_as_a_table(main: Main) -> None:
    code, out, _ = main("plan", "tiny")
    assert code == 0
    assert "3 cases, about" in out


BAD = [
    (["run", "nosuch"], "suite = 'nosuch'"),
    (["plan", "nosuch"], "suite = 'nosuch'"),
    (["run", "tiny", "--impl", "nope"], "--impl = 'nope': one of batched, dense"),
    (["run", "tiny", "--device", "tpu"], "device = 'tpu'"),
    (["run", "tiny", "--device", "cuda:77"], "device = 'cuda:77'"),
    (["run", "tiny", "--device", "tpu", "--impl", "nope"], "--impl = 'nope'"),
    (["run", "tiny", "--budget", "soon"], "budget = 'soon'"),
    (["run", "tiny", "--set", "tokens=none"], "tokens = 'none'"),
    (["run", "tiny", "--set", "colour=blue"], "colour = 'blue'"),
    (["run", "tiny", "--model", "/nowhere.json"], "/nowhere.json: cannot be read"),
    (["run", "tiny", "--set", "tokens=99999999999"], "too large for memory"),
    (["run", "--resume", "/nowhere/at/all"], "/nowhere/at/all/run.json: No such file"),
    (["run", "--resume", "/dev/null"], "/dev/null/run.json: Not a directory"),
    (["run", "tiny", "--out", str(Path(__file__).parent)], "--out = "),
    (["run", "quick", "--resume", "x", "--impl", "loop"], "--resume takes no SUITE, --impl: a run goes on as it was"),
    (["run", "--resume", "x", "--set", "tokens=1", "--budget", "9s"], "--resume takes no --budget, --set"),
    (["run", "tiny", "--out", "/dev/null"], "/dev/null: cannot hold a run"),
    (["list", "colours"], "list 'colours': one of implementations, suites"),
    (["validate", "--impl", "nope"], "--impl = 'nope'"),
    (["validate", "--device", "tpu"], "device = 'tpu'"),
    (["report", "/nowhere", "--out", "/tmp/unused"], "/nowhere/run.json: No such file"),
    (["report", "/nowhere", "/nobody"], "--out is missing: a directory for the report about several runs"),
]


@pytest.mark.parametrize(
    ("words", "message"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_bad_input_is_one_line_and_exit_code_2(main: Main, words: list[str], message: str) -> None:
    code, out, err = main(*words)
    lines = [line for line in err.splitlines() if line and not re.match(r"\d+ cases, about", line)]
    assert code == BAD_INPUT
    assert out == ""
    assert len(lines) == 1
    assert lines[0].startswith("moebench: ")
    assert message in lines[0]


def test_a_bad_suite_names_file_key_and_what_is_allowed(main: Main, tmp_path: Path) -> None:
    suite = tmp_path / "mine.toml"
    suite.write_text(
        '[suite]\nname = "mine"\n[[sweep]]\nhidden = 32\nexpert_hidden = 16\nexperts = 4\ntop_k = 9\ntokens = 1\n'
    )
    code, _, err = main("run", suite, "--out", tmp_path / "run")
    assert code == BAD_INPUT
    assert re.search(r"mine\.toml: sweep 1: top_k = 9: at most experts = 4", err)
    assert not (tmp_path / "run").exists()


def test_an_unknown_option_is_exit_code_2(main: Main) -> None:
    code, _, err = main("run", "tiny", "--bogus")
    assert code == 2
    assert "--bogus" in err


def test_a_machine_that_cannot_measure_is_exit_code_3(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> Machine:
        raise MachineError("the worker died while looking for devices")

    monkeypatch.setattr(machine_module, "look_around", fail)
    code, _, err = main("run", "tiny")
    assert code == NOTHING
    assert "the worker died while looking for devices" in err
    assert "Traceback" not in err


def test_ctrl_c_while_looking_at_the_machine(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(**_: object) -> Machine:
        raise KeyboardInterrupt

    monkeypatch.setattr(machine_module, "look_around", interrupt)
    assert main("run", "tiny")[0] == INTERRUPTED


@pytest.mark.slow
def test_doctor_says_what_can_be_measured(main: Main) -> None:
    code, out, _ = main("doctor")
    assert code == 0
    assert "cpu" in out.lower()
    code, out, _ = main("doctor", "--json")
    said = json.loads(out)
    assert code == 0
    assert {"environment", "findings"} == set(said)
    assert {finding["status"] for finding in said["findings"]} <= {"ok", "limited", "missing"}

"""``moebench record``, from a model to a bout that replays it; and ``--import``."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from harness import cli
from harness.cli import recording
from harness.integrations import recorder
from harness.running import machine as machine_module
from harness.running.child import Limits
from harness.running.machine import Machine, look_around
from harness.running.request import Request
from harness.running.session import gate_only
from harness.traces.format import TraceInfo
from harness.traces.reading import read_trace
from harness.traces.writing import make_trace, write_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from harness.integrations.recorder import RecordingJob
    from harness.records.record import Record
    from harness.running.blackbox import Announcement

    Main = Callable[..., tuple[int, str, str]]


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Main:
    def run(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["moebench", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "300")
        with pytest.raises(SystemExit) as ended:
            cli.main()
        sys.stdout.flush()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture(scope="module")
def machine() -> Machine:
    """This machine, looked at once."""
    return look_around()


def save_mixtral(folder: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 8,
        "eos_token_id": None,
    }
    models: Any = transformers.AutoModelForCausalLM
    models.from_config(transformers.MixtralConfig(**sizes)).save_pretrained(folder)


class Silent:
    """A progress bar that shows nothing."""

    def doing(self, entry: Announcement) -> None:
        pass

    def done(self, records: Sequence[Record]) -> None:
        pass


def suite_of(folder: Path, tokens: str, traffic: str) -> Path:
    suite = folder / "suite.toml"
    sizes = "hidden = 32\nexpert_hidden = 16\nexperts = 8\ntop_k = 2"
    suite.write_text(
        f'[suite]\nname = "replay"\n[[sweep]]\n{sizes}\ndtype = "fp32"\nscope = ["experts", "layer"]\n'
        f"tokens = {tokens}\ntraffic = [{traffic!r}]\n"
    )
    return suite


def test_a_model_is_recorded_and_its_routing_replayed_in_a_bout(main: Main, machine: Machine, tmp_path: Path) -> None:
    """The load of every bout is that of the recorded rows; then the trace changes, and is refused."""
    save_mixtral(tmp_path / "tiny")
    (tmp_path / "prompts.txt").write_text("1 2 3 4 5 6\n7 8 9\n")
    path = tmp_path / "mine.npz"
    code, out, err = main("record", tmp_path / "tiny", "--prompts", tmp_path / "prompts.txt", "--out", path, "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert (facts["model"], facts["rows"], facts["layers"]) == ("tiny", {"prefill": 9, "decode": 128}, [0, 1])
    trace = read_trace(path)
    assert facts["digest"] == trace.digest

    plan = Request(
        str(suite_of(tmp_path, "[128, 160]", "trace:mine.npz?layer=1&phase=decode")), impl="loop", device="cpu"
    ).plan(machine)
    records = gate_only(list(plan.planned), machine, Limits(), Silent())
    recorded = sorted(trace.select(layer=1, phase="decode").ids.ravel().tolist())
    assert len(records) == 4
    for record in records:
        assert record.status == "ok", record.reason
        assert record.balance is not None
        if record.case.traffic.tokens == 128:
            assert record.balance.histogram == [recorded.count(expert) for expert in range(8)]

    changed = make_trace(trace.info, **{**trace.columns(), "ids": trace.ids[:, ::-1]})
    write_trace(changed, path)
    refused = gate_only(list(plan.planned), machine, Limits(), Silent())
    assert {record.status for record in refused} == {"error"}
    assert all("has changed: its digest is" in record.reason for record in refused)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["model"], "--out is missing: the file the trace goes to"),
        (["--out", "a.npz"], "give MODEL_DIR and --prompts FILE, or --import JSON"),
        (["model", "--import", "x", "--out", "a.npz"], "give MODEL_DIR and --prompts FILE, or --import JSON"),
        (["model", "--out", "a.npz"], "--prompts is missing: a text file"),
        (["model", "--prompts", "p", "--out", "a.npz", "--greedy", "--seed", "1"], "--seed = 1: not together with"),
        (["--import", "x", "--out", "a.npz"], "--experts is missing: how many experts"),
        (
            ["--import", "x", "--out", "a.npz", "--prompts", "p", "--raw"],
            "--import takes no --prompts, --chat or --raw",
        ),
        (["--import", "x", "--out", "a.npz", "--seed", "0", "--greedy"], "--seed = 0: not together with"),
        (["--import", "x", "--out", "a.npz", "--max-new-tokens", "5"], "--import takes no --max-new-tokens"),
        (["model", "--prompts", "p", "--out", "a.npz", "--experts", "8"], "MODEL_DIR takes no --experts"),
        (["model", "--prompts", "p", "--out", "README.md"], "--out = 'README.md': exists already"),
        (["--import", "x", "--out", "README.md", "--experts", "8"], "--out = 'README.md': exists already"),
        (["--import", "x", "--out", "a.npz", "--experts", "8"], "--import = 'x': a JSON file of one request"),
        (["model", "--prompts", "p", "--out", "/nonexistent/a.npz"], "a file in a directory that exists"),
    ],
)
def test_bad_words_are_one_line(main: Main, words: list[str], complaint: str) -> None:
    code, out, err = main("record", *words)
    assert (code, out) == (2, "")
    assert err.startswith("moebench: ")
    assert complaint in " ".join(err.split())


def test_what_the_child_is_asked(main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[RecordingJob] = []

    def die(job: RecordingJob) -> None:
        asked.append(job)
        raise recorder.RecordingError("it died")

    monkeypatch.setattr(recorder, "record", die)
    words = ["model", "--prompts", "p.txt", "--out", tmp_path / "a.npz", "--max-new-tokens", "5", "--limit", "3"]
    for extra in (["--chat", "--seed", "7"], ["--raw"], ["--greedy", "--device", "cuda"]):
        code, _, err = main("record", *words, *extra)
        assert (code, "it died" in err) == (3, True)
    first, second, third = asked
    assert (first.model, first.prompts, first.decode_tokens, first.limit) == ("model", "p.txt", 5, 3)
    assert [job.template for job in asked] == ["chat", "raw", ""]
    assert [job.seed for job in asked] == [7, None, None]
    assert (second.device, third.device) == ("", "cuda")


def test_importing(main: Main, tmp_path: Path) -> None:
    folder, path = tmp_path / "mmlu", tmp_path / "r1.npz"
    folder.mkdir()
    for number in (1, 2):
        steps = [{"0": None, "3": [[1, 2], [3, 4]]}, {"0": None, "3": [[5, number]]}]
        (folder / f"{number}.json").write_text(json.dumps(steps))
    words = ["--import", folder, "--out", path, "--experts", "8"]
    code, out, err = main("record", *words, "--name", "DeepSeek-R1")
    assert code == 0, err
    assert "DeepSeek-R1, E8 k2, layers 3; 2 requests, 4 prefill, 2 decode tokens" in out
    trace = read_trace(path)
    assert (trace.weights, trace.info.decoding, trace.info.source) == (
        None,
        "unknown",
        f"imported from 2 files of {tmp_path.name}/mmlu",
    )
    code, _, err = main("record", *words, "--limit", "1")
    assert (code, read_trace(path).requests) == (2, [0, 1])
    assert f"--out = '{path}': exists already" in " ".join(err.split())
    path.unlink()
    code, _, _ = main("record", *words, "--limit", "1")
    assert (code, read_trace(path).requests) == (0, [0])
    path.unlink()
    (folder / "2.json").write_text('[{"3": [[8, 1]]}]')
    code, _, err = main("record", *words)
    assert code == 2
    assert f"{folder}/2.json: ids[0] = [8, 1]: 0 to 7" in " ".join(err.split())


def test_a_hostile_trace_is_one_line_of_every_command_that_meets_it(
    main: Main, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_module, "look_around", lambda **_: machine)
    (tmp_path / "mine.npz").write_bytes(b"\x80\x04\x95")
    suite = suite_of(tmp_path, "[4]", "trace:mine.npz?layer=1")
    for command in ("plan", "run"):
        code, out, err = main(command, suite)
        assert (code, out) == (2, "")
        assert "mine.npz: no trace: not a zip file (an .npz)" in " ".join(err.split())
        assert "Traceback" not in err


def test_no_phase_is_invented_for_an_empty_answer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    info = TraceInfo(model="m", experts=4, top_k=1)
    trace = make_trace(info, ids=[[1]], weights=None, layer=[2], request=[0], position=[0], phase=[0])
    recording._show(trace, tmp_path / "a.npz", as_json=False)
    assert "layers 2; 1 requests, 1 prefill tokens; unknown, unknown" in " ".join(capfd.readouterr().out.split())

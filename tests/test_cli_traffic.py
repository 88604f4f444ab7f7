"""``moebench traffic``: what it draws and says, and one line for everything it cannot."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.running.looks import named_by_file, what_to_fit, what_to_show
from harness.traces.format import TraceInfo
from harness.traces.writing import make_trace, write_trace

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 tokens of E 8, k 2 in each of layers 1 and 4; in the last 20, decoded, all choose expert 0 first."""
    rng = np.random.default_rng(0)
    ids = rng.permuted(np.tile(np.arange(8), (400, 1)), axis=1)[:, :2]
    for layer in (0, 200):
        ids[layer + 180 : layer + 200] = [0, 5]
    path = tmp_path_factory.mktemp("traces") / "mine.npz"
    columns = {"request": np.zeros(400, dtype=int), "position": np.tile(np.arange(200), 2)}
    made = make_trace(
        TraceInfo(model="m", experts=8, top_k=2),
        ids=ids,
        weights=None,
        layer=np.repeat([1, 4], 200),
        phase=np.tile(np.arange(200) >= 180, 2).astype(int),
        **columns,
    )
    write_trace(made, path)
    return path


def moebench(*words: str) -> Any:
    return CliRunner().invoke(app, ["traffic", *words], env={"COLUMNS": "120"})


def test_show_draws_a_generator(tmp_path: Path) -> None:
    done = moebench(
        "show", "k_hot", "--set", "experts=16", "--set", "top_k=4", "--tokens", "64", "--out", f"{tmp_path}/a.png"
    )
    assert done.exit_code == 0, done.output
    assert "k_hot on olmoe-1b-7b changed, E16 k4 softmax T=64" in done.output
    assert "4.00x ████████████████" in done.output
    assert "dead experts" in done.output
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_show_is_what_a_bout_routes() -> None:
    from harness.cases.axes import Value, make_case
    from harness.layer.balance import balance
    from harness.layer.inputs import make_inputs
    from harness.layer.weights import make_weights

    sizes: dict[str, Value] = {
        "hidden": 16,
        "expert_hidden": 4,
        "experts": 16,
        "top_k": 2,
        "groups": 4,
        "top_groups": 2,
    }
    options = [word for key, value in sizes.items() for word in ("--set", f"{key}={value}")]
    shown = json.loads(
        moebench("show", "zipf:1", "--preset", "deepseek-v3", *options, "--tokens", "96", "--json").stdout
    )
    case = make_case({"preset": "deepseek-v3", **sizes, "tokens": 96, "traffic": "zipf:1"}, "cpu")
    figures = balance(make_inputs(case, make_weights(case), 0).routing, case.shape)
    assert shown["histogram"] == figures.histogram
    assert shown["figures"]["max_over_mean"] == pytest.approx(figures.max_over_mean)
    assert shown["figures"]["cv2"] == pytest.approx(figures.cv2)


def test_show_a_trace(trace: Path) -> None:
    done = moebench("show", f"trace:{trace}?layer=4&phase=decode", "--json")
    shown = json.loads(done.stdout)
    assert (shown["tokens"], shown["histogram"]) == (20, [20, 0, 0, 0, 0, 20, 0, 0])
    assert shown["figures"]["first_repeats"] == 1
    whole = json.loads(moebench("show", f"trace:{trace}?layer=4", "--tokens", "30", "--json").stdout)
    assert whole["tokens"] == 30


def test_fit_says_layer_by_layer(trace: Path) -> None:
    done = moebench("fit", str(trace), "--layer", "4", "--phase", "prefill")
    assert done.exit_code == 0, done.output
    assert "layer 4, E8 k2 T=180 in 1 stretches of text" in done.output
    assert "Load: like uniform" in done.output
    assert "Repeats: " in done.output
    (fit,) = json.loads(moebench("fit", str(trace), "--layer", "1", "--tokens", "100", "--json").stdout)
    assert (fit["layer"], fit["tokens"], fit["seeds"]) == (1, 100, 40)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("gauss",), "traffic = 'gauss': one of uniform"),
        (("uniform", "--tokens", "0"), "--tokens = 0: a whole number above 0"),
        (("uniform", "--set", "experts=4,8"), "--set = 'experts=4,8': one value"),
        (("uniform", "--set", "expert=4"), "--set: expert = '4': not a key"),
        (("uniform", "--preset", "olmo"), "preset = 'olmo'"),
        (("trace:/nowhere.npz",), "traffic = 'trace:/nowhere.npz': no such file"),
    ],
)
def test_bad_words_are_one_line(words: tuple[str, ...], message: str) -> None:
    done = moebench("show", *words)
    assert isinstance(done.exception, ValueError)
    assert str(done.exception).startswith(message)
    assert "\n" not in str(done.exception)


def test_a_trace_shows_no_more_than_it_has(trace: Path) -> None:
    with pytest.raises(ValueError, match=r"^--tokens = 21: at most the 20 rows"):
        what_to_show(f"trace:{trace}?layer=4&phase=decode", "", (), 21)
    spelling = rf"'trace:{trace}\?phase=decode': layer= one of 1, 4, as in trace:{trace}\?layer=1&phase=decode$"
    with pytest.raises(ValueError, match=spelling):
        what_to_show(f"trace:{trace}?phase=decode", "", (), None)


def test_show_takes_a_trace_by_its_file_alone(trace: Path) -> None:
    done = moebench("show", str(trace))
    assert done.exit_code == 0, done.output
    assert f"Shown is trace:{trace}?layer=1\n" in done.stderr
    assert "trace:mine?layer=1#" in done.stdout
    shown = json.loads(moebench("show", f"{trace}?layer=4&phase=decode", "--json").stdout)
    assert shown["histogram"] == [20, 0, 0, 0, 0, 20, 0, 0]


def test_only_a_trace_is_named_by_its_file(trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(trace, tmp_path / "uniform")
    assert named_by_file("pydoc?phase=decode").startswith("trace:pydoc?layer=")
    for spec in ("uniform", "gaussian:0.3", "nowhere.npz", f"trace:{trace}"):
        assert named_by_file(spec) == spec


@pytest.mark.parametrize(
    ("layers", "phase", "tokens", "message"),
    [
        ("2", "", 100, "--layer = '2': one of 1, 4"),
        ("1,x", "", 100, "--layer = 'x': one of 1, 4"),
        ("", "training", 100, "--phase = 'training': one of prefill, decode"),
        ("", "", 63, "--tokens = 63: a whole number of at least 64"),
        ("1", "decode", 100, ".*mine.npz: layer 1 has 20 tokens of phase decode; a fit needs at least 64"),
    ],
)
def test_what_cannot_be_fitted(trace: Path, layers: str, phase: str, tokens: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        what_to_fit(trace, layers, phase, tokens)


def test_no_trace_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"x\.npz: no trace"):
        what_to_fit(tmp_path / "x.npz", "", "", 100)


def test_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    done = moebench("show", "uniform", "--tokens", "8", "--out", f"{tmp_path}/no/such.png")
    assert str(done.exception).startswith("--out = ")


def test_the_parent_stays_free_of_torch(trace: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from harness.running.looks import what_to_fit, what_to_show;"
        f"what_to_show('trace:{trace}?layer=1', '', (), None); what_to_fit(Path({str(trace)!r}), '', '', 64);"
        "import harness.report.traffic, harness.report.plots.traffic; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

"""The fused kernels as the rest of the harness sees them: what they need, when they refuse, and their own tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.cases.case import Case
from harness.cases.shape import Shape
from harness.cases.traffic import Traffic
from harness.records.store import load_run

ROOT = Path(__file__).parents[2]
INTERPRETED = {"TRITON_INTERPRET": "1"}
FILES = sorted(path.name for path in (Path(__file__).parent / "fused").glob("test_*.py"))


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a Python of its own in the repository, on one thread."""
    clean = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**clean, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def case(**given: Any) -> Case:
    shape = Shape(hidden=16, expert_hidden=16, experts=2, top_k=1)
    return Case(shape=shape, traffic=Traffic(tokens=2), **{"dtype": "fp32", **given})


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="they run in this process")
@pytest.mark.parametrize("file", FILES)
def test_under_the_interpreter(file: str) -> None:
    """Each file of tests/impls/fused in a process in which Triton interprets from the start."""
    pytest.importorskip("triton", reason="the fused kernels need Triton")
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/impls/fused/{file}", **INTERPRETED)
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.fixture
def no_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.mark.usefixtures("no_interpreter")
def test_on_a_cpu_it_says_what_it_needs(lab: Any) -> None:
    pytest.importorskip("triton")
    fused = lab.implementation("fused")
    for pass_ in ("forward", "training"):
        reason = fused.unsupported(case(pass_=pass_))
        assert "TRITON_INTERPRET=1" in reason
        assert "GPU" in reason
    assert fused.untimed(case()) is None


def test_interpreted_it_runs_anywhere_and_is_never_timed(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    fused = lab.implementation("fused")
    for pass_ in ("forward", "training"):
        for execution in ("eager", "compile"):
            assert fused.unsupported(case(pass_=pass_, execution=execution)) is None
    assert "never timed" in fused.untimed(case())


def test_without_triton_it_says_so(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for device in ("cpu", "cuda"):
        assert "pip install triton" in lab.implementation("fused").unsupported(case(device=device))


@pytest.mark.parametrize(
    ("versions", "refused"),
    [(("3.6.0", "2.4.1"), True), (("3.5.1", "2.5.0"), True), (("3.6.0", "2.3.9"), False), (("3.9.0", "2.4.6"), False)],
)
def test_an_interpreter_that_numpy_broke_is_refused(
    lab: Any, monkeypatch: pytest.MonkeyPatch, versions: tuple[str, str], refused: bool
) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    installed = dict(zip(("triton", "numpy"), versions, strict=True))
    monkeypatch.setattr("importlib.metadata.version", installed.__getitem__)
    reason = lab.implementation("fused").unsupported(case())
    assert ("take numpy < 2.4" in reason) if refused else reason is None


@pytest.mark.usefixtures("no_interpreter")
@pytest.mark.parametrize(("capability", "refused"), [((7, 5), True), ((8, 0), False), ((9, 0), False)])
def test_an_old_gpu_is_refused(
    lab: Any, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], refused: bool
) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    reason = lab.implementation("fused").unsupported(case(device="cuda"))
    assert ("needs compute capability 8.0" in reason) if refused else reason is None


def test_importing_it_needs_no_triton() -> None:
    code = "import sys; sys.modules['triton'] = None; import impls.fused; print(impls.fused.fused.__name__)"
    done = run("-c", code)
    assert done.stdout == "fused\n", done.stderr


@pytest.mark.slow
def test_a_bout_checks_interpreted_kernels_and_does_not_time_them(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    path = tmp_path / "run"
    done = run(
        "-m", "harness", "run", "tiny", "--impl", "loop,fused", "--device", "cpu", "--out", str(path), **INTERPRETED
    )
    records = load_run(path).records
    assert len(records) == 6, done.stderr
    for record in records:
        if record.impl.name == "loop":
            assert record.status == "ok"
            continue
        assert (record.status, record.timing) == ("unsupported", None)
        assert "never timed" in record.reason
        assert record.agreement is not None
        assert record.agreement.passed

"""A visit to a GPU box from the command line, in real processes, all but the GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.records.store import load_run

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SETS = ["--set", "dtype=bf16", "--set", "tokens=8", "--set", "execution=eager,graph"]


@pytest.fixture
def moebench(tmp_path: Path) -> Callable[..., str]:
    """Run moebench where workers find the pretended GPU; what it printed comes back."""

    def run(*arguments: str) -> str:
        paths = [str(Path(__file__).parent / "at_start"), os.environ.get("PYTHONPATH", "")]
        here = {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "XDG_STATE_HOME": str(tmp_path),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }
        done = subprocess.run(
            [sys.executable, "-m", "harness", *arguments],
            cwd=ROOT,
            env={**os.environ, **here},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_doctor_describes_it(moebench: Callable[..., str]) -> None:
    found = moebench("doctor")
    assert "cuda:0: Pretended GPU" in found
    assert "grouped_mm cuda:0: runs in bf16" in found
    assert "cuda:0 nvml" in found  # no driver knows it, and so nobody measures its energy


def test_from_a_run_to_its_report(moebench: Callable[..., str], tmp_path: Path) -> None:
    asked = ["--device", "cuda", "--impl", "loop,grouped,dense", *SETS]
    assert "cuda:0" in moebench("plan", "tiny", *asked)
    moebench("run", "tiny", *asked, "--budget", "12s", "--out", str(tmp_path / "run"))
    run = load_run(tmp_path / "run")
    assert {record.case.device for record in run.records} == {"cuda:0"}
    ok = {(r.impl.name, r.case.pass_, r.case.execution) for r in run.records if r.status == "ok"}
    assert ok == {
        *((name, pass_, "eager") for name in ("loop", "grouped", "dense") for pass_ in ("forward", "training")),
        *((name, "forward", "graph") for name in ("grouped", "dense")),
    }
    moebench("report", str(tmp_path / "run"), "--out", str(tmp_path / "report"))
    text = (tmp_path / "report" / "report.md").read_text()
    assert "Pretended GPU" in text
    assert "a CUDA graph cannot hold it" in text

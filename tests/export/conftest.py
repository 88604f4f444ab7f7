"""A small git repository with a history, and runs taken at its commits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness.cases.case import Case
from harness.cases.shape import Shape
from harness.cases.traffic import Traffic
from harness.records.derive import derive
from harness.records.environment import Device, Environment
from harness.records.record import Agreement, Energy, ImplInfo, Memory, Record, TensorError, Timing, Work
from harness.records.store import Run, RunInfo

ROOT = Path(__file__).resolve().parents[2]
SLOWNESS = {"dense": 1.0, "loop": 3.0, "grouped": 2.0}


@dataclass
class History:
    """A repository of as many commits as asked for, and asv's configuration in it."""

    root: Path
    commits: list[str] = field(default_factory=list)

    @property
    def results(self) -> Path:
        return self.root / "results" / "asv"

    def git(self, *words: str, **variables: str) -> str:
        who = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
        command = ["git", *who, "-C", str(self.root), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **variables})
        return done.stdout.strip()

    def commit(self, count: int = 1) -> None:
        for _ in range(count):
            day = f"2026-01-{len(self.commits) + 1:02d}T12:00:00+0000"
            self.git("commit", "--allow-empty", "-qm", "step", GIT_AUTHOR_DATE=day, GIT_COMMITTER_DATE=day)
            self.commits.append(self.git("rev-parse", "HEAD"))

    def asv(self, *words: str) -> str:
        """Call asv here, with a home folder of its own; return what it said."""
        environment = {**os.environ, "HOME": str(self.root), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "asv", *words]
        done = subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def history(tmp_path: Path) -> History:
    made = History(tmp_path / "checkout")
    made.root.mkdir()
    made.git("init", "-q", "-b", "main")
    (made.root / "asv.conf.json").write_text((ROOT / "asv.conf.json").read_text(encoding="utf-8"), encoding="utf-8")
    made.git("add", ".")
    made.commit(2)
    return made


class Maker:
    """Makes runs."""

    case = Case(shape=Shape(hidden=32, expert_hidden=16, experts=4, top_k=2), traffic=Traffic(tokens=8), dtype="fp32")

    def record(self, name: str, slower: float = 1.0, *, case: Case | None = None, **fields: Any) -> Record:
        case = case or self.case
        times = [1e6 * SLOWNESS.get(name, 1.0) * slower * (1 + 0.01 * (i % 5)) for i in range(15)]
        error = TensorError(
            rel_error=1e-3,
            worst_row=1e-3,
            max_abs=0.01,
            cosine=1.0,
            nonfinite=0,
            rel_tolerance=4e-3,
            row_tolerance=2e-2,
            reference_rel_error=1e-3,
            reference_worst_row=1e-3,
        )
        timing = Timing(
            clock="wall",
            cache="cold",
            samples_ns=times,
            rounds=list(range(15)),
            calls_per_sample=1,
            prepare_ns=1,
            first_call_ns=1,
            warmup_calls=3,
            warm=True,
            stopped="interval",
        )
        given: dict[str, Any] = {
            "status": "ok",
            "environment_id": "e",
            "bout": "b",
            "timing": timing,
            "agreement": Agreement(passed=True, rule="within tolerance", tensors={"y": error}),
            "memory": Memory(status="ok", peak_bytes=1 << 20),
            "energy": Energy(status="ok", joules=10.0, window_s=1.0, calls=1000),
            "work": Work(distinct_experts=4.0, useful_flops=1e6, min_bytes=1e3),
        }
        family = name if name in SLOWNESS else "peer"
        record = Record(case=case, case_id=case.case_id, impl=ImplInfo(name=name, family=family), **(given | fields))
        return derive(record, None)

    def failed(self, name: str, status: str = "crashed", reason: str = "it fell over") -> Record:
        parts: dict[str, Any] = dict.fromkeys(("timing", "agreement", "memory", "energy", "work"))
        return self.record(name, status=status, reason=reason, **parts)

    def run(self, sha: str | None, records: list[Record] | None = None, *, path: str = "run", **fields: Any) -> Run:
        cpu = Device(name="a CPU", kind="cpu", memory_bytes=1 << 30, cache_bytes=1 << 20, cores=2)
        gpu = Device(name="NVIDIA H100 80GB HBM3", kind="cuda", memory_bytes=80 << 30, cache_bytes=50 << 20)
        given: dict[str, Any] = {
            "hostname": "gpu-07",
            "system": "Linux",
            "kernel": "6.8",
            "python": "3.12.3",
            "versions": {"torch": "2.13.0+cu128"},
            "devices": {"cpu": cpu, "cuda:0": gpu},
            "git_sha": sha,
        }
        info = RunInfo(name=path, command="moebench run", started_at="2026-03-01T10:00:00+00:00")
        everybody = [self.record(name) for name in SLOWNESS]
        chosen = everybody if records is None else records
        return Run(Path("runs", path), info, Environment(**(given | fields)), chosen, 0)


@pytest.fixture(scope="session")
def make() -> Maker:
    return Maker()


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content

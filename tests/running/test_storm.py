"""SIGKILL of parent or worker at random moments, then ``--resume``: no record lost, doubled or torn, no orphan left.

``MOEBENCH_STORM_KILLS=40 pytest -s tests/running/test_storm.py`` makes a long storm of it, ``MOEBENCH_STORM_SEED``
another one.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec
import psutil
import pytest

from harness.records.record import Record
from harness.records.store import RECORDS, Run, load_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

KILLS = int(os.environ.get("MOEBENCH_STORM_KILLS", "6"))
SEED = int(os.environ.get("MOEBENCH_STORM_SEED", "0"))
CALM_S = 6.0
"""The longest pause between two kills."""
ATTEMPT_S = 120.0
FINISHED = {0, 1}
STOPPED = {-signal.SIGKILL, 3}
"""How an attempt may end that must be resumed: killed, or its workers were killed too often to look at the machine."""
ROOT = Path(__file__).parents[2]


class Storm:
    """``KILLS`` kills at moments drawn from ``SEED``; notes whom they hit and every worker that was seen."""

    def __init__(self) -> None:
        self.generator = random.Random(SEED)
        self.killed: Counter[str] = Counter()
        self.codes: Counter[int] = Counter()
        self.seen: set[int] = set()

    def finish(self, out: Path) -> Run:
        """Start a run and resume it until it ends by itself; look at what is kept after every attempt."""
        held: list[tuple[str, str]] = []
        while True:
            code = self.attempt(out)
            self.codes[code] += 1
            kept = kept_lines(out)
            assert kept[: len(held)] == held, "a record that was kept is gone or another"
            held = kept
            if code in FINISHED:
                return load_run(out)
            assert code in STOPPED, f"exit code {code}"

    def attempt(self, out: Path) -> int:
        """Start or resume the run, kill parent or worker while kills are left, and return the parent's exit code."""
        new = ["tiny", "--out", str(out), "--impl", "loop,grouped", "--budget", "5s"]
        words = ["--resume", str(out)] if (out / "run.json").exists() else new
        command = [sys.executable, "-m", "harness", "run", *words]
        parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while self.killed.total() < KILLS and self.watch(parent, self.generator.uniform(0.1, CALM_S)):
                self.strike(parent)
            return parent.wait(ATTEMPT_S)
        finally:
            parent.kill()
            parent.wait()

    def watch(self, parent: subprocess.Popen[bytes], seconds: float) -> bool:
        """Wait, noting the parent's workers; return whether it still runs."""
        end = time.monotonic() + seconds
        while parent.poll() is None and time.monotonic() < end:
            self.seen.update(workers_of(parent.pid))
            time.sleep(0.02)
        return parent.poll() is None

    def strike(self, parent: subprocess.Popen[bytes]) -> None:
        workers = workers_of(parent.pid)
        victim = self.generator.choice(["parent", "worker"]) if workers else "parent"
        os.kill(parent.pid if victim == "parent" else workers[0], signal.SIGKILL)
        self.killed[victim] += 1


def workers_of(parent: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(parent).children() if is_worker(child.pid)]
    except psutil.Error:
        return []


def is_worker(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and "harness.running.worker" in process.cmdline()
    except psutil.Error:
        return False


def kept_lines(out: Path) -> list[tuple[str, str]]:
    """Keys of the whole lines of a run; every one of them can be read."""
    content = (out / RECORDS).read_bytes() if (out / RECORDS).exists() else b""
    return [msgspec.json.decode(line, type=Record).key for line in content.split(b"\n")[:-1]]


def test_storm(tmp_path: Path) -> None:
    storm = Storm()
    runs: list[Run] = []
    while storm.killed.total() < KILLS or not runs:
        run = storm.finish(tmp_path / f"run{len(runs)}")
        runs.append(run)
        planned = [(one.case.case_id, name) for one in run.info.plan for name in one.implementations or ()]
        assert len(planned) == 6
        assert sorted(record.key for record in run.records) == sorted(planned)
        assert run.torn_lines == 0
        assert run.info.finished_at is not None
        assert {record.status for record in run.records} <= {"ok", "crashed"}
    statuses = Counter(record.status for run in runs for record in run.records)
    told = f"killed {dict(storm.killed)}; exit codes {dict(storm.codes)}; {len(runs)} runs; records {dict(statuses)}\n"
    sys.stderr.write(told)
    end = time.monotonic() + 10.0
    while any(map(is_worker, storm.seen)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not [pid for pid in storm.seen if is_worker(pid)], "a worker outlived its parent"

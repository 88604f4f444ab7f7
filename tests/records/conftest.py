"""Records to test with: a small case, and a maker of records for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.cases.case import Case
from harness.cases.shape import Shape
from harness.cases.traffic import Traffic
from harness.records.derive import derive
from harness.records.environment import Ceilings, Device, Environment
from harness.records.record import Energy, ImplInfo, Memory, Record, Timing, Work
from harness.records.store import Run, RunInfo

SPEEDS_MS = {"dense": 1.0, "loop": 3.0, "einsum": 5.0, "grouped": 2.0, "batched": 4.0, "fused": 1.5}
"""Milliseconds of a call of each implementation of ``Maker.bout``."""


class Maker:
    """Makes the parts of a run; keyword arguments replace fields."""

    speeds_ms = SPEEDS_MS

    def case(self, tokens: int = 8, **fields: Any) -> Case:
        shape = Shape(hidden=32, expert_hidden=16, experts=4, top_k=2)
        given: dict[str, Any] = {"shape": shape, "traffic": Traffic(tokens=tokens), "dtype": "fp32"}
        return Case(**(given | fields))

    def record(self, name: str = "loop", tokens: int = 8, **fields: Any) -> Record:
        case = fields.pop("case", None) or self.case(tokens)
        given = {"status": "ok", "environment_id": "0" * 12} | fields
        return Record(case=case, case_id=case.case_id, impl=ImplInfo(name=name, family="loop"), **given)

    def timing(self, samples_ns: list[float], **fields: Any) -> Timing:
        given: dict[str, Any] = {
            "clock": "wall",
            "cache": "cold",
            "rounds": list(range(len(samples_ns))),
            "calls_per_sample": 1,
            "prepare_ns": 5,
            "first_call_ns": 7,
            "warmup_calls": 3,
            "warm": True,
            "stopped": "interval",
        }
        return Timing(samples_ns=samples_ns, **(given | fields))

    def timed(
        self, name: str, time_ns: float, *, noise: float = 0.005, rounds: int = 25, seed: int = 0, **fields: Any
    ) -> Record:
        """A record whose samples scatter around a time; equal seeds give equal noise. ``timing`` replaces fields."""
        timing = fields.pop("timing", {})
        draws = np.random.default_rng([seed, sum(map(ord, name))]).normal(0, noise, rounds)
        samples = (time_ns * np.exp(draws)).tolist()
        info = {"family": "loop", "source_hash": "aaa"} | fields.pop("impl", {})
        given: dict[str, Any] = {"bout": "b", "work": self.work()} | fields
        record = self.record(name, **given)
        record.impl, record.timing = ImplInfo(name=name, **info), self.timing(samples, **timing)
        return derive(record, None)

    def metered(self, scale: float, window_s: float = 10.0, **fields: Any) -> Record:
        """A record with so many times the usual bytes and joules."""
        energy = Energy(status="ok", joules=50 * scale, calls=100, window_s=window_s)
        memory = Memory(status="ok", peak_bytes=int(1e6 * scale))
        return self.timed("loop", 1e6, memory=memory, energy=energy, **fields)

    def bout(self, name: str, *, slow: float = 1.0, seed: int = 0, **scales: float) -> list[Record]:
        """Six implementations on a machine ``slow`` times as slow; keywords scale one's time. ``dense`` is control."""
        records = [
            self.timed(impl, slow * time_ms * scales.get(impl, 1.0) * 1e6, bout=name, seed=seed)
            for impl, time_ms in SPEEDS_MS.items()
        ]
        assert records[0].timing
        records[0].timing.control_ns = list(records[0].timing.samples_ns)
        return records

    def run(self, *records: Record, path: str = "run", environment: Environment | None = None) -> Run:
        """A run in memory."""
        info = RunInfo(name=path, command="moebench run", started_at="2026-01-01T00:00:00+00:00")
        return Run(Path(path), info, environment or self.environment(), list(records), 0)

    def work(self, **fields: Any) -> Work:
        return Work(**({"distinct_experts": 4.0, "useful_flops": 4e6, "min_bytes": 2e3} | fields))

    def ceilings(self, **fields: Any) -> Ceilings:
        given: dict[str, Any] = {
            "copy_bytes_per_second": 8e9,
            "read_bytes_per_second": 10e9,
            "cached_read_bytes_per_second": 40e9,
            "gemm_flops_per_second": {"fp32": 100e9},
            "cache_bytes": 1 << 20,
            "launch_ns": 100.0,
        }
        return Ceilings(**(given | fields))

    def environment(self, **fields: Any) -> Environment:
        cpu = Device(name="a CPU", kind="cpu", memory_bytes=1 << 30, cache_bytes=1 << 20, cores=2, threads=2)
        given: dict[str, Any] = {
            "hostname": "here",
            "system": "Linux",
            "kernel": "6.1",
            "python": "3.11.1",
            "versions": {"torch": "2.13.0", "triton": None},
            "devices": {"cpu": cpu},
        }
        return Environment(**(given | fields))


@pytest.fixture(scope="session")
def make() -> Maker:
    return Maker()

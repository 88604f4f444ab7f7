"""Records to test with: a small case, and a maker of records for it."""

from __future__ import annotations

from typing import Any

import pytest

from harness.cases.case import Case
from harness.cases.shape import Shape
from harness.cases.traffic import Traffic
from harness.records.environment import Ceilings, Device, Environment
from harness.records.record import ImplInfo, Record, Timing, Work


class Maker:
    """Makes the parts of a run; keyword arguments replace fields."""

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

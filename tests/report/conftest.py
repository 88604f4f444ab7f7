"""Synthetic runs: records whose numbers follow a small model of a machine, with fixed noise."""

from __future__ import annotations

import math
import random
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.cases.case import Case
from harness.cases.shape import Shape
from harness.cases.traffic import Traffic
from harness.records.derive import derive
from harness.records.environment import Ceilings, Device, Environment
from harness.records.record import Agreement, Balance, Energy, ImplInfo, Memory, Record, TensorError, Timing, Work
from harness.records.store import Run, RunInfo
from harness.report.frame import frame
from harness.report.groups import Group, groups
from harness.report.style import look_up

FAMILIES = {
    "loop": "loop",
    "einsum": "einsum",
    "batched": "batched",
    "grouped_mm": "grouped",
    "grouped_sorted": "grouped",
    "fused_triton": "fused",
    "hf_grouped": "peer",
    "dense": "dense",
}
"""Implementations of the synthetic machine and their families."""

# Fixed cost in ns, share of the compute ceiling reached, share of the read ceiling reached.
_SPEEDS = {
    "loop": (400e3, 0.45, 0.60),
    "einsum": (30e3, 0.08, 0.70),
    "batched": (15e3, 0.20, 0.80),
    "grouped_mm": (60e3, 0.62, 0.78),
    "grouped_sorted": (60e3, 0.618, 0.779),
    "fused_triton": (25e3, 0.55, 0.86),
    "hf_grouped": (95e3, 0.50, 0.75),
    "dense": (8e3, 0.70, 0.85),
}
_SKEWS = {"uniform": 0.02, "gaussian": 0.35, "zipf": 1.1, "single_hot": 1.4}


class Factory:
    """Makes records, runs and whole machines for tests."""

    shape = Shape(hidden=2048, expert_hidden=768, experts=64, top_k=8, name="tiny-moe")

    def case(self, tokens: int = 64, spread: str = "gaussian", *, seed: int = 0, **fields: Any) -> Case:
        given: dict[str, Any] = {"shape": self.shape, "device": "cuda:0"} | fields
        return Case(traffic=Traffic(tokens=tokens, spread=spread, seed=seed), **given)

    def environment(
        self, hostname: str = "gpu-07", device: str = "NVIDIA H100 80GB HBM3", speed: float = 1.0
    ) -> Environment:
        gpu = Device(
            name=device,
            kind="cuda",
            memory_bytes=80 * 2**30,
            cache_bytes=50 * 2**20,
            cores=132,
            capability="9.0",
            driver="570.86.15",
            power_limit_watts=700.0,
            mig=False,
            datasheet="H100 SXM",
        )
        ceilings = Ceilings(
            copy_bytes_per_second=2.7e12 * speed,
            read_bytes_per_second=2.9e12 * speed,
            cached_read_bytes_per_second=6.1e12 * speed,
            gemm_flops_per_second={"fp32": 51e12 * speed, "bf16": 700e12 * speed},
            cache_bytes=50 * 2**20,
            launch_ns=2100.0,
        )
        return Environment(
            hostname=hostname,
            system="Linux",
            kernel="6.8.0",
            python="3.12.3",
            versions={"moebench": "0.1.0", "torch": "2.13.0+cu128", "triton": "3.6.0", "transformers": None},
            devices={"cuda:0": gpu},
            load_average=0.4,
            governor="performance",
            git_sha="0a1b2c3d",
            ceilings={"cuda:0": ceilings},
        )

    def info(self, **fields: Any) -> RunInfo:
        defaults: dict[str, Any] = {
            "name": "demo",
            "suite": "demo.toml",
            "description": "A demonstration",
            "started_at": "2026-09-01T10:00:00Z",
            "finished_at": "2026-09-01T10:10:00Z",
            "command": "moebench run suites/demo.toml",
            "measuring_s": 480.0,
            "wall_s": 600.0,
        }
        return RunInfo(**(defaults | fields))

    def run(self, records: list[Record], *, path: str = "run-1", torn_lines: int = 0, **given: Any) -> Run:
        environment = given.pop("environment", None) or self.environment()
        return Run(Path("runs", path), self.info(**given), environment, records, torn_lines)

    def failed(self, case: Case, impl: str, status: str, reason: str = "it says why", log_tail: str = "") -> Record:
        info = ImplInfo(name=impl, family=FAMILIES.get(impl, "peer"))
        given: dict[str, Any] = {"status": status, "reason": reason, "log_tail": log_tail}
        return Record(
            case=case, case_id=case.case_id, impl=info, environment_id="e", bout=f"bout-{case.case_id}", **given
        )

    def timed(
        self,
        case: Case,
        impl: str,
        median_ns: float = 1e6,
        *,
        family: str | None = None,
        spread: float = 0.02,
        samples: int = 15,
        **fields: Any,
    ) -> Record:
        """A record with samples of the given median and relative spread, evenly placed, in an order of its own."""
        offsets = np.linspace(-spread, spread, samples) if samples > 1 else np.zeros(1)
        times = [float(median_ns * (1 + offset)) for offset in offsets]
        random.Random(impl).shuffle(times)
        return self.measured(case, impl, times, family or FAMILIES.get(impl, "peer"), **fields)

    def measured(self, case: Case, impl: str, times: list[float], family: str, **fields: Any) -> Record:
        error = TensorError(
            rel_error=2.1e-3,
            worst_row=3e-3,
            max_abs=0.01,
            cosine=0.999999,
            nonfinite=0,
            rel_tolerance=7.6e-3,
            row_tolerance=2e-2,
            reference_rel_error=1.9e-3,
            reference_worst_row=2.5e-3,
        )
        timing = Timing(
            clock="wall",
            cache="cold",
            samples_ns=times,
            rounds=list(range(len(times))),
            calls_per_sample=1,
            prepare_ns=1_200_000,
            first_call_ns=35_000_000,
            warmup_calls=12,
            warm=True,
            stopped="interval",
        )
        defaults: dict[str, Any] = {
            "status": "ok",
            "environment_id": "e",
            "bout": f"bout-{case.case_id}",
            "timing": timing,
            "agreement": Agreement(
                passed=True, rule="within tolerance", checks=3, rows_checked=64, tensors={"y": error}
            ),
        }
        record = Record(case=case, case_id=case.case_id, impl=ImplInfo(name=impl, family=family), **(defaults | fields))
        return derive(record, None)

    def balance(self, case: Case) -> Balance:
        """Loads that fall off by rank as the traffic's kind and parameter say."""
        experts, k, tokens = case.shape.experts, case.shape.top_k, case.traffic.tokens
        steepness = _SKEWS.get(case.traffic.kind, 0.3) * (case.traffic.parameter or 1.0) ** 0.5
        popularity = np.arange(1, experts + 1) ** -steepness
        loads = np.minimum(np.round(popularity / popularity.sum() * tokens * k), tokens).astype(int)
        loads[:k] = np.maximum(loads[:k], min(tokens, 1))
        mean = max(loads.mean(), 1e-9)
        distinct = int((loads > 0).sum())
        floor = 1 + math.sqrt(2 * math.log(experts) * (1 - k / experts) / max(tokens * k / experts, 1e-9))
        return Balance(
            histogram=[int(load) for load in loads],
            max_over_mean=float(loads.max() / mean),
            max_vio=float(loads.max() / mean - 1),
            cv2=0.1,
            normalised_entropy=0.9,
            gini=0.2,
            distinct_experts=distinct,
            dead_experts=experts - distinct,
            drop_rate=0.0,
            tile_rows=128,
            tile_padding=0.3,
            max_over_mean_floor=floor,
            cv2_floor=0.01,
        )

    def modelled(self, case: Case, impl: str, environment: Environment, *, samples: int = 15) -> Record:
        """What the synthetic machine would measure."""
        shape, tokens = case.shape, case.traffic.tokens
        ceilings = environment.ceilings["cuda:0"]
        balance = self.balance(case)
        width = 3 * shape.hidden * shape.expert_hidden
        distinct = shape.top_k if impl == "dense" else balance.distinct_experts
        flops, read = 2.0 * width * shape.top_k * tokens, 2.0 * (distinct * width + 2 * tokens * shape.hidden)
        compute, memory = (
            flops / ceilings.gemm_flops_per_second["bf16"] * 1e9,
            read / ceilings.read_bytes_per_second * 1e9,
        )
        fixed, by_compute, by_memory = _SPEEDS[impl]
        tail = 1 + 0.08 * (balance.max_over_mean - 1) * (impl not in {"dense", "fused_triton"})
        padding = {"einsum": shape.experts / shape.top_k, "batched": balance.max_over_mean}.get(impl, 1.0)
        median = fixed + max(compute * padding / by_compute, memory / by_memory) * tail
        phase = zlib.crc32(f"{case.case_id}{impl}{environment.hostname}".encode()) % 1000
        times = [median * (1 + 0.012 * math.sin(phase + 2.4 * n)) for n in range(samples)]
        record = self.measured(case, impl, times, FAMILIES[impl])
        assert record.timing is not None
        record.timing.noise_floor = 0.006
        record.balance = balance
        record.work = Work(distinct_experts=distinct, useful_flops=flops, min_bytes=read, floor_ns=max(compute, memory))
        record.memory = self.memory(case, impl)
        joules = 5.0 * 350 if tokens >= 64 else None
        record.energy = Energy(
            status="ok" if joules else "unreliable",
            reason="" if joules else "the window was shorter than 1 s",
            method="total-energy counter",
            joules=joules,
            window_s=5.0,
            calls=int(5e9 / median),
        )
        return derive(record, ceilings)

    def memory(self, case: Case, impl: str) -> Memory:
        shape, tokens = case.shape, case.traffic.tokens
        rows = tokens * (shape.experts if impl == "einsum" else shape.top_k)
        workspace = 2 * rows * (shape.hidden + 2 * shape.expert_hidden) + (4 << 20)
        weights = 2 * 3 * shape.hidden * shape.expert_hidden * (shape.top_k if impl == "dense" else shape.experts)
        saved = workspace // 2 if case.pass_ == "training" else None
        return Memory(
            status="ok",
            method="allocator",
            weights_bytes=weights,
            prepared_bytes=weights if impl == "batched" else 0,
            peak_bytes=workspace + 2 * tokens * shape.hidden,
            output_bytes=2 * tokens * shape.hidden,
            workspace_bytes=workspace,
            saved_bytes=saved,
        )

    def groups(self, *runs: Run) -> list[Group]:
        """The groups of a report over some runs."""
        table = frame(runs)
        return groups(table, look_up(table))

    def machine(self, cases: list[Case], environment: Environment | None = None, **given: Any) -> Run:
        """A run of all synthetic implementations over some cases, with one of each way to fail."""
        environment = environment or self.environment()
        records = []
        for case in cases:
            for impl in FAMILIES:
                if impl == "einsum" and case.traffic.tokens > 2048:
                    reason = "needs 96.0 GiB | 80.0 GiB there are\nfewer tokens would fit"
                    records.append(
                        self.failed(case, impl, "oom", reason, "Traceback:\n  torch.OutOfMemoryError: ```no```")
                    )
                elif impl == "hf_grouped" and case.traffic.kind == "single_hot":
                    records.append(self.failed(case, impl, "disagrees", "y differs by 0.31, <0.0076> allowed"))
                elif impl == "loop" and case.pass_ == "training":
                    records.append(self.failed(case, impl, "unsupported", "loop does not do 'training', only forward"))
                else:
                    records.append(self.modelled(case, impl, environment))
        return self.run(records, environment=environment, **given)


@pytest.fixture(scope="session")
def make() -> Factory:
    """The factory of synthetic records."""
    return Factory()

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.records.environment import Device, Environment
from harness.running.doctor import Finding, diagnose
from harness.running.facts import BoardFacts, Facts, Local, clock_step_ns, look_around

CPU = Device(name="Chip", kind="cpu", memory_bytes=1 << 34, cache_bytes=1 << 25, cores=8, threads=8)
GPU = Device(
    name="NVIDIA H100", kind="cuda", memory_bytes=1 << 36, cache_bytes=1 << 25, driver="580.1", datasheet="H100 SXM"
)
HEALTHY = Environment(
    hostname="host",
    system="Linux",
    kernel="6",
    python="3.11",
    versions={"triton": "3.5", "transformers": "5.10"},
    devices={"cpu": CPU, "cuda:0": GPU},
    governor="performance",
    load_average=0.1,
)
BOARD = BoardFacts(
    sm_clock_mhz=1755, max_sm_clock_mhz=1980, temperature_c=40, reasons=["application_clocks"], processes=[]
)
FACTS = Facts(
    torch="2.13",
    cuda_build="13.0",
    gpus=1,
    threads=8,
    memory_events=True,
    resident_peak=True,
    boards={"cuda:0": BOARD},
    grouped_mm={"cpu": "", "cuda:0": ""},
)
LOCAL = Local(
    clock_step_ns=40,
    clocksource="tsc",
    free_disk_bytes=1 << 40,
    compiler="/usr/bin/g++",
    root=False,
    allowed_cpus=None,
    cache_known=True,
)


def findings(
    environment: dict[str, Any] | None = None,
    facts: dict[str, Any] | None = None,
    local: dict[str, Any] | None = None,
    board: dict[str, Any] | None = None,
) -> dict[str, Finding]:
    replace = msgspec.structs.replace
    seen = replace(FACTS, boards={"cuda:0": replace(BOARD, **(board or {}))})
    probe = msgspec.to_builtins(replace(seen, **(facts or {})))
    found = diagnose(replace(HEALTHY, **(environment or {})), probe, replace(LOCAL, **(local or {})))
    assert len({finding.topic for finding in found}) == len(found)
    return {finding.topic: finding for finding in found}


def test_a_good_machine_lacks_cpu_energy_alone() -> None:
    assert [f.topic for f in findings().values() if f.status != "ok"] == ["cpu energy"]


CHANGES: list[tuple[dict[str, Any], str, str, str]] = [
    ({"local": {"clocksource": "hpet"}}, "clock", "limited", "hpet"),
    ({"local": {"clock_step_ns": 5000}}, "clock", "limited", "5000 ns"),
    ({"environment": {"load_average": 4.0}}, "cpu load", "limited", "4.0 on 8 cores"),
    ({"environment": {"load_average": None}}, "cpu load", "limited", "unknown"),
    ({"environment": {"governor": None}}, "cpu governor", "limited", "not visible"),
    ({"environment": {"governor": "powersave"}}, "cpu governor", "limited", "powersave"),
    ({"local": {"allowed_cpus": 2.5}}, "cpu threads", "limited", "OMP_NUM_THREADS=2"),
    ({"local": {"cache_known": False}}, "cpu cache", "limited", "assumed"),
    ({"facts": {"memory_events": False}}, "cpu memory", "missing", "no allocations"),
    ({"facts": {"resident_peak": False}}, "cpu memory", "limited", "clear_refs"),
    ({"facts": {"gpus": 0}}, "cuda", "missing", "CUDA_VISIBLE_DEVICES"),
    ({"facts": {"gpus": 0, "cuda_build": None}}, "cuda", "missing", "CUDA build"),
    (
        {"environment": {"devices": {"cuda:0": msgspec.structs.replace(GPU, datasheet=None)}}},
        "cuda:0",
        "limited",
        "datasheet",
    ),
    ({"board": {"why_not": "no library"}}, "cuda:0 nvml", "missing", "no library"),
    ({"board": {"no_energy": "not supported"}}, "cuda:0 energy", "missing", "not supported"),
    ({"board": {"mig": True}}, "cuda:0 energy", "missing", "slice"),
    ({"board": {"mig": True}}, "cuda:0 mig", "limited", "nvidia-smi -mig 0"),
    ({"board": {"processes": [1, 2]}}, "cuda:0 other processes", "limited", "2 other processes: 1, 2"),
    ({"board": {"processes": None}}, "cuda:0 other processes", "limited", "withheld"),
    ({"board": {"reasons": []}}, "cuda:0 clocks", "limited", "needs root"),
    ({"board": {"reasons": None}}, "cuda:0 clocks", "limited", "not locked"),
    ({"board": {"reasons": ["application_clocks", "hw_thermal"]}}, "cuda:0 clocks", "limited", "hw_thermal"),
    ({"environment": {"versions": {}}}, "triton", "missing", "fused"),
    ({"environment": {"versions": {}}}, "transformers", "missing", "pip install"),
    ({"local": {"compiler": None}}, "c++ compiler", "missing", "g++"),
    ({"facts": {"grouped_mm": {"cpu": "too old"}}}, "grouped_mm cpu", "missing", "too old"),
    ({"local": {"free_disk_bytes": 1 << 20}}, "disk", "limited", "0.0 GiB"),
]


@pytest.mark.parametrize(("change", "topic", "status", "words"), CHANGES)
def test_each_shortcoming_is_found_explained_and_answered(
    change: dict[str, Any], topic: str, status: str, words: str
) -> None:
    finding = findings(**change)[topic]
    assert finding.status == status
    assert words in f"{finding.what} {finding.why} {finding.advice}"


@pytest.mark.parametrize("change", [change for change, *_ in CHANGES])
def test_whatever_is_missing_says_why_and_what_to_do(change: dict[str, Any]) -> None:
    for finding in findings(**change).values():
        if finding.status == "missing":
            assert finding.why
            assert finding.advice


def test_root_is_not_told_to_become_root() -> None:
    assert "needs root" not in findings(board={"reasons": []}, local={"root": True})["cuda:0 clocks"].advice


def test_without_nvml_nothing_is_said_about_clocks() -> None:
    assert not {"cuda:0 energy", "cuda:0 clocks", "cuda:0 mig"} & findings(board={"why_not": "no library"}).keys()


def test_a_probe_that_died_leaves_a_diagnosis() -> None:
    found = {finding.topic: finding for finding in diagnose(HEALTHY, {}, LOCAL)}
    assert found["torch"].status == "missing"
    assert not {"cuda", "cpu memory", "cpu threads"} & found.keys()


def test_a_probe_of_something_else_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        diagnose(HEALTHY, {"gpus": "many"}, LOCAL)


@given(st.sampled_from([None, 1.0, 64.0]), st.integers(1, 64))
def test_threads_within_the_quota_are_fine(quota: float | None, threads: int) -> None:
    finding = findings(local={"allowed_cpus": quota}, facts={"threads": threads})["cpu threads"]
    assert (finding.status == "ok") == (quota is None or threads <= quota)


def test_findings_are_plain_data() -> None:
    found = list(findings().values())
    assert msgspec.json.decode(msgspec.json.encode(found), type=list[Finding]) == found


def test_looking_around_here() -> None:
    local = look_around()
    assert local.free_disk_bytes > 0
    assert local.clock_step_ns > 0
    assert clock_step_ns() <= 10**9
    assert diagnose(HEALTHY, msgspec.to_builtins(FACTS))

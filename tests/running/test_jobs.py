"""Jobs and outcomes cross the process border as JSON and come out as they went in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from harness.fitting.results import Candidate, Compared, Fit, Range, Repeats, Shown
from harness.records.environment import Ceilings, Device
from harness.records.record import ImplInfo, Record
from harness.records.store import replace_file
from harness.records.trials import CpuTime, Line, Trial
from harness.running import jobs

if TYPE_CHECKING:
    from pathlib import Path

CEILINGS = Ceilings(
    copy_bytes_per_second=1.0,
    read_bytes_per_second=2.0,
    cached_read_bytes_per_second=3.0,
    gemm_flops_per_second={"bf16": 4.0},
    cache_bytes=5,
    launch_ns=6.0,
    idle_watts=7.5,
)

ONE = Range(mean=1.0, low=0.5, high=1.5)
SHOWN = Shown(
    tokens=2,
    experts=2,
    top_k=1,
    histogram=[1, 1],
    figures={"cv2": 0.0, "closest_lift": None},
    chance={"cv2": ONE},
    chance_curve=[1.5, 0.5],
    seeds=20,
)
FIT = Fit(
    layer=3,
    tokens=2,
    experts=2,
    top_k=1,
    stretches=1,
    seeds=40,
    candidates=[
        Candidate(
            kind="tile", spread="tile:128", parameter=None, low=None, high=None, score=0.0, miss=0.0, own_miss=ONE
        )
    ],
    repeats=Repeats(spread="temporal:0", rho=0.0, low=0.0, high=0.1, excess=1.0, at_the_end=False),
    figures=[Compared(figure="cv2", trace=None, load=ONE)],
    by_load={"load": True},
    by_repeats={},
)


@pytest.fixture
def every_job(plans: Any) -> list[jobs.Job]:
    return [
        jobs.ProbeJob(),
        jobs.ProbeJob(skip={"theirs.bad": "it died"}),
        jobs.CeilingsJob(device="cuda:0", dtypes=("bf16", "fp32")),
        jobs.BoutsJob(
            planned=[plans.planned(), plans.planned(9, names=("loop", "einsum"), pass_="training")],
            environment_id="e",
            budget_s=2.5,
            timed=False,
            ceilings={"cpu": CEILINGS},
            skip={"theirs.bad": "it died"},
        ),
        jobs.TurnsJob(
            planned=[plans.planned()],
            environment_id="e",
            wire=7,
            metered=False,
            ceilings={"cpu": CEILINGS},
            skip={"theirs.bad": "it died"},
            homes={"theirs": "/at/home"},
        ),
        jobs.CalibrationJob(
            case=plans.case(), impl="a", baseline="", process=2, first=40, count=20, trial_s=3.0, skip={"bad": "died"}
        ),
        jobs.TuneJob(
            impl="a", cases=[plans.case()], environment_id="e", budget_s=9.0, avoid=["a@1"], skip={"b": "died"}
        ),
        jobs.ShowJob(shape=plans.case().shape, traffic=plans.case().traffic),
        jobs.FitJob(path="/a.npz", layers=(0, 3), phase="", tokens=64),
    ]


@pytest.fixture
def every_outcome(plans: Any) -> list[jobs.Outcome]:
    case = plans.case()
    record = Record(
        case=case, case_id=case.case_id, impl=ImplInfo(name="a", family="loop"), status="ok", environment_id="e"
    )
    listed = jobs.Listed(name="a", family="peer", devices=("cpu",), passes=("forward",), dtypes=("fp32",))
    device = Device(name="d", kind="cpu", memory_bytes=1, cache_bytes=1)
    line = Line(samples_ns=[1.5, 2.5], rounds=[0, 1], calls_per_sample=4, planted_percent=5.0, planted_ns=0.1)
    cpu = CpuTime(capacity_s=2.0, own_s=1.0, others_s=0.5)
    trial = Trial(process=1, number=7, call_ns=2.0, lines={"planted 5 %": line}, cpu=cpu)
    return [
        jobs.ProbeOutcome(
            implementations=[listed, jobs.Listed(name="b", broken="ImportError")],
            devices={"cpu": device},
            facts={"torch": "2.13", "gpus": 0, "boards": {"cuda:0": {"mig": None}}},
        ),
        jobs.CeilingsOutcome(ceilings=CEILINGS),
        jobs.ReadyOutcome(broken={"theirs": "it died"}),
        jobs.BoutOutcome(case_id=case.case_id, records=[record], measuring_s=0.5, wall_s=1.0),
        jobs.TrialOutcome(trial=trial),
        jobs.TunedOutcome(
            case_id=case.case_id,
            default={"n": 1},
            best={"n": 2, "kind": "x"},
            records=[record],
            tried=3,
            failed={"no": 2},
        ),
        jobs.RefusedOutcome(reason="a: unsupported: no"),
        jobs.ShownOutcome(SHOWN),
        jobs.FitOutcome(FIT),
        jobs.DoneOutcome(),
    ]


def test_every_kind_of_job_survives(every_job: list[jobs.Job], tmp_path: Path) -> None:
    for job in every_job:
        replace_file(tmp_path / jobs.JOB, job)
        assert jobs.read_job(tmp_path) == job
    assert {type(job) for job in every_job} == set(jobs.Job.__args__)


def test_every_kind_of_outcome_survives_in_order(every_outcome: list[jobs.Outcome], tmp_path: Path) -> None:
    for number, outcome in enumerate(every_outcome):
        jobs.write_outcome(tmp_path, number, outcome)
    assert list(jobs.outcomes_from(tmp_path, 0)) == every_outcome
    assert list(jobs.outcomes_from(tmp_path, 3)) == every_outcome[3:]
    assert list(jobs.outcomes_from(tmp_path, len(every_outcome))) == []
    assert {type(outcome) for outcome in every_outcome} == set(jobs.Outcome.__args__)


def test_a_gap_is_waited_for(every_outcome: list[jobs.Outcome], tmp_path: Path) -> None:
    jobs.write_outcome(tmp_path, 0, every_outcome[0])
    jobs.write_outcome(tmp_path, 2, every_outcome[2])
    assert list(jobs.outcomes_from(tmp_path, 0)) == every_outcome[:1]


def test_a_half_written_outcome_is_not_seen(tmp_path: Path) -> None:
    (tmp_path / "outcome-00000.json.new").write_bytes(b'{"type":')
    assert list(jobs.outcomes_from(tmp_path, 0)) == []

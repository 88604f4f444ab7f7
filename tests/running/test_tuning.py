"""Tuning from the parent: what is asked, what is kept, and workers that die of a candidate. Workers run no torch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from harness.cli.tuning import refused
from harness.records.record import ImplInfo, Record, Timing
from harness.records.tuned import own_path, read_tuned
from harness.running import jobs
from harness.running.child import Limits
from harness.running.request import Request
from harness.running.tuning import MOST_DEATHS, Finding, Task, Tuning, decide, make_task

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.cases.case import Case
    from harness.running.machine import Machine

SEARCHING = """
    from harness.records.record import ImplInfo, Record, Timing
    assert job.impl == 'mine' and job.skip == {{'bad': 'died'}}
    self.answer(jobs.ReadyOutcome())
    def record(case, ns):
        samples = [ns * (1 + 0.001 * n) for n in range(12)]
        timing = Timing(clock='wall', cache='hot', samples_ns=samples, rounds=list(range(12)), calls_per_sample=1,
                        prepare_ns=0, first_call_ns=0, warmup_calls=0, warm=True, stopped='rounds')
        impl = ImplInfo(name='mine', family='loop')
        return Record(case=case, case_id=case.case_id, impl=impl, status='ok', environment_id='e', timing=timing)
    for case in job.cases:
        self.note(case.case_id, 'mine@aa', 'gate')
        {during}
        records = [record(case, 2e6), record(case, 1e6)]
        self.answer(jobs.TunedOutcome(case_id=case.case_id, default={{'n': 1}}, best={{'n': 2}}, records=records,
                                      tried=5, whole=True))
        {after}
    self.answer(jobs.DoneOutcome())
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOEBENCH_TUNED", str(tmp_path / "own"))
    return own_path("mine", "cpu")


@pytest.fixture
def machine(plans: Any) -> Machine:
    found: Machine = plans.machine("loop", "mine")
    found.skip["bad"] = "died"
    found.listed["mine"] = msgspec.structs.replace(found.listed["mine"], tunable=True)
    return found


@pytest.fixture
def searching(worker_does: Callable[[str], None]) -> Callable[..., None]:
    def searching(during: str = "pass", after: str = "pass") -> None:
        worker_does(SEARCHING.format(during=during, after=after))

    return searching


def timed(case: Case, times: list[float], **fields: Any) -> Record:
    timing = Timing(
        clock="wall", cache="hot", samples_ns=times, rounds=list(range(len(times))), calls_per_sample=1,
        prepare_ns=0, first_call_ns=0, warmup_calls=0, warm=True, stopped="rounds", noise_floor=0.004,
    )  # fmt: skip
    info = ImplInfo(name="mine", family="loop")
    given: dict[str, Any] = {"status": "ok", "timing": timing} | fields
    return Record(case=case, case_id=case.case_id, impl=info, environment_id="e", **given)


def outcome(case: Case, ratio: float, rounds: int = 20, **fields: Any) -> jobs.TunedOutcome:
    """The best takes ``ratio`` times as long as the default, give or take a thousandth."""
    base = [1e6 * (1 + 0.05 * (n % 3)) for n in range(rounds)]
    best = [ratio * ns * (1 + 0.001 * (n % 5 - 2)) for n, ns in enumerate(base)]
    given: dict[str, Any] = {"default": {"n": 1}, "best": {"n": 2}, "tried": 5, "whole": True} | fields
    records = given.pop("records", [timed(case, base), timed(case, best)])
    return jobs.TunedOutcome(case_id=case.case_id, records=records, **given)


@pytest.mark.parametrize(
    ("ratio", "rounds", "word"),
    [(0.9, 20, "kept"), (0.99, 20, "kept"), (0.997, 20, "default"), (1.2, 20, "default"), (0.9, 5, "default")],
)
def test_what_is_kept_beats_the_default_beyond_noise(plans: Any, ratio: float, rounds: int, word: str) -> None:
    finding = decide(plans.case(), outcome(plans.case(), ratio, rounds))
    assert finding.word == word
    if rounds >= 7:
        assert finding.ratio
        assert finding.ratio[0] == pytest.approx(ratio, rel=0.002)
        assert finding.ratio[1] <= finding.ratio[0] <= finding.ratio[2]


def test_a_default_without_a_time_is_a_failure_with_its_reason(plans: Any) -> None:
    case = plans.case()
    refused = timed(case, [1.0], status="unsupported", reason="needs a GPU", timing=None)
    finding = decide(case, outcome(case, 1.0, best={"n": 1}, records=[refused]))
    assert (finding.word, finding.why) == ("failed", "unsupported: needs a GPU")
    assert decide(case, outcome(case, 1.0, records=[])).word == "failed"


def test_a_best_that_is_faster_than_the_device_can_be_is_not_kept(plans: Any) -> None:
    case = plans.case()
    records = [timed(case, [1e6] * 20), timed(case, [1.0] * 20, status="impossible", reason="too fast")]
    finding = decide(case, outcome(case, 1.0, records=records))
    assert (finding.word, finding.why) == ("failed", "impossible: too fast")


def test_refused_is_only_what_is_refused_in_every_case(plans: Any) -> None:
    case = plans.case()
    no, neither = (
        decide(
            case, outcome(case, 1.0, best={}, records=[timed(case, [], status="unsupported", reason=why, timing=None)])
        )
        for why in ("needs a GPU", "needs Triton")
    )
    assert refused([no, no]) == "needs a GPU"
    assert refused([no, neither]) == "needs a GPU; needs Triton"
    for other in (decide(case, outcome(case, 0.9)), Finding(case, "not reached"), Finding(case, "failed", "died")):
        assert not refused([no, other])
    assert not refused([])


def test_an_unfinished_search_says_so(plans: Any) -> None:
    case = plans.case()
    same = outcome(case, 1.0, best={"n": 1}, records=[timed(case, [1e6] * 9)])
    assert decide(case, same).why == "no candidate was faster"
    assert decide(case, msgspec.structs.replace(same, whole=False)).why == "none faster so far"
    assert decide(case, outcome(case, 0.9, whole=False)).why == "there may be better ones"


def test_only_what_is_tunable_is_tuned(machine: Machine) -> None:
    with pytest.raises(ValueError, match=r"NAME = 'loop': an implementation with something to tune: mine"):
        make_task("loop", Request("tiny", "loop"), None, machine)
    with pytest.raises(ValueError, match=r"NAME = 'nobody': one of"):
        make_task("nobody", Request("tiny", "nobody"), None, machine)


def test_a_budget_by_the_case_unless_given(machine: Machine) -> None:
    made = make_task("mine", Request("tiny", "mine"), None, machine)
    assert (len(made.cases), made.budget_s) == (3, 90.0)
    assert make_task("mine", Request("tiny", "mine", budget="9s"), None, machine).budget_s == 9.0


def test_too_little_time_for_many_cases_is_said_beforehand(machine: Machine) -> None:
    """Each is usually given 30 s on a CPU."""
    for budget, said in (("", ""), ("60s", ""), ("30s", "10 s for each of 3 cases")):
        made = make_task("mine", Request("tiny", "mine", budget=budget), None, machine)
        assert len(made.cases) == 3
        assert made.advice.startswith(said)
        assert bool(made.advice) == bool(said)


def tune(machine: Machine, task: Task, **given: Any) -> list[Finding]:
    found: list[Finding] = []
    Tuning(task, machine, Limits(), lambda _: None, found.append, **given).run()
    return found


def task_of(plans: Any, *tokens: int, budget_s: float = 60.0) -> Task:
    return Task("mine", tuple(plans.case(count) for count in tokens), budget_s, 1)


def test_every_find_is_written_down(
    plans: Any, machine: Machine, searching: Callable[..., None], own: Path, tmp_path: Path
) -> None:
    searching()
    found = tune(machine, task_of(plans, 4, 8))
    assert [finding.word for finding in found] == ["kept", "kept"]
    entries = read_tuned(own, "mine", "cpu").entries
    assert [(entry.tokens, entry.values) for entry in entries] == [(4, {"n": 2}), (8, {"n": 2})]
    assert entries[0].evidence
    assert entries[0].evidence.ratio == pytest.approx(0.5)
    tune(machine, replace(task_of(plans, 16), out=tmp_path / "here.json"))
    assert [entry.tokens for entry in read_tuned(tmp_path / "here.json", "mine", "cpu").entries] == [16]
    assert len(read_tuned(own, "mine", "cpu").entries) == 2


def test_a_candidate_that_kills_is_not_asked_again(
    plans: Any, machine: Machine, searching: Callable[..., None]
) -> None:
    searching("if case.traffic.tokens == 8 and 'mine@aa' not in job.avoid: os._exit(3)")
    assert [finding.word for finding in tune(machine, task_of(plans, 4, 8, 16))] == ["kept"] * 3


def test_a_case_that_always_kills_is_given_up(
    plans: Any, machine: Machine, searching: Callable[..., None], tmp_path: Path
) -> None:
    log = tmp_path / "starts"
    searching(f"open({str(log)!r}, 'a').write('x') if case.traffic.tokens == 8 else None\n"
              "        if case.traffic.tokens == 8: os._exit(3)")  # fmt: skip
    found = tune(machine, task_of(plans, 8, 4))
    assert [finding.word for finding in found] == ["failed", "kept"]
    assert "exited with code 3 during 'gate'" in found[0].why
    assert len(log.read_text()) == MOST_DEATHS


def test_a_death_without_a_candidate_is_the_case_s(
    plans: Any, machine: Machine, searching: Callable[..., None]
) -> None:
    searching("self.note(case.case_id, '', 'weights')\n        if case.traffic.tokens == 8: os._exit(3)")
    assert [finding.word for finding in tune(machine, task_of(plans, 8, 4))] == ["failed", "kept"]


def test_a_search_that_does_not_end_is_ended(plans: Any, machine: Machine, searching: Callable[..., None]) -> None:
    searching(after="time.sleep(1000)")
    hours = iter(range(1000))
    found = tune(machine, task_of(plans, 4, 8), now=lambda: 3600.0 * max(0, next(hours) - 40))
    assert [finding.word for finding in found] == ["kept", "not reached"]


def test_ctrl_c_keeps_what_was_found(plans: Any, machine: Machine, searching: Callable[..., None], own: Path) -> None:
    searching(after="time.sleep(1000)")
    found: list[Finding] = []

    def impatient(finding: Finding) -> None:
        found.append(finding)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Tuning(task_of(plans, 4, 8), machine, Limits(), lambda _: None, impatient).run()
    assert [entry.tokens for entry in read_tuned(own, "mine", "cpu").entries] == [4]

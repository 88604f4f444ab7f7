"""Every (case, implementation) gets its one record, whoever dies on the way; workers here run no torch."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from harness.running import jobs
from harness.running.child import KILLS_FORGIVEN, Limits
from harness.running.runner import Course, Runner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from harness.cases.case import PlannedCase
    from harness.records.record import Record
    from harness.running.blackbox import Announcement
    from harness.running.machine import Machine


class Silent:
    """A progress bar that counts."""

    def __init__(self) -> None:
        self.shown: list[Announcement] = []
        self.over = 0

    def doing(self, entry: Announcement) -> None:
        self.shown.append(entry)

    def done(self, records: Sequence[Record]) -> None:
        self.over += len(records)


class Stage:
    """Runs a plan with workers that follow a script, and keeps what came of it."""

    def __init__(self, workers_measure: Callable[..., Path], machine: Machine) -> None:
        self._workers_measure = workers_measure
        self.log = workers_measure()
        self.progress = Silent()
        self.course = Course("e", machine.listed, Limits(stage_s=1.5))
        self.records: list[Record] = []

    def play(
        self, planned: Sequence[PlannedCase], budget_s: float = 60.0, **script: str
    ) -> dict[tuple[int, str], Record]:
        self._workers_measure(**script)
        runner = Runner(self.course, self.records.extend, self.progress)
        runner.run(planned, budget_s)
        pairs = Counter(record.key for record in self.records)
        assert pairs == Counter((one.case.case_id, name) for one in planned for name in one.implementations or ())
        assert self.progress.over == len(self.records)
        return {(record.case.traffic.tokens, record.impl.name): record for record in self.records}

    def said(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def stage(workers_measure: Callable[..., Path], plans: Any) -> Stage:
    return Stage(workers_measure, plans.machine("a", "b", "c"))


ABC = ("a", "b", "c")


def test_everything_goes_well(stage: Stage, plans: Any) -> None:
    found = stage.play([plans.planned(1, ABC), plans.planned(2, ABC), plans.planned(1, ABC, hidden=64)])
    assert {record.status for record in found.values()} == {"ok"}
    assert stage.said() == ["bout 1 a,b,c", "bout 2 a,b,c", "bout 1 a,b,c"]
    assert stage.course.measuring_s == 1.5
    assert stage.course.wall_s > 0
    assert any(entry.stage for entry in stage.progress.shown)


def test_nothing_to_do_starts_no_worker(stage: Stage) -> None:
    stage.play([])
    assert not stage.log.exists()


@pytest.mark.parametrize(
    ("during", "status", "reason"),
    [
        ("ctypes.string_at(0)", "crashed", "the process died of SIGSEGV during 'gate'"),
        ("os.abort()", "crashed", "the process died of SIGABRT"),
        ("os._exit(3)", "crashed", "exited with code 3"),
        ("os._exit(0)", "crashed", "exited with code 0"),
        ("time.sleep(600)", "timeout", "no sign of life for 1.5 s during 'gate'"),
    ],
)
def test_who_dies_is_charged_and_the_others_are_measured(
    stage: Stage, plans: Any, during: str, status: str, reason: str
) -> None:
    found = stage.play(
        [plans.planned(1, ABC), plans.planned(2, ABC)],
        during=f"if name == 'b' and case.traffic.tokens == 1: os.write(1, b'its last word'); {during}",
    )
    charged = found.pop((1, "b"))
    assert charged.status == status
    assert reason in charged.reason
    assert charged.log_tail.startswith("its last word")
    assert {record.status for record in found.values()} == {"ok"}
    assert stage.said() == ["bout 1 a,b,c", "bout 1 a,c", "bout 2 a,b,c"]


def test_everybody_dies(stage: Stage, plans: Any) -> None:
    found = stage.play([plans.planned(1, ABC), plans.planned(2, ("b",))], during="os._exit(1)")
    assert {record.status for record in found.values()} == {"crashed"}
    assert len(stage.said()) == 4


def test_memory_beyond_the_limit_is_oom(stage: Stage, plans: Any) -> None:
    stage.course.limits = Limits(memory_bytes=250 << 20)
    filler = "if name == 'b': kept = bytearray(300 << 20); kept[::4096] = bytes(len(kept[::4096])); time.sleep(600)"
    found = stage.play([plans.planned(1, ABC)], during=filler)
    assert {name: record.status for (_, name), record in found.items()} == {"a": "ok", "b": "oom", "c": "ok"}
    assert "lower tokens or experts" in found[1, "b"].reason


def test_kills_from_outside_are_forgiven_a_few_times(stage: Stage, plans: Any) -> None:
    """Somebody kills the worker while it runs b; b is asked again until that has happened too often."""
    tries = f"open({str(stage.log)!r}).read().count('bout')"
    found = stage.play(
        [plans.planned(1, ABC)], during=f"if name == 'b' and {tries} < {KILLS_FORGIVEN}: os.kill(os.getpid(), 9)"
    )
    assert {record.status for record in found.values()} == {"ok"}
    assert stage.said().count("bout 1 a,b,c") == KILLS_FORGIVEN


def test_what_is_always_killed_is_charged(stage: Stage, plans: Any) -> None:
    found = stage.play([plans.planned(1, ABC)], during="if name == 'b': os.kill(os.getpid(), 9)")
    assert found[1, "b"].status == "crashed"
    assert "killed by SIGKILL during 'gate'" in found[1, "b"].reason
    assert [found[1, name].status for name in "ac"] == ["ok", "ok"]
    assert stage.said().count("bout 1 a,b,c") == KILLS_FORGIVEN


def test_weights_that_cannot_be_built_cost_the_whole_case(stage: Stage, plans: Any) -> None:
    first = "job.planned[0].case"
    script = f"self.note({first}.case_id, '', 'weights'); {first}.traffic.tokens == 1 and os._exit(1)"
    found = stage.play([plans.planned(1, ABC), plans.planned(2, ABC)], before=script)
    assert [found[1, name].status for name in "abc"] == ["crashed"] * 3
    assert "exited with code 1 during 'weights'" in found[1, "a"].reason
    assert [found[2, name].status for name in "abc"] == ["ok"] * 3


def test_a_death_between_two_bouts_is_not_blamed_on_the_last_to_run(stage: Stage, plans: Any) -> None:
    """The last announcement names c on the finished case; on the next one c has done nothing yet."""
    found = stage.play(
        [plans.planned(1, ABC), plans.planned(2, ABC)], between="if case.traffic.tokens == 1: os._exit(1)"
    )
    assert {record.status for record in found.values()} == {"ok"}


ROUND = "self.note(case.case_id, name, 'round 3')"


def test_who_falls_while_timed_is_asked_alone_first(stage: Stage, plans: Any) -> None:
    found = stage.play([plans.planned(1, ABC), plans.planned(2, ABC)], during=f"if name == 'b': {ROUND}; os._exit(7)")
    assert {name: found[1, name].status for name in "abc"} == {"a": "ok", "b": "crashed", "c": "ok"}
    assert stage.said()[:3] == ["bout 1 a,b,c", "bout 1 b", "bout 1 a,c"]


def test_a_thread_that_another_left_behind_does_not_cost_who_was_timed(stage: Stage, plans: Any) -> None:
    """Beside a, b falls; alone it does not."""
    beside = "'a' in [record.impl.name for record in records]"
    found = stage.play([plans.planned(1, ABC)], during=f"if name == 'b' and {beside}: {ROUND}; os._exit(7)")
    assert {record.status for record in found.values()} == {"ok"}
    assert stage.said() == ["bout 1 a,b,c", "bout 1 b", "bout 1 a,c"]


def test_an_after_effect_is_charged_to_who_causes_it(stage: Stage, plans: Any) -> None:
    """Memory that b corrupts brings the worker down when the harness itself runs next."""
    script = "if name == 'b': self.note(case.case_id, '', 'oracle'); os.abort()"
    found = stage.play([plans.planned(1, ABC), plans.planned(2, ("c",))], during=script)
    assert {key: record.status for key, record in found.items()} == {
        (1, "a"): "ok", (1, "b"): "crashed", (1, "c"): "ok", (2, "c"): "ok",
    }  # fmt: skip
    assert "died of SIGABRT during 'oracle'" in found[1, "b"].reason
    assert stage.said() == ["bout 1 a,b,c", "bout 1 a", "bout 1 b", "bout 1 c", "bout 2 c"]


def test_a_death_after_the_last_bout_harms_nobody(stage: Stage, plans: Any) -> None:
    found = stage.play([plans.planned(1, ABC)], between="os._exit(1)")
    assert [record.status for record in found.values()] == ["ok"] * 3


def test_a_module_that_dies_on_import_costs_its_own_only(stage: Stage, plans: Any) -> None:
    """It was importable when the machine was looked over. Its implementations are absent from then on, and say why."""
    found = stage.play(
        [plans.planned(1, ABC), plans.planned(2, ABC)],
        before="'impls.b' in job.skip or (self.note('', 'impls.b', 'import'), os._exit(7))",
        broken="job.skip",
        during="if name == 'b': continue",
    )
    for tokens in (1, 2):
        assert [found[tokens, name].status for name in "abc"] == ["ok", "error", "ok"]
        assert found[tokens, "b"].reason == (
            "its module impls.b could not be imported: the process exited with code 7 during 'import'"
        )
    assert len(stage.said()) == 2


def test_a_module_that_is_killed_on_import_is_forgiven_a_few_times(stage: Stage, plans: Any) -> None:
    """The kernel kills whoever is there when memory runs out."""
    always = "'impls.b' in job.skip or (self.note('', 'impls.b', 'import'), os.kill(os.getpid(), 9))"
    found = stage.play(
        [plans.planned(1, ABC), plans.planned(2, ABC)],
        before=always,
        broken="job.skip",
        during="if name == 'b': continue",
    )
    assert [found[2, name].status for name in "abc"] == ["ok", "error", "ok"]
    assert "killed by SIGKILL during 'import'" in found[1, "b"].reason


def test_what_is_not_there_any_more_gets_a_record(stage: Stage, plans: Any) -> None:
    """As after --resume on a machine where a package was removed."""
    del stage.course.listed["b"]
    found = stage.play([plans.planned(1, ABC)], during="if name == 'b': continue")
    assert found[1, "b"].status == "error"
    assert "no module registers it" in found[1, "b"].reason
    assert found[1, "b"].impl.family == "peer"


def test_a_broken_root_package_covers_its_modules(stage: Stage, plans: Any) -> None:
    found = stage.play([plans.planned(1, ABC)], broken="{'impls': 'ImportError: no'}", during="continue")
    assert {record.reason for record in found.values()} == {"its module impls could not be imported: ImportError: no"}


def budgets(stage: Stage) -> list[float]:
    return [float(line.split()[1]) for line in stage.said() if line.startswith("budget")]


def test_the_budget_is_shared_by_cases(stage: Stage, plans: Any) -> None:
    """Bouts here claim 2 s each. Two layers, of two cases and of one: 2/3 of 30 s, then all that is left."""
    planned = [plans.planned(1, ABC), plans.planned(2, ABC), plans.planned(1, ABC, hidden=64)]
    stage.play(planned, before="say(f'budget {job.budget_s}')", budget_s=30.0)
    assert budgets(stage) == [20.0, 26.0]


def test_time_lost_to_a_death_is_not_taken_from_the_others(stage: Stage, plans: Any) -> None:
    planned = [plans.planned(1, ABC), plans.planned(2, ABC)]
    script = "if name == 'b' and case.traffic.tokens == 2: time.sleep(600)"
    stage.play(planned, before="say(f'budget {job.budget_s}')", during=script, budget_s=30.0)
    assert budgets(stage) == [30.0, 28.0]


def test_whatever_was_spent_each_layer_gets_a_quarter_of_its_share(stage: Stage, plans: Any) -> None:
    planned = [plans.planned(1, ABC), plans.planned(1, ABC, hidden=64)]
    stage.play(planned, before="say(f'budget {job.budget_s}')", budget_s=1.0)
    assert budgets(stage) == [0.5, 0.125]


def test_one_worker_does_everything_when_asked(stage: Stage, plans: Any) -> None:
    stage.course.one_worker = True
    stage.play([plans.planned(1, ABC), plans.planned(1, ABC, hidden=64)], before="say('worker')")
    assert stage.said().count("worker") == 1


@pytest.mark.parametrize("seed", range(3))
def test_a_storm_of_deaths(stage: Stage, plans: Any, seed: int) -> None:
    """However a worker ends, at whatever moment, the run ends and the tally is right (``play`` checks it)."""
    ways = ["os._exit(0)", "os._exit(1)", "os.abort()", "os.kill(os.getpid(), 9)", "os.kill(os.getpid(), 15)"]
    dice = "import random; dice = random.Random(str(({0}, os.getpid())))"
    throw = f"""dice.random() < 0.08 and eval(dice.choice({ways!r}))"""
    planned = [plans.planned(tokens, ABC, hidden=hidden) for hidden in (32, 64) for tokens in (1, 2, 3)]
    random.Random(seed).shuffle(planned)
    found = stage.play(planned, before=dice.format(seed), during=throw, between=throw)
    assert {record.status for record in found.values()} <= {"ok", "crashed"}


def test_what_a_record_says_of_an_unlisted_family() -> None:
    info = jobs.Listed(name="a", version="2", source_hash="h", origin="o", summary="s").impl
    assert (info.name, info.family, info.version, info.source_hash, info.origin, info.summary) == (
        "a", "peer", "2", "h", "o", "s",
    )  # fmt: skip

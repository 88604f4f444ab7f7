"""Two revisions side by side: a real repository, real workers, a third party's package that changed in many ways."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace
from textwrap import indent
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from harness.cases.case import PlannedCase
from harness.records import rounds
from harness.records.environment import Ceilings
from harness.records.store import load_run
from harness.running.child import Limits
from harness.running.machine import look_around
from harness.running.plan import CEILINGS_SECONDS, WORKER_START_SECONDS, make_plan
from harness.running.versus.run import expected_s, measure_versus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from harness.records.record import Record
    from harness.records.store import Run
    from harness.running.blackbox import Announcement
    from harness.running.machine import Machine
    from harness.running.plan import Plan

pytestmark = pytest.mark.timeout(600)

STAGE_S = 6.0
CEILINGS = Ceilings(
    copy_bytes_per_second=1e15,
    read_bytes_per_second=1e15,
    cached_read_bytes_per_second=1e15,
    gemm_flops_per_second={"fp32": 1e18},
    cache_bytes=1 << 20,
    launch_ns=1.0,
)
MODULE = """
import os, time
from harness import implementation
from moebench_two._right import right
{top}

@implementation({name!r}, family="peer", devices=("cpu",), dtypes=("fp32",))
def prepare(layer):
    "{summary}"
    calls = []
    def forward(x, routing):
        calls.append(1)
        n, y = len(calls), right(layer, x, routing)
{forward}
        return y
    return forward
"""
SLEEP = "time.sleep(0.002)"


@dataclass(frozen=True)
class Change:
    """What an implementation does in each revision beside its work; None where it is not there."""

    name: str
    base: str | None = SLEEP
    new: str | None = SLEEP
    new_top: str = ""


CHANGES = [
    Change("steady"),
    Change("slower", new="time.sleep(0.006)"),
    Change("crashes", new="if n == 20: print('last word'); os._exit(7)"),
    Change("hangs", base="if n == 20: time.sleep(9999)"),
    Change("disagrees", new="y = y + 1"),
    Change("raises-late", new="if n == 20: raise ValueError('not today')"),
    Change("lost", new=None),
    Change("added", base=None),
    Change("unimportable", new_top="import no_such_package"),
]
FAILED = {
    ("new", "crashes"): ("crashed", "exited with code 7"),
    ("base", "hangs"): ("timeout", f"no sign of life for {STAGE_S:g} s"),
    ("new", "disagrees"): ("disagrees", ""),
    ("new", "raises-late"): ("error", "not today"),
    ("new", "unimportable"): ("error", "could not be imported: ModuleNotFoundError"),
}
ABSENT = {("new", "lost"), ("base", "added")}


class Watching:
    """Notes what is shown; ``stop_at`` words in a stage are where somebody presses Ctrl-C."""

    def __init__(self, stop_at: str = "") -> None:
        self.stages: Counter[str] = Counter()
        self.finished: list[Record] = []
        self._stop_at = stop_at

    def doing(self, entry: Announcement) -> None:
        self.stages[entry.stage.partition(":")[0]] += 1
        if self._stop_at and self._stop_at in entry.stage:
            raise KeyboardInterrupt

    def done(self, records: Sequence[Record]) -> None:
        self.finished += records


@dataclass(frozen=True)
class Repository:
    """A package of implementations under version control, on the path of this process and of workers."""

    path: Path
    git: Callable[..., str]
    sha: str

    @property
    def worktrees(self) -> int:
        return len(self.git("worktree", "list").splitlines())


def write(site: Any, revision: str) -> None:
    for change in CHANGES:
        module = change.name.replace("-", "_")
        forward = change.base if revision == "base" else change.new
        file = site.path / "moebench_two" / f"{module}.py"
        if forward is None:
            file.unlink(missing_ok=True)
            continue
        top = change.new_top if revision == "new" else ""
        text = MODULE.format(name=change.name, top=top, summary=revision, forward=indent(forward, 8 * " "))
        site.module(f"moebench_two.{module}", text)


@pytest.fixture(scope="module")
def repository(make_site: Any, git_in: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    site = make_site(tmp_path_factory.mktemp("two"))
    git = git_in(site.path)
    git("init", "--quiet")
    site.package("moebench_two", _right=site.right)
    site.declare("moebench_two", "moebench.impls", "moebench_two")
    write(site, "base")
    (site.path / ".gitignore").write_text("__pycache__\n")
    git("add", "-A")
    git("commit", "--quiet", "-m", "base")
    write(site, "new")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(site.path))
        patch.syspath_prepend(str(site.path))
        patch.chdir(site.path)
        patch.setattr("harness.running.versus.pairs.measure_ceilings", lambda *_: CEILINGS)
        patch.setattr("harness.running.versus.run.look_around", lambda *words: theirs_of(look_around(*words)))
        yield Repository(site.path, git, git("rev-parse", "HEAD"))


def theirs_of(found: Machine) -> Machine:
    """Leave out moebench's own implementations, which take longest: a plan for all others asks for everybody."""
    listed = {name: one for name, one in found.listed.items() if not one.origin.startswith("impls.")}
    return replace(found, listed=listed)


@pytest.fixture(scope="module")
def machine(repository: Repository) -> Machine:
    return theirs_of(look_around(Limits()))


def plan_for(plans: Any, machine: Machine, budget_s: float, *names: str) -> Plan:
    """Two cases on one layer; without names for everybody there is."""
    asked = names or tuple(machine.usable)
    planned = [PlannedCase(case=plans.case(tokens), implementations=asked) for tokens in (4, 8)]
    return make_plan("two", "", planned, machine, budget_s=budget_s)


@pytest.fixture(scope="module")
def watching() -> Watching:
    return Watching()


@pytest.fixture(scope="module")
def runs(
    repository: Repository,
    machine: Machine,
    plans: Any,
    watching: Watching,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Run]:
    out = tmp_path_factory.mktemp("out")
    plan = plan_for(plans, machine, 3.0)
    measure_versus(plan, "HEAD", out, machine, "pytest", pairs=2, stage_s=STAGE_S, progress=watching)
    return {side: load_run(out / side) for side in ("base", "new")}


def record_of(runs: dict[str, Run], side: str, name: str, tokens: int = 8) -> Record:
    (found,) = (r for r in runs[side].records if r.impl.name == name and r.case.traffic.tokens == tokens)
    return found


def pairs_of(record: Record) -> list[tuple[int, int]]:
    assert record.timing is not None
    assert record.timing.processes is not None
    assert len(record.timing.processes) == len(record.timing.rounds) == len(record.timing.samples_ns)
    return list(zip(record.timing.processes, record.timing.rounds, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
@pytest.mark.parametrize("side", ["base", "new"])
def test_each_side_has_what_it_has(runs: dict[str, Run], change: Change, side: str) -> None:
    if (side, change.name) in ABSENT:
        assert change.name not in {record.impl.name for record in runs[side].records}
        return
    status, reason = FAILED.get((side, change.name), ("ok", ""))
    for tokens in (4, 8):
        record = record_of(runs, side, change.name, tokens)
        assert record.status == status, record.reason
        assert reason in record.reason
        assert (record.timing is not None) == (status == "ok")
        if status == "crashed":
            assert "last word" in record.log_tail
        if status == "ok":
            assert record.impl.summary == side, "which code ran"
            assert {process for process, _ in pairs_of(record)} == {0, 1}


@pytest.mark.slow
def test_samples_of_one_turn_share_process_and_round(runs: dict[str, Run]) -> None:
    for tokens in (4, 8):
        for name in ("steady", "slower"):
            base, new = (record_of(runs, side, name, tokens) for side in ("base", "new"))
            assert pairs_of(base) == pairs_of(new)
            assert len(set(pairs_of(base))) == len(pairs_of(base))
            for process in (0, 1):
                rounds = [number for of, number in pairs_of(base) if of == process]
                assert rounds == list(range(len(rounds)))
                assert 7 <= len(rounds) <= 200
            assert base.timing is not None
            assert new.timing is not None
            assert base.timing.calls_per_sample == new.timing.calls_per_sample


@pytest.mark.slow
def test_the_records_of_a_case_share_a_bout(runs: dict[str, Run]) -> None:
    bouts = {(record.case_id, record.bout) for run in runs.values() for record in run.records}
    assert len(bouts) == 2
    assert all(bout for _, bout in bouts)


@pytest.mark.slow
def test_a_slower_revision_shows(runs: dict[str, Run]) -> None:
    base, new = (record_of(runs, side, "slower").timing for side in ("base", "new"))
    assert base is not None
    assert new is not None
    ratios = rounds.log_ratios(rounds.samples_of(base), rounds.samples_of(new))
    assert all(min(values) > 0 for values in ratios.values())


@pytest.mark.slow
def test_the_control_is_one_that_both_have(runs: dict[str, Run]) -> None:
    for tokens in (4, 8):
        owners = []
        for side in ("base", "new"):
            timed = [r for r in runs[side].records if r.timing and r.case.traffic.tokens == tokens]
            (owner,) = (r for r in timed if r.timing and r.timing.control_ns)
            owners.append(owner.impl.name)
            assert owner.timing is not None
            assert owner.timing.control_ns is not None
            assert len(owner.timing.control_ns) == len(owner.timing.samples_ns)
            assert len({r.timing.noise_floor for r in timed if r.timing}) == 1
            assert owner.timing.noise_floor is not None
        assert owners[0] == owners[1]


@pytest.mark.slow
def test_memory_is_metered_once_and_energy_never(runs: dict[str, Run]) -> None:
    record = record_of(runs, "new", "steady")
    assert record.memory is not None
    assert record.energy is not None
    assert (record.energy.status, "two workers" in record.energy.reason) == ("unavailable", True)
    assert record.agreement is not None
    assert record.agreement.passed


@pytest.mark.slow
def test_each_run_says_which_code_it_measured(runs: dict[str, Run], repository: Repository) -> None:
    base, new = runs["base"].environment, runs["new"].environment
    assert (base.git_sha, base.git_dirty) == (repository.sha, None)
    assert new.git_sha == repository.sha
    assert new.git_dirty
    assert base.environment_id == new.environment_id
    assert base.ceilings == new.ceilings == {"cpu": CEILINGS}
    for run in runs.values():
        assert run.info.finished_at is not None
        assert run.info.measuring_s > 0
        asked = {(one.case.case_id, name) for one in run.info.plan for name in one.implementations or ()}
        assert {record.key for record in run.records} == asked


@pytest.mark.slow
def test_who_waits_is_told(runs: dict[str, Run], watching: Watching) -> None:
    assert {"pair 1 of 2, base", "pair 1 of 2, new", "pair 2 of 2, base", "pair 2 of 2, new"} == set(watching.stages)
    assert watching.finished == runs["new"].records


@pytest.mark.slow
def test_nothing_is_left(runs: dict[str, Run], repository: Repository) -> None:
    assert runs
    assert repository.worktrees == 1
    assert not workers()


def workers() -> list[list[str]]:
    children = psutil.Process(os.getpid()).children(recursive=True)
    lines = [child.cmdline() for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return [line for line in lines if "harness.running.worker" in line]


def test_ctrl_c_keeps_complete_pairs(
    repository: Repository, machine: Machine, plans: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "harness.running.versus.workers.POLL_S", 0.002
    )  # a round may be over before anybody looks ten times a second
    plan = plan_for(plans, machine, 0.5, "steady", "added")
    watching = Watching("pair 2 of 3, new: round")
    with pytest.raises(KeyboardInterrupt):
        measure_versus(plan, "HEAD", tmp_path, machine, "pytest", pairs=3, stage_s=STAGE_S, progress=watching)
    runs = {side: load_run(tmp_path / side) for side in ("base", "new")}
    assert {record.impl.name for record in runs["base"].records} == {"steady"}
    assert {record.impl.name for record in runs["new"].records} == {"steady", "added"}
    assert pairs_of(record_of(runs, "base", "steady")) == pairs_of(record_of(runs, "new", "steady"))
    assert {process for process, _ in pairs_of(record_of(runs, "new", "steady"))} == {0}
    assert runs["new"].info.finished_at is None
    assert repository.worktrees == 1
    assert not workers()


@pytest.mark.parametrize("parent", ["there", "not there"])
def test_without_a_complete_pair_nothing_is_left_but_what_was_there(
    repository: Repository, machine: Machine, plans: Any, tmp_path: Path, parent: str
) -> None:
    out = tmp_path / "results" / "x"
    if parent == "there":
        out.mkdir(parents=True)
        (out / "notes").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    plan = plan_for(plans, machine, 0.5)  # with everybody: a failure that is known beforehand is no complete pair
    for _ in range(2):  # the second finds nothing of the first in its way
        with pytest.raises(KeyboardInterrupt):
            measure_versus(
                plan, "HEAD", out, machine, "", pairs=3, stage_s=STAGE_S, progress=Watching("pair 1 of 3, base")
            )
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("side", ["base", "new"])
def test_a_directory_with_something_in_it_is_refused_and_left_as_it_was(
    repository: Repository, machine: Machine, plans: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    """Whether it was there from the start or came while the revision was looked at."""
    file = tmp_path / "out" / side / "run.json"
    plan = plan_for(plans, machine, 0.5, "steady")

    def meanwhile(*words: Any) -> Machine:
        file.parent.mkdir(parents=True)
        file.write_text("somebody's")
        return theirs_of(look_around(*words))

    monkeypatch.setattr("harness.running.versus.run.look_around", meanwhile)
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"--out = .*{side} is there already and not empty; choose another --out"):
            measure_versus(plan, "HEAD", tmp_path / "out", machine, "", stage_s=STAGE_S, progress=Watching())
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]
        assert file.read_text() == "somebody's"


def test_nothing_is_measured_for_a_revision_that_is_not_there(
    repository: Repository, machine: Machine, plans: Any, tmp_path: Path
) -> None:
    plan = plan_for(plans, machine, 0.5, "steady")
    with pytest.raises(ValueError, match="--rev = 'nonsense'"):
        measure_versus(plan, "nonsense", tmp_path, machine, "", stage_s=1.0, progress=Watching())
    with pytest.raises(ValueError, match="--pairs = 0"):
        measure_versus(plan, "HEAD", tmp_path, machine, "", pairs=0, stage_s=1.0, progress=Watching())
    assert not list(tmp_path.iterdir())


def test_how_long_it_may_take(plans: Any, machine: Machine) -> None:
    """Both cases share a layer, and so a worker: two a pair, after one that looks at the revision."""
    plan = plan_for(plans, machine, 30.0, "steady")
    assert expected_s(plan, 6) == 13 * WORKER_START_SECONDS + CEILINGS_SECONDS + 30.0


def test_two_workers_need_room_for_two(
    repository: Repository, machine: Machine, plans: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.running.versus.run.available_memory", lambda _machine: {"cpu": 30_000})
    plan = plan_for(plans, machine, 0.5, "steady")
    with pytest.raises(ValueError, match=r"two workers at a time: .*too large for memory"):
        measure_versus(plan, "HEAD", tmp_path, machine, "", stage_s=1.0, progress=Watching())


def test_an_installed_copy_that_goes_first_is_refused(
    repository: Repository, machine: Machine, plans: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some editable installations do: a finder of their own, asked before the path."""
    hijack = tmp_path / "hijack"
    hijack.mkdir()
    (hijack / "sitecustomize.py").write_text(
        f"import sys\n"
        f"class First:\n"
        f"    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == 'moebench_two':\n"
        f"            from importlib.machinery import PathFinder\n"
        f"            return PathFinder.find_spec(name, [{str(repository.path)!r}])\n"
        f"sys.meta_path.insert(0, First())\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(hijack), str(repository.path)]))
    plan = plan_for(plans, machine, 0.5, "steady")
    with pytest.raises(ValueError, match=r"base's module moebench_two was imported from .*another copy"):
        measure_versus(plan, "HEAD", tmp_path / "out", machine, "", stage_s=9.0, progress=Watching())
    assert repository.worktrees == 1

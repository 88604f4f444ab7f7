"""A third party's package in which everything that can go wrong goes wrong, in one bout with two that behave.

Each costs its own record only, with the right status, a reason, and the end of its output. Workers are real here.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from textwrap import indent
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from harness.cases.case import PlannedCase
from harness.running import session
from harness.running.child import Limits
from harness.running.machine import Machine, look_around
from harness.running.plan import make_plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from harness.records.record import Record
    from harness.records.store import Run
    from harness.running.blackbox import Announcement

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STAGE_S = 6.0
LIMITS = Limits(stage_s=STAGE_S, memory_bytes=2 << 30, data_bytes=3 << 29)


@dataclass(frozen=True)
class Rogue:
    """What an implementation does instead of its work, and what its record must say of it.

    ``forward`` runs before the right answer ``y`` is returned and may replace it; ``n`` counts its calls from 1.
    """

    name: str
    status: str
    reason: str
    forward: str = ""
    prepare: str = ""
    unsupported: str = "return None"
    log: str = ""


SAY = "print('last word of', NAME);"

ROGUES = [
    # These end the worker.
    Rogue("segfaults", "crashed", "died of SIGSEGV", f"{SAY} ctypes.string_at(0)", log="Segmentation fault"),
    Rogue("aborts", "crashed", "died of SIGABRT", f"{SAY} os.abort()", log="Fatal Python error: Aborted"),
    Rogue("exits-3", "crashed", "exited with code 3 during", f"{SAY} os._exit(3)"),
    Rogue("exits-0", "crashed", "exited with code 0 during", f"{SAY} os._exit(0)"),
    Rogue("exits-in-prepare", "crashed", "exited with code 4", prepare=f"{SAY} os._exit(4)"),
    Rogue("exits-when-asked", "crashed", "exited with code 5 during 'asking'", unsupported=f"{SAY} os._exit(5)"),
    Rogue("exits-later", "crashed", "exited with code 6", f"if n == 5: {SAY} os._exit(6)"),
    Rogue("hangs", "timeout", f"no sign of life for {STAGE_S:g} s", f"{SAY} time.sleep(9999)", log="in forward"),
    Rogue("hangs-later", "timeout", "no sign of life", f"if n == 5: {SAY} time.sleep(9999)", log="in forward"),
    Rogue("hangs-in-c", "timeout", "no sign of life", f"{SAY} re.match('(a+)+$', 40 * 'a' + 'b')", log="in forward"),
    Rogue("is-killed", "crashed", "killed by SIGKILL during", f"{SAY} os.kill(os.getpid(), 9)"),
    # These raise.
    Rogue("raises", "error", "RuntimeError: not today", f"{SAY} raise RuntimeError('not today')", log="not today"),
    Rogue("raises-later", "error", "ValueError: not today", f"if n == 5: {SAY} raise ValueError('not today')"),
    Rogue("raises-in-prepare", "error", "OSError: no kernel", prepare=f"{SAY} raise OSError('no kernel')"),
    Rogue("raises-when-asked", "error", "KeyError: 'gone'", unsupported=f"{SAY} raise KeyError('gone')"),
    Rogue("raises-half-a-character", "error", "ValueError: \\udc80", f"{SAY} raise ValueError('\\udc80')"),
    Rogue("quits", "error", "SystemExit: 3", f"{SAY} sys.exit(3)"),
    Rogue("interrupts", "error", "KeyboardInterrupt", f"{SAY} raise KeyboardInterrupt"),
    Rogue("eats-torch-memory", "oom", "lower tokens", f"{SAY}\nwhile True: kept.append(torch.ones(32 << 20))"),
    Rogue("eats-lists", "oom", "MemoryError", f"{SAY}\nwhile True: kept.append([0] * 10_000_000)"),
    # These return something else.
    Rogue("wrong-shape", "error", "returned shape (4, 32), the contract asks for (8, 32)", f"{SAY} y = y[:4]"),
    Rogue("wrong-dtype", "error", "returned dtype torch.float64", f"{SAY} y = y.double()"),
    Rogue("wrong-device", "error", "returned device meta", f"{SAY} y = y.to('meta')"),
    Rogue("returns-a-list", "error", "returned list", f"{SAY} y = y.tolist()"),
    Rogue("returns-none", "error", "returned NoneType", f"{SAY} y = None"),
    Rogue("returns-no-function", "error", "prepare returned int", prepare=f"{SAY} return 5"),
    # This one changes what is everybody's: the others keep their threads.
    Rogue("takes-threads", "error", "changed torch.set_num_threads from", f"{SAY} torch.set_num_threads(7)"),
    Rogue("wrong-values", "disagrees", "y: ", f"{SAY} y = y + 1"),
    Rogue("nan", "disagrees", "NaN", f"{SAY} y[0, 0] = float('nan')"),
    Rogue("wrong-shape-later", "error", "returned shape", f"if n > 5: {SAY} y = y[:4]"),
    Rogue("returns-none-later", "error", "returned NoneType", f"if n > 5: {SAY} y = None"),
    # These do no wrong by the clock, and are measured.
    Rogue("refuses", "unsupported", "too small for me", unsupported="return 'too small for me'"),
    Rogue("refuses-without-words", "unsupported", "True", unsupported="return True"),
    Rogue("shouts", "ok", "", "print('x' * 10_000)"),
    Rogue("leaves-a-thread", "ok", "", prepare="threading.Thread(target=time.sleep, args=(9999,)).start()"),
    Rogue("leaves-a-process", "ok", "", prepare="subprocess.Popen(['sleep', '987654'])"),
    Rogue("polite", "ok", ""),
]
MODULE = """
import ctypes, os, re, subprocess, sys, threading, time
import torch
from harness import implementation
from moebench_rogues._right import right

NAME = {name!r}

def unsupported(case):
{unsupported}

@implementation(NAME, family="peer", devices=("cpu",), dtypes=("fp32",), unsupported=unsupported)
def prepare(layer):
    "Misbehaves."
    calls, kept = [], []
{prepare}
    def forward(x, routing):
        calls.append(1)
        n, y = len(calls), right(layer, x, routing)
{forward}
        return y
    return forward
"""
BROKEN = {
    "crashes_on_import": "import os; print('last word', flush=True); os._exit(3)",
    "segfaults_on_import": "import ctypes; ctypes.string_at(0)",
    "needs_something": "import no_such_package",
    "quits_on_import": "raise SystemExit('no')",
}


def source_of(rogue: Rogue) -> str:
    return MODULE.format(
        name=rogue.name,
        unsupported=indent(rogue.unsupported, 4 * " "),
        prepare=indent(rogue.prepare, 4 * " "),
        forward=indent(rogue.forward, 8 * " "),
    )


class Silent:
    def doing(self, entry: Announcement) -> None:
        pass

    def done(self, records: Sequence[Record]) -> None:
        pass


@pytest.fixture(scope="module")
def installed(make_site: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package in a folder of its own, on the path of every worker."""
    site = make_site(tmp_path_factory.mktemp("site"))
    modules = {rogue.name.replace("-", "_"): source_of(rogue) for rogue in ROGUES}
    site.package("moebench_rogues", _right=site.right, **modules, **BROKEN)
    site.declare("moebench_rogues", "moebench.impls", "moebench_rogues")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(site.path))
        yield site.path


@pytest.fixture(scope="module")
def machine(installed: Path) -> Machine:
    return look_around(LIMITS)


@pytest.fixture(scope="module")
def run(machine: Machine, plans: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Everybody in one bout."""
    names = (*(rogue.name for rogue in ROGUES), "loop")
    plan = make_plan("rogues", "", [PlannedCase(case=plans.case(), implementations=names)], machine, budget_s=3.0)
    laid_out = session.start(plan, tmp_path_factory.mktemp("run") / "rogues", machine, "pytest", STAGE_S)
    return replace(laid_out, limits=LIMITS).measure(Silent())


def test_modules_that_break_on_import_are_listed_with_their_reason(machine: Machine) -> None:
    broken = {name.rpartition(".")[2]: one.broken for name, one in machine.listed.items() if one.broken}
    assert broken == {
        "crashes_on_import": "the process exited with code 3 during 'import'",
        "segfaults_on_import": "the process died of SIGSEGV during 'import'",
        "needs_something": "ModuleNotFoundError: No module named 'no_such_package'",
        "quits_on_import": "SystemExit: no",
    }


def test_the_third_partys_others_are_listed_like_our_own(machine: Machine) -> None:
    assert {"loop", "grouped", *(rogue.name for rogue in ROGUES)} <= set(machine.usable)
    polite = machine.usable["polite"]
    assert (polite.family, polite.origin, polite.summary) == ("peer", "moebench_rogues.polite", "Misbehaves.")
    assert polite.source_hash != "unknown"


def test_everybody_has_one_record(run: Run) -> None:
    assert sorted(record.impl.name for record in run.records) == sorted([*(rogue.name for rogue in ROGUES), "loop"])
    assert run.torn_lines == 0
    assert run.info.finished_at is not None


@pytest.mark.parametrize("rogue", ROGUES, ids=lambda rogue: rogue.name)
def test_each_costs_its_own_record_only(run: Run, rogue: Rogue) -> None:
    (record,) = (record for record in run.records if record.impl.name == rogue.name)
    assert record.status == rogue.status, f"{record.reason}\n{record.log_tail}"
    assert rogue.reason in record.reason
    assert rogue.log in record.log_tail
    if SAY in f"{rogue.forward}{rogue.prepare}{rogue.unsupported}":
        assert f"last word of {rogue.name}\n" in record.log_tail
        others = [other.name for other in ROGUES if other.name != rogue.name]
        assert not any(f"last word of {other}\n" in record.log_tail for other in others)
    assert (record.timing is not None) == (rogue.status == "ok")


def test_those_that_behave_are_measured_side_by_side(run: Run) -> None:
    measured = [record for record in run.records if record.status == "ok"]
    assert {"loop", "polite"} <= {record.impl.name for record in measured}
    assert len({record.bout for record in measured}) == 1
    for record in measured:
        assert record.timing is not None
        assert len(record.timing.samples_ns) >= 3
        assert record.agreement is not None
        assert record.agreement.passed


def test_nothing_is_left_running(run: Run) -> None:
    """What was killed may take a moment to end on a busy machine; what was not would stay for days."""
    assert run.records
    end = time.monotonic() + 20.0
    while (left := _left()) and time.monotonic() < end:
        time.sleep(0.1)
    assert not left


def _left() -> list[list[str]]:
    """Return what still runs of the rogue's own, and of ours."""
    every, mine = _command_lines(psutil.process_iter()), _command_lines(psutil.Process().children(recursive=True))
    workers = [line for line in mine if "harness.running.worker" in line]
    return [line for line in every if line == ["sleep", "987654"]] + workers


def _command_lines(processes: Iterable[psutil.Process]) -> list[list[str]]:
    """Of those that have not ended meanwhile."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.cmdline())
    return found


def test_the_gate_alone_takes_no_time(machine: Machine, plans: Any) -> None:
    """What ``moebench validate`` does."""
    names = ("polite", "wrong-values", "exits-3", "refuses")
    planned = [PlannedCase(case=plans.case(tokens), implementations=names) for tokens in (0, 8)]
    records = session.gate_only(planned, machine, LIMITS, Silent())
    found = {(record.case.traffic.tokens, record.impl.name): record.status for record in records}
    assert len(records) == 8
    assert {found[tokens, "polite"] for tokens in (0, 8)} == {"ok"}
    assert {found[tokens, "exits-3"] for tokens in (0, 8)} == {"crashed"}
    assert {found[tokens, "refuses"] for tokens in (0, 8)} == {"unsupported"}
    assert found[8, "wrong-values"] == "disagrees"
    assert not any(record.timing for record in records)

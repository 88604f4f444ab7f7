"""Packages of third parties, workers that misbehave on order, and a small machine to plan for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest

from harness.cases.case import Case, PlannedCase
from harness.cases.shape import Shape
from harness.cases.traffic import Traffic
from harness.records.environment import Device, Environment
from harness.running import jobs, registry
from harness.running.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
PYTHON = sys.executable


BOUTS = """
    from harness.records.record import ImplInfo, Record
    log = open({log!r}, 'a')
    def say(text): print(text, file=log, flush=True)
    {before}
    self.answer(jobs.ReadyOutcome({broken}))
    for planned in job.planned:
        case, records = planned.case, []
        self.note(case.case_id, '', 'weights')
        say(f"bout {{case.traffic.tokens}} {{','.join(planned.implementations)}}")
        for name in planned.implementations:
            self.note(case.case_id, name, 'gate')
            {during}
            impl = ImplInfo(name=name, family='loop')
            records.append(Record(case=case, case_id=case.case_id, impl=impl, status='ok', environment_id='e'))
        self.answer(jobs.BoutOutcome(case_id=case.case_id, records=records, measuring_s=0.5, wall_s=2.0))
        {between}
    self.answer(jobs.DoneOutcome())
"""


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Workers on a busy machine: two threads that wait for each other cost a hundred times what one takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


RIGHT = """
def right(layer, x, routing):
    y = x.new_zeros(x.shape)
    for expert in range(layer.shape.experts):
        tokens, slots = (routing.expert_ids == expert).nonzero(as_tuple=True)
        hidden = layer.activate(x[tokens] @ layer.proj_in[expert].T)
        y.index_add_(0, tokens, hidden @ layer.down[expert].T * routing.weights[tokens, slots, None])
    return y
"""
"""What every implementation of such a package should compute."""


class Site:
    """A folder like site-packages, to put on the path of this process or of a worker."""

    right = RIGHT

    def __init__(self, path: Path) -> None:
        self.path = path

    def module(self, name: str, source: str) -> None:
        """Write ``name`` (dotted; ``pkg`` alone becomes a package when ``pkg.x`` exists) with this source."""
        file = self.path / f"{name.replace('.', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(source))

    def package(self, name: str, source: str = "", **modules: str) -> None:
        """Write a package and its modules."""
        self.module(f"{name}.__init__", source)
        for module, text in modules.items():
            self.module(f"{name}.{module}", text)

    def declare(self, distribution: str, group: str, *values: str) -> None:
        """Install a distribution that declares these entry points."""
        info = self.path / f"{distribution}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = [f"entry{number} = {value}" for number, value in enumerate(values)]
        (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]) + "\n")


@pytest.fixture(scope="session")
def make_site() -> type[Site]:
    """For fixtures that live longer than one test."""
    return Site


@pytest.fixture(scope="session")
def git_in() -> Callable[[Path], Callable[..., str]]:
    """Git in a folder: ``git_in(folder)("status")`` returns what it printed."""

    def in_folder(folder: Path) -> Callable[..., str]:
        def git(*words: str) -> str:
            command = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t", *words]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

        return git

    return in_folder


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site folder on this process's path; what is imported from it is forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return Site(tmp_path / "site")


@pytest.fixture
def empty_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is registered, and what a test registers is forgotten."""
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(registry, "_missing", {})


@pytest.fixture
def worker_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Replace what workers do by some lines of Python: ``self`` is its workbench, ``job`` its job. No torch."""

    def replace(body: str) -> None:
        lines = [
            f"#!{PYTHON}",
            "import ctypes, os, signal, subprocess, sys, threading, time",
            f"sys.path.insert(0, {str(ROOT)!r})",
            "from harness.running import jobs",
            "from harness.running.worker import __main__ as worker",
            "def do(self, job):",
            *(f"    {line}" for line in dedent(body).strip().splitlines()),
            "worker.do = do",
            "sys.argv = sys.argv[-2:]",
            "worker.main()",
        ]
        script = tmp_path / "worker"
        script.write_text("\n".join(lines) + "\n")
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    return replace


@pytest.fixture
def workers_measure(worker_does: Callable[[str], None], tmp_path: Path) -> Callable[..., Path]:
    """Have workers pretend to measure, with some lines of Python before, during and between bouts.

    Returns the log to which they ``say`` what they do.
    """

    def replace(during: str = "pass", before: str = "pass", between: str = "pass", broken: str = "{}") -> Path:
        log = tmp_path / "said"
        worker_does(BOUTS.format(log=str(log), during=during, before=before, between=between, broken=broken))
        return log

    return replace


def tiny_case(tokens: int = 8, hidden: int = 32, **fields: Any) -> Case:
    shape = Shape(hidden=hidden, expert_hidden=16, experts=4, top_k=2)
    given: dict[str, Any] = {"shape": shape, "traffic": Traffic(tokens=tokens), "dtype": "fp32"}
    return Case(**(given | fields))


class Plans:
    """Makes planned cases, and machines to plan for."""

    case = staticmethod(tiny_case)

    def planned(self, tokens: int = 8, names: tuple[str, ...] | None = ("loop",), **fields: Any) -> PlannedCase:
        return PlannedCase(case=tiny_case(tokens, **fields), implementations=names)

    def machine(
        self, *names: str, devices: tuple[str, ...] = ("cpu",), broken: str = "", missing: tuple[str, ...] = ()
    ) -> Machine:
        found = {
            n: Device(name=n, kind=n.partition(":")[0], memory_bytes=1 << 34, cache_bytes=1 << 20) for n in devices
        }
        environment = Environment(
            hostname="here", system="Linux", kernel="6.1", python="3.11", versions={}, devices=found
        )
        listed = {name: jobs.Listed(name=name, family="loop", origin=f"impls.{name}") for name in names}
        if broken:
            listed[broken] = jobs.Listed(name=broken, broken="ImportError: no")
        listed |= {name: jobs.Listed(name=name, family="peer", missing=f"pip install {name}") for name in missing}
        return Machine(environment, listed, {}, {})


@pytest.fixture(scope="session")
def plans() -> Plans:
    return Plans()

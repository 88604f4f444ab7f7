"""Run directories in asv's own result files, for machines that asv never ran on.

The names are those of asv's own benchmarks of this project (``suites/asv``), so both show up in one history. Everything
goes through asv's classes; nothing is measured, and nothing is written that a higher value would be better for.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from asv.environment import get_env_name
from asv.machine import Machine as AsvMachine
from asv.plugins.git import Git
from asv.results import Results
from asv.runner import BenchmarkResult
from asv.util import UserError, load_json
from filelock import FileLock

from harness.cases.shape import require
from harness.export.asv_calls import commit_id
from harness.export.asv_definitions import Definition, keep_definitions, write_json
from harness.export.series import METRICS, VERSION, Outcome, outcomes, series_name, series_title

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harness.records.environment import Environment
    from harness.records.store import Run

TOOL = "moebench"
"""Stands where asv names the tool that made an environment."""


@dataclass(frozen=True)
class Place:
    """Where a run belongs in asv's order of things: one file for each."""

    machine: str
    commit: str
    python: str
    torch: str

    @property
    def env_name(self) -> str:
        """Name of the environment, made as asv makes it."""
        return str(get_env_name(TOOL, self.python, self.requirements, {}))

    @property
    def requirements(self) -> dict[str, str]:
        """What starts a new series where it changes: torch's minor version; not a driver, nor a patch release."""
        return {"torch": self.torch} if self.torch else {}

    def file(self, results: Path) -> Path:
        """Return the file, named as asv names it."""
        return results / self.machine / f"{self.commit[:8]}-{self.env_name}.json"


def export_runs(runs: Sequence[Run], results: Path, root: Path, *, machine: str = "", commit: str = "") -> list[Path]:
    """Add runs to asv's results; return the files that hold them.

    Runs of one commit, machine and torch that are given together count as repeats of one measurement: their values
    stand side by side, and who failed in one has failed. Against what a file holds already the new values win; all
    else in it stays.

    Raises
    ------
    ValueError
        for a run of unknown or uncommitted code, or a commit that the checkout ``root`` does not know.
    """
    together: dict[Place, list[Run]] = {}
    for run in runs:
        together.setdefault(_place(run, root, machine, commit), []).append(run)
    found = {place: _values(group) for place, group in together.items()}
    for place, values in found.items():
        require(bool(values), "RUN", ", ".join(str(run.path) for run in together[place]), "runs that hold a record")
    results.mkdir(parents=True, exist_ok=True)
    for place, values in found.items():
        with FileLock(results / ".lock"):
            facts = _write_machine(results, place, together[place][-1].environment)
            _write_results(results, root, place, facts, values, min(run.info.started_at for run in together[place]))
    for place, values in found.items():
        keep_definitions(results, _definitions(together[place], values))
    return [place.file(results) for place in found]


def _place(run: Run, root: Path, machine: str, commit: str) -> Place:
    environment = run.environment
    if not commit:
        advice = "name the commit it belongs to with --commit SHA"
        known, clean = environment.git_sha, environment.git_dirty is None
        require(known is not None, "RUN", str(run.path), f"it was not taken in a git checkout; {advice}")
        again = "it was taken with uncommitted changes; commit and measure again, or"
        require(clean, "RUN", str(run.path), f"{again} {advice}")
    name = machine or environment.hostname
    require(bool(name) and "/" not in name and not name.startswith("."), "--machine", name, "a name without '/'")
    torch = ".".join((environment.versions.get("torch") or "").split(".")[:2])
    python = ".".join(environment.python.split(".")[:2])
    return Place(name, commit_id(root, commit or str(environment.git_sha)), python, torch)


def _values(runs: Iterable[Run]) -> dict[str, dict[str, Outcome]]:
    """Read the series off the records, without those that nobody has a value in or failed in."""
    repeats = [msgspec.to_builtins(run.records) for run in runs]
    found = outcomes(repeats)
    told = {name: any(one.values or one.failed for one in by_who.values()) for name, by_who in found.items()}
    return {name: by_who for name, by_who in found.items() if told[name]}


def _write_machine(results: Path, place: Place, environment: Environment) -> dict[str, str]:
    """Describe the machine for asv, unless it is described already; return what splits its series from others'."""
    path = results / place.machine / "machine.json"
    cpu, gpus = environment.devices.get("cpu"), [d for d in environment.devices.values() if d.kind != "cpu"]
    facts = {
        "machine": place.machine,
        "os": environment.system,
        "arch": "",
        "cpu": cpu.name if cpu else "",
        "num_cpu": str(cpu.cores or "") if cpu else "",
        "ram": f"{cpu.memory_bytes / 2**30:.0f} GiB" if cpu else "",
    }
    if gpus:
        facts["gpu"] = ", ".join(dict.fromkeys(gpu.name for gpu in gpus))
    if path.exists():
        try:
            facts |= {key: str(value) for key, value in load_json(str(path), AsvMachine.api_version).items()}
        except UserError as error:
            raise ValueError(f"{path}: not asv's description of a machine: {error}") from None
        facts.pop("version", None)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, facts, AsvMachine.api_version)
    return facts


def _write_results(
    results: Path, root: Path, place: Place, facts: dict[str, str], values: dict[str, dict[str, Outcome]], started: str
) -> None:
    """Add values to a place's file, in one step."""
    path = place.file(results)
    kept = _load(path) if path.exists() else _empty(root, place, facts)
    for name, by_who in values.items():
        _add(kept, name, by_who, datetime.fromisoformat(started))
    with tempfile.TemporaryDirectory(dir=results, prefix=".new-") as folder:
        kept.save(folder)
        (Path(folder) / path.relative_to(results)).replace(path)


def _load(path: Path) -> Results:
    try:
        return Results.load(str(path))
    except UserError as error:
        raise ValueError(f"{path}: not results that asv wrote: {error}") from None


def _empty(root: Path, place: Place, facts: dict[str, str]) -> Results:
    date_ms = Git(str(root), "").get_date(place.commit)
    params = {**facts, "python": place.python, **place.requirements}
    return Results(params, place.requirements, place.commit, date_ms, place.python, place.env_name, {})


def _add(kept: Results, name: str, by_who: dict[str, Outcome], started: datetime) -> None:
    """Add one series; implementations that the file knows and we have nothing new of stay as they are."""
    there = name in kept.get_all_result_keys() and kept.benchmark_version[name] == VERSION
    known = kept.get_result_params(name)[0] if there else []
    new = {repr(who): outcome for who, outcome in by_who.items()}
    everybody = list(dict.fromkeys([*known, *new]))
    told = {i for i, who in enumerate(everybody) if who in new and (who not in known or not new[who].skipped)}
    one_by_one = [_asv_value(name, new.get(who)) for who in everybody]
    result = BenchmarkResult(
        result=[value for value, _ in one_by_one],
        samples=[samples for _, samples in one_by_one],
        number=[1 if samples else None for _, samples in one_by_one],
        errcode=0,
        stderr="",
        profile=None,
    )
    benchmark = {"name": name, "version": VERSION, "params": [everybody]}
    kept.add_result(benchmark, result, started_at=started, record_samples=True, selected_idx=told)


def _asv_value(name: str, outcome: Outcome | None) -> tuple[float | bool | None, list[float] | None]:
    """Return result and samples as asv wants them: None for a failure, NaN for what was skipped, True for samples."""
    if outcome is None or outcome.skipped:
        return math.nan, None
    if outcome.failed:
        return None, None
    sampled = next(metric.sampled for metric in METRICS if name.endswith(f".track_{metric.name}"))
    return (True, outcome.values) if sampled else (outcome.values[0], None)


def _definitions(runs: Iterable[Run], values: dict[str, dict[str, Outcome]]) -> dict[str, Definition]:
    """Describe the series for asv's list of benchmarks."""
    cases = [msgspec.to_builtins(record.case) for run in runs for record in run.records]
    named: dict[str, tuple[Any, Any]] = {series_name(case, one): (case, one) for case in cases for one in METRICS}
    return {
        name: {
            "name": name,
            "code": "exported by `moebench export asv`",
            "version": VERSION,
            "type": named[name][1].kind,
            "unit": named[name][1].unit,
            "params": [[repr(who) for who in by_who]],
            "param_names": ["implementation"],
            "timeout": 60,
            "pretty_name": series_title(*named[name]),
        }
        for name, by_who in values.items()
    }

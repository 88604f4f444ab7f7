"""asv's benchmarks: the cases of ``suites/asv.toml``, timed by the harness, one series for each case and metric.

asv takes this folder and the suite from the working tree, and the package from the commit under test, in an environment
of its own. So nothing of the harness is imported here, only called: ``python -m harness run``. What asv shows are the
harness's samples; asv times nothing itself.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asv_runner.benchmarks.mark import SkipNotImplemented  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
SUITE = ROOT / "suites" / "asv.toml"
ROUNDS = int(os.environ.get("MOEBENCH_ASV_ROUNDS", "1"))
"""Rounds of asv, with ``--interleave-rounds``: each measures a commit once, in turn with the other one's."""
REPEATS = 3
"""Measurements of a commit in fresh processes where asv goes around only once: memory layout is a matter of luck."""
LIMIT_S = 900
KEYS = {"hidden", "expert_hidden", "experts", "top_k", "tokens", "traffic", "dtype", "pass", "device", "implementation"}
"""What a case of the suite may say; ``tests/suites/test_asv.py`` holds the names against the harness's own."""

Found = dict[str, dict[str, tuple[list[float], str, str]]]
"""Series name, implementation, and its values, why it was skipped, why it failed."""


def _load_series() -> ModuleType:
    """Load ``harness/export/series.py`` of the working tree; the package of that name is the commit's."""
    path = ROOT / "harness" / "export" / "series.py"
    spec = importlib.util.spec_from_file_location("moebench_series", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


series = _load_series()


def declared() -> dict[str, tuple[str, str]]:
    """Family and version of every implementation in the working tree, read off its decorator without importing it."""
    found: dict[str, tuple[str, str]] = {}
    for path in sorted((ROOT / "impls").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "implementation":
                names = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
                said = {one.arg: one.value.value for one in node.keywords if isinstance(one.value, ast.Constant)}
                found |= {str(name): (str(said.get("family")), str(said.get("version", "1"))) for name in names[:1]}
    return found


def cases() -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Read the suite: each case as records have it, and its implementations."""
    for table in tomllib.loads(SUITE.read_text(encoding="utf-8"))["case"]:
        if unknown := table.keys() - KEYS:
            raise ValueError(f"{SUITE}: {', '.join(unknown)}: cases that asv measures say only {', '.join(KEYS)}")
        shape = {key: table[key] for key in series.SIZES}
        traffic = {"tokens": table["tokens"], "spread": table["traffic"]}
        case = {key: table[key] for key in ("dtype", "pass", "device") if key in table}
        yield {"shape": shape, "traffic": traffic, **case}, table["implementation"]


def setup_cache() -> Found:
    """Measure, and read the series off the records."""
    repeats = [_measure(Path(f"run-{number}").resolve()) for number in range(1 if ROUNDS > 1 else REPEATS)]
    found = series.outcomes(repeats)
    return {name: {who: tuple(one) for who, one in by_who.items()} for name, by_who in found.items()}


setup_cache.timeout = LIMIT_S  # type: ignore[attr-defined]


def _measure(out: Path) -> list[dict[str, Any]]:
    done = _harness("run", str(SUITE), "--out", str(out))
    if done.returncode == 2:  # an older commit may lack an implementation
        listed = {row["name"] for row in json.loads(_harness("list", "implementations", "--json").stdout)}
        there = [name for name in dict.fromkeys(name for _, names in cases() for name in names) if name in listed]
        done = _harness("run", str(SUITE), "--out", str(out), "--set", f"implementation={','.join(there)}")
    if done.returncode not in {0, 1}:
        raise RuntimeError(f"python -m harness run ended with {done.returncode}: {done.stdout}{done.stderr}")
    return [json.loads(line) for line in (out / "records.jsonl").read_text(encoding="utf-8").splitlines()]


def _harness(*words: str) -> subprocess.CompletedProcess[str]:
    """Call the commit's harness. One thread: what a small call pays for a second one is up to the other processes."""
    surroundings = {"OMP_NUM_THREADS": "1", **os.environ}
    command = [sys.executable, "-m", "harness", *words]
    return subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=LIMIT_S, check=False)  # noqa: S603 (our own words)


def _benchmark(case: dict[str, Any], metric: Any, implementations: list[str]) -> Callable[..., object]:  # noqa: ANN401 (loaded by path)
    """Make the function that asv calls for one series. It returns samples, which asv makes its statistics of."""
    name = series.series_name(case, metric)

    def track(found: Found, implementation: str) -> object:
        absent = "this commit has no implementation of that name and version"
        values, skipped, failed = found.get(name, {}).get(implementation, ([], absent, ""))
        if failed:
            raise RuntimeError(failed)
        if skipped:
            raise SkipNotImplemented(skipped)
        return {"samples": values, "number": 1} if metric.sampled else values[0]

    about = {
        "benchmark_name": name,
        "pretty_name": series.series_title(case, metric),
        "version": series.VERSION,
        "type": metric.kind,
        "unit": metric.unit,
        "params": [implementations],
        "param_names": ["implementation"],
        "rounds": ROUNDS if metric is series.RELATIVE_TIME else 1,
    }
    for key, value in about.items():
        setattr(track, key, value)
    return track


def _benchmarks() -> Iterator[Callable[..., object]]:
    known = declared()
    for case, names in cases():
        for metric in series.METRICS:
            if metric is series.JOULES_PER_TOKEN and case["device"] == "cpu":
                continue  # no meter: every value would be missing
            compared = metric is series.RELATIVE_TIME
            whose = [name for name in names if not (compared and known[name][0] == series.BASELINE)]
            yield _benchmark(case, metric, [series.parameter(name, known[name][1]) for name in whose])


globals().update({f"track_{number}": function for number, function in enumerate(_benchmarks())})

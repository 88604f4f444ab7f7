"""What asv makes of our files: published, judged by its step detection, and side by side with its own results."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from harness.export.asv import export_runs
from harness.export.series import VERSION

if TYPE_CHECKING:
    from tests.export.conftest import History, Maker

SERIES = "H32_I16_E4_k2.T8_gaussian_0_15_fp32_cpu.track_"
NATIVE = """
def track_native(implementation):
    return 5.0

track_native.params = [["loop", "other"]]
track_native.param_names = ["implementation"]
track_native.version = "{version}"
track_native.benchmark_name = "{name}"
"""


def published(history: History, name: str) -> Any:
    history.asv("publish", "--no-pull")
    return json.loads((history.root / ".asv" / "html" / name).read_text())


def test_a_planted_step_is_found_and_nothing_else(history: History, make: Maker) -> None:
    """From the fourth commit on ``loop`` takes 1.5 times as long: tokens/s fall, and asv says regression."""
    history.commit(5)
    for number, sha in enumerate(history.commits):
        slower = 1.5 if number >= 3 else 1.0
        records = [make.record("dense"), make.record("grouped"), make.record("loop", slower)]
        export_runs([make.run(sha, records)], history.results, history.root)
    regressions = published(history, "regressions.json")["regressions"]
    assert {entry[0] for entry in regressions} == {f"{SERIES}time('loop')", f"{SERIES}relative_time('loop')"}


def test_a_gain_is_no_regression(history: History, make: Maker) -> None:
    history.commit(5)
    for number, sha in enumerate(history.commits):
        slower = 1.0 if number >= 3 else 1.5
        export_runs([make.run(sha, [make.record("dense"), make.record("loop", slower)])], history.results, history.root)
    assert published(history, "regressions.json")["regressions"] == []


@pytest.mark.parametrize("shared", [False, True], ids=["names of their own", "the same name"])
def test_what_asv_measures_later_leaves_the_exported_there(history: History, make: Maker, *, shared: bool) -> None:
    """``asv run`` writes its list of benchmarks anew; publishing still shows both, on one machine or on two."""
    name = f"{SERIES}relative_time" if shared else "native.track_native"
    suite = history.root / "suites" / "asv"
    suite.mkdir(parents=True)
    (suite / "__init__.py").write_text(NATIVE.format(name=name, version=VERSION))
    export_runs([make.run(history.commits[0])], history.results, history.root)
    history.asv("machine", "--yes")
    where = f"existing:{sys.executable}"
    history.asv("run", "-E", where, "--set-commit-hash", history.commits[1], "--launch-method", "spawn")
    listed = json.loads((history.results / "benchmarks.json").read_text())
    assert set(listed) == {name, "version"}
    shown = published(history, "index.json")
    assert {name, f"{SERIES}time", f"{SERIES}peak_bytes"} <= set(shown["benchmarks"])
    if shared:
        assert shown["benchmarks"][name]["params"] == [["'loop'", "'other'", "'grouped'"]]
    graphs = list((history.root / ".asv" / "html" / "graphs").rglob(f"{name}.json"))
    points = [point for path in graphs if "summary" not in path.parts for point in json.loads(path.read_text())]
    assert [5.0, 5.0] in [values[:2] for _, values in points]
    if shared:
        assert any(values[0] == pytest.approx(3.0) and values[2] == pytest.approx(2.0) for _, values in points)

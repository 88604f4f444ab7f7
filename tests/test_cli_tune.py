"""The command ``tune`` from end to end, with an implementation whose candidates cost what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]

FAKE = """
    import time
    from harness import Chosen, Tunable, TunedBook, implementation
    from impls.loop import loop

    BOOK = TunedBook("fake")

    class Forward:
        def __init__(self, layer, values):
            self.inner, self.values = loop(layer), values

        def __call__(self, x, routing):
            time.sleep(0.001 * self.values["step"])
            y = self.inner(x, routing)
            return 2 * y if self.values["step"] == 1 else y

        def chosen(self, case):
            return Chosen(values=self.values)

    def candidates(case, base):
        step = base["step"] if base else 6
        return [{"step": n} for n in (step, step - 2, step + 1, 1) if n > 0]

    @implementation("fake", family="loop", dtypes=("fp32", "fp16"), tunable=Tunable(candidates, Forward, BOOK))
    def fake(layer):
        \"\"\"Sleep, then loop.\"\"\"
        return Forward(layer, {"step": 6})
"""


@pytest.fixture
def tune(tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Run the command with the fake installed; returns exit code, standard output and error."""
    site = tmp_path / "site"
    (site / "fakes-1.0.dist-info").mkdir(parents=True)
    (site / "fakes-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: fakes\nVersion: 1.0\n")
    (site / "fakes-1.0.dist-info" / "entry_points.txt").write_text("[moebench.impls]\nfakes = fakes\n")
    (site / "fakes.py").write_text(dedent(FAKE))
    variables = {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    variables |= {"MOEBENCH_TUNED": str(tmp_path / "own")}

    def run(*words: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "harness", "tune", *words],
            cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False, timeout=110,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    return run


def test_what_disagrees_never_wins_and_the_find_is_kept(
    tune: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    out = tmp_path / "found.json"
    words = ("fake", "tiny", "--set", "tokens=4", "--set", "pass=forward", "--set", "scope=experts")
    code, shown, said = tune(*words, "--budget", "8s", "--out", str(out), "--json")
    assert code == 0, said
    assert "1 case, about 13 s" in said
    found = json.loads(shown)["findings"]
    assert len(found) == 1
    assert found[0]["outcome"] in {"kept", "default"}, "a machine this busy may tell nothing"
    assert found[0]["best"]["step"] != 1
    if found[0]["outcome"] == "kept":
        (entry,) = json.loads(out.read_text())["entries"]
        assert entry["values"] == found[0]["best"]
        assert entry["evidence"]["interval"][1] < 1
    assert not (tmp_path / "own").exists()


def test_what_is_refused_in_every_case_is_one_line_at_once(tune: Callable[..., tuple[int, str, str]]) -> None:
    words = ("--set", "dtype=bf16", "--set", "pass=forward", "--set", "expert_hidden=4,8", "--budget", "1s")
    code, shown, said = tune("fake", "tiny", *words)
    assert code == 3, said
    assert (shown, said.strip()) == ("", "moebench: fake: fake does not do 'bf16', only fp32, fp16")


def test_what_is_not_tunable_is_said_in_one_line(tune: Callable[..., tuple[int, str, str]]) -> None:
    code, _, said = tune("loop", "tiny")
    assert code == 2
    assert "NAME = 'loop': an implementation with something to tune: fake" in " ".join(said.split())

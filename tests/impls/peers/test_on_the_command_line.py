"""Peers that are not here: listed with what they need, left out of suites that name them, refused by ``--impl``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from harness import cli
from harness.running import machine
from harness.running.machine import Machine, look_around

ROOT = Path(__file__).parents[3]
ADAPTERS = {path.stem for path in (ROOT / "impls" / "peers").glob("[!_]*.py")}
SUITE = """
[suite]
name = "mine"
description = "One case, and a peer that is not here"
[[case]]
hidden = 32
expert_hidden = 16
experts = 4
top_k = 2
tokens = 3
device = "cpu"
implementation = {names}
"""


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture(scope="module")
def here() -> Machine:
    """This machine, looked at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        return look_around()


@pytest.fixture
def moebench(here: Machine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """The command, in this process."""
    monkeypatch.setattr(machine, "look_around", lambda **_: here)

    def run(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["moebench", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        sys.stdout.flush()
        out, err = capfd.readouterr()
        return Done(int(ended.value.code or 0), out, err)

    return run


@pytest.fixture
def rows(moebench: Command) -> list[dict[str, str]]:
    found = json.loads(moebench("list", "implementations", "--json").out)
    return [row for row in found if row["from"].startswith("impls.peers.")]


@pytest.fixture
def absent(rows: list[dict[str, str]]) -> dict[str, str]:
    lacking = next((row for row in rows if row["what it does"].startswith("needs ")), None)
    if lacking is None:
        pytest.skip("every peer is installed here")
    return lacking


def test_every_adapter_is_listed(rows: list[dict[str, str]]) -> None:
    assert {row["from"].rpartition(".")[2] for row in rows} == ADAPTERS
    assert {row["family"] for row in rows} == {"peer"}
    for row in rows:
        assert row["what it does"].startswith("needs ") == (row["devices"] == "-"), row


def test_peers_nobody_ran_are_marked(rows: list[dict[str, str]]) -> None:
    verified = {row["name"] for row in rows if "never verified" not in row["what it does"]}
    assert verified == {
        "torchtitan",
        "transformers.eager",
        "transformers.batched_mm",
        "transformers.grouped_mm",
    }


def test_a_suite_goes_on_without_what_is_not_here(moebench: Command, absent: dict[str, str], tmp_path: Path) -> None:
    suite = tmp_path / "mine.toml"
    suite.write_text(SUITE.format(names=json.dumps(["loop", absent["name"]])))
    done = moebench("plan", suite, "--json")
    assert done.code == 0, done.err
    assert [case["implementations"] for case in json.loads(done.out)["cases"]] == [["loop"]]
    needs = absent["what it does"].partition(";")[0]
    assert done.err.splitlines().count(f"not here: {absent['name']} {needs}") == 1


def test_a_suite_of_nothing_that_is_here_is_bad_input(
    moebench: Command, absent: dict[str, str], tmp_path: Path
) -> None:
    suite = tmp_path / "mine.toml"
    suite.write_text(SUITE.format(names=json.dumps([absent["name"]])))
    done = moebench("plan", suite)
    assert done.code == 2
    assert f"not here: {absent['name']} needs" in done.err


def test_asking_for_what_is_not_here_is_bad_input(moebench: Command, absent: dict[str, str]) -> None:
    done = moebench("plan", "tiny", "--impl", absent["name"])
    assert done.code == 2
    assert f"--impl = '{absent['name']}': not here, needs " in done.err
    assert len(done.err.strip().splitlines()) == 1

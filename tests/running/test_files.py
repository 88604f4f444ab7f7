"""Implementations from a file: how ``--impl`` is read, what workers import, what a run remembers."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from harness.records.environment import Ceilings
from harness.running import discovery, jobs, session
from harness.running.discovery import load_all
from harness.running.files import check_imported, choose, files_in, module_of, read_words
from harness.running.machine import look_around
from harness.running.plan import make_plan
from harness.running.registry import registered

ROOT = Path(__file__).parents[2]
CEILINGS = Ceilings(
    copy_bytes_per_second=8e9,
    read_bytes_per_second=10e9,
    cached_read_bytes_per_second=40e9,
    gemm_flops_per_second={"fp32": 100e9},
    cache_bytes=1 << 20,
    launch_ns=100.0,
    seconds=3.0,
)
SOURCE = '''
    """A kernel of one's own."""
    from harness import implementation

    @implementation("mine", family="einsum")
    def mine(layer):
        """Do every expert on every token."""
        import torch

        def forward(x, routing):
            weights = torch.zeros(len(x), layer.shape.experts + 1).scatter(1, routing.expert_ids, routing.weights)
            hidden = layer.activate(torch.einsum("th,eih->tei", x, layer.gate_up))
            return torch.einsum("tei,ehi,te->th", hidden, layer.down, weights[:, :-1])

        return forward
'''


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "my-kernel.py"
    path.write_text(dedent(SOURCE))
    return path


@pytest.mark.parametrize(
    ("word", "path", "name"),
    [
        ("mine", "", "mine"),
        ("transformers.grouped_mm", "", "transformers.grouped_mm"),
        ("no:thing", "", "no:thing"),
        ("/a/my_kernel.py", "/a/my_kernel.py", ""),
        ("/a/my_kernel.py:mine", "/a/my_kernel.py", "mine"),
        ("/a/b/../my:kernel.py:mine", "/a/my:kernel.py", "mine"),
        (" /a/x.py:mine ", "/a/x.py", "mine"),
    ],
)
def test_a_word_is_a_name_or_a_file(word: str, path: str, name: str) -> None:
    (read,) = read_words(word)
    assert (read.path, read.name) == (path, name)
    assert read.text == word.strip()


def test_paths_are_the_current_directorys(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(kernel.parent)
    assert files_in("./my-kernel.py:mine,grouped,my-kernel.py:other") == (str(kernel),)
    assert files_in("grouped") == files_in("") == ()
    monkeypatch.setenv("HOME", str(kernel.parent))
    assert files_in("grouped,~/my-kernel.py") == (str(kernel),)


def test_what_is_no_file_or_no_name() -> None:
    with pytest.raises(ValueError, match=r"--impl = '/no/such\.py:mine': there is no file /no/such\.py"):
        files_in("grouped,/no/such.py:mine")
    with pytest.raises(ValueError, match=r"--impl = 'x\.py:': a name after the colon"):
        read_words("x.py:")


def test_module_names_shadow_nothing() -> None:
    assert module_of("/a/torch.py") != module_of("/b/torch.py")
    assert module_of("/a/my-kernel.v2.py").startswith("file_my_kernel_v2_")
    assert module_of("/a/my-kernel.v2.py").isidentifier()


@pytest.fixture
def machine(plans: Any) -> Any:
    """A machine that was looked at with one file, which registers two."""
    found = plans.machine("loop", "mine", "other")
    own = {name: replace_origin(found.listed[name]) for name in ("mine", "other")}
    return replace(found, listed={**found.listed, **own}, files=("/a/my.py",))


def replace_origin(listed: jobs.Listed) -> jobs.Listed:
    return jobs.Listed(name=listed.name, family=listed.family, origin=module_of("/a/my.py"))


@pytest.mark.parametrize(
    ("impl", "only", "own"),
    [
        ("", None, ()),
        ("loop", ("loop",), ()),
        ("/a/my.py:mine,loop", ("mine", "loop"), ("mine",)),
        ("loop,/a/my.py", ("loop", "mine", "other"), ("mine", "other")),
        ("/a/my.py,/a/my.py:mine", ("mine", "other"), ("mine", "other")),
    ],
)
def test_choosing(machine: Any, impl: str, only: tuple[str, ...] | None, own: tuple[str, ...]) -> None:
    chosen = choose(impl, machine)
    assert (chosen.only, chosen.own) == (only, own)


def test_a_name_the_file_does_not_register(machine: Any) -> None:
    with pytest.raises(ValueError, match=r"--impl = '/a/my\.py:loop': the file registers mine, other"):
        choose("/a/my.py:loop", machine)
    empty = replace(machine, listed={}, files=("/a/my.py",))
    for impl in ("/a/my.py:mine", "/a/my.py"):
        with pytest.raises(ValueError, match="the file registers nothing"):
            choose(impl, empty)


def test_a_command_that_takes_no_files(plans: Any) -> None:
    with pytest.raises(ValueError, match=r"takes names only; run, validate and plan take files"):
        choose("/a/my.py:mine", plans.machine("loop"))


def test_a_file_that_cannot_be_imported(plans: Any) -> None:
    found = replace(plans.machine("loop", broken=module_of("/a/my.py")), files=("/a/my.py",))
    with pytest.raises(ValueError, match=r"--impl = '/a/my\.py': cannot be imported: ImportError: no"):
        check_imported(found.files, found)
    check_imported(("/a/another.py",), found)


def test_every_case_is_asked_of_ones_own(plans: Any, machine: Any) -> None:
    """A suite that lists implementations cannot know their names."""
    planned = [plans.planned(8, ("loop", "other")), plans.planned(9, None)]
    made = make_plan("s", "", planned, machine, only=("mine", "loop"), own=("mine",))
    assert [set(one.implementations or ()) for one in made.planned] == [{"loop", "mine"}] * 2


@pytest.fixture
def beside(site: Any, monkeypatch: pytest.MonkeyPatch, empty_registry: None) -> None:
    site.package("beside", one=SOURCE.replace("mine", "one"))
    monkeypatch.setattr(discovery, "BESIDE", "beside")
    monkeypatch.setattr(discovery, "GROUP", "moebench.tests")


def load(*files: Path, skip: dict[str, str] | None = None) -> tuple[dict[str, str], list[str]]:
    announced: list[str] = []
    return load_all(announced.append, skip or {}, map(str, files)), announced


@pytest.mark.usefixtures("beside")
def test_a_file_is_announced_and_imported_last(kernel: Path) -> None:
    broken, announced = load(kernel)
    module = module_of(str(kernel))
    assert (broken, announced) == ({}, ["beside", "beside.one", module])
    mine = registered()["mine"]
    assert mine.origin == module
    assert mine.summary == "Do every expert on every token."
    assert sys.modules[module].__file__ == str(kernel)


@pytest.mark.usefixtures("beside")
def test_the_source_hash_sees_the_file_and_nothing_beside_it(kernel: Path) -> None:
    hashes = []
    (kernel.parent / "_other.py").write_text("x = 1")
    for addition in ("", "", "# changed\n"):
        kernel.write_text(kernel.read_text() + addition)
        sys.modules.pop(module_of(str(kernel)), None)
        load(kernel)
        hashes.append(registered()["mine"].source_hash)
        (kernel.parent / "_other.py").write_text(f"x = {len(hashes) + 1}")
    assert hashes[0] == hashes[1] != hashes[2]
    assert "unknown" not in hashes


@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        (
            SOURCE.replace("mine", "one"),
            "ValueError: two implementations are called 'one': beside.one.one, {}.one; rename one",
        ),
    ],
)
def test_a_broken_file_costs_itself_only(kernel: Path, source: str, reason: str) -> None:
    kernel.write_text(dedent(source))
    broken, _ = load(kernel)
    module = module_of(str(kernel))
    assert broken == {module: reason.format(module)}
    assert list(registered()) == ["one"]
    assert module not in sys.modules


@pytest.mark.usefixtures("beside")
def test_a_file_that_ended_a_process_is_left_out(kernel: Path) -> None:
    module = module_of(str(kernel))
    broken, announced = load(kernel, skip={module: "the process died of SIGSEGV during 'import'"})
    assert broken == {module: "the process died of SIGSEGV during 'import'"}
    assert module not in announced


def moebench(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from harness.cli import main; main()"
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


class Silent:
    def doing(self, entry: object) -> None:
        pass

    def done(self, records: object) -> None:
        pass


@pytest.mark.slow
def test_a_file_is_measured_beside_the_others_and_again_on_resume(
    kernel: Path, plans: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "measure_ceilings", lambda *_: CEILINGS)
    found, run = look_around(files=(str(kernel),)), kernel.parent / "run"
    words = choose(f"{kernel}:mine,loop", found)
    made = make_plan("own", "", [plans.planned(8, ("loop",))], found, only=words.only, own=words.own, budget_s=0.4)
    measured = session.start(made, run, found, "c", 120.0).measure(Silent())
    assert [(one.impl.name, one.status) for one in measured.records] == [("loop", "ok"), ("mine", "ok")]
    assert measured.records[1].impl.origin == module_of(str(kernel))
    assert session.files_of(run) == (str(kernel),)
    lines = (run / "records.jsonl").read_text().splitlines(keepends=True)
    (run / "records.jsonl").write_text(lines[0])
    whole = session.resume(run, found, 120.0).measure(Silent())
    assert [(one.impl.name, one.status) for one in whole.records] == [("loop", "ok"), ("mine", "ok")]


@pytest.mark.slow
def test_a_file_that_crashes_is_told_in_one_line(kernel: Path) -> None:
    kernel.write_text("import os; os.abort()")
    done = moebench("plan", "tiny", "--impl", "my-kernel.py:mine,loop", folder=kernel.parent)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line == f"moebench: --impl = '{kernel}': cannot be imported: the process died of SIGABRT during 'import'"

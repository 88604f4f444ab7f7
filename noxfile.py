# /// script
# dependencies = ["nox>=2025.2.9"]
# ///
"""Every tool moebench is developed and used with, one session each. `nox -l` lists them."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import nox
from nox.command import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "typing", "tests"]
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"

PROJECT = nox.project.load_toml("pyproject.toml")
PINS = ["-c", "constraints.txt"] if os.environ.get("CI") else []
OLDEST_TORCH = (2, 11)
SIDE_BY_SIDE = ["--numprocesses", "logical", "--maxprocesses", "4", "--dist", "loadfile"]
PINNED_TORCH = "torch==2.13.0"
LEND = """
import pathlib, site, sys
pathlib.Path(site.getsitepackages()[0], "zz_host.pth").write_text(sys.argv[1])
"""


def host_torch() -> importlib.metadata.Distribution | None:
    """Return the torch beside the interpreter that runs nox; None when there is none or it is too old."""
    try:
        torch = importlib.metadata.distribution("torch")
    except importlib.metadata.PackageNotFoundError:
        return None
    return torch if tuple(int(part) for part in torch.version.split(".")[:2]) >= OLDEST_TORCH else None


def install(session: nox.Session, *groups: str, extras: str = "") -> None:
    """Install moebench, editable, with dependency groups and extras, such as ``[peers]``.

    It runs on the machine's own torch, or else on the pinned one. A GPU machine's torch is gigabytes and built for its
    driver: it is lent to the session through a path file rather than downloaded again. The session's own packages come
    first on its path. What lies beside that torch counts as installed, and its programs start the machine's Python:
    sessions call ``python -m TOOL``.
    """
    torch = host_torch()
    if torch:
        where = str(torch.locate_file(""))
        session.log(f"using the torch {torch.version} in {where}")
        session.run("python", "-c", LEND, where, silent=True, log=False)
    else:
        session.install(PINNED_TORCH)
    wanted = [requirement for group in groups for requirement in nox.project.dependency_groups(PROJECT, group)]
    session.install(*PINS, "-e", f".{extras}", *wanted)


@contextlib.contextmanager
def its_own_exit_code() -> Iterator[None]:
    """End as the command in here did; nox itself would end with 1, whatever it said."""
    try:
        yield
    except CommandFailed as failed:
        raise SystemExit(int(str(failed).rpartition(" ")[2])) from None


@nox.session
def bench(session: nox.Session) -> None:
    """Measure every implementation on this machine and write a report: quick on a CPU, reference on a GPU."""
    install(session, extras="[peers]")
    session.run("moebench", "run", *(session.posargs or ["auto"]), success_codes=[0, 1])


@nox.session
def bench_pytest(session: nox.Session) -> None:
    """Measure a suite into pytest-benchmark's table: `nox -s bench_pytest -- --suite quick --benchmark-save NAME`."""
    install(session, "test")
    session.run("python", "-m", "pytest", "suites", "--benchmark-only", *session.posargs)


@nox.session
def compare(session: nox.Session) -> None:
    """Judge the working tree against its last commit, or another: `nox -s compare -- --rev origin/main`."""
    install(session)
    with its_own_exit_code():
        session.run("moebench", "compare", *(session.posargs or ["--rev", "HEAD"]))


@nox.session
def calibrate(session: nox.Session) -> None:
    """How small a difference can this machine tell, and how often is it wrong? `nox -s calibrate -- --trials 100`."""
    install(session)
    session.run("moebench", "calibrate", *session.posargs)


@nox.session
def verdicts(session: nox.Session) -> None:
    """Call identical code different? A short calibration, and this commit against itself: what CI runs."""
    install(session)
    folder = Path(tempfile.mkdtemp(dir=session.create_tmp()))
    runs, elsewhere = folder / "runs", {"XDG_STATE_HOME": str(folder)}  # a better calibration may be kept already
    session.run("moebench", "calibrate", "--trials", "12", "--trial-seconds", "1", env=elsewhere)
    words = ["--rev", "HEAD", "--impl", "batched,loop,dense", "--budget", "15s", "--out", str(runs)]
    session.run("moebench", "compare", *words)
    told = session.run("moebench", "compare", str(runs / "base"), str(runs / "new"), "--json", silent=True)
    wrong = [one for one in json.loads(str(told))["comparisons"] if one["outcome"] in {"FASTER", "SLOWER"}]
    if wrong:
        session.error(f"identical code was called different: {wrong}")


@nox.session
def asv(session: nox.Session) -> None:
    """Measure this commit for the history and write its pages: `nox -s asv -- RANGE`, or `-- publish`."""
    install(session)
    session.run("python", "-m", "harness.export.track", *session.posargs)


@nox.session
def asv_continuous(session: nox.Session) -> None:
    """Is HEAD worse than BASE? `nox -s asv_continuous -- BASE HEAD`; exit code 0 no, 1 yes, 2 broken, 3 nothing ran."""
    try:
        install(session)
    except CommandFailed:
        raise SystemExit(2) from None
    with its_own_exit_code():
        session.run("python", "-m", "harness.export.continuous", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests, on a CPU several at a time (`-- -n 0`: one); those marked cuda skip themselves without a GPU."""
    install(session, "test")
    alone = shutil.which("nvidia-smi")  # tests on a GPU share its memory and look at its meters
    session.run("python", "-m", "pytest", *([] if alone else SIDE_BY_SIDE), *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting with ruff."""
    session.install(*PINS, *nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")


@nox.session
def typing(session: nox.Session) -> None:
    """Check types with mypy, strictly."""
    install(session, "typing")
    session.run("python", "-m", "mypy", *session.posargs)


@nox.session
def report(session: nox.Session) -> None:
    """Write one report about run directories: `nox -s report -- RUN… --out DIR`."""
    install(session)
    session.run("moebench", "report", *session.posargs)


@nox.session
def smoke(session: nox.Session) -> None:
    """Measure a tiny suite for real, write its report and check it: what CI runs."""
    install(session)
    out = Path(tempfile.mkdtemp(dir=session.create_tmp())) / "run"
    session.run("moebench", "doctor")
    session.run("moebench", "run", "tiny", "--device", "cpu", "--out", str(out))
    session.run("moebench", "report", str(out), "--out", str(out / "again"))

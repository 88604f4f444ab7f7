# /// script
# dependencies = ["nox>=2025.2.9"]
# ///
"""Every tool moebench is developed and used with, one session each. `nox -l` lists them."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "typing", "tests"]
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"

PROJECT = nox.project.load_toml("pyproject.toml")
PINS = ["-c", "constraints.txt"] if os.environ.get("CI") else []
OLDEST_TORCH = (2, 11)
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


def install(session: nox.Session, *groups: str) -> None:
    """Install moebench, editable, with its dependency groups, on the machine's own torch or else on the pinned one.

    A GPU machine's torch is gigabytes and built for its driver: it is lent to the session through a path file rather
    than downloaded again. The session's own packages come first on its path.
    """
    torch = host_torch()
    if torch:
        where = str(torch.locate_file(""))
        session.log(f"using the torch {torch.version} in {where}")
        session.run("python", "-c", LEND, where, silent=True, log=False)
    else:
        session.install(PINNED_TORCH)
    wanted = [requirement for group in groups for requirement in nox.project.dependency_groups(PROJECT, group)]
    session.install(*PINS, "-e", ".", *wanted)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure every implementation on this machine and write a report: quick on a CPU, reference on a GPU."""
    install(session)
    session.run("moebench", "run", *(session.posargs or ["auto"]), success_codes=[0, 1])


@nox.session
def bench_pytest(session: nox.Session) -> None:
    """Measure a suite into pytest-benchmark's table: `nox -s bench_pytest -- --suite quick --benchmark-save NAME`."""
    install(session, "test")
    session.run("pytest", "suites", "--benchmark-only", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests; those marked cuda skip themselves without a GPU."""
    install(session, "test")
    session.run("pytest", *session.posargs)


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
    session.run("mypy", *session.posargs)


@nox.session
def report(session: nox.Session) -> None:
    """Write one report about run directories: `nox -s report -- RUN… --out DIR`."""
    install(session)
    session.run("moebench", "report", *session.posargs)


@nox.session
def smoke(session: nox.Session) -> None:
    """Measure a tiny suite for real, write its report and check it: what CI runs."""
    install(session)
    out = Path(session.create_tmp()) / "run"
    session.run("moebench", "doctor")
    session.run("moebench", "run", "tiny", "--device", "cpu", "--out", str(out))
    session.run("moebench", "report", str(out), "--out", str(out / "again"))

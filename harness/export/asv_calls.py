"""Calling asv, and its knowledge of this machine and of git."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from asv.config import Config
from asv.machine import Machine, MachineCollection
from asv.util import UserError

CONFIG = "asv.conf.json"
ROOT = Path(__file__).resolve().parents[2]
"""The checkout, where this is one."""


def checkout() -> Path:
    """Return the checkout whose history is kept: the one the current directory lies in, or else this code's own.

    Raises
    ------
    ValueError
        when neither has an ``asv.conf.json``.
    """
    for folder in (Path.cwd(), *Path.cwd().parents, ROOT):
        if (folder / CONFIG).is_file():
            return folder
    raise ValueError(f"no {CONFIG} here: run this inside a checkout of moebench")


def config(root: Path) -> Config:
    """Read ``asv.conf.json`` of a checkout, its folders made absolute."""
    found = Config.load(str(root / CONFIG))
    found.results_dir, found.html_dir = str(root / found.results_dir), str(root / found.html_dir)
    return found


def know_machine() -> str:
    """Return asv's name for this machine; where asv would ask about it first, the answers are what it would suggest."""
    name = Machine.get_unique_machine_name()
    try:
        return str(MachineCollection.load(name)["machine"])
    except UserError:
        MachineCollection.save(name, Machine.get_defaults())
        return str(name)


def call_asv(root: Path, *words: str, **variables: str) -> int:
    """Run asv in a checkout, with environment variables on top; return its exit code."""
    command = [sys.executable, "-m", "asv", *words]
    return subprocess.run(command, cwd=root, env={**os.environ, **variables}, check=False).returncode  # noqa: S603 (our own words)


def git(root: Path, *words: str) -> str:
    """Ask git.

    Raises
    ------
    ValueError
        with what git said.
    """
    command = ["git", "-C", str(root), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (fixed words, and commits)
    except OSError as error:
        raise ValueError(f"git cannot be called: {error.strerror}") from None
    if done.returncode:
        raise ValueError(" ".join(done.stderr.split()) or f"git {words[0]} failed")
    return done.stdout.strip()


def commit_id(root: Path, name: str) -> str:
    """Full id of a commit.

    Raises
    ------
    ValueError
        when the checkout does not know it.
    """
    try:
        return git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    except ValueError:
        raise ValueError(f"commit = {name!r}: no commit of {root}; a branch, tag or id that git knows") from None

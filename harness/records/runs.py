"""Runs that lie below a folder, found and put in the order they were taken."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from harness.records.store import ENVIRONMENT, INFO, RECORDS, Run, load_run

if TYPE_CHECKING:
    from collections.abc import Iterator

SHORT = 7
"""Characters of a commit that people read."""


@dataclass(frozen=True)
class DatedRun:
    """A run, named by its path below the folder that was searched. ``commit`` is short, with ``+`` for local changes.

    ``revision`` tells apart what ``commit`` does not: two states of local changes on one commit.
    """

    name: str
    date: datetime
    run: Run

    @property
    def commit(self) -> str:
        """Short commit; empty for a copy that was not a checkout."""
        environment = self.run.environment
        return f"{environment.git_sha[:SHORT]}{'+' if environment.git_dirty else ''}" if environment.git_sha else ""

    @property
    def revision(self) -> str:
        """Commit and a hash of everything uncommitted; empty when unknown."""
        environment = self.run.environment
        return f"{environment.git_sha} {environment.git_dirty or ''}".strip() if environment.git_sha else ""


@dataclass(frozen=True)
class Found:
    """Runs below a folder, oldest first, and a line for each folder that could not be read or only in part."""

    runs: tuple[DatedRun, ...]
    problems: tuple[str, ...]


def find_runs(folder: Path) -> Found:
    """Read every run directory in a folder and below it.

    Raises
    ------
    ValueError
        when there is none that can be read.
    """
    runs, problems = [], []
    for path in _run_directories(folder):
        try:
            run = load_run(path)
            name = path.relative_to(folder).as_posix()
            runs.append(DatedRun(path.resolve().name if name == "." else name, _date(run), run))
        except (ValueError, OSError) as error:
            problems.append(f"{error if str(path) in str(error) else f'{path}: {error}'}; this run is left out")
            continue
        if run.torn_lines:
            problems.append(f"{path}: the last line of {RECORDS} is torn and was skipped")
    if not runs:
        unread = f"; {len(problems)} could not be read: {problems[0]}" if problems else ""
        holds = f"a run directory holds {INFO}, {ENVIRONMENT} and {RECORDS}, as `moebench run` writes them"
        raise ValueError(f"--runs = {str(folder)!r}: no run in it{unread}; {holds}")
    return Found(tuple(sorted(runs, key=lambda run: (run.date, run.name))), tuple(problems))


def _run_directories(folder: Path) -> Iterator[Path]:
    """Folders that hold a run or the rest of one; hidden ones are not entered."""
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if RECORDS in files or {INFO, ENVIRONMENT} <= set(files):
            yield Path(path)


def _date(run: Run) -> datetime:
    started = run.info.started_at
    try:
        date = datetime.fromisoformat(started)
        return date.astimezone(UTC) if date.tzinfo else date.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{run.path / INFO}: started_at = {started!r}: a date in ISO 8601") from None

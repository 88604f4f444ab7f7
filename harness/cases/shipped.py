"""The suites and traces that come with moebench, by name."""

from __future__ import annotations

from pathlib import Path

from harness.cases.hints import did_you_mean

SUITES = Path(__file__).resolve().parents[2] / "suites"
"""Beside the harness package, in a checkout and in an installation alike."""


def shipped_suites() -> dict[str, Path]:
    """Every suite that comes with moebench, its file's name without ``.toml`` to its path."""
    return {path.stem: path for path in sorted(SUITES.glob("*.toml"))}


def shipped_traces() -> dict[str, Path]:
    """Every trace that comes with moebench, its file's name without ``.npz`` to its path."""
    return {path.stem: path for path in sorted((SUITES / "traces").glob("*.npz"))}


def find_suite(name_or_path: str) -> Path:
    """Find a suite by the name of a shipped one or by the path of a TOML file.

    Raises
    ------
    ValueError
        when it is neither, with the names that are shipped.
    """
    shipped = shipped_suites()
    if name_or_path in shipped:
        return shipped[name_or_path]
    path = Path(name_or_path)
    if path.is_file():
        return path
    hint = did_you_mean(name_or_path, shipped)
    raise ValueError(f"suite = {name_or_path!r}: a TOML file, or the name of a shipped suite; {hint}")

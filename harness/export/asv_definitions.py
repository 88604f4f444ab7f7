"""asv's list of benchmarks, ``benchmarks.json``, and how what we exported stays in it.

asv publishes what the list names, and every ``asv run`` writes the list anew with what it discovered. So the exported
definitions are kept in a file of their own beside it, and ``asv_plugin`` puts them back whenever asv reads the list.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from asv import util
from asv.benchmarks import Benchmarks
from filelock import FileLock

if TYPE_CHECKING:
    from pathlib import Path

KEPT = "benchmarks.exported"
"""Not ``.json``: asv would look for results in it."""

Definition = dict[str, Any]
"""One benchmark as asv describes it; ``params`` holds one list, the implementations."""


def keep_definitions(results: Path, new: dict[str, Definition]) -> None:
    """Add exported definitions to those kept in a results folder, and to asv's list."""
    with FileLock(results / ".lock"):
        write_json(results / KEPT, union(_read(results / KEPT), new), Benchmarks.api_version)
    restore_definitions(results)


def restore_definitions(results: Path) -> None:
    """Put the exported definitions into asv's list; nothing happens where all are there, or none were exported."""
    if not (results / KEPT).exists():
        return
    with FileLock(results / ".lock"):
        listed = _read(results / "benchmarks.json")
        whole = union(listed, _read(results / KEPT))
        if whole != listed:
            write_json(results / "benchmarks.json", whole, Benchmarks.api_version)


def union(first: dict[str, Definition], second: dict[str, Definition]) -> dict[str, Definition]:
    """Join two lists. A definition in both is the first one's, with the implementations of both.

    Where the versions differ the first stands alone: asv shows no results of another version.
    """
    joined = dict(first)
    for name, definition in second.items():
        there = first.get(name, definition)
        if there["version"] == definition["version"]:
            params = [list(dict.fromkeys([*there["params"][0], *definition["params"][0]]))]
            joined[name] = {**there, "params": params}
    return joined


def write_json(path: Path, content: dict[str, Any], version: int) -> None:
    """Write one of asv's files in one step, so that readers see the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    util.write_json(str(temporary), content, version)
    temporary.replace(path)


def _read(path: Path) -> dict[str, Definition]:
    """Read a list; empty where there is none.

    Raises
    ------
    ValueError
        when it is not asv's.
    """
    if not path.exists():
        return {}
    try:
        found: dict[str, Definition] = util.load_json(str(path), Benchmarks.api_version)
    except util.UserError as error:
        raise ValueError(f"{path}: not a list of asv's benchmarks: {error}") from None
    return found

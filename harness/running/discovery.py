"""Finding implementations: entry points of the group ``moebench.impls``, or the ``impls`` package beside the harness.

Runs in the worker. Each module is announced before it is imported, so that one that takes the process down is known by
name; one that merely fails to import is listed with its reason.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GROUP = "moebench.impls"
BESIDE = "impls"


def declared_modules() -> dict[str, str]:
    """Modules that installed packages declare, and by which entry point; the package beside the harness in any case.

    An entry point's value names a module or a package; of a package every public submodule is taken.
    """
    found = {BESIDE: BESIDE}
    for point in importlib.metadata.entry_points(group=GROUP):
        found.setdefault(point.module, point.name)
    return found


def load_all(announce: Callable[[str], None], skip: tuple[str, ...] = ()) -> dict[str, str]:
    """Import every implementation module; return those that failed, with the reason."""
    broken: dict[str, str] = {}
    for root in declared_modules():
        for module in _with_submodules(root, broken, announce, skip):
            _load(module, broken, announce, skip)
    return broken


def _with_submodules(
    root: str, broken: dict[str, str], announce: Callable[[str], None], skip: tuple[str, ...]
) -> Iterator[str]:
    if not _load(root, broken, announce, skip):
        return
    path = getattr(importlib.import_module(root), "__path__", None)
    for info in pkgutil.iter_modules(path or []):
        if not info.name.startswith("_"):
            yield f"{root}.{info.name}"


def _load(module: str, broken: dict[str, str], announce: Callable[[str], None], skip: tuple[str, ...]) -> bool:
    if module in skip:
        broken[module] = "importing it ended the process"
        return False
    announce(module)
    try:
        importlib.import_module(module)
    except BaseException as error:  # noqa: BLE001 (a third party's module may raise anything, SystemExit included)
        broken[module] = f"{type(error).__name__}: {error}".splitlines()[0]
        return False
    return True

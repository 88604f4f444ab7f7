"""Finding implementations: entry points of the group ``moebench.impls``, and the ``impls`` package beside the harness.

Runs in the worker. Each module is announced before it is imported, so that one that takes the process down is known by
name; one that merely fails to import is listed with its reason.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.records.record import plain_text
from harness.running.registry import forget

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

GROUP = "moebench.impls"
BESIDE = "impls"


def declared_modules() -> list[str]:
    """Modules that installed packages declare, after the package beside the harness, each once.

    An entry point's value names a module or a package; of a package every public submodule is taken.
    """
    values = (point.value for point in importlib.metadata.entry_points(group=GROUP))
    return list(dict.fromkeys([BESIDE, *(value.partition(":")[0].strip() for value in values)]))


def load_all(announce: Callable[[str], None], skip: Mapping[str, str]) -> dict[str, str]:
    """Import every implementation module; return those that failed, with the reason.

    ``skip`` are modules that ended an earlier process, and how.
    """
    broken: dict[str, str] = {}
    for root in declared_modules():
        if not _load(root, broken, announce, skip):
            continue
        path = getattr(importlib.import_module(root), "__path__", [])
        for info in pkgutil.iter_modules(path):
            if not info.name.startswith("_"):
                _load(f"{root}.{info.name}", broken, announce, skip)
    return broken


def strays(homes: Mapping[str, str]) -> dict[str, str]:
    """Return modules that were imported from outside the file or folder they belong in, and where they came from.

    ``homes`` goes by top-level module; others may come from anywhere.
    """
    found = {}
    for name, module in list(sys.modules.items()):
        home, file = homes.get(name.partition(".")[0]), getattr(module, "__file__", None)
        if home and file and not Path(file).resolve().is_relative_to(home):
            found[name] = str(file)
    return found


def _load(module: str, broken: dict[str, str], announce: Callable[[str], None], skip: Mapping[str, str]) -> bool:
    if module in skip:
        broken[module] = skip[module]
        return False
    announce(module)
    try:
        importlib.import_module(module)
    except BaseException as error:  # noqa: BLE001 (a third party's module may raise anything, SystemExit included)
        forget(module)
        broken[module] = plain_text(f"{type(error).__name__}: {error}").splitlines()[0].rstrip(": ")
        return False
    return True

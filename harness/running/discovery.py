"""Finding implementations: entry points of the group ``moebench.impls``, and the ``impls`` package beside the harness.

Runs in the worker. Each module is announced before it is imported, so that one that takes the process down is known by
name; one that merely fails to import is listed with its reason.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import pkgutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.records.record import plain_text
from harness.running.files import module_of
from harness.running.registry import forget, offers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

GROUP = "moebench.impls"
BESIDE = "impls"


def declared_modules() -> list[str]:
    """Modules that installed packages declare, after the package beside the harness, each once.

    An entry point's value names a module or a package; of a package every public submodule is taken, and of a package
    in it that offers nothing itself.
    """
    values = (point.value for point in importlib.metadata.entry_points(group=GROUP))
    return list(dict.fromkeys([BESIDE, *(value.partition(":")[0].strip() for value in values)]))


def load_all(announce: Callable[[str], None], skip: Mapping[str, str], files: Iterable[str] = ()) -> dict[str, str]:
    """Import every implementation module, then the user's own ``files``; return those that failed, with the reason.

    What a module changes for the whole process when it is imported is put back.

    ``skip`` are modules that ended an earlier process, and how. A file goes by ``module_of`` its path.
    """
    broken: dict[str, str] = {}
    for root in declared_modules():
        if _load(root, broken, announce, skip):
            _load_inside(root, broken, announce, skip)
    for path in files:
        _load(module_of(path), broken, announce, skip, path)
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


def _load_inside(
    package: str, broken: dict[str, str], announce: Callable[[str], None], skip: Mapping[str, str]
) -> None:
    """Import a package's public modules; a folder of it that names no implementation is a room with more of them."""
    for info in pkgutil.iter_modules(getattr(sys.modules[package], "__path__", [])):
        module = f"{package}.{info.name}"
        if info.name.startswith("_") or not _load(module, broken, announce, skip):
            continue
        if info.ispkg and not offers(module):
            _load_inside(module, broken, announce, skip)


def _load(
    module: str, broken: dict[str, str], announce: Callable[[str], None], skip: Mapping[str, str], path: str = ""
) -> bool:
    if module in skip:
        broken[module] = skip[module]
        return False
    from harness.measure.settings import kept_settings

    announce(module)
    try:
        with kept_settings():
            _import_file(module, path) if path else importlib.import_module(module)
    except BaseException as error:  # noqa: BLE001 (a third party's module may raise anything, SystemExit included)
        forget(module)
        broken[module] = plain_text(f"{type(error).__name__}: {error}").splitlines()[0].rstrip(": ")
        return False
    return True


def _import_file(module: str, path: str) -> None:
    """Import a file under a name of our choice."""
    spec = importlib.util.spec_from_file_location(module, path)
    assert spec is not None, "the path ends in .py"
    assert spec.loader is not None
    sys.modules[module] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[module])
    except BaseException:
        del sys.modules[module]
        raise

"""Where implementations are known by name. A decorator puts them in; ``discovery`` imports the modules that use it."""

from __future__ import annotations

import hashlib
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cases.case import DTYPE_BYTES, PASSES
from harness.layer.contract import FAMILIES, Implementation, Prepare, Unsupported
from harness.records.record import plain_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_registered: dict[str, Implementation] = {}


def implementation(
    name: str,
    *,
    family: str,
    devices: Sequence[str] = ("cpu", "cuda"),
    passes: Sequence[str] = ("forward",),
    dtypes: Sequence[str] = tuple(DTYPE_BYTES),
    version: str = "1",
    unsupported: Unsupported | None = None,
) -> Callable[[Prepare], Prepare]:
    """Register the decorated ``prepare(layer) -> forward`` under ``name``.

    The first line of its docstring becomes its summary. Raise ``version`` when its speed is meant to change: history
    then starts a new series. ``unsupported(case)`` returns why a case cannot run, or None.

    Raises
    ------
    ValueError
        when the name is taken or malformed, or family, devices, passes, dtypes or version are not what they can be.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
        raise ValueError(f"implementation name {name!r}: small letters, digits, '_', '.' and '-' only")
    _check_words(name, "family", [family], FAMILIES)
    _check_words(name, "devices", devices, ("cpu", "cuda"))
    _check_words(name, "passes", passes, PASSES)
    _check_words(name, "dtypes", dtypes, tuple(DTYPE_BYTES))
    if not isinstance(version, str):
        raise ValueError(f"implementation {name!r}: version = {version!r}: a text")  # noqa: TRY004 (one kind of error)

    def register(prepare: Prepare) -> Prepare:
        taken = _registered.get(name)
        if taken and _where(taken.prepare) != _where(prepare):
            raise ValueError(f"two implementations are called {name!r}: {_where(taken.prepare)}, {_where(prepare)}")
        _registered[name] = Implementation(
            name=name,
            family=family,
            prepare=prepare,
            devices=tuple(devices),
            passes=tuple(passes),
            dtypes=tuple(dtypes),
            version=version,
            summary=plain_text((inspect.getdoc(prepare) or "").partition("\n")[0]),
            source_hash=source_hash(prepare),
            origin=prepare.__module__,
            refuses=unsupported,
        )
        return prepare

    return register


def registered() -> dict[str, Implementation]:
    """All implementations known so far, by name, in the order of their names."""
    return dict(sorted(_registered.items()))


def forget(module: str) -> None:
    """Take back what a module registered before it failed to import."""
    for name in [name for name, one in _registered.items() if one.origin == module]:
        del _registered[name]


def source_hash(prepare: Prepare) -> str:
    """Hash of the code an implementation is made of.

    Its file and, inside a package, the underscore modules beside it, which it may share with its neighbours; its whole
    folder when it is a package itself.
    """
    try:
        path = Path(inspect.getsourcefile(prepare) or "")
    except TypeError:
        path = Path()
    if not path.is_file():
        return "unknown"
    beside = path.parent.glob("_[!_]*.py") if "." in prepare.__module__ else ()
    files = sorted(path.parent.rglob("*.py") if path.name == "__init__.py" else {path, *beside})
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _where(prepare: Prepare) -> str:
    return f"{prepare.__module__}.{getattr(prepare, '__qualname__', '?')}"


def _check_words(name: str, key: str, given: Sequence[str], known: Sequence[str]) -> None:
    for word in given:
        if word not in known:
            raise ValueError(f"implementation {name!r}: {key} = {word!r}: one of {', '.join(known)}")

"""Where implementations are known by name. A decorator puts them in; ``discovery`` imports the modules that use it."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cases.case import DTYPE_BYTES, PASSES
from harness.layer.contract import FAMILIES, Implementation, Prepare, Tunable, Unsupported
from harness.records.record import plain_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_registered: dict[str, Implementation] = {}
_missing: dict[str, Missing] = {}

LONGEST_NAME = 80
"""Characters; tables and plots show names whole."""


@dataclass(frozen=True)
class Missing:
    """An implementation that cannot be offered here, and what it needs. ``origin`` is the module that said so."""

    name: str
    family: str
    needs: str
    origin: str
    note: str = ""


def implementation(  # noqa: PLR0913 (one keyword a property)
    name: str,
    *,
    family: str,
    devices: Sequence[str] = ("cpu", "cuda"),
    passes: Sequence[str] = ("forward",),
    dtypes: Sequence[str] = tuple(DTYPE_BYTES),
    version: str = "1",
    unsupported: Unsupported | None = None,
    untimed: Unsupported | None = None,
    tunable: Tunable | None = None,
    note: str = "",
) -> Callable[[Prepare], Prepare]:
    """Register the decorated ``prepare(layer) -> forward`` under ``name``.

    The first line of its docstring becomes its summary. Raise ``version`` when its speed is meant to change: history
    then starts a new series. ``unsupported(case)`` returns why a case cannot run, or None; ``untimed(case)``
    why it may be checked but its time means nothing (it runs under an interpreter, say), or None. ``tunable`` lets
    ``moebench tune`` look for faster configurations. ``note`` is what must be said about it in lists and records: of a
    peer, say, that nobody ever ran it.

    Raises
    ------
    ValueError
        when the name is taken or malformed, or family, devices, passes, dtypes or version are not what they can be.
    """
    _check_name(name)
    _check_words(name, "family", [family], FAMILIES)
    _check_words(name, "devices", devices, ("cpu", "cuda"))
    _check_words(name, "passes", passes, PASSES)
    _check_words(name, "dtypes", dtypes, tuple(DTYPE_BYTES))
    if not isinstance(version, str):
        raise ValueError(f"implementation {name!r}: version = {version!r}: a text")  # noqa: TRY004 (one kind of error)

    def register(prepare: Prepare) -> Prepare:
        taken = _registered.get(name)
        if taken and _where(taken.prepare) != _where(prepare):
            both = f"{_where(taken.prepare)}, {_where(prepare)}"
            raise ValueError(f"two implementations are called {name!r}: {both}; rename one")
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
            unsupported_by=unsupported,
            untimed_by=untimed,
            tunable=tunable,
            note=plain_text(note),
        )
        return prepare

    return register


def missing(name: str, *, family: str = "peer", needs: str, note: str = "", origin: str = "") -> None:
    """Say that an implementation cannot be offered here, and what it ``needs``: a package to install, a device.

    ``list`` shows it; a suite that names it goes on without it; ``--impl`` does not take it. ``origin`` is the module
    that says so, by default the caller's.

    Raises
    ------
    ValueError
        for a malformed name, an unknown family, or a need that is no text.
    """
    _check_name(name)
    _check_words(name, "family", [family], FAMILIES)
    if not isinstance(needs, str) or not needs.strip():
        raise ValueError(f"implementation {name!r}: needs = {needs!r}: what there must be for it to run")
    origin = origin or str(sys._getframe(1).f_globals.get("__name__", ""))  # noqa: SLF001 (who called, no other way)
    _missing[name] = Missing(name, family, plain_text(needs.strip()), origin, plain_text(note))


def registered() -> dict[str, Implementation]:
    """All implementations known so far, by name, in the order of their names."""
    return dict(sorted(_registered.items()))


def missing_here() -> dict[str, Missing]:
    """All that cannot be offered here, by name; what somebody else registered under the name counts as offered."""
    return {name: one for name, one in sorted(_missing.items()) if name not in _registered}


def offers(module: str) -> bool:
    """Whether importing a module named implementations, in itself or in its parts, be they here or missing."""
    origins = [one.origin for one in _registered.values()] + [one.origin for one in _missing.values()]
    return any(origin == module or origin.startswith(f"{module}.") for origin in origins)


def forget(module: str) -> None:
    """Take back what a module registered before it failed to import."""
    for name in [name for name, one in _registered.items() if one.origin == module]:
        del _registered[name]
    for name in [name for name, one in _missing.items() if one.origin == module]:
        del _missing[name]


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


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
        raise ValueError(f"implementation name {name!r}: small letters, digits, '_', '.' and '-' only")
    if len(name) > LONGEST_NAME:
        raise ValueError(f"implementation name {name[:20]!r}…: at most {LONGEST_NAME} characters, not {len(name)}")


def _check_words(name: str, key: str, given: Sequence[str], known: Sequence[str]) -> None:
    several = f"a tuple of {', '.join(known)}, even for one: ({known[0]!r},)"
    if isinstance(given, str):
        raise ValueError(f"implementation {name!r}: {key} = {given!r}: {several}")  # noqa: TRY004 (one kind of error)
    for word in given:
        if word not in known:
            raise ValueError(f"implementation {name!r}: {key} = {word!r}: one of {', '.join(known)}")

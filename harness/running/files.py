"""Implementations from a file of one's own: ``--impl ./my_kernel.py:mine,grouped``.

A word of ``--impl`` is an implementation's name, ``PATH.py:NAME``, or ``PATH.py`` for all that the file registers. The
file is imported by every worker of the run, after the modules that are declared. It is one file: what lies beside it is
not on the path.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.running.machine import Machine

ENDING = ".py"


@dataclass(frozen=True)
class Word:
    """One word of ``--impl``: a name, or an absolute path with a name or without."""

    text: str
    path: str
    name: str


@dataclass(frozen=True)
class Selected:
    """What ``--impl`` came to. ``only`` is None when it was left out; ``own`` are those of ``only`` from files."""

    only: tuple[str, ...] | None
    own: tuple[str, ...] = ()


def read_words(impl: str) -> tuple[Word, ...]:
    """Split ``--impl``; paths become absolute.

    Raises
    ------
    ValueError
        for a file without a name after its colon.
    """
    return tuple(_read_word(text.strip()) for text in impl.split(",")) if impl else ()


def files_in(impl: str) -> tuple[str, ...]:
    """Return the absolute paths of the files that ``--impl`` names, each once.

    Raises
    ------
    ValueError
        for one that is not there.
    """
    for word in read_words(impl):
        if word.path and not Path(word.path).is_file():
            raise ValueError(f"--impl = {word.text!r}: there is no file {word.path}")
    return tuple(dict.fromkeys(word.path for word in read_words(impl) if word.path))


def module_of(path: str) -> str:
    """Return the name a file is imported under: its own, with its path's hash, so that it shadows nothing."""
    digest = hashlib.sha256(path.encode()).hexdigest()[:8]
    return f"file_{re.sub(r'[^A-Za-z0-9_]', '_', Path(path).stem)}_{digest}"


def choose(impl: str, machine: Machine) -> Selected:
    """Find out which implementations ``--impl`` means on a machine that was looked at with its files.

    Raises
    ------
    ValueError
        in one line, when a file cannot be imported or does not register the name.
    """
    if not impl:
        return Selected(None)
    only: list[str] = []
    own: list[str] = []
    for word in read_words(impl):
        names = _names_from(word, machine) if word.path else [word.name]
        only += names
        own += names if word.path else []
    return Selected(tuple(dict.fromkeys(only)), tuple(dict.fromkeys(own)))


def check_imported(files: Iterable[str], machine: Machine) -> None:
    """Refuse files that could not be imported, or that are gone.

    Raises
    ------
    ValueError
        with the key ``--impl``, the file and why.
    """
    for path in files:
        _check_imported(path, path, machine)


def _read_word(text: str) -> Word:
    head, colon, name = text.rpartition(":")
    if text.endswith(ENDING):
        return Word(text, _absolute(text), "")
    if colon and head.endswith(ENDING):
        if not name:
            raise ValueError(f"--impl = {text!r}: a name after the colon, or no colon for all that the file registers")
        return Word(text, _absolute(head), name)
    return Word(text, "", text)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())


def _check_imported(text: str, path: str, machine: Machine) -> None:
    found = machine.listed.get(module_of(path))
    if found and found.broken:
        raise ValueError(f"--impl = {text!r}: cannot be imported: {found.broken}")


def _names_from(word: Word, machine: Machine) -> list[str]:
    if word.path not in machine.files:
        raise ValueError(f"--impl = {word.text!r}: this command takes names only; run, validate and plan take files")
    _check_imported(word.text, word.path, machine)
    offered = [name for name, one in machine.usable.items() if one.origin == module_of(word.path)]
    if word.name and word.name not in offered:
        raise ValueError(f"--impl = {word.text!r}: the file registers {', '.join(offered) or 'nothing'}")
    if not offered:
        raise ValueError(f"--impl = {word.text!r}: the file registers nothing")
    return [word.name] if word.name else offered

"""Offering a peer where its package is installed, and saying what it needs where it is not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from harness import implementation, missing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from typing import Unpack

    from harness import Case, Forward, Layer

    Prepare = Callable[[Layer], Forward]


class Words(TypedDict, total=False):
    """What ``harness.implementation`` takes besides name, family and version."""

    devices: Sequence[str]
    passes: Sequence[str]
    dtypes: Sequence[str]
    unsupported: Callable[[Case], str | None]
    untimed: Callable[[Case], str | None]


@dataclass(frozen=True)
class Package:
    """A package on which peers rest: its import name, how to get it, and the versions the adapter is written for.

    ``oldest`` is the first version that will do, ``below`` the first that will not any more; empty: any. ``get`` says
    in words how to get it, ``also`` what else it takes. ``distribution`` is its name at the package index. ``part`` is
    a file that tells it from another package of the same name, ``needs`` are further modules that must be there.
    """

    module: str
    get: str
    oldest: str = ""
    below: str = ""
    also: str = ""
    distribution: str = ""
    part: str = ""
    needs: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """The installed version; with its distribution's name when that is another, ``unknown`` for a bare folder."""
        try:
            return importlib.metadata.version(self.distribution or self.module)
        except importlib.metadata.PackageNotFoundError:
            others = importlib.metadata.packages_distributions().get(self.module, ())
            return next((f"{other} {importlib.metadata.version(other)}" for other in others), "unknown")

    @property
    def lacking(self) -> str:
        """Say what there must be that is not here; empty when the package is there in a version that will do."""
        if not self._found():
            wanted = f" ({self.range})" if self.range else ""
            return f"{self.get}{wanted}" + (f", {self.also}" if self.also else "")
        absent = [module for module in self.needs if not _spec(module)]
        if absent:
            return f"{self.get}: {self.module} is here, {' and '.join(absent)} not"
        version = self.version
        if not self._will_do(version):
            return f"{self.distribution or self.module} {self.range}; {version} is installed"
        return ""

    @property
    def range(self) -> str:
        """The versions that will do, in words."""
        if self.oldest and self.below:
            return f"{self.oldest} or newer, below {self.below}"
        return f"{self.oldest} or newer" if self.oldest else f"below {self.below}" if self.below else ""

    def _found(self) -> bool:
        spec = _spec(self.module)
        if spec is None:
            return False
        folders = spec.submodule_search_locations or []
        return not self.part or any((Path(folder) / self.part).exists() for folder in folders)

    def _will_do(self, version: str) -> bool:
        release = numbers(version)
        if not release:  # not this distribution's numbers
            return True
        return release >= numbers(self.oldest) and (not self.below or release < numbers(self.below))


def _spec(module: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(module)
    except ValueError:  # a module put there by hand, without a spec
        return None


def numbers(version: str) -> tuple[int, ...]:
    """Return a version's release numbers without zeros at the end: ``0.10.1.post2`` is (0, 10, 1), ``2.0`` is (2,)."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    release = [int(number) for number in found[0].split(".")] if found else []
    while release and release[-1] == 0:
        release.pop()
    return tuple(release)


def peer(name: str, package: Package, *, verified: str = "", **words: Unpack[Words]) -> Callable[[Prepare], Prepare]:
    """Register the decorated ``prepare`` where its package will do, with the package's version; else say what it needs.

    ``verified`` says where the real package has been seen to work: version, device, date. Without it, lists and records
    say that it never was. The package itself is only looked for: ``prepare`` imports it.
    """
    note = "" if verified else "never verified"

    def offer(prepare: Prepare) -> Prepare:
        if lacking := package.lacking:
            missing(name, needs=lacking, note=note, origin=prepare.__module__)
            return prepare
        return implementation(name, family="peer", version=package.version, note=note, **words)(prepare)

    return offer

"""Suites: TOML files that say which cases to measure.

``[suite]`` names it, each ``[[sweep]]`` is the product of its lists, each ``[[case]]`` is one case, each
``[[published]]`` is a figure of somebody else's. Everything else in the file is an error, said in one line.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cases.axes import Axes, Value, combine_axes, look_up, make_case, parse_values
from harness.cases.case import PlannedCase
from harness.cases.cost import memory_estimate_bytes
from harness.cases.hints import did_you_mean
from harness.cases.keys import IMPLEMENTATION
from harness.cases.published import Published, parse_published
from harness.cases.replay import MisfitError
from harness.cases.shape import require

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from harness.cases.case import Case

SECTIONS = ("suite", "sweep", "case", "published")
SUITE_KEYS = ("name", "description", "budget")
SECONDS = {"s": 1, "m": 60, "h": 3600}
MOST_SECONDS = 365 * 24 * 3600
DEFAULT_DEVICE = "cpu"


@dataclass(frozen=True)
class Sweep:
    """One table of a suite, ``sweep 2`` or ``case 1``, and its axes in the order of the file."""

    where: str
    axes: dict[str, tuple[Value, ...]]

    def planned(self, device: str, overrides: Axes, left_out: list[str]) -> Iterator[PlannedCase]:
        """Go through the product of the axes, the last one fastest; ``Suite.cases`` says what is left out."""
        axes = combine_axes(self.axes, overrides)
        names = axes.pop(IMPLEMENTATION, None)
        implementations = None if names is None else tuple(str(name) for name in names)
        for values in itertools.product(*axes.values()):
            choice = dict(zip(axes, values, strict=True))
            try:
                case = make_case(choice, device)
            except MisfitError as error:
                if not overrides or "traffic" in overrides:
                    raise
                left_out.append(f"{self.where}: {error}")
            else:
                yield PlannedCase(case=case, implementations=implementations)


@dataclass(frozen=True)
class Suite:
    """A suite as read from its file. ``budget_s`` is the time it should take, None when it does not say."""

    path: Path
    name: str
    description: str
    budget_s: float | None
    sweeps: tuple[Sweep, ...]
    published: tuple[Published, ...] = ()

    def cases(self, device: str, overrides: Axes | None = None, left_out: list[str] | None = None) -> list[PlannedCase]:
        """List the suite's cases in the order of the file, each once.

        ``device`` is for sweeps that name none. ``overrides`` replace an axis in every sweep; ``preset`` and ``model``
        replace everything a sweep says about the layer. A case met twice is kept once, for the implementations of both.
        Where a sweep replays a trace that another layer, given by ``overrides``, cannot follow, that case is left out;
        ``left_out`` gets a line for each.

        Raises
        ------
        ValueError
            with one line that names the file, the sweep, the key and what is allowed.
        """
        found: dict[str, PlannedCase] = {}
        misfits: list[str] = []
        changed = ", as the command line changes it" if overrides else ""
        for sweep in self.sweeps:
            with located(f"{self.path}: {sweep.where}{changed}"):
                for planned in sweep.planned(device, overrides or {}, misfits):
                    case_id = planned.case.case_id
                    found[case_id] = _merge(found[case_id], planned) if case_id in found else planned
        if misfits and not found:
            raise ValueError(f"{self.path}: {misfits[0]}")
        if left_out is not None:
            left_out += dict.fromkeys(misfits)
        return list(found.values())


def load_suite(path: str | Path, layer: Axes | None = None) -> Suite:
    """Read and check a suite; every combination it holds is built once, so that none fails later.

    A suite may leave its layer to the command line, whose words about it, ``layer``, are then those that are built.

    Raises
    ------
    ValueError
        with one line that names the file, the sweep, the key and what is allowed.
    """
    path = Path(path)
    with located(str(path)):
        suite = _parse(path, _read_toml(path))
    suite.cases(DEFAULT_DEVICE, layer)
    return suite


def parse_budget(text: object) -> float:
    """Seconds in ``90s``, ``4m`` or ``1.5h``.

    Raises
    ------
    ValueError
        for anything else, with the key ``budget``.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text) if isinstance(text, str) else None
    seconds = float(match[1]) * SECONDS[match[2]] if match else 0.0
    require(0 < seconds <= MOST_SECONDS, "budget", text, "a time above 0 such as 90s, 4m or 1h, at most a year")
    return seconds


def check_memory(planned: Iterable[PlannedCase], available_bytes: Mapping[str, int]) -> None:
    """Refuse cases that cannot fit into the memory of their device; a device that is not given is not checked.

    Raises
    ------
    ValueError
        for the first case that needs more than there is.
    """
    for one in planned:
        complaint = too_large(one.case, available_bytes)
        if complaint:
            raise ValueError(f"{complaint}; lower tokens, experts or hidden sizes, or take a smaller preset")


def those_that_fit(
    planned: Sequence[PlannedCase], available_bytes: Mapping[str, int]
) -> tuple[list[PlannedCase], list[str]]:
    """Part cases that fit into the memory of their device from those that do not; of the latter, say why.

    Raises
    ------
    ValueError
        when none fits.
    """
    complaints = [too_large(one.case, available_bytes) for one in planned]
    if all(complaints):
        check_memory(planned, available_bytes)
    kept = [one for one, complaint in zip(planned, complaints, strict=True) if not complaint]
    return kept, [complaint for complaint in complaints if complaint]


def too_large(case: Case, available_bytes: Mapping[str, int]) -> str:
    """Say that a case cannot fit into the memory of its device; empty when it may."""
    available = available_bytes.get(case.device)
    needed = memory_estimate_bytes(case)
    if available is None or needed <= available:
        return ""
    sizes = f"case needs {needed / 2**30:.1f} GiB, {case.device} has {available / 2**30:.1f} GiB"
    return f"{case.label()}: too large for memory: {sizes}"


@contextmanager
def located(where: str) -> Iterator[None]:
    """Say where a ValueError raised inside comes from, on one line."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {' '.join(str(error).split())}") from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not TOML: {error}") from error


def _check_sections(document: dict[str, Any]) -> None:
    for section, content in document.items():
        if section not in SECTIONS:
            raise ValueError(f"[{section}]: not a part of a suite, {did_you_mean(section, SECTIONS)}")
        if section == "suite" and not isinstance(content, dict):
            raise ValueError("suite: one table, written [suite]")
        tables = content if isinstance(content, list) else [None]
        if section != "suite" and not all(isinstance(table, dict) for table in tables):
            raise ValueError(f"{section}: a list of tables, each written [[{section}]]")


def _parse(path: Path, document: dict[str, Any]) -> Suite:
    _check_sections(document)
    sweeps = tuple(_sweeps(path, document))
    if not sweeps:
        raise ValueError("no cases: at least one [[sweep]] or [[case]]")
    with located("[suite]"):
        about = document.get("suite", {})
        for key, value in about.items():
            require(key in SUITE_KEYS, key, value, f"not a key of [suite], {did_you_mean(key, SUITE_KEYS)}")
        name, description = about.get("name"), about.get("description", "")
        named = isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) is not None
        require(named, "name", name, "a word of letters, digits, '_', '.' and '-'")
        require(isinstance(description, str), "description", description, "a text")
        budget_s = parse_budget(about["budget"]) if "budget" in about else None
    return Suite(path, str(name), description, budget_s, sweeps, tuple(_published(document)))


def _sweeps(path: Path, document: dict[str, Any]) -> Iterator[Sweep]:
    for section in ("sweep", "case"):
        for number, table in enumerate(document.get(section, ()), start=1):
            with located(f"{section} {number}"):
                axes: dict[str, tuple[Value, ...]] = {}
                for key, given in table.items():
                    single = section == "sweep" or key == IMPLEMENTATION or not isinstance(given, list)
                    require(single, key, given, "one value in [[case]], a list only in [[sweep]]")
                    axes[key] = parse_values(key, given)
                if "model" in axes:
                    axes["model"] = tuple(str(path.parent / str(model)) for model in axes["model"])
                if "traffic" in axes:
                    axes["traffic"] = tuple(look_up(str(traffic), path.parent) for traffic in axes["traffic"])
                yield Sweep(f"{section} {number}", combine_axes(axes, {}))


def _published(document: dict[str, Any]) -> Iterator[Published]:
    for number, table in enumerate(document.get("published", ()), start=1):
        with located(f"published {number}"):
            yield parse_published(table)


def _merge(first: PlannedCase, second: PlannedCase) -> PlannedCase:
    if first.implementations is None or second.implementations is None:
        return PlannedCase(case=first.case)
    names = dict.fromkeys(first.implementations + second.implementations)
    return PlannedCase(case=first.case, implementations=tuple(names))
